"""Arms of a comparison: each a choice of objects for a learner's seams."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch

from recall_traces.agents.bonus import BonusConfig, make_bonus
from recall_traces.agents.goal_gan import GoalGAN, GoalGANConfig
from recall_traces.agents.learner import Learner
from recall_traces.agents.ppo import PPO
from recall_traces.agents.replay import (
    PrioritizedConfig,
    PrioritizedSampling,
    ReplaySampling,
    UniformSampling,
    check_memory,
    replay_bytes,
    tree_bytes,
)
from recall_traces.agents.sac import SAC
from recall_traces.agents.seams import Bonus, Imitation, NoBonus, NoImitation
from recall_traces.agents.self_imitation import SelfImitation, SelfImitationConfig
from recall_traces.envs.interface import VectorEnv
from recall_traces.recall import RecallConfig, RecallTraces
from recall_traces.spaces import ActionSpace, ObservationSpace, check_action_space, check_observation_space

ARMS = {
    "none": "the plain learner",
    "recall": "imitates recall traces",
    "recall-return": "recall traces from the states of highest return only, as in the paper",
    "own-traces": "as recall, but the traces are the agent's own recorded steps into the same states: no model",
    "recall-oracle": "as recall, with the true backtracking model of the environment",
    "sil": "self-imitation (Oh et al. 2018)",
    "bonus": "an intrinsic reward for the unseen: visit counts or random network distillation",
    "per": "prioritized replay (Schaul et al. 2016); sac only",
    "goal-gan": "trains on goals that a Goal GAN proposes (Florensa et al. 2018); environments with goals only",
    "sil+bonus": "both",
    "recall+bonus": "both",
    "recall+per": "both; sac only",
    "recall+goal-gan": "both: recall traces from the states at the goals that the GAN makes",
}
LEARNERS: dict[str, type[Learner]] = {"ppo": PPO, "sac": SAC}
RECALL_CHANGES: dict[str, dict[str, Any]] = {
    "recall": {},
    "recall-return": {"source": "return"},
    "own-traces": {"traces_from": "record", "search": "auto", "imagined_share": 0.0},
    "recall-oracle": {"traces_from": "oracle", "search": "auto", "imagined_share": 0.0},
}
LABEL_BYTES = 25
"""Of one step in a `Memory`, besides the step: age, returns, length, whether closed."""
CELL_BYTES = 8
"""Of one step in a `Memory` that tells states apart, besides."""
PRIORITY_BYTES = 12
"""Of one step in `SelfImitation`, besides its `Memory`."""


@dataclass(frozen=True)
class ArmConfigs:
    """Settings of everything an arm may choose."""

    recall: RecallConfig = field(default_factory=RecallConfig)
    """Of recall traces, the model's and the own ones."""
    sil: SelfImitationConfig = field(default_factory=SelfImitationConfig)
    """Of self-imitation."""
    bonus: BonusConfig = field(default_factory=BonusConfig)
    """Of the intrinsic reward."""
    per: PrioritizedConfig = field(default_factory=PrioritizedConfig)
    """Of prioritized replay."""
    goal_gan: GoalGANConfig = field(default_factory=GoalGANConfig)
    """Of the Goal GAN."""


class Seams(NamedTuple):
    """The objects of an arm, one for each seam of a learner."""

    recall: Imitation
    bonus: Bonus
    sampling: ReplaySampling


def check_arm(arm: str, replays: bool = True) -> str:
    """Return the name of a known arm.

    Args:
        arm: The name.
        replays: Whether the learner has a replay to draw from.

    Raises:
        ValueError: there is none of that name; the message names the nearest ones.
    """
    known = [name for name in ARMS if replays or "per" not in name.split("+")]
    if arm in known:
        return arm
    if arm in ARMS:
        raise ValueError(f"the arm {arm!r} needs a learner with a replay: use sac")
    nearest = difflib.get_close_matches(arm, known, n=3, cutoff=0.3) or known
    raise ValueError(f"unknown arm {arm!r}: nearest are {', '.join(nearest)}")


def kept_bytes(
    arm: str,
    observation_space: ObservationSpace,
    action_space: ActionSpace,
    num_seeds: int,
    configs: ArmConfigs,
    buffer_size: int,
) -> int:
    """Bytes that an arm keeps of recorded steps: the replay, its tree, memories of the past.

    Args:
        arm: A name in `ARMS`.
        observation_space: Of one environment.
        action_space: Of one environment.
        num_seeds: `S`.
        configs: Settings.
        buffer_size: Steps of a seed that the learner replays from, or has in a rollout.
    """
    total = replay_bytes(observation_space, action_space, num_seeds, buffer_size)
    step = replay_bytes(observation_space, action_space, num_seeds, 1) + num_seeds * LABEL_BYTES
    for part in arm.split("+"):
        if part in RECALL_CHANGES:
            total += configs.recall.memory_size * (step + num_seeds * CELL_BYTES)
        elif part == "sil":
            total += configs.sil.memory_size * (step + num_seeds * PRIORITY_BYTES)
        elif part == "per":
            total += tree_bytes(num_seeds, buffer_size)
    return total


def check_kept(
    arm: str,
    observation_space: ObservationSpace,
    action_space: ActionSpace,
    num_seeds: int,
    configs: ArmConfigs,
    buffer_size: int,
    device: torch.device,
) -> int:
    """`kept_bytes`, once it is sure that they are free.

    Raises:
        ValueError: they are not.
    """
    needed = kept_bytes(arm, observation_space, action_space, num_seeds, configs, buffer_size)
    remembers = any(part == "sil" or part in RECALL_CHANGES for part in arm.split("+"))
    check_memory(needed, num_seeds, buffer_size, device, "buffer_size or memory_size" if remembers else "buffer_size")
    return needed


def make_seams(
    arm: str, env: VectorEnv, num_seeds: int, seed: int, configs: ArmConfigs, gamma: float = 0.99, buffer_size: int = 0
) -> Seams:
    """The objects of an arm.

    Args:
        arm: A name in `ARMS`.
        env: What the learner will train in, all seeds together; a `GoalGAN` if the arm has one.
        num_seeds: `S`.
        seed: Seeds whatever is drawn.
        configs: Settings.
        gamma: The learner's discount, by which returns are counted here too.
        buffer_size: Steps of a seed that the learner replays from; 0 for a learner without a replay.

    Raises:
        ValueError: no such arm, the environment lacks what the arm needs, a true backtracking model or goals, or there are to be
            imagined steps where there are no critics' batches to put them into.
    """
    observation_space, action_space = check_observation_space(env.observation_space), check_action_space(env.action_space)
    num_envs = env.num_envs // num_seeds
    imitation: Imitation = NoImitation()
    bonus: Bonus = NoBonus()
    sampling: ReplaySampling = UniformSampling(num_seeds)
    parts = check_arm(arm, buffer_size > 0).split("+")
    for part in parts:
        if part in RECALL_CHANGES:
            changes = RECALL_CHANGES[part] | ({"source": "generated"} if "goal-gan" in parts else {})
            config = replace(configs.recall, **changes)
            if config.imagined_share and not buffer_size:
                raise ValueError("imagined steps need a learner with a replay: use sac, or set imagined_share to 0")
            imitation = RecallTraces(
                observation_space,
                action_space,
                config,
                num_seeds=num_seeds,
                num_envs=num_envs,
                gamma=gamma,
                seed=seed,
                device=env.device,
                generated=env.states if isinstance(env, GoalGAN) else None,
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
        elif part == "per":
            sampling = PrioritizedSampling(configs.per, num_seeds, buffer_size, env.device)
    return Seams(imitation, bonus, sampling)


def make_learner(
    agent: str,
    arm: str,
    env: VectorEnv,
    config: Any,
    configs: ArmConfigs,
    num_seeds: int = 1,
    seed: int = 0,
    allocate: bool = True,
) -> Learner:
    """A learner with the objects of an arm.

    Args:
        agent: A name in `LEARNERS`.
        arm: A name in `ARMS`.
        env: What to train in, all seeds together.
        config: The learner's hyperparameters.
        configs: Settings of what the arm may choose.
        num_seeds: `S`.
        seed: Seeds everything that is drawn.
        allocate: Take a replay's memory now, and refuse what does not fit; otherwise with the first step.

    Raises:
        ValueError: what was asked for cannot be; says why.
    """
    buffer_size = getattr(config, "buffer_size", 0)
    if buffer_size and allocate:
        # Before anything is taken, or torch would say in its own words what is too much.
        spaces = check_observation_space(env.observation_space), check_action_space(env.action_space)
        check_kept(arm, *spaces, num_seeds, configs, buffer_size, env.device)
    if "goal-gan" in arm.split("+"):
        env = GoalGAN(env, configs.goal_gan, num_seeds=num_seeds, seed=seed)
    seams = make_seams(arm, env, num_seeds, seed, configs, config.gamma, buffer_size)
    if agent == "sac":
        rest: dict[str, Any] = {"num_seeds": num_seeds, "seed": seed, "allocate": allocate}
        return SAC(env, config, recall=seams.recall, bonus=seams.bonus, sampling=seams.sampling, **rest)
    return PPO(env, config, recall=seams.recall, bonus=seams.bonus, num_seeds=num_seeds, seed=seed)
