"""Pictures of recall traces: the traces, where the agent has been, and what its critic thinks of it."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colorbar import Colorbar
from matplotlib.colors import Colormap, ListedColormap, LogNorm, Normalize
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle, Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from recall_traces.panels import COLOURS, format_steps, plain
from recall_traces.plotting import FORMATS, check_suffix
from recall_traces.scene import Floats, Scene

WALLS, SEEN = "#bdbdbd", "#e4e4e4"
TARGET = ("*", 10.0, COLOURS[1], "black", "high-value states")
START = ("^", 6.0, COLOURS[5], "black", "where recorded episodes began")
"""Marker, size, colours and meaning."""
GOAL = COLOURS[2]
WIDE = 2.0
"""Panels this many times as wide as high stand below each other."""
RIM = 0.3
"""How much is shown of the walls around a plan."""
Pose = tuple[NDArray[np.uint8], int]
"""A picture of a state, RGB, and its steps to the high-value state."""


def draw_traces(scene: Scene, out: str | Path, title: str, poses: Sequence[Pose] = ()) -> Path:
    """Draw a scene into a file.

    Args:
        scene: What to draw.
        out: Where the picture goes, a png, pdf or svg by its suffix; folders on the way are made.
        title: Above it.
        poses: Of one trace, in forward time: a strip below.

    Returns:
        The path of the picture.

    Raises:
        ValueError: the suffix is none of those.
    """
    out = Path(out)
    form = check_suffix(out)
    figure = trace_figure(scene, title, poses)
    out.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context({"svg.hashsalt": "recall-traces"}):  # or the names in the file are random
        figure.savefig(out, dpi=150, format=form, metadata=FORMATS[form])
    return out


def trace_pixels(scene: Scene, title: str, dpi: int = 80) -> NDArray[np.uint8]:
    """The same as RGB, uint8, `(height, width, 3)`."""
    figure = trace_figure(scene, title)
    figure.set_dpi(dpi)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def trace_figure(scene: Scene, title: str, poses: Sequence[Pose] = ()) -> Figure:
    """The figure of a scene: three panels, and a strip of poses where there are some."""
    aspect = 1.0 if scene.plan is None else float(np.divide(*np.ptp(_view(scene), axis=1)))
    beside = aspect < WIDE
    width = 13.0 if beside else 9.0
    height = 12.4 / 3 / min(aspect, 1.6) + 1.5 if beside else 3 * (6.9 / aspect + 0.55) + 0.9
    strip = 2.1 if poses else 0.0
    figure = Figure(figsize=(width, height + strip), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(plain(title), fontsize=13)
    above: Figure | SubFigure = figure
    if poses:
        above, below = figure.subfigures(2, 1, squeeze=False, height_ratios=(height, strip))[:, 0]
        _draw_poses(below, poses)
    panels = above.subplots(*((1, 3) if beside else (3, 1)), sharex=True, sharey=True)
    _draw_traces(panels[0], scene, beside)
    _draw_visits(panels[1], scene, beside)
    _draw_value(panels[2], scene, beside)
    for number, axes in enumerate(panels):
        _dress(axes, scene, number == 0 or not beside, beside or number == 2)
    above.legend(handles=_legend(scene), loc="outside lower center", ncols=5, frameon=False, fontsize=9)
    return figure


def _draw_traces(axes: Axes, scene: Scene, beside: bool) -> None:
    axes.set_title("recalled traces", fontsize=11)
    if scene.plan is None:  # instead of walls: where states are at all
        seen = np.where(scene.visits > 0, 1.0, np.nan)
        axes.pcolormesh(scene.x_edges, scene.y_edges, seen, cmap=ListedColormap([SEEN]), zorder=0.5)
    norm = Normalize(0, max(1, int(scene.togo.max())))
    # The steps nearest to the high-value states on top.
    order = np.argsort(-scene.togo, kind="stable")
    lines = LineCollection(list(scene.segments[order]), cmap=_traces_map(), norm=norm, linewidths=1.4, capstyle="round")
    lines.set_array(scene.togo[order])
    axes.add_collection(lines, autolim=False)
    axes.add_line(_markers(scene.starts, *START))
    axes.add_line(_markers(scene.targets, *TARGET))
    _add_bar(axes, lines, "steps to the high-value state", beside).locator = MaxNLocator(6, integer=True)


def _draw_visits(axes: Axes, scene: Scene, beside: bool) -> None:
    axes.set_title(f"visits (last {scene.remembered:,} steps)", fontsize=11)
    visits = np.where(scene.visits > 0, scene.visits, np.nan)
    most = max(2.0, float(np.nanmax(visits, initial=1.0)))
    mesh = axes.pcolormesh(scene.x_edges, scene.y_edges, visits, cmap="cividis", norm=LogNorm(1, most), zorder=0.5)
    bar = _add_bar(axes, mesh, f"steps that arrived in {_square(scene)}; white: none", beside)
    bar.set_ticks(_round_numbers(most))
    bar.minorticks_off()
    bar.formatter = FuncFormatter(format_steps)


def _draw_value(axes: Axes, scene: Scene, beside: bool) -> None:
    axes.set_title("the critic's value", fontsize=11)
    mesh = axes.pcolormesh(scene.x_edges, scene.y_edges, scene.value, cmap="viridis", zorder=0.5)
    mean = "expected discounted return" if scene.plan is not None else "expected discounted return, mean over a square"
    _add_bar(axes, mesh, mean, beside)


def _square(scene: Scene) -> str:
    """What visits are counted in."""
    if scene.plan is None:
        return "a square"
    return "a cell" if scene.plan.square == 1.0 else f"a square of {scene.plan.square * 100:g} cm"


def _view(scene: Scene) -> tuple[tuple[float, float], tuple[float, float]]:
    """Least and largest x and y to show: all squares, but of the walls around a plan only what touches it."""
    if scene.plan is None:
        return (scene.x_edges[0], scene.x_edges[-1]), (scene.y_edges[0], scene.y_edges[-1])
    spans = []
    for edges, used in ((scene.plan.x_edges, ~scene.plan.walls.all(0)), (scene.plan.y_edges, ~scene.plan.walls.all(1))):
        first, last = np.flatnonzero(used)[[0, -1]]
        spans.append((max(edges[first] - RIM, edges[0]), min(edges[last + 1] + RIM, edges[-1])))
    return spans[0], spans[1]


def _dress(axes: Axes, scene: Scene, left: bool, bottom: bool) -> None:
    left_right, bottom_top = _view(scene)
    axes.set_xlim(*left_right)
    axes.set_ylim(*bottom_top)
    if scene.plan is not None:
        walls = np.where(scene.plan.walls, 1.0, np.nan)
        axes.pcolormesh(scene.plan.x_edges, scene.plan.y_edges, walls, cmap=ListedColormap([WALLS]), zorder=0.6)
        axes.set_aspect("equal")
        if scene.plan.rows_go_down:
            axes.set_ylim(*bottom_top[::-1])
    if scene.goal is not None and scene.plan is not None:
        axes.add_patch(Circle(scene.goal, scene.plan.goal_radius, fill=False, edgecolor=GOAL, linewidth=2, zorder=3))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(6, integer=scene.plan is not None))
    axes.tick_params(labelsize=8)
    if left:
        axes.set_ylabel(scene.labels[1], fontsize=9)
    if bottom:
        axes.set_xlabel(scene.labels[0], fontsize=9)


def _markers(points: Floats, marker: str, size: float, face: str, edge: str, label: str) -> Line2D:
    """Points `(K, 2)`, or none for a legend."""
    width = 2.0 if face == "none" else 0.5
    look = {"markersize": size, "markerfacecolor": face, "markeredgecolor": edge, "markeredgewidth": width}
    line = Line2D(points[:, 0], points[:, 1], marker=marker, linestyle="none", label=label, zorder=4)
    line.set(**look)
    return line


def _legend(scene: Scene) -> list[Line2D | Patch]:
    nowhere = np.zeros((0, 2))
    handles: list[Line2D | Patch] = [_markers(nowhere, *TARGET), _markers(nowhere, *START)]
    if scene.plan is None:
        return [*handles, Patch(color=SEEN, label="remembered states")]
    goal = "one of the goals, for which the value is shown" if scene.plan.goal_varies else "goal"
    handles.append(_markers(nowhere, "o", 9, "none", GOAL, goal))
    if scene.plan.walls.any():
        handles.append(Patch(color=WALLS, label="walls"))
    return handles


def _add_bar(axes: Axes, drawn: ScalarMappable, label: str, beside: bool) -> Colorbar:
    bar = axes.figure.colorbar(
        drawn, ax=axes, location="bottom" if beside else "right", shrink=0.9 if beside else 0.75, aspect=30 if beside else 12
    )
    bar.set_label(label if beside else textwrap.fill(label, 22), fontsize=9)
    bar.ax.tick_params(labelsize=8)
    bar.outline.set_linewidth(0.5)
    return bar


def _round_numbers(most: float) -> list[float]:
    """1, 2, 5, 10, ... as far as `most`; powers of ten alone where that would be too many."""
    numbers = [float(factor * 10**power) for power in range(10) for factor in (1, 2, 5) if factor * 10**power <= most]
    return numbers if len(numbers) <= 7 else numbers[::3]


def _traces_map() -> Colormap:
    """Viridis without its yellow, which is too pale for a line on paper; dark is near."""
    return ListedColormap(matplotlib.colormaps["viridis"](np.linspace(0, 0.86, 256)))


def _draw_poses(place: SubFigure, poses: Sequence[Pose]) -> None:
    place.suptitle("one recalled trace, in forward time", fontsize=11)
    for axes, (picture, togo) in zip(np.atleast_1d(place.subplots(1, len(poses))), poses, strict=True):
        axes.imshow(picture)
        axes.set_axis_off()
        far = f"{togo} step before" if togo == 1 else f"{togo} steps before"
        axes.set_title("high-value state" if togo == 0 else far, fontsize=8.5)
