"""From a run folder back to what it was: options, environment, learner."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

import torch

import recall_traces.envs as envs
from recall_traces.agents.arms import LEARNERS, make_learner
from recall_traces.agents.learner import Learner
from recall_traces.checkpoints import Checkpoints
from recall_traces.cli.errors import one_line
from recall_traces.cli.options import CompareOptions, Keywords
from recall_traces.cli.resolve import all_optional, look_here
from recall_traces.envs.interface import VectorEnv
from recall_traces.runs import RunFolder

T = TypeVar("T")
GROUPS = ("recall", "sil", "bonus", "per", "goal_gan")
PLAIN = ("seeds", "seed", "steps", "num_envs", "eval_every", "eval_episodes")
EVALUATION_SEED = 1_000_003
"""Added to the seed for the environments and the actions of the evaluation."""


@dataclass(frozen=True)
class LoadedRun:
    """An arm of a run, as it was when it was last written down."""

    folder: RunFolder
    """Where it lies; `record` in it is `config.json`."""
    options: CompareOptions
    """The configuration."""
    arm: str
    """Which arm."""
    env: VectorEnv
    """What the learner was trained in, `seeds * num_envs` copies; a new episode begins where it cannot be put back."""
    learner: Learner
    """With its seams: `learner.recall` is the `RecallTraces` of the arms with recall."""
    file: Path
    """What was read: a checkpoint, or policies alone."""
    complete: bool
    """Whether what is imitated, and what it remembers, is as it was; it is new with policies alone, and with a finished arm whose
    memory only further training would need."""

    def make_env(self, num_envs: int, seed: int | None = None, evaluation: bool = True) -> VectorEnv:
        """Further copies of the environment, on the learner's device.

        Args:
            num_envs: How many, of all seeds together.
            seed: Of the environments; by default that of the run's evaluations.
            evaluation: With the options of the evaluation, or those of training.
        """
        keywords = self.options.eval_env_keywords if evaluation else self.options.env_keywords
        seed = self.options.seed + EVALUATION_SEED if seed is None else seed
        return envs.make(self.options.env_id, num_envs=num_envs, device=self.learner.device, seed=seed, **keywords)

    def close(self) -> None:
        """Close the environment, if it has anything to close."""
        close_env(self.env)


def load_run(
    folder: str | Path,
    arm: str | None = None,
    *,
    device: str | None = None,
    best: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> LoadedRun:
    """Load an arm of a run: the newest checkpoint that can be read, else the policies at the end.

    Args:
        folder: Of the run.
        arm: Which one; may be left out where there is only one.
        device: Where to load it; by default where it was trained, if there is such a device here, else the CPU.
        best: The policies that did best in evaluation instead of the newest; the seams are new then.
        say: Told, in one line, what could not be used.

    Raises:
        ValueError: it is not the folder of a run, there is no such arm, or nothing of it has been saved; in one sentence.
        OSError: a checkpoint could not be read just now.
        MemoryError: there is not enough memory for it.
    """
    run = RunFolder(folder).load()
    options = read_options(run.record)
    arm = choose_arm(run, arm)
    device = device or str(run.record["configuration"].get("device", "cpu"))
    if device.startswith("cuda") and not torch.cuda.is_available():
        device = "cpu"
    checkpoints = Checkpoints(run.checkpoints_path(arm), say, rename=False)
    if best:
        if not checkpoints.best.exists():
            raise ValueError(f"{run.path} has no best policies of {arm}")
        env, learner = _make(options, arm, device)
        learner.load_policy(checkpoints.best)
        return LoadedRun(run, options, arm, env, learner, checkpoints.best, complete=False)
    for checkpoint in checkpoints.read(device):
        env, learner = _make(options, arm, device)
        try:
            state = checkpoint.tree["learner"]
            learner.load_training_state({name: state[name] for name in state if name not in ("replay", "sampling")})
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            checkpoints.set_aside(checkpoint.path, error)
            close_env(env)
            continue
        return LoadedRun(run, options, arm, env, learner, checkpoint.path, complete="recall" in state)
    policy = run.policy_path(arm)
    if not policy.exists():
        raise ValueError(f"{run.path} has nothing saved of {arm} yet")
    env, learner = _make(options, arm, device)
    learner.load_policy(policy)
    return LoadedRun(run, options, arm, env, learner, policy, complete=False)


def close_env(env: VectorEnv) -> None:
    """Close an environment, if it has anything to close."""
    close = getattr(env, "close", None)
    if close is not None:
        close()


def choose_arm(run: RunFolder, arm: str | None) -> str:
    """The arm that is meant.

    Raises:
        ValueError: the run has none of that name, or several and none was named.
    """
    known = list(run.record["arms"])
    if arm is None and len(known) == 1:
        return str(known[0])
    if arm is None or arm not in known:
        which = "has several arms, and none was named" if arm is None and known else f"has no arm {arm!r}"
        raise ValueError(f"{run.path} {which}; there are {', '.join(known) or 'none yet'}")
    return arm


def read_options(record: Mapping[str, Any]) -> CompareOptions:
    """The options that a run was called with, from its `config.json`; a setting that it lacks is the default.

    Args:
        record: The content of `config.json`.

    Raises:
        ValueError: it does not describe a run that this version knows; in one sentence.
    """
    configuration, arms = record["configuration"], [str(arm) for arm in record["arms"]]
    calls = record.get("calls")
    last = calls[-1] if isinstance(calls, list) and calls and isinstance(calls[-1], dict) else {}
    asked = last.get("arms", arms)
    try:
        env_id, agent = configuration.get("env_id"), configuration.get("learner")
        if not isinstance(env_id, str) or agent not in LEARNERS:
            raise ValueError("it names no environment and learner")
        look_here(env_id)
        kind = envs.options_class(env_id)
        env: Any = configuration.get("env", {})
        eval_env: Any = Keywords()
        if kind is not None:
            eval_env = from_json(all_optional(kind), configuration.get("eval_env", {}), "eval_env")
            env = from_json(kind, env, "env")
        elif not isinstance(env, dict):
            raise ValueError("env must be a group of settings")
        hints = typing.get_type_hints(CompareOptions)
        found = {name: _value(hints[name], configuration[name], name) for name in PLAIN if name in configuration}
        found |= {name: from_json(hints[name], configuration[name], name) for name in GROUPS if name in configuration}
        found["arms"] = _value(tuple[str, ...], asked, "arms")
        config = from_json(LEARNERS[agent].config_class, configuration.get("agent", {}), "agent")
        options = CompareOptions(env_id=env_id, learner=agent, env=env, eval_env=eval_env, agent=config, **found)
        options.check()
    except (TypeError, ValueError) as error:
        raise ValueError(f"the configuration in config.json cannot be used: {one_line(error)}") from error
    return options


def from_json(kind: type[T], data: Any, where: str) -> T:
    """A dataclass of settings from what JSON made of it.

    Raises:
        ValueError: a setting is unknown, of another type or out of range.
    """
    if not isinstance(data, Mapping):
        raise ValueError(f"{where} must be a group of settings")
    hints = typing.get_type_hints(kind)
    known = {field.name for field in dataclasses.fields(typing.cast(Any, kind))}
    for name in data:
        if name not in known:
            raise ValueError(f"{where}.{name} is not a setting that this version knows")
    return kind(**{name: _value(hints[name], value, f"{where}.{name}") for name, value in data.items()})


def _value(hint: Any, value: Any, where: str) -> Any:
    """A value of the type that a field wants."""
    origin = typing.get_origin(hint)
    if origin in (Union, types.UnionType):
        if value is None:
            return None
        kinds = [kind for kind in typing.get_args(hint) if kind is not type(None)]
        return _value(kinds[0], value, where)
    if dataclasses.is_dataclass(hint):
        return from_json(typing.cast("type[Any]", hint), value, where)
    if origin is tuple and isinstance(value, list | tuple):
        kinds = list(typing.get_args(hint))
        kinds = kinds[:1] * len(value) if kinds[1:] == [Ellipsis] else kinds
        if len(kinds) == len(value):
            return tuple(_value(kind, item, where) for kind, item in zip(kinds, value, strict=True))
    elif origin is Literal:
        if value in typing.get_args(hint):
            return value
    elif hint is float:
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value) if abs(value) < 2**1000 or not isinstance(value, int) else math.copysign(math.inf, value)
    elif isinstance(value, hint) and isinstance(value, bool) == (hint is bool):
        return value
    raise ValueError(f"{where} is {str(value)[:60]!r}, which it cannot be")


def _make(options: CompareOptions, arm: str, device: str) -> tuple[VectorEnv, Learner]:
    """An environment and a learner as the run had them at the beginning, without a replay."""
    env = envs.make(
        options.env_id, num_envs=options.seeds * options.num_envs, device=device, seed=options.seed, **options.env_keywords
    )
    rest = (options.agent, options.arm_configs, options.seeds, options.seed)
    learner = make_learner(options.learner, arm, env, *rest, allocate=False)
    return env, learner
