"""Files of a run made of garbage are refused in one sentence, never with a traceback, whatever they hold."""

import copy
import json

import pytest
from cli_helpers import call
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recall_traces.cli.errors import one_line
from recall_traces.cli.load import load_run, read_options
from recall_traces.cli.options import CompareOptions, configuration
from recall_traces.cli.resolve import parse_run
from recall_traces.curves import COLUMNS, read_curves
from recall_traces.runs import TIMING_COLUMNS, RunFolder

FUZZ = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
FLOATS = st.floats(allow_subnormal=False)  # runs flush them to 0, in the whole process
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | FLOATS | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)
CELLS = st.text(max_size=6) | st.integers().map(str) | FLOATS.map(str) | st.just("none")


def record_of(words):
    options = parse_run(words.split(), CompareOptions(), "compare", "", ("env_id",))
    settings = json.loads(json.dumps(configuration(options, "cpu")))
    arms = {"none": {"status": "finished", "failures": {}}, "recall": {"status": "running"}}
    return {"task": "x", "configuration": settings, "arms": arms, "calls": [{"arms": ["none", "recall"], "command": "compare"}]}


RECORDS = [record_of("FourRooms-7"), record_of("PointMaze-U --agent sac"), record_of("Pendulum-v1 --env.g 9.8")]


def places(value, path=()):
    """Every place in nested dictionaries and lists."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*path, key)
        yield from places(inner, (*path, key))


@st.composite
def spoilt_records(draw):
    """A record with some values replaced, removed or added."""
    record = copy.deepcopy(draw(st.sampled_from(RECORDS)))
    for _ in range(draw(st.integers(1, 3))):
        *parents, last = draw(st.sampled_from(list(places(record))))
        holder = record
        for key in parents:
            holder = holder[key]
        action = draw(st.sampled_from(["replace", "remove", "add"]))
        if action == "remove":
            del holder[last]
        elif action == "replace" or isinstance(holder, list):
            holder[last] = draw(VALUES)
        else:
            holder[draw(st.text(max_size=8))] = draw(VALUES)
        if not record:
            break
    return record


def refused_or_fine(function, *arguments):
    """Whatever comes, it is what the function gives, or a sentence."""
    try:
        return function(*arguments)
    except ValueError as error:
        said = one_line(error)
    assert said
    return None


@FUZZ
@given(record=spoilt_records() | VALUES)
def test_configurations_of_garbage(record, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    (folder / "config.json").write_text(json.dumps(record))
    run = refused_or_fine(RunFolder(folder).load)
    if run is not None:
        refused_or_fine(read_options, run.record)
        for arm in run.record["arms"]:
            assert isinstance(run.status(arm), str | None)
            assert all(isinstance(seed, int) for seed in run.failures(arm))


@FUZZ
@given(content=st.binary(max_size=200))
def test_records_that_are_no_text(content, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    (folder / "config.json").write_bytes(content)
    assert refused_or_fine(load_run, folder) is None


@FUZZ
@given(rows=st.lists(st.lists(CELLS, max_size=9), max_size=6), columns=st.sampled_from([COLUMNS, TIMING_COLUMNS, ("a", "b")]))
def test_tables_of_garbage(rows, columns, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    text = "\n".join(",".join(row) for row in [columns, *rows]) + "\n"
    for name in ("curves.csv", "timings.csv"):
        (folder / name).write_text(text, encoding="utf-8")
    run = RunFolder(folder)
    run.record = {"arms": {}, "configuration": {}}
    refused_or_fine(run.check_tables)
    refused_or_fine(read_curves, folder)
    refused_or_fine(run.continue_arm, "none", 10)
    refused_or_fine(run.begin_arm, "none")


@FUZZ
@given(content=st.binary(max_size=200))
def test_tables_that_are_no_text(content, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    for name in ("curves.csv", "timings.csv"):
        (folder / name).write_bytes(content)
    run = RunFolder(folder)
    run.record = {"arms": {}, "configuration": {}}
    refused_or_fine(run.check_tables)
    refused_or_fine(read_curves, folder)
    refused_or_fine(run.begin_arm, "none")


@pytest.mark.parametrize("subcommand", ["resume", "evaluate", "export"])
@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"\xff", b"[" * 100_000, b'{"configuration": {}, "arms": {"none": {}}}'],
    ids=["empty", "torn", "list", "no text", "deep", "record of nothing"],
)
def test_the_command_line_says_it_in_one_line(subcommand, content, place, capsys):
    (place / "run").mkdir()
    (place / "run" / "config.json").write_bytes(content)
    assert call(f"{subcommand} run") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "config.json" in line
