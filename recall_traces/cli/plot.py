"""`recall-traces plot`: a picture from run folders, without anything that trains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro import MISSING
from tyro.conf import Positional, arg

from recall_traces.cli.errors import UsageError, one_line
from recall_traces.cli.parsing import parse_plain
from recall_traces.runs import PICTURE

if TYPE_CHECKING:
    from recall_traces.curves import Curves

DESCRIPTION = """Draw the curves of one or more runs in one picture. Each task has a row of its own.

A run may also be one of Stable-Baselines3: a folder with evaluations.npz, monitor.csv, progress.csv or TensorBoard's events.
Each such folder is one seed of an arm, PPO_1 and PPO_2 of PPO. Where an arm knows no success, returns are drawn.

examples:
  recall-traces plot runs/x
  recall-traces plot runs/x runs/y --out both.png
  recall-traces plot runs/cartpole --metric episode_return --threshold 475
  recall-traces plot runs/cartpole logs/PPO_1 logs/PPO_2 logs/PPO_3 --out beside_sb3.png"""

Metric = Literal["success", "episode_return", "greedy_success", "greedy_episode_return"]


@dataclass(frozen=True, kw_only=True)
class PlotOptions:
    """Draw the curves of runs."""

    runs: Annotated[tuple[Path, ...], Positional, arg(metavar="RUN [RUN ...]", help_behavior_hint="(required)")]
    """Run folders, or files like their curves.csv; or folders and files of Stable-Baselines3."""
    out: Annotated[Path | None, arg(metavar="FILE")] = None
    """The picture, a png, pdf or svg. By default curves.png in the folder of a single run, else ./curves.png."""
    metric: Metric | None = None
    """What to draw. By default success if every arm knows it, else episode_return."""
    threshold: Annotated[float | None, arg(metavar="X")] = None
    """What a seed must reach in two evaluations in a row to have got there. By default 0.9 for success, and none for a return."""
    title: Annotated[str | None, arg(metavar="TEXT")] = None
    """Above the picture. By default the names of the environments."""


def main(argv: Sequence[str]) -> None:
    """Run the subcommand.

    Raises:
        UsageError: a run is missing or holds no curves, none knows the metric, or the picture cannot be written.
    """
    options = parse_plain(argv, PlotOptions(runs=MISSING), "plot", DESCRIPTION, "plot runs/x", several=True)
    if options is None:
        return
    # After the command line was found good: scipy and matplotlib are slow.
    from recall_traces.comparison import choose_metric
    from recall_traces.curves import read_curves
    from recall_traces.plotting import check_suffix, plot_comparison

    out = options.out or usual_folder(options.runs) / PICTURE
    try:
        check_suffix(out)
        curves = read_curves(*options.runs, prefix_clashes=True)
        metric = options.metric or usual_metric(curves)
        if all(task.span(choose_metric([task], metric, None)[0], arm) is None for task in curves for arm in task.arms):
            raise ValueError(f"there is no {metric} in what was read: choose another --metric")
        plot_comparison(curves, out, metric=metric, threshold=options.threshold, title=options.title, by_task=True)
    except ValueError as error:
        raise UsageError(one_line(error)) from error
    except OSError as error:
        raise UsageError(f"cannot write {out}: {error.strerror or one_line(error)}") from error
    print(out)


def usual_folder(runs: Sequence[Path]) -> Path:
    """Where a file about runs goes unless it is said: into the folder of a single run, else here."""
    single = runs[0] if len(runs) == 1 else None
    return Path() if single is None else single if single.is_dir() else single.parent


def usual_metric(curves: Sequence[Curves]) -> str:
    """Success, unless an arm would be missing in a picture of it: many a baseline knows nothing but its return."""
    for task in curves:
        for arm in task.arms:
            if task.span("episode_return", arm) is not None and task.span("success", arm) is None:
                return "episode_return"
    return "success"
