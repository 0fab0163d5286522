import csv
import json

import pytest

from recall_traces.curves import COLUMNS, read_curves
from recall_traces.runs import FINISHED, INTERRUPTED, RUNNING, RunFolder, first_difference, format_cell, new_run_path

CONFIGURATION = {"env_id": "Task", "steps": 10, "hidden": (3, 4)}


@pytest.fixture
def folder(tmp_path):
    run = RunFolder(tmp_path / "deep" / "run")
    run.start("Task", CONFIGURATION, {"date": "today"})
    return run


def rows(folder, name="curves.csv"):
    with (folder.path / name).open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def test_a_new_folder_holds_the_configuration_and_empty_tables(folder):
    assert json.loads((folder.path / "config.json").read_text()) == {
        "task": "Task",
        "configuration": {"env_id": "Task", "steps": 10, "hidden": [3, 4]},
        "arms": {},
        "calls": [{"date": "today"}],
    }
    assert rows(folder) == [list(COLUMNS)]
    assert folder.has_results()
    assert not RunFolder(folder.path.parent).has_results()


def test_going_on_keeps_rows_and_adds_a_call(folder):
    folder.begin_arm("none")
    folder.add_curves([("none", 0, 5, 0.5, 0.5, 0.5, 0.5)])
    folder.end_arm("none", FINISHED, seconds=1.5, failures={1: "seed 1: broke"})
    again = RunFolder(folder.path).load()
    again.start("Task", CONFIGURATION, {"date": "tomorrow"})
    assert again.status("none") == FINISHED
    assert again.status("recall") is None
    record = json.loads((folder.path / "config.json").read_text())
    assert record["arms"]["none"] == {"status": "finished", "seconds": 1.5, "failures": {"1": "seed 1: broke"}}
    assert [call["date"] for call in record["calls"]] == ["today", "tomorrow"]
    assert len(rows(folder)) == 2


def test_what_is_written_is_what_curves_reads(folder):
    folder.add_curves([("none", seed, 5, 0.1, float("nan"), -1.5, 1.0) for seed in range(2)])
    (curves,) = read_curves(folder.path)
    assert curves.task == "Task"
    assert curves.seeds == {"none": (0, 1)}
    assert curves.values["episode_return"]["none"].tolist() == [[0.1], [0.1]]
    assert (folder.path / "curves.csv").read_text().splitlines()[1] == "none,0,5,0.1,,-1.5,1.0"


def test_beginning_an_arm_again_removes_only_its_remains(folder):
    folder.begin_arm("a")
    folder.add_curves([("a", 0, 5, 0.5, 0.5, 0.5, 0.5)])
    folder.begin_arm("a+b")
    folder.add_curves([("a+b", 0, 5, 0.5, 0.5, 0.5, 0.5)])
    folder.add_timing(("a+b", 5, *[1.0] * 6))
    folder.policy_path("a+b").touch()
    (folder.tensorboard_path("a+b")).mkdir(parents=True)
    with (folder.path / "curves.csv").open("a", encoding="utf-8") as file:
        file.write("a,0,99,0.")  # torn off
    folder.end_arm("a+b", INTERRUPTED)
    folder.begin_arm("a+b")
    assert folder.status("a+b") == RUNNING
    assert [row[0] for row in rows(folder)] == ["arm", "a"]
    assert len(rows(folder, "timings.csv")) == 1
    assert not folder.policy_path("a+b").exists()
    assert not folder.tensorboard_path("a+b").exists()
    assert folder.tensorboard_path("a").parent.exists()


def test_clear_leaves_what_runs_do_not_write(folder):
    folder.add_curves([("a", 0, 5, 0.5, 0.5, 0.5, 0.5)])
    folder.policy_path("a").touch()
    folder.tensorboard_path("a").mkdir(parents=True)
    folder.write_comparison({"arms": {}})
    for name in ("traces-a+b-0.png", "watch-a-12.gif", "report.html", "a-0.pt2", ".a.safetensors.new"):
        (folder.path / name).touch()
    mine = ["film.gif", "notes.txt", "report-of-mine.html", "watch-a.gif"]
    for name in mine:
        (folder.path / name).touch()
    folder.clear()
    assert sorted(file.name for file in folder.path.iterdir()) == mine


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"configuration": {}, "arms": 3}', "\xff"])
def test_a_spoilt_record_is_refused(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=r"config\.json cannot be read"):
        RunFolder(tmp_path).load()


def test_a_missing_record_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"config\.json cannot be read \(No such file or directory\)$"):
        RunFolder(tmp_path).load()


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        ({"a": 1, "b": {"c": [1, 2]}}, {"b": {"c": [1, 2]}, "a": 1}, None),
        ({"a": 1, "b": {"c": [1, 2]}}, {"a": 1, "b": {"c": [1, 3]}}, ("b.c", [1, 2], [1, 3])),
        ({"a": 1}, {"a": 1, "b": 2}, ("b", None, 2)),
        ({"a": 1, "b": 2}, {"a": 1}, ("b", 2, None)),
        ({"a": {"x": 1}}, {"a": 3}, ("a", {"x": 1}, 3)),
    ],
)
def test_the_first_difference_is_named(old, new, found):
    assert first_difference(old, new) == found


def test_a_field_that_a_record_lacks_counts_as_its_default():
    defaults = {"a": 1, "b": {"c": 2, "d": [3]}}
    assert first_difference({"a": 1}, defaults, defaults) is None
    assert first_difference({"b": {"d": [3]}}, {"a": 1, "b": {"c": 2, "d": [3]}}, defaults) is None
    assert first_difference({"a": 1, "b": {}}, {"a": 1, "b": {"c": 5, "d": [3]}}, defaults) == ("b.c", 2, 5)
    assert first_difference({"a": 1, "old": 4}, {"a": 1}, defaults) == ("old", 4, None)


def test_new_folders_never_meet(tmp_path):
    paths = [new_run_path("module:Task-v0/x", tmp_path / "runs") for _ in range(3)]
    assert len(set(paths)) == 3
    assert all(path.is_dir() and path.name.startswith("module-Task-v0-x-") for path in paths)


def test_cells_are_the_shortest_text_of_a_float32():
    assert [format_cell(cell) for cell in (0.949999988079071, 1 / 3, -1200.5, float("nan"), float("inf"), 7, "none")] == [
        "0.95",
        "0.33333334",
        "-1200.5",
        "",
        "",
        "7",
        "none",
    ]
