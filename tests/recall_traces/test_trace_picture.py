from dataclasses import replace

import numpy as np
import pytest
from matplotlib.image import imread

from recall_traces import envs
from recall_traces.scene import Scene
from recall_traces.trace_picture import _round_numbers, draw_traces, trace_figure, trace_pixels


def scene(plan=None):
    edges = (np.arange(5.0), np.arange(5.0)) if plan is None else plan.squares()
    shape = (len(edges[1]) - 1, len(edges[0]) - 1)
    visits = np.arange(shape[0] * shape[1], dtype=float).reshape(shape)
    segments = np.array([[[1.2, 1.2], [2.2, 1.3]], [[2.2, 1.3], [3.1, 3.2]]])
    ends = (segments[-1:, 1], segments[:1, 0])
    goal = None if plan is None else (1.5, 3.5)
    return Scene(("x (m)", "y (m)"), *edges, visits, visits / 7, 120, segments, np.array([2, 1]), *ends, plan, goal)


def on(env_id, **options):
    return scene(envs.make(env_id, **options).floor_plan())


POSE = np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("drawn", "poses"),
    [
        (scene(), [(POSE, 7), (POSE, 1), (POSE, 0)]),
        (on("PointMaze-U"), ()),
        (on("FourRooms-9"), [(POSE, 0)]),
        (on("PointMass-2", goals="all"), ()),
    ],
)
def test_pictures(tmp_path, drawn, poses):
    out = draw_traces(drawn, tmp_path / "new" / "traces.png", "a task, $recall$, seed 0", poses)
    assert out == tmp_path / "new" / "traces.png"
    pixels = imread(out)[..., :3]
    assert min(pixels.shape[:2]) > 500
    assert pixels.std() > 0.05
    # The colours of viridis and of the high-value states are there.
    for colour in ((213, 94, 0), (68, 1, 84)):
        assert (np.abs(pixels * 255 - colour).sum(-1) < 12).sum() > 20


def test_texts_do_not_overlap():
    for drawn in (scene(), on("PointMaze-Large", random_goal=True), on("FourRooms-9"), on("PointMass-2")):
        figure = trace_figure(drawn, "a rather long title of some task, recall, seed 0")
        figure.canvas.draw()
        boxes = []
        for axes in figure.axes:
            texts = [axes.title, axes.xaxis.label, axes.yaxis.label, *axes.get_xticklabels(), *axes.get_yticklabels()]
            texts = [text for text in texts if text.get_text() and text.get_visible()]
            within = {"x": axes.get_xlim(), "y": axes.get_ylim()}
            for text in texts:
                if text in axes.get_xticklabels() and not min(within["x"]) <= text.get_position()[0] <= max(within["x"]):
                    continue
                if text in axes.get_yticklabels() and not min(within["y"]) <= text.get_position()[1] <= max(within["y"]):
                    continue
                boxes.append((text.get_text(), text.get_window_extent()))
        for k, (name, box) in enumerate(boxes):
            for other_name, other in boxes[:k]:
                assert not box.overlaps(other), f"{name!r} and {other_name!r}"


def test_pixels_for_tensorboard():
    pixels = trace_pixels(on("FourRooms-9"), "title")
    assert pixels.dtype == np.uint8
    assert pixels.ndim == 3
    assert pixels.shape[2] == 3
    assert 500 < pixels.shape[1] < 1500
    assert pixels.std() > 10


def test_the_same_scene_gives_the_same_bytes(tmp_path):
    for form in ("png", "svg"):
        first, second = (draw_traces(on("PointMaze-U"), tmp_path / f"{k}.{form}", "title") for k in range(2))
        assert first.read_bytes() == second.read_bytes()
    with pytest.raises(ValueError, match="must end in"):
        draw_traces(on("PointMaze-U"), tmp_path / "traces.gif", "title")


def test_few_visits_and_one_step():
    lonely = replace(scene(), visits=np.eye(4), segments=scene().segments[1:], togo=np.array([1]))
    figure = trace_figure(lonely, "title")
    figure.canvas.draw()
    assert "steps that arrived in a square; white: none" in [axes.get_xlabel() for axes in figure.axes]


def test_ticks_of_counts():
    assert _round_numbers(12) == [1, 2, 5, 10]
    assert _round_numbers(100) == [1, 2, 5, 10, 20, 50, 100]
    assert _round_numbers(1234) == [1, 10, 100, 1000]
