"""`recall-traces traces`: what an arm recalls, in one picture."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro import MISSING
from tyro.conf import Positional, arg

from recall_traces.cli.errors import UsageError, one_line
from recall_traces.cli.load import LoadedRun
from recall_traces.cli.parsing import parse_plain
from recall_traces.cli.saved import open_arm
from recall_traces.plotting import check_suffix
from recall_traces.recall import RecallTraces
from recall_traces.scene import Scene, longest_trace, make_scene, recalled_steps
from recall_traces.trace_picture import Pose, draw_traces

DESCRIPTION = """Draw what an arm recalls, as it was when the run was last written down: at its end, or at its last checkpoint.

Grids and point mazes: the traces on the floor plan, coloured by the steps to the high-value state; how often each place was
visited; the critic's value. Other tasks: the same along the first two principal components of the remembered states, each
dimension in units of its own deviation. MuJoCo's tasks: also the states of one trace, posed.

examples:
  recall-traces traces runs/x
  recall-traces traces runs/x --arm own-traces --seed 3 --out own.pdf"""
POSES = 8
"""Of one trace, for MuJoCo's tasks."""
WIDTH = 240
"""Pixels of each."""


@dataclass(frozen=True, kw_only=True)
class TracesOptions:
    """Draw what an arm recalls."""

    run: Annotated[Path, Positional, arg(metavar="RUN", help_behavior_hint="(required)")]
    """The folder of a run."""
    arm: Annotated[str | None, arg(metavar="ARM")] = None
    """Which arm. By default the first that recalls."""
    seed: Annotated[int, arg(metavar="N")] = 0
    """Which of its seeds, from 0."""
    out: Annotated[Path | None, arg(metavar="FILE")] = None
    """The picture, a png, pdf or svg. By default traces-ARM-SEED.png in the folder of the run."""


def main(argv: Sequence[str]) -> None:
    """Run the subcommand.

    Raises:
        UsageError: there is no such run, arm or seed, nothing was recalled, or the picture cannot be written.
    """
    options = parse_plain(argv, TracesOptions(run=MISSING), "traces", DESCRIPTION, "traces runs/x")
    if options is None:
        return
    try:
        if options.out is not None:
            check_suffix(options.out)
        run = open_arm(options.run, options.arm, options.seed, recalling=True)
        with contextlib.closing(run):
            scene, title, strip = gather(run, options.seed)
    except ValueError as error:
        raise UsageError(one_line(error)) from error
    out = options.out or run.folder.path / f"traces-{run.arm}-{options.seed}.png"
    try:
        draw_traces(scene, out, title, strip)
    except OSError as error:
        raise UsageError(f"cannot write {out}: {error.strerror or one_line(error)}") from error
    print(out)


def gather(run: LoadedRun, seed: int) -> tuple[Scene, str, list[Pose]]:
    """What to draw of one seed of an arm: the scene, a title, and a trace's states, posed.

    Raises:
        ValueError: it is not known what it recalled, or it cannot be drawn.
    """
    recall, plan = getattr(run.learner, "recall", None), getattr(run.env, "floor_plan", lambda: None)()
    if not run.complete or not isinstance(recall, RecallTraces):
        raise ValueError(f"{run.folder.path} has the policies of {run.arm} alone: no checkpoint tells what it recalled")
    scene = make_scene(recall, run.learner.value, seed, plan)
    title = f"{run.folder.record.get('task', run.options.env_id)}, {run.arm}, seed {seed}, {run.learner.env_steps:,} steps"
    return scene, title, poses(run, recall, seed)


def poses(run: LoadedRun, recall: RecallTraces, seed: int) -> list[Pose]:
    """States of the longest trace, posed; none where the task has no bodies or, said on stderr, where nothing can draw."""
    pose = getattr(run.env, "pose", None)
    if pose is None:
        return []
    states, togo = longest_trace(recalled_steps(recall, seed), POSES)
    try:
        return list(zip(pose(states, WIDTH, WIDTH), togo, strict=True))
    except RuntimeError as error:
        print(f"recall-traces: without the states of a trace, posed: {one_line(error)}", file=sys.stderr)
        return []
