"""Pictures of learning curves, drawn from what runs left on disk, without anything that trains.

The left side shows the interquartile mean of every arm with its 95% interval and every seed as a faint line: all arms in one
panel while they are few, else one panel for each. The right side shows what each seed of each arm came to: its steps to
the threshold, or the mean height of its curve where there is no threshold. Several tasks are pooled, or have a row each.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, SubFigure

from recall_traces.comparison import all_arms, choose_metric
from recall_traces.curves import Curves, read_curves
from recall_traces.panels import (
    COLOURS,
    CURVES_TITLE,
    OVERLAY,
    STEPS_LABEL,
    STYLES,
    Look,
    metric_label,
    multiples,
    outcomes,
    overlay,
    plain,
)

FORMATS: dict[str, dict[str, Any]] = {"png": {"Software": None}, "pdf": {"CreationDate": None}, "svg": {"Date": None}}
"""Of pictures, by suffix, with what keeps clock and version out of the file."""


def plot_comparison(
    curves: Curves | Sequence[Curves] | str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    metric: str = "success",
    threshold: float | None = None,
    title: str | None = None,
    seed: int = 0,
    by_task: bool = False,
) -> Path:
    """Draw learning curves and what each seed came to.

    Args:
        curves: of one task or several, or the files or folders to read them from.
        out: where the picture goes, a png, pdf or svg by its suffix; folders on the way are made.
        metric: a column of `curves.csv`; where some task knows no success, the return takes its place.
        threshold: of that metric; `None` is 0.9 for success and none for returns.
        title: by default the names of the tasks, unless each has a row.
        seed: of the bootstrap.
        by_task: give each task a row of its own instead of pooling the seeds of all.

    Returns:
        The path of the picture.

    Raises:
        ValueError: there is nothing to draw, what was read is no table of curves, the suffix is none of those, or the threshold
            is one of success where the return takes its place.
    """
    out = Path(out)
    form = check_suffix(out)
    tasks = _load(curves)
    looks = {arm: (COLOURS[number % len(COLOURS)], STYLES[number % len(STYLES)]) for number, arm in enumerate(all_arms(tasks))}
    rows = [[task] for task in tasks] if by_task else [tasks]
    sizes = [_size(len(all_arms(row))) for row in rows]
    heights = [height for _, height in sizes]
    figure = Figure(figsize=(max(width for width, _ in sizes), sum(heights)), layout="constrained")
    FigureCanvasAgg(figure)
    if title or len(rows) == 1:
        figure.suptitle(plain(title or _title(tasks)), fontsize=13)
    places = figure.subfigures(len(rows), 1, squeeze=False, height_ratios=heights)[:, 0]
    for place, row in zip(places, rows, strict=True):
        if len(rows) > 1:
            place.suptitle(plain(row[0].task), fontsize=12)
        of_row = {arm: looks[arm] for arm in all_arms(row)}
        _draw_row(place, row, *choose_metric(row if by_task else tasks, metric, threshold), of_row, seed)
    out.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context({"svg.hashsalt": "recall-traces"}):  # or the names in the file are random
        figure.savefig(out, dpi=150, format=form, metadata=FORMATS[form])
    return out


def check_suffix(out: Path) -> str:
    """The format that a file's name asks for.

    Raises:
        ValueError: it is none that pictures have.
    """
    form = out.suffix[1:].lower()
    if form not in FORMATS:
        raise ValueError(f"{out} is no name of a picture; it must end in {', '.join(f'.{known}' for known in FORMATS)}")
    return form


def _columns(arms: int) -> int:
    return 1 if arms <= OVERLAY else 2 if arms <= 2 * OVERLAY else 3


def _size(arms: int) -> tuple[float, float]:
    """Inches of a row with so many arms."""
    columns = _columns(arms)
    rows = 1 if columns == 1 else math.ceil(arms / columns)
    return 12 if columns < 3 else 15, max(4.6, 1.6 * rows + 1.4, 0.45 * arms + 1.8)


def _draw_row(
    place: SubFigure, tasks: Sequence[Curves], metric: str, threshold: float | None, looks: dict[str, Look], seed: int
) -> None:
    columns = _columns(len(looks))
    left, right = place.subfigures(1, 2, squeeze=False, width_ratios=(1.2, 1) if columns < 3 else (1.6, 1))[0]
    if columns == 1:
        overlay(left.subplots(), tasks, metric, threshold, looks, seed)
    else:
        grid = left.subplots(math.ceil(len(looks) / columns), columns, sharex=True, sharey=True, squeeze=False)
        multiples(grid.reshape(-1).tolist(), columns, tasks, metric, threshold, looks, seed)
        left.suptitle(f"{CURVES_TITLE}; grey: other arms", fontsize=10)
        left.supxlabel(STEPS_LABEL, fontsize=10)
        left.supylabel(metric_label(metric), fontsize=10)
    outcomes(right.subplots(), tasks, metric, threshold, looks, seed)


def _load(curves: Curves | Sequence[Curves] | str | Path | Sequence[str | Path]) -> list[Curves]:
    many = [curves] if isinstance(curves, Curves | str | Path) else list(curves)
    paths = [item for item in many if isinstance(item, str | Path)]
    loaded = [item for item in many if isinstance(item, Curves)]
    if paths or not loaded:
        loaded += read_curves(*paths)
    return loaded


def _title(tasks: Sequence[Curves]) -> str:
    names = list(dict.fromkeys(task.task for task in tasks))
    return ", ".join(names) if len(names) <= 3 else f"{len(names)} tasks: {names[0]} … {names[-1]}"
