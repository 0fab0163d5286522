"""The two panels of a picture of learning curves: the curves, and what each seed came to."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from recall_traces.comparison import incomplete_seeds, pool
from recall_traces.curves import Curves, Floats, Integers
from recall_traces.statistics import areas, interquartile_curve, median_interval, steps_to_threshold

STEPS_LABEL = "environment steps of one seed (evaluation not counted)"
CURVES_TITLE = "interquartile mean over seeds, 95% interval; thin: each seed"
OUTCOMES_TITLE = "dots: seeds; diamond and bar: median, 95% interval"
METRIC_LABELS = {
    "success": "success rate",
    "episode_return": "episode return",
    "greedy_success": "success rate, greedy actions",
    "greedy_episode_return": "episode return, greedy actions",
}
# Okabe and Ito's palette, which colour-blind readers can tell apart, without its yellow: too pale for a line on paper.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
Style = str | tuple[int, tuple[float, ...]]
Look = tuple[str, Style]
"""Colour and style of an arm."""
STYLES: tuple[Style, ...] = (
    "-",
    (0, (5, 1.5)),
    (0, (1.5, 1)),
    (0, (6, 1.5, 1.5, 1.5)),
    (0, (9, 2)),
)
OVERLAY = 5  # more arms than that in one panel hide each other
GREY = "#767676"
TICK_STEPS = (1, 2, 2.5, 5, 10)
NAME_WIDTH = 20
"""Letters of a line of an arm's name, which has two lines at most."""


def metric_label(metric: str) -> str:
    """The words for a column of `curves.csv`."""
    return METRIC_LABELS.get(metric, metric)


def plain(text: str) -> str:
    """The same text with its dollar signs drawn as such, where matplotlib would begin a formula."""
    return text.replace("$", r"\$")


def wrapped(name: str) -> str:
    """An arm's name as a picture has room for it: in two lines where it is long, without its middle where it is longer still."""
    if len(name) > 2 * NAME_WIDTH:
        name = f"{name[: NAME_WIDTH - 1]}…{name[-NAME_WIDTH:]}"
    if len(name) > NAME_WIDTH:
        joints = [k for k in range(len(name) - NAME_WIDTH, NAME_WIDTH + 1) if name[k - 1] in "/+-_ "]
        cut = max(joints, default=NAME_WIDTH)
        name = f"{name[:cut]}\n{name[cut:]}"
    return plain(name)


def _named(tasks: Sequence[Curves], metric: str, arm: str) -> str:
    """An arm with its number of seeds, and how many of them stopped before the rest."""
    found = [task for task in tasks if arm in task.seeds]
    count = sum(len(task.seeds[arm]) for task in found)
    stopped = sum(len(incomplete_seeds(task, metric, arm)) for task in found)
    seeds = "1 seed" if count == 1 else f"{count} seeds"
    return f"{wrapped(arm)} ({seeds}, {stopped} stopped)" if stopped else f"{wrapped(arm)} ({seeds})"


def format_steps(steps: float, _position: int | None = None) -> str:
    """Env steps as people write them: 500, 25k, 1.5M."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(steps) >= size:
            return f"{steps / size:.4g}{unit}"
    return f"{steps:.4g}"


# Curves ------------------------------------------------------------------------------------------------------------------


def _draw_arm(axes: Axes, tasks: Sequence[Curves], metric: str, arm: str, colour: str, style: Style, seed: int) -> None:
    env_steps, values, strata = pool(tasks, metric, arm)
    if not env_steps.size:
        return
    for curve in values:
        known = np.isfinite(curve)
        axes.plot(env_steps[known], curve[known], color=colour, linewidth=0.6, alpha=0.6 / math.sqrt(len(values)), zorder=1)
    mean, low, high = interquartile_curve(values, strata, seed=seed)
    marker = "o" if env_steps.size == 1 else None
    axes.fill_between(env_steps, low, high, where=np.isfinite(low), color=colour, alpha=0.14, linewidth=0, zorder=2)
    for end in (low, high):
        axes.plot(env_steps, end, color=colour, linewidth=0.9, alpha=0.55, zorder=2)
    axes.plot(env_steps, mean, color=colour, linewidth=2, linestyle=style, marker=marker, zorder=3)


def _dress(axes: Axes, metric: str, threshold: float | None) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=TICK_STEPS))
    axes.xaxis.set_major_formatter(FuncFormatter(format_steps))
    if metric.endswith("success"):
        axes.set_ylim(-0.03, 1.05)
    if threshold is not None:
        axes.axhline(threshold, color=GREY, linewidth=1, linestyle=":", zorder=0.5)


def overlay(axes: Axes, tasks: Sequence[Curves], metric: str, threshold: float | None, looks: dict[str, Look], seed: int) -> None:
    """The curves of all arms in one panel."""
    _dress(axes, metric, threshold)
    for arm, (colour, style) in looks.items():
        _draw_arm(axes, tasks, metric, arm, colour, style, seed)
        axes.plot([], [], color=colour, linewidth=2, linestyle=style, label=_named(tasks, metric, arm))
    if threshold is not None:
        axes.plot([], [], color=GREY, linewidth=1, linestyle=":", label=f"threshold {threshold:g}")
    axes.set_xlim(0, _longest(tasks))
    axes.set_xlabel(STEPS_LABEL)
    axes.set_ylabel(metric_label(metric))
    axes.set_title(f"learning curves\n{CURVES_TITLE}", fontsize=10)
    longest = max(len(line) for label in axes.get_legend_handles_labels()[1] for line in label.split("\n"))
    axes.legend(
        loc="upper center",
        bbox_to_anchor=(0.5, -0.14),
        ncols=min(3 if longest <= NAME_WIDTH + 6 else 2, len(looks) + 1),
        frameon=False,
        fontsize=9,
        handlelength=3,
    )


def multiples(
    grid: list[Axes],
    columns: int,
    tasks: Sequence[Curves],
    metric: str,
    threshold: float | None,
    looks: dict[str, Look],
    seed: int,
) -> None:
    """The curves of each arm in a panel of its own, row by row in `grid`; places that are left over are hidden."""
    means: dict[str, tuple[Integers, Floats]] = {}
    for arm in looks:
        env_steps, values, strata = pool(tasks, metric, arm)
        means[arm] = env_steps, interquartile_curve(values, strata, resamples=1)[0]
    for axes, (arm, (colour, _)) in zip(grid, looks.items(), strict=False):
        _dress(axes, metric, threshold)
        for other, (env_steps, mean) in means.items():
            if other != arm:
                axes.plot(env_steps, mean, color="#c4c4c4", linewidth=0.8, zorder=0.8)
        _draw_arm(axes, tasks, metric, arm, colour, "-", seed)
        axes.set_xlim(0, _longest(tasks))
        axes.set_title(_named(tasks, metric, arm), fontsize=9.5, loc="left")
    for axes in grid[len(looks) :]:
        axes.set_visible(False)
    for axes in grid[max(0, len(looks) - columns) : len(looks)]:  # the last of each column, also above an empty place
        axes.tick_params(labelbottom=True)


def _longest(tasks: Sequence[Curves]) -> float:
    """Env steps of the last evaluation of any arm; 1 if that was before the first step."""
    return float(max(int(task.env_steps[-1]) for task in tasks)) or 1.0


# Outcomes ----------------------------------------------------------------------------------------------------------------


def outcomes(
    axes: Axes, tasks: Sequence[Curves], metric: str, threshold: float | None, looks: dict[str, Look], seed: int
) -> None:
    """One row for each arm: a dot for each seed, the median with its interval, and a zone for those that never got there."""
    found = {arm: _outcome(tasks, metric, threshold, arm) for arm in looks}
    finite = np.concatenate([values[np.isfinite(values)] for values, _ in found.values()])
    never, zone = math.nan, 0.0
    if threshold is not None:
        # The zone lies beyond the longest curve, so that no seed that got there can fall into it.
        longest = _longest(tasks)
        left, right = 1.05 * longest, 1.25 * longest
        never, zone = (left + right) / 2, right - left
        axes.axvspan(left, right, facecolor="#f0f0f0", edgecolor="#c4c4c4", hatch="///", linewidth=0, zorder=0)
        axes.set_xlim(0, right)
        ticks = MaxNLocator(5, steps=TICK_STEPS).tick_values(0, longest)
        ticks = [tick for tick in ticks if 0 <= tick <= longest]
        axes.set_xticks([*ticks, never], [*map(format_steps, ticks), "never"])
        axes.set_xlabel(STEPS_LABEL.replace(" (", "\n("))
        axes.set_title(f"steps to {metric_label(metric)} {threshold:g}\n{OUTCOMES_TITLE}", fontsize=10)
    else:
        axes.set_xlabel(f"mean {metric_label(metric)} over the whole curve")
        spans = {task.span(metric, arm) for task in tasks for arm in task.seeds} - {None}
        own = ", each arm over its own steps" if len(spans) > len(tasks) else ""
        axes.set_title(f"area under the curve{own}\n{OUTCOMES_TITLE}", fontsize=10)
        if finite.size:
            margin = 0.06 * float(np.ptp(finite)) or 1.0
            axes.set_xlim(finite.min() - margin, finite.max() + margin)
    labels = []
    for row, (arm, (values, strata)) in enumerate(found.items()):
        shown = values.copy()
        censored = np.flatnonzero(np.isinf(values))
        # Eight abreast in their zone, where the place along the axis means nothing.
        shown[censored] = never + zone * 0.1 * (np.arange(len(censored)) % 8 - (min(len(censored), 8) - 1) / 2)
        width = (axes.get_xlim()[1] - axes.get_xlim()[0]) / 60
        axes.scatter(shown, row + _spread(shown, width), s=15, color=looks[arm][0], alpha=0.7, linewidths=0, zorder=3)
        label = wrapped(arm)
        if threshold is not None:
            label += f"\n{int(np.isfinite(values).sum())} of {len(values)} got there"
        labels.append(label)
        if len(values) < 2:
            continue
        median = float(np.median(values))
        interval = median_interval(values, strata, seed)
        if interval is not None:
            ends = [never if math.isinf(end) else end for end in interval]
            axes.plot(ends, [row + 0.33] * 2, color="black", linewidth=1.6, solid_capstyle="butt", zorder=4)
        place = never if math.isinf(median) else median
        axes.plot([place], [row + 0.33], marker="D", markersize=5, color="black", markerfacecolor="white", zorder=5)
    axes.set_yticks(range(len(labels)), labels, fontsize=9)
    axes.set_ylim(len(labels) - 0.45, -0.5)
    for row in range(1, len(labels)):
        axes.axhline(row - 0.47, color="#e6e6e6", linewidth=0.7, zorder=0)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.grid(axis="x", color="#e6e6e6", linewidth=0.7)
    axes.set_axisbelow(True)
    if threshold is None:
        axes.xaxis.set_major_locator(MaxNLocator(5))


def _outcome(tasks: Sequence[Curves], metric: str, threshold: float | None, arm: str) -> tuple[Floats, Integers]:
    """Steps to the threshold, or areas, of all seeds of an arm, and the task of each."""
    values, strata = [np.zeros(0)], [np.zeros(0, dtype=np.int64)]
    for number, task in enumerate(tasks):
        span = task.span(metric, arm) if arm in task.seeds else None
        if span is None:
            continue
        curve = task.values[metric][arm]
        if threshold is not None:
            found = steps_to_threshold(task.env_steps, curve, threshold)
        else:
            found = areas(task.env_steps, curve, *span)
            found = found[np.isfinite(found)]
        values.append(found)
        strata.append(np.full(len(found), number))
    return np.concatenate(values), np.concatenate(strata)


def _spread(values: Floats, width: float) -> Floats:
    """Vertical offsets that keep dots nearer than `width` to each other apart: every further one goes to the other side."""
    levels = np.zeros(len(values), dtype=np.int64)
    order = np.argsort(values, kind="stable")
    for place, index in enumerate(order):
        near = {int(levels[other]) for other in order[:place] if values[index] - values[other] < width}
        levels[index] = next(level for level in range(len(values)) if level not in near)
    sides = (levels + 1) // 2 * np.where(levels % 2, 1, -1)
    return np.asarray(sides * min(0.1, 0.22 / max(1, int(np.abs(sides).max(initial=0)))))
