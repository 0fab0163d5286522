"""Opening what a run left in its folder."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Callable
from ctypes.util import find_library
from dataclasses import fields
from pathlib import Path
from typing import Any

import recall_traces.envs as envs
from recall_traces.agents.arms import LEARNERS
from recall_traces.agents.learner import Learner
from recall_traces.cli.errors import UsageError, one_line
from recall_traces.envs.interface import VectorEnv
from recall_traces.runs import RunFolder


def open_run(path: Path) -> RunFolder:
    """The folder of a run.

    Raises:
        UsageError: it is none.
    """
    if not path.exists():
        raise UsageError(f"there is no run folder {path}")
    try:
        return RunFolder(path).load()
    except ValueError as error:
        raise UsageError(f"{path} is no run folder: {one_line(error)}") from error


def choose_arm(folder: RunFolder, arm: str | None, has: Callable[[str], bool], what: str) -> str:
    """The arm that was asked for; else the first that recalls, else the first, of those that have something.

    Args:
        folder: Of the run.
        arm: Its name, or None.
        has: Whether an arm has what is needed.
        what: What that is, in words.

    Raises:
        UsageError: the run has no such arm, or it has not got that.
    """
    arms = list(folder.record["arms"])
    if arm is None:
        able = sorted(filter(has, arms), key=lambda name: not recalls(name))
        if not able:
            raise UsageError(f"no arm of {folder.path} has {what}")
        return able[0]
    if arm not in arms:
        near = difflib.get_close_matches(arm, arms, n=3) or arms
        raise UsageError(f"{folder.path} has no arm {arm!r}; it has {', '.join(near) or 'none'}")
    if not has(arm):
        raise UsageError(f"the arm {arm} of {folder.path} has no {what.removeprefix('a ')}; it is {folder.status(arm)}")
    return arm


def recalls(arm: str) -> bool:
    """Whether an arm has recall traces."""
    return any(part.startswith("recall") or part == "own-traces" for part in arm.split("+"))


def check_seed(seed: int, num_seeds: int) -> None:
    """Refuse a seed that was not trained.

    Raises:
        UsageError: says which were.
    """
    if not 0 <= seed < num_seeds:
        valid = "only 0" if num_seeds == 1 else f"0 to {num_seeds - 1}"
        raise UsageError(f"--seed is {seed}; the run has {valid}")


def environment_keywords(configuration: dict[str, Any], which: str) -> dict[str, Any]:
    """Options of the environment as `envs.make` takes them, for this machine, from the record of a run.

    Args:
        configuration: Of the run.
        which: `env`, or `eval_env` for that of the evaluation.

    Raises:
        UsageError: the environment is not known here.
    """
    keywords = dict(configuration.get(which) or configuration["env"])
    try:
        options = envs.options_class(configuration["env_id"])
    except ValueError as error:
        raise UsageError(one_line(error)) from error
    if options is None:
        return keywords
    known = {field.name for field in fields(options)}
    if "engine" in known:
        keywords["engine"] = "auto"  # whatever simulated there
    # JSON knows no tuples.
    return {name: tuple(value) if isinstance(value, list) else value for name, value in keywords.items() if name in known}


def load_policy(folder: RunFolder, arm: str, env: VectorEnv) -> Learner:
    """The policies that an arm came to, in an environment with as many copies as seeds.

    Raises:
        UsageError: they cannot be read.
    """
    path = folder.policy_path(arm)
    try:
        return LEARNERS[folder.record["configuration"]["learner"]].load(path, env)
    except (ValueError, OSError) as error:
        raise UsageError(f"the policies of {arm} cannot be loaded: {one_line(error)}") from error


def draw_without_screen() -> None:
    """Let MuJoCo draw where there is no screen; before it is imported, which is when it chooses how."""
    if not sys.platform.startswith("linux") or "MUJOCO_GL" in os.environ or os.environ.get("DISPLAY"):
        return
    for name, library in (("egl", "EGL"), ("osmesa", "OSMesa")):
        if find_library(library):
            os.environ["MUJOCO_GL"] = name
            return
