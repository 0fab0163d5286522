"""Learning curves read from files."""

import csv
import io
import json
import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recall_traces.comparison import choose_metric, compare_arms
from recall_traces.curves import COLUMNS, METRICS, read_curves

HEADER = ",".join(COLUMNS)
NAN = math.nan


def write(path, rows, header=HEADER, end="\n"):
    path.write_text("\n".join([header, *rows]) + end, encoding="utf-8")
    return path


def test_reads_unequal_curves_and_missing_seeds(tmp_path):
    file = write(
        tmp_path / "curves.csv",
        ["none,0,0,1.5,0.5,2,1", "none,0,10,2.5,,2,1", "none,3,0,1,0,2,1", "recall,1,20,4,1,2,1"],
    )
    (curves,) = read_curves(file)
    assert curves.arms == ("none", "recall")
    assert curves.seeds == {"none": (0, 3), "recall": (1,)}
    np.testing.assert_array_equal(curves.env_steps, [0, 10, 20])
    np.testing.assert_array_equal(curves.values["success"]["none"], [[0.5, NAN, NAN], [0, NAN, NAN]])
    np.testing.assert_array_equal(curves.values["episode_return"]["none"], [[1.5, 2.5, NAN], [1, NAN, NAN]])
    assert curves.span("success", "none") == (0, 0)
    assert curves.span("episode_return", "none") == (0, 10)
    assert curves.task == tmp_path.name


def test_a_torn_last_line_is_left_out(tmp_path):
    # 0.9 may be the beginning of 0.95: what looks whole is not.
    file = write(tmp_path / "curves.csv", ["none,0,0,1,0.5,2,1", "none,0,10,1,0.5,2,0.9"], end="")
    (curves,) = read_curves(file)
    np.testing.assert_array_equal(curves.env_steps, [0])


def test_a_torn_last_line_may_end_inside_a_letter(tmp_path):
    file = tmp_path / "curves.csv"
    file.write_bytes(f"{HEADER}\r\nnone,0,0,1,0.5,2,1\r\n".encode() + "é".encode()[:1])
    assert read_curves(file)[0].arms == ("none",)


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (["none,0,x,1,0,1,0"], "line 2: env_steps is 'x'"),
        (["none,0,0,1,0,1,0", "none,-1,0,1,0,1,0"], "line 3: seed is '-1'"),
        (["none,0.5,0,1,0,1,0"], "seed is '0.5'"),
        (["none,0,99999999999999999999,1,0,1,0"], "env_steps"),
        (["none,0,0,abc,0,1,0"], "episode_return is 'abc'"),
        (["none,0,0,1,inf,1,0"], "success is 'inf'"),
        (["none,0,0,1,0,1"], "6 fields where the header names 7"),
        (["none,0,0,1,0,1,0,0"], "8 fields"),
        ([",0,0,1,0,1,0"], "no name"),
        (["none,0,0,1,0,1,0", "none,0,0,1,0,1,0"], "two evaluations at 0 steps"),
        ([], "no evaluation yet"),
    ],
)
def test_bad_rows_are_named(tmp_path, rows, says):
    with pytest.raises(ValueError, match=says):
        read_curves(write(tmp_path / "curves.csv", rows))


@pytest.mark.parametrize("column", COLUMNS)
def test_a_missing_column_is_named(tmp_path, column):
    header = ",".join(name for name in COLUMNS if name != column)
    with pytest.raises(ValueError, match=f"lacks the column {column};"):
        read_curves(write(tmp_path / "curves.csv", ["1,2,3,4,5,6"], header=header))


def test_missing_files_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"curves\.csv does not exist"):
        read_curves(tmp_path)
    with pytest.raises(ValueError, match="No curves"):
        read_curves()


def test_files_of_one_task_are_put_together_and_others_kept_apart(tmp_path):
    row = "{},0,0,1,0.5,2,1"
    for folder, arm, task in (("a", "none", "x"), ("b", "recall", "x"), ("c", "none", "y")):
        (tmp_path / folder).mkdir()
        write(tmp_path / folder / "curves.csv", [row.format(arm)])
        (tmp_path / folder / "config.json").write_text(json.dumps({"task": task}))
    x, y = read_curves(tmp_path / "a", tmp_path / "b", tmp_path / "c")
    assert (x.task, x.arms, y.task, y.arms) == ("x", ("none", "recall"), "y", ("none",))
    # The same file twice is one file.
    assert read_curves(tmp_path / "a", tmp_path / "a")[0].seeds == {"none": (0,)}


def test_a_folder_of_runs_is_read_without_those_that_have_no_evaluation_yet(tmp_path):
    for name, rows in (("a", ["x,0,0,1,1,1,1"]), ("b", []), ("c", ["y,0,0,1,1,1,1"])):
        (tmp_path / name).mkdir()
        write(tmp_path / name / "curves.csv", rows)
    assert [curves.arms for curves in read_curves(tmp_path)] == [("x",), ("y",)]
    for name in "ac":
        (tmp_path / name / "curves.csv").unlink()
    for path in (tmp_path, tmp_path / "b"):
        with pytest.raises(ValueError, match=r"curves\.csv holds no evaluation yet"):
            read_curves(path)


def test_a_task_column_wins(tmp_path):
    file = write(tmp_path / "curves.csv", ["x,none,0,0,1,0,1,0", "y,none,0,0,1,0,1,0"], header="task," + HEADER)
    assert [curves.task for curves in read_curves(file)] == ["x", "y"]


def test_clashing_arms_are_called_by_their_folder(tmp_path):
    for folder, arm in (("p/a", "none"), ("q/a", "none"), ("q/b", "recall")):
        (tmp_path / folder).mkdir(parents=True)
        write(tmp_path / folder / "curves.csv", [f"same,{arm},0,0,1,0.5,2,1"], header="task," + HEADER)
    folders = [tmp_path / "p/a", tmp_path / "q/a", tmp_path / "q/b"]
    with pytest.raises(ValueError, match="two evaluations"):
        read_curves(*folders)
    (curves,) = read_curves(*folders, prefix_clashes=True)
    assert curves.arms == ("p/a/none", "q/a/none", "recall")


CELL = st.one_of(
    st.sampled_from(["none", "0", "1", "2048", "0.5", "", "nan", "-1", "1e400", "1e99", '"', "\x00"]), st.text(max_size=5)
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.one_of(
        st.binary(max_size=200),
        st.text(max_size=200).map(lambda text: (HEADER + "\n" + text).encode("utf-8", "replace")),
        st.lists(st.lists(CELL, min_size=6, max_size=8), max_size=5).map(
            lambda rows: "\n".join([HEADER, *map(",".join, rows), ""]).encode("utf-8", "replace")
        ),
    )
)
def test_garbage_is_a_sentence_or_a_comparison(tmp_path, content):
    file = tmp_path / "curves.csv"
    file.write_bytes(content)
    said = None
    try:
        json.dumps(compare_arms(read_curves(file)), allow_nan=False)
    except ValueError as error:
        said = error
    assert said is None or (type(said) is ValueError and str(said).endswith("."))


# Without subnormal numbers, which hypothesis refuses to draw while torch flushes them to zero.
REAL = st.one_of(st.just(""), *(st.floats(*ends, allow_subnormal=False).map(repr) for ends in ((0, 1), (-1e90, 1e90))))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.dictionaries(
        st.tuples(st.sampled_from(["a", "b", "c"]), st.integers(0, 3), st.integers(0, 4)),
        st.lists(REAL, min_size=4, max_size=4),
        min_size=1,
        max_size=25,
    ),
    st.sampled_from(METRICS),
    st.sampled_from([None, 0.5, -3.0]),
)
def test_any_table_gives_clean_json(tmp_path, table, metric, threshold):
    text = io.StringIO()
    csv.writer(text).writerows([COLUMNS, *([*key, *values] for key, values in table.items())])
    (tmp_path / "curves.csv").write_text(text.getvalue(), newline="")
    curves = read_curves(tmp_path)
    if threshold is not None and (choose_metric(curves, metric, None)[0] != metric or ("success" in metric and threshold < 0)):
        with pytest.raises(ValueError, match=r"is not known for every task: leave it out|must be above 0 and at most 1"):
            compare_arms(curves, metric, threshold)
        return
    comparison = compare_arms(curves, metric, threshold)
    assert json.loads(json.dumps(comparison, allow_nan=False)) == comparison
