import csv

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from recall_traces import plotting
from recall_traces.comparison import compare_arms
from recall_traces.curves import COLUMNS, read_curves
from recall_traces.panels import _named, _spread, format_steps, multiples, outcomes, overlay, wrapped
from recall_traces.plotting import plot_comparison


def write(folder, arms, seeds=3, evaluations=6, success=True, reach=lambda arm, seed: 2 + arm):
    """Curves that jump to 1 at evaluation `reach(arm, seed)`."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "curves.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for number, arm in enumerate(arms):
            for seed in range(seeds):
                for step in range(evaluations):
                    value = float(step >= reach(number, seed))
                    known = value if success else ""
                    writer.writerow([arm, seed, 2048 * step, 10 * value - 3, known, value, known])
    return folder


def assert_drawn(picture, out):
    assert picture == out
    assert picture.read_bytes().startswith(b"\x89PNG")
    pixels = imread(picture)[..., :3]
    assert pixels.shape[1] >= 1500
    assert np.ptp(pixels) > 0.9


@pytest.mark.parametrize("arms", [1, 2, 5, 7, 10])
def test_pictures_of_few_and_many_arms(tmp_path, arms):
    folder = write(tmp_path / "run", [f"arm-{number}" for number in range(arms)])
    assert_drawn(plot_comparison(folder, tmp_path / "new" / "curves.png"), tmp_path / "new" / "curves.png")


@pytest.mark.parametrize(
    "options",
    [
        {"seeds": 1},
        {"evaluations": 1},
        {"seeds": 1, "evaluations": 1},
        {"seeds": 20, "reach": lambda arm, seed: 99},  # nobody got there
        {"reach": lambda arm, seed: 2 + 99 * (seed % 2)},
        {"success": False},
        {"success": False, "evaluations": 1, "seeds": 1},
    ],
)
def test_pictures_of_edge_cases(tmp_path, options):
    folder = write(tmp_path / "run", ["none", "re$call$"], **options)
    assert_drawn(plot_comparison(folder, tmp_path / "curves.png", title="a title of $5"), tmp_path / "curves.png")


def test_an_arm_without_any_value_does_not_stop_the_picture(tmp_path):
    folder = write(tmp_path / "run", ["none"])
    with (folder / "curves.csv").open("a", newline="") as file:
        csv.writer(file).writerow(["recall", 0, 0, "", "", "", ""])
    assert_drawn(plot_comparison(folder, tmp_path / "curves.png"), tmp_path / "curves.png")
    more = [write(tmp_path / name, [name]) for name in "abcde"]
    assert_drawn(plot_comparison([folder, *more], tmp_path / "runs.png"), tmp_path / "runs.png")


def test_returns_with_a_threshold(tmp_path):
    folder = write(tmp_path / "run", ["none", "recall"], success=False)
    out = tmp_path / "curves.png"
    assert_drawn(plot_comparison(read_curves(folder), out, metric="episode_return", threshold=5), out)


def test_several_tasks_and_runs(tmp_path):
    folders = [write(tmp_path / name, ["none", "recall"]) for name in ("a", "b", "c", "d")]
    assert_drawn(plot_comparison(folders, tmp_path / "pooled.png"), tmp_path / "pooled.png")
    apart = read_curves(*folders, prefix_clashes=True)
    assert_drawn(plot_comparison(apart, tmp_path / "runs.png"), tmp_path / "runs.png")


def test_the_same_data_give_the_same_picture(tmp_path):
    folder = write(tmp_path / "run", ["none", "recall"])
    first, again = (plot_comparison(folder, tmp_path / name).read_bytes() for name in ("1.png", "2.png"))
    assert first == again


def test_nothing_to_draw_is_said(tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        plot_comparison([tmp_path], tmp_path / "runs.png")
    with pytest.raises(ValueError, match="No curves"):
        plot_comparison([], tmp_path / "runs.png")
    assert not (tmp_path / "runs.png").exists()


@pytest.mark.parametrize(
    ("steps", "text"),
    [(0, "0"), (500, "500"), (2048, "2.048k"), (25_000, "25k"), (150_000, "150k"), (1.5e6, "1.5M"), (2e9, "2G")],
)
def test_steps_are_written_as_people_do(steps, text):
    assert format_steps(steps) == text


def test_dots_of_one_place_do_not_hide_each_other():
    offsets = _spread(np.array([5.0, 5, 5, 9]), width=1.0)
    assert len(set(offsets[:3])) == 3
    assert offsets[3] == 0
    assert np.abs(_spread(np.zeros(64), width=1.0)).max() <= 0.22 + 1e-9


def test_the_bar_of_the_median_ends_where_the_table_says(tmp_path):
    # Medians of such seeds have many values, so that 2,000 and 10,000 resamples end at different ones.
    reach = np.random.default_rng(4).integers(2, 97, size=(4, 8)).tolist()
    folder = write(
        tmp_path / "run", [f"arm-{k}" for k in range(4)], seeds=8, evaluations=100, reach=lambda arm, seed: reach[arm][seed]
    )
    tasks = read_curves(folder)
    axes = Figure().subplots()
    outcomes(axes, tasks, "success", 0.9, dict.fromkeys(tasks[0].arms, ("black", "-")), 0)
    drawn = {round(line.get_ydata()[0]): line.get_xdata().tolist() for line in axes.lines if line.get_linewidth() == 1.6}
    table = compare_arms(tasks)["arms"].values()
    assert drawn == {row: found["steps_to_threshold"]["interval"] for row, found in enumerate(table)}


def test_a_seed_that_stopped_is_counted_beside_the_arm(tmp_path):
    folder = write(tmp_path / "run", ["none", "re$call"], reach=lambda arm, seed: 99)
    lines = (folder / "curves.csv").read_text().splitlines()
    stopped = [",".join([*line.split(",")[:3], "", "", "", ""]) if line.startswith("none,2,10240") else line for line in lines]
    (folder / "curves.csv").write_text("\n".join(stopped) + "\n")
    tasks = read_curves(folder)
    assert [_named(tasks, "success", arm) for arm in tasks[0].arms] == ["none (3 seeds, 1 stopped)", r"re\$call (3 seeds)"]
    assert _named(read_curves(write(tmp_path / "one", ["none"], seeds=1)), "success", "none") == "none (1 seed)"
    axes = Figure().subplots()
    overlay(axes, tasks, "success", None, dict.fromkeys(tasks[0].arms, ("black", "-")), 0)
    assert "none (3 seeds, 1 stopped)" in axes.get_legend_handles_labels()[1]


@pytest.mark.parametrize("arms", [2, 8])
def test_long_names_leave_room_for_the_curves(tmp_path, arms, monkeypatch):
    figures = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: (figure.canvas.draw(), figures.append(figure)))
    names = [f"experiments-of-november/second-attempt/recall+bonus+own-traces-{arm}" for arm in range(arms)]
    plot_comparison(write(tmp_path / "run", names), tmp_path / "x.png")
    widths = [axes.get_window_extent().width for axes in figures[0].axes if axes.get_visible()]
    assert min(widths) > 200  # of 1200


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("own-traces", "own-traces"),
        ("runs-of-may/recall+bonus", "runs-of-may/recall+\nbonus"),
        ("a$" * 15, r"a\$" * 10 + "\n" + r"a\$" * 5),
        ("x" * 30 + "/" + "y" * 30, "x" * 19 + "…\n" + "y" * 20),
    ],
)
def test_long_names_have_two_lines(name, text):
    assert wrapped(name) == text


def test_each_task_has_a_row_of_its_own_if_asked_for(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(plotting, "overlay", lambda axes, tasks, metric, *rest: drawn.append((tasks, metric, rest[1])))
    folders = [write(tmp_path / "Rooms", ["none", "recall"]), write(tmp_path / "Pole", ["sil", "recall"], success=False)]
    tasks = read_curves(*folders, prefix_clashes=True)
    assert [task.arms for task in tasks] == [("none", "recall"), ("sil", "recall")]  # no clash: they are on different tasks
    picture = plot_comparison(tasks, tmp_path / "rows.png", by_task=True)
    assert [([task.task for task in row], metric) for row, metric, _ in drawn] == [
        (["Rooms"], "success"),
        (["Pole"], "episode_return"),
    ]
    assert drawn[0][2]["recall"] == drawn[1][2]["recall"]  # an arm looks the same everywhere
    assert imread(picture).shape[0] > imread(plot_comparison(tasks, tmp_path / "pooled.png")).shape[0]


@pytest.mark.parametrize(("arms", "columns"), [(7, 2), (10, 2), (11, 3), (13, 3)])
def test_the_last_panel_of_each_column_has_labels_below(arms, columns, tmp_path):
    folder = write(tmp_path / "run", [f"arm-{number}" for number in range(arms)], seeds=2)
    grid = Figure().subplots(-(-arms // columns), columns, sharex=True, sharey=True).reshape(-1).tolist()
    tasks = read_curves(folder)
    multiples(grid, columns, tasks, "success", None, dict.fromkeys(tasks[0].arms, ("black", "-")), 0)
    labelled = [number for number, axes in enumerate(grid) if axes.xaxis.get_tick_params()["labelbottom"] and axes.get_visible()]
    assert labelled == list(range(arms - columns, arms))


def test_areas_over_unequal_steps_say_so(tmp_path):
    folders = [write(tmp_path / "a", ["none"]), write(tmp_path / "b", ["recall"], evaluations=4)]
    for folder in folders:
        (folder / "config.json").write_text('{"task": "Rooms"}')
    for chosen, said in ((folders, True), (folders[:1], False)):
        axes = Figure().subplots()
        tasks = read_curves(*chosen)
        outcomes(axes, tasks, "episode_return", None, dict.fromkeys(tasks[0].arms, ("black", "-")), 0)
        assert ("each arm over its own steps" in axes.get_title()) == said


@pytest.mark.parametrize(("suffix", "begins"), [("png", b"\x89PNG"), ("pdf", b"%PDF"), ("SVG", b"<?xml")])
def test_the_suffix_decides_the_format(tmp_path, suffix, begins):
    folder = write(tmp_path / "run", ["none"])
    pictures = [plot_comparison(folder, tmp_path / f"{name}.{suffix}").read_bytes() for name in ("1", "2")]
    assert pictures[0].startswith(begins)
    assert pictures[0] == pictures[1]


@pytest.mark.parametrize("name", ["x.jpg", "x", "png"])
def test_other_formats_are_refused(tmp_path, name):
    with pytest.raises(ValueError, match=r"it must end in \.png, \.pdf, \.svg"):
        plot_comparison(write(tmp_path / "run", ["none"]), tmp_path / "new" / name)
    assert not (tmp_path / "new").exists()
