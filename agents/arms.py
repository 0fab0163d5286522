"""Arms of a comparison: each a choice of objects for a learner's seams."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field, replace
from typing import Any

from recall_traces.agents.bonus import BonusConfig, make_bonus
from recall_traces.agents.seams import Bonus, Imitation, NoBonus, NoImitation
from recall_traces.agents.self_imitation import SelfImitation, SelfImitationConfig
from recall_traces.envs.interface import VectorEnv
from recall_traces.recall import RecallConfig, RecallTraces
from recall_traces.spaces import check_action_space, check_observation_space

ARMS = {
    "none": "the plain learner",
    "recall": "imitates recall traces",
    "recall-return": "recall traces from the states of highest return only, as in the paper",
    "own-traces": "as recall, but the traces are the agent's own recorded steps into the same states: no model",
    "recall-oracle": "as recall, with the true backtracking model of the environment",
    "sil": "self-imitation (Oh et al. 2018)",
    "bonus": "an intrinsic reward for the unseen: visit counts or random network distillation",
    "sil+bonus": "both",
    "recall+bonus": "both",
}
RECALL_CHANGES: dict[str, dict[str, Any]] = {
    "recall": {},
    "recall-return": {"source": "return"},
    "own-traces": {"traces_from": "record"},
    "recall-oracle": {"traces_from": "oracle"},
}


@dataclass(frozen=True)
class ArmConfigs:
    """Settings of everything an arm may choose."""

    recall: RecallConfig = field(default_factory=RecallConfig)
    """Of recall traces, the model's and the own ones."""
    sil: SelfImitationConfig = field(default_factory=SelfImitationConfig)
    """Of self-imitation."""
    bonus: BonusConfig = field(default_factory=BonusConfig)
    """Of the intrinsic reward."""


def check_arm(arm: str) -> str:
    """Return the name of a known arm.

    Raises:
        ValueError: there is none of that name; the message names the nearest ones.
    """
    if arm in ARMS:
        return arm
    nearest = difflib.get_close_matches(arm, ARMS, n=3, cutoff=0.3) or list(ARMS)
    raise ValueError(f"unknown arm {arm!r}: nearest are {', '.join(nearest)}")


def make_seams(
    arm: str, env: VectorEnv, num_seeds: int, seed: int, configs: ArmConfigs, gamma: float = 0.99
) -> tuple[Imitation, Bonus]:
    """The objects of an arm.

    Args:
        arm: A name in `ARMS`.
        env: What the learner will train in, all seeds together.
        num_seeds: `S`.
        seed: Seeds whatever is drawn.
        configs: Settings.
        gamma: The learner's discount, by which returns are counted here too.

    Raises:
        ValueError: no such arm, or the environment has no true backtracking model and the arm needs one.
    """
    observation_space, action_space = check_observation_space(env.observation_space), check_action_space(env.action_space)
    num_envs = env.num_envs // num_seeds
    imitation: Imitation = NoImitation()
    bonus: Bonus = NoBonus()
    for part in check_arm(arm).split("+"):
        if part in RECALL_CHANGES:
            imitation = RecallTraces(
                observation_space,
                action_space,
                replace(configs.recall, **RECALL_CHANGES[part]),
                num_seeds=num_seeds,
                num_envs=num_envs,
                gamma=gamma,
                seed=seed,
                device=env.device,
                predecessors=getattr(env, "predecessors", None),
            )
        elif part == "sil":
            imitation = SelfImitation(
                observation_space,
                action_space,
                configs.sil,
                num_seeds=num_seeds,
                num_envs=num_envs,
                gamma=gamma,
                seed=seed,
                device=env.device,
            )
        elif part == "bonus":
            bonus = make_bonus(observation_space, configs.bonus, num_seeds, seed, env.device)
    return imitation, bonus
