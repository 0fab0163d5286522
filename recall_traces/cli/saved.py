"""Opening an arm of a run for whoever draws it."""

from __future__ import annotations

import os
import sys
from ctypes.util import find_library
from pathlib import Path

from recall_traces.cli.errors import UsageError, one_line
from recall_traces.cli.load import LoadedRun, load_run
from recall_traces.cli.progress import warn
from recall_traces.runs import RunFolder


def open_arm(path: Path, arm: str | None, seed: int, *, best: bool = False, recalling: bool = False) -> LoadedRun:
    """Load an arm on the CPU, with whatever its environment draws by; what cannot be used is told on stderr.

    Args:
        path: The folder of the run.
        arm: Its name; by default the first that recalls, else the first, of those that were begun.
        seed: Which will be drawn.
        best: The policies that did best in evaluation.
        recalling: Whether only an arm that recalls will do.

    Raises:
        UsageError: there is no such run, arm or seed, or nothing of it is saved; in one sentence.
    """
    draw_without_screen()
    try:
        folder = RunFolder(path).load()
        begun = list(folder.record["arms"])
        if arm is None:
            able = [name for name in begun if recalls(name)] or ([] if recalling else begun)
            if not able:
                raise UsageError(f"no arm of {path} recalls; it has {', '.join(begun) or 'none'}")
            arm = able[0]
        if recalling and arm in begun and not recalls(arm):
            raise UsageError(f"the arm {arm} recalls nothing; those that do have recall or own-traces in their names")
        run = load_run(path, arm, device="cpu", best=best, say=warn)
    except ValueError as error:
        raise UsageError(one_line(error)) from error
    if not 0 <= seed < run.options.seeds:
        valid = "only 0" if run.options.seeds == 1 else f"0 to {run.options.seeds - 1}"
        raise UsageError(f"--seed is {seed}; seeds are counted from 0, and the run has {valid}")
    return run


def recalls(arm: str) -> bool:
    """Whether an arm has recall traces."""
    return any(part.startswith("recall") or part == "own-traces" for part in arm.split("+"))


def draw_without_screen() -> None:
    """Let MuJoCo draw where there is no screen; before it is imported, which is when it chooses how."""
    if not sys.platform.startswith("linux") or "MUJOCO_GL" in os.environ or os.environ.get("DISPLAY"):
        return
    for name, library in (("egl", "EGL"), ("osmesa", "OSMesa")):
        if find_library(library):
            os.environ["MUJOCO_GL"] = name
            return
