"""What the subcommands take. The dataclasses are the command line: a docstring under a field is its help."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import FlagCreatePairsOff, Positional, arg

from recall_traces.agents.arms import LEARNERS, ArmConfigs, check_arm
from recall_traces.agents.bonus import BonusConfig
from recall_traces.agents.goal_gan import GoalGANConfig
from recall_traces.agents.ppo import PPOConfig
from recall_traces.agents.replay import PrioritizedConfig
from recall_traces.agents.self_imitation import SelfImitationConfig
from recall_traces.recall import RecallConfig

AGENTS = {"ppo": "proximal policy optimisation (Schulman et al. 2017)", "sac": "soft actor-critic (Haarnoja et al. 2018)"}
assert AGENTS.keys() == LEARNERS.keys()
DEMO_AGENT = "ppo"
DEMO_ENV = "FourRooms-15"
DEMO_ARMS = ("none", "sil", "bonus", "own-traces", "recall")
LEAST = {"steps": 1, "seeds": 1, "seed": 0, "num_envs": 1, "eval_every": 1, "eval_episodes": 1}


@dataclass(frozen=True)
class Keywords:
    """Any keyword of the environment's constructor: --env.KEY VALUE."""


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What `train` and `compare` share."""

    steps: Annotated[int, arg(metavar="N")] = 150_000
    """Environment steps of each seed, rounded up to whole rollouts (n_steps of every environment); evaluation is not counted."""
    seeds: Annotated[int, arg(metavar="N")] = 1
    """How many seeds, trained side by side."""
    seed: Annotated[int, arg(metavar="N")] = 0
    """Seeds all of them: the same seed gives the same curves."""
    num_envs: Annotated[int, arg(metavar="N")] = 8
    """Environments of each seed."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where everything is computed; auto is cuda where there is one."""
    out: Annotated[Path | None, arg(metavar="FOLDER")] = None
    """Where the results go. By default a new folder, runs/ENV-TIME."""
    overwrite: FlagCreatePairsOff[bool] = False
    """Throw away what an earlier run left in that folder, and the pictures, films and reports of it there."""
    quiet: FlagCreatePairsOff[bool] = False
    """Print nothing but errors and, at the end, the folder."""
    checkpoint_every: Annotated[float, arg(metavar="SECONDS")] = 60.0
    """Seconds between checkpoints, from which `recall-traces resume` goes on, more where writing one takes long; 0 for one after
    every rollout."""
    keep_checkpoints: FlagCreatePairsOff[bool] = False
    """Keep the last checkpoints of an arm when it is finished, the replay included; by default only what traces need."""
    eval_every: Annotated[int, arg(metavar="N")] = 2048
    """Steps of a seed between evaluations."""
    eval_episodes: Annotated[int, arg(metavar="N")] = 20
    """Episodes of an evaluation, as many again with greedy actions."""
    agent: Any = field(default_factory=PPOConfig)
    """Hyperparameters; which there are depends on the learner, the defaults on the environment."""
    recall: RecallConfig = field(default_factory=RecallConfig)
    """Recall traces: what to recall, and how much to imitate. For the arms recall, recall-..., own-traces."""
    sil: SelfImitationConfig = field(default_factory=SelfImitationConfig)
    """Self-imitation, for the arms with sil."""
    bonus: BonusConfig = field(default_factory=BonusConfig)
    """Intrinsic reward, for the arms with bonus."""
    per: PrioritizedConfig = field(default_factory=PrioritizedConfig)
    """Prioritized replay, for the arms with per."""
    goal_gan: GoalGANConfig = field(default_factory=GoalGANConfig)
    """Goal GAN, for the arms with goal-gan."""
    env: Any = field(default_factory=Keywords)
    """Options of the environment."""
    eval_env: Any = field(default_factory=Keywords)
    """Options of the environment where evaluation is to have others."""

    @property
    def arm_configs(self) -> ArmConfigs:
        """Settings of everything an arm may choose."""
        return ArmConfigs(self.recall, self.sil, self.bonus, self.per, self.goal_gan)

    @property
    def env_keywords(self) -> dict[str, Any]:
        """Options of the environment as `envs.make` takes them."""
        if isinstance(self.env, dict):
            return dict(self.env)
        return {field.name: getattr(self.env, field.name) for field in dataclasses.fields(self.env)}

    @property
    def eval_env_keywords(self) -> dict[str, Any]:
        """The same for the environments of the evaluation."""
        given = {field.name: getattr(self.eval_env, field.name) for field in dataclasses.fields(self.eval_env)}
        return self.env_keywords | {name: value for name, value in given.items() if value is not None}

    def task(self, env_id: str) -> str:
        """Name of what is learned: the environment, and its options where they are not the defaults."""
        changed = self.env_keywords
        if not isinstance(self.env, dict):
            defaults = type(self.env)()
            changed = {name: value for name, value in changed.items() if value != getattr(defaults, name)}
        return ", ".join([env_id, *(f"{name.replace('_', ' ')} {value}" for name, value in changed.items())])

    def check(self) -> None:
        """Refuse what is out of range.

        Raises:
            ValueError: names the option and what would be valid.
        """
        check_least(self, LEAST)
        if not self.checkpoint_every >= 0:
            raise ValueError(f"--checkpoint-every is {self.checkpoint_every}; it must be at least 0")


@dataclass(frozen=True, kw_only=True)
class TrainOptions(RunOptions):
    """Train one arm."""

    learner: Annotated[str, Positional, arg(metavar="AGENT")]
    """The learner: ppo or sac."""
    env_id: Annotated[str, Positional, arg(metavar="ENV")]
    """The environment, such as FourRooms-19, CartPole-v1 or any Gymnasium id."""
    arm: Annotated[str, arg(metavar="ARM")] = "none"
    """What helps the learner; `recall-traces list` tells the arms."""

    def check(self) -> None:
        """Refuse what is out of range or unknown."""
        super().check()
        check_agent(self.learner)
        check_arm(self.arm, replays(self.agent))


@dataclass(frozen=True, kw_only=True)
class CompareOptions(RunOptions):
    """Train several arms and compare them."""

    env_id: Annotated[str, Positional, arg(metavar="ENV")] = DEMO_ENV
    """The environment, such as FourRooms-19, CartPole-v1 or any Gymnasium id."""
    learner: Annotated[str, arg(name="agent", metavar="AGENT")] = "ppo"
    """The learner: ppo or sac."""
    arms: Annotated[tuple[str, ...], arg(metavar="ARM [ARM ...]")] = DEMO_ARMS
    """What to compare; `recall-traces list` tells the arms."""
    seeds: Annotated[int, arg(metavar="N")] = 8
    """How many seeds of each arm, trained side by side."""
    steps: Annotated[int, arg(metavar="N")] = 40_000
    """Environment steps of each seed, rounded up to whole rollouts (n_steps of every environment); evaluation is not counted."""

    def check(self) -> None:
        """Refuse what is out of range or unknown."""
        super().check()
        check_agent(self.learner)
        if not self.arms:
            raise ValueError("--arms names no arm; give at least one, such as none recall")
        for arm in self.arms:
            check_arm(arm, replays(self.agent))


def check_least(options: Any, least: Mapping[str, int]) -> None:
    """Refuse numbers that are too small.

    Raises:
        ValueError: names the option and what would be valid.
    """
    for name, bound in least.items():
        if getattr(options, name) < bound:
            raise ValueError(f"--{name.replace('_', '-')} is {getattr(options, name)}; it must be at least {bound}")


def check_agent(agent: str) -> None:
    """Refuse an unknown learner.

    Raises:
        ValueError: names those there are.
    """
    if agent not in AGENTS:
        raise ValueError(f"unknown agent {agent!r}; there are {', '.join(AGENTS)}")


def replays(config: Any) -> bool:
    """Whether a learner with these hyperparameters draws from a replay."""
    return hasattr(config, "buffer_size")


def configuration(options: TrainOptions | CompareOptions, device: str) -> dict[str, Any]:
    """Everything that decides the numbers of an arm: two runs with the same one can be put together."""
    plain = ("seeds", "seed", "steps", "num_envs", "eval_every", "eval_episodes")
    parts: dict[str, Any] = {name: getattr(options, name) for name in ("agent", "recall", "sil", "bonus", "per", "goal_gan")}
    return {
        "env_id": options.env_id,
        "learner": options.learner,
        **{name: getattr(options, name) for name in plain},
        "device": device,
        "env": options.env_keywords,
        "eval_env": options.eval_env_keywords,
        **{name: dataclasses.asdict(config) for name, config in parts.items()},
    }


def default_configuration(options: TrainOptions | CompareOptions, device: str) -> dict[str, Any]:
    """What a record means that lacks a field: the same as `configuration`, with the default of every dataclass.

    A record keeps resolved numbers, so that what a preset chose is in it; a field that it lacks did not exist.
    """
    groups = ("agent", "recall", "sil", "bonus", "per", "goal_gan", "env", "eval_env")
    kinds: dict[str, Any] = {name: type(getattr(options, name)) for name in groups}
    plain: dict[str, Any] = {name: kind() for name, kind in kinds.items() if kind is not dict}
    return configuration(dataclasses.replace(options, **plain), device)
