import csv
import io
import json
import math
import re

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import stats

from recall_traces.comparison import choose_metric, compare_arms
from recall_traces.curves import COLUMNS, METRICS, Curves, read_curves
from recall_traces.statistics import (
    areas,
    interquartile_curve,
    percentile_interval,
    probability_of_improvement,
    ratio_of_areas,
    resample,
    steps_to_threshold,
)

HEADER = ",".join(COLUMNS)
STEPS = np.array([0, 10, 20, 30, 40])
NAN, INF = math.nan, math.inf


def make(arms, env_steps=STEPS, metric="success", task="task"):
    """Curves with the same values in one metric and nothing in the others, by way of arrays."""
    values = {name: {arm: np.full(np.shape(rows), NAN) for arm, rows in arms.items()} for name in METRICS}
    values[metric] = {arm: np.asarray(rows, dtype=float) for arm, rows in arms.items()}
    seeds = {arm: tuple(range(len(rows))) for arm, rows in arms.items()}
    return Curves(task=task, env_steps=np.asarray(env_steps), seeds=seeds, values=values)


def write(path, rows, header=HEADER, end="\n"):
    path.write_text("\n".join([header, *rows]) + end, encoding="utf-8")
    return path


def pair(result, arm, against):
    return next(entry for entry in result["pairs"] if (entry["arm"], entry["against"]) == (arm, against))


# Reading


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
    comparison = compare_arms(read_curves(tmp_path), metric, threshold)
    assert json.loads(json.dumps(comparison, allow_nan=False)) == comparison


# One seed


def test_areas_by_hand():
    # Triangle 0-1-0 over 20 steps, height 1: mean height 1/2. A step from 0 to 1 in the middle quarter: (0+5+10+10)/40.
    np.testing.assert_allclose(areas(STEPS[:3], np.array([[0.0, 1, 0], [2, 2, 2]]), 0, 20), [0.5, 2])
    np.testing.assert_allclose(areas(STEPS, np.array([[0.0, 0, 1, 1, 1]]), 0, 40), [25 / 40])
    np.testing.assert_allclose(areas(STEPS, np.array([[0.0, 0, 1, 1, 1]]), 0, 20), [5 / 20])
    np.testing.assert_allclose(areas(STEPS, np.array([[9.0, 9, 0, 1, 1]]), 20, 40), [15 / 20])
    np.testing.assert_allclose(areas(STEPS, np.array([[0.0, 0, -4, 1, 1]]), 20, 20), [-4])


def test_areas_with_gaps_and_early_ends():
    # A gap is bridged by a straight line, an end keeps its last value, a seed without a value has no area.
    rows = np.array([[0, NAN, 1, 1, 1], [0, 1, NAN, NAN, NAN], [NAN] * 5])
    np.testing.assert_allclose(areas(STEPS, rows, 0, 40), [30 / 40, 35 / 40, NAN])


@pytest.mark.parametrize(
    ("row", "steps"),
    [
        ([0, 1, 1, 0, 0], 10),  # the first of the two
        ([0, 1, 0, 1, 1], 30),  # once is not enough
        ([1, 1, 0, 0, 0], 0),
        ([0, 0, 0, 0, 1], INF),  # nothing confirms the last
        ([0, 0, 0, 0, 0], INF),
        ([0, 0, 0.9, 0.9, 0], 20),  # at the threshold counts
        ([0, 0, np.float32(0.9), np.float32(0.9), 0], 20),  # 0.8999999761581421
        ([0, 0, 0.89, 0.89, 0], INF),
        ([0, 1, NAN, 1, 0], 10),  # a gap is no evaluation
        ([0, 1, NAN, NAN, NAN], INF),  # the curve ended
        ([NAN, NAN, 1, 1, NAN], 20),
        ([NAN] * 5, INF),
    ],
)
def test_steps_to_threshold(row, steps):
    assert steps_to_threshold(STEPS, np.array([row], dtype=float), 0.9)[0] == steps


def test_steps_to_threshold_up_to_a_horizon():
    row = np.array([[0.0, 0, 1, 1, 1]])
    assert steps_to_threshold(STEPS, row, 0.9, until=30)[0] == 20
    assert steps_to_threshold(STEPS, row, 0.9, until=20)[0] == INF
    assert steps_to_threshold(STEPS[:1], row[:, 2:3], 0.9)[0] == INF


# Over seeds


def test_interquartile_mean_by_hand():
    values = np.array([[0.0, 5], [1, NAN], [3, 7], [100, NAN], [NAN, NAN]])
    mean, low, high = interquartile_curve(values)
    np.testing.assert_allclose(mean, [2, 6])  # of 0, 1, 3, 100 the middle two; of two seeds nothing is trimmed
    assert np.all(low <= mean)
    assert np.all(mean <= high)
    eight = np.arange(8.0)[:, None]
    assert interquartile_curve(eight)[0][0] == 3.5
    assert interquartile_curve(np.array([[-9.0], *eight.tolist(), [99.0]]))[0][0] == np.mean([1, 2, 3, 4, 5, 6])


def test_no_interval_from_one_seed_and_no_mean_from_none():
    mean, low, high = interquartile_curve(np.array([[1.0, 2, NAN], [NAN, 3, NAN]]))
    np.testing.assert_array_equal(mean, [1, 2.5, NAN])
    np.testing.assert_array_equal(np.isnan(low), [True, False, True])
    np.testing.assert_array_equal(np.isnan(high), [True, False, True])


def test_resamples_stay_in_their_stratum():
    drawn = resample(np.array([0, 1, 0, 1, 1]), 500, seed=0)
    assert drawn.shape == (500, 5)
    assert np.all(np.isin(drawn, [0, 2]).sum(axis=1) == 2)
    assert resample(np.array([0, 0, 1]), 10, seed=0) is None


def test_strata_narrow_the_interval():
    # Two tasks of constant but different height: within a task nothing varies, so nothing does over both.
    values, strata = np.repeat([[0.0], [1.0]], 8, axis=0), np.repeat([0, 1], 8)
    _, low, high = interquartile_curve(values, strata)
    assert low[0] == high[0] == 0.5
    _, low, high = interquartile_curve(values)
    assert high[0] - low[0] > 0.5


def test_intervals_are_the_same_for_the_same_seed():
    values = np.random.default_rng(1).normal(size=(10, 3))
    first, again, other = (interquartile_curve(values, seed=seed) for seed in (5, 5, 6))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first[1], other[1])


def test_intervals_agree_with_scipy():
    values = np.random.default_rng(2).normal(size=(16, 1))
    _, low, high = interquartile_curve(values, resamples=20_000)
    expected = stats.bootstrap(
        (values[:, 0],),
        lambda sample, axis: stats.trim_mean(sample, 0.25, axis=axis),
        n_resamples=20_000,
        method="percentile",
        rng=np.random.default_rng(3),
    ).confidence_interval
    np.testing.assert_allclose([low[0], high[0]], expected, atol=0.03)


def test_percentile_interval_keeps_infinity():
    low, high = percentile_interval(np.array([1.0] * 50 + [INF] * 50))
    assert (low, high) == (1, INF)


def test_interquartile_interval_covers_the_truth():
    generator = np.random.default_rng(0)
    _, low, high = interquartile_curve(generator.normal(size=(16, 200)))
    assert 0.85 <= np.mean((low <= 0) & (high >= 0)) <= 1


def test_improvement_interval_covers_the_truth():
    generator = np.random.default_rng(0)
    truth = stats.norm.cdf(0.8 / math.sqrt(2))
    covered = []
    for repetition in range(200):
        x, y = generator.normal(size=16), generator.normal(0.8, size=16)
        _, (low, high) = probability_of_improvement([x], [y], seed=repetition, resamples=1_000)
        covered.append(low <= truth <= high)
    assert 0.85 <= np.mean(covered) <= 1


# Two arms


def test_probability_of_improvement_by_hand():
    x, y = np.array([10.0, 20, INF]), np.array([20.0, INF])
    # 10: ahead of both. 20: a tie, ahead. Never: behind, a tie. (2 + 1.5 + 0.5) / 6.
    value, (low, high) = probability_of_improvement([x], [y])
    assert value == pytest.approx(4 / 6)
    assert 0 <= low < value < high <= 1
    assert probability_of_improvement([y], [x])[0] == pytest.approx(2 / 6)


def test_censored_seeds_tie():
    never = np.full(3, INF)
    assert probability_of_improvement([never], [never]) == (0.5, [0.5, 0.5])
    assert probability_of_improvement([np.array([1.0, 2])], [never]) == (1, [1, 1])


def test_improvement_is_a_mean_over_tasks():
    ahead, behind = np.array([1.0, 2]), np.array([3.0] * 30)
    # Many seeds on one task must not outvote the other.
    assert probability_of_improvement([ahead, behind], [behind, ahead]) == (0.5, [0.5, 0.5])


def test_improvement_from_single_seeds_has_no_interval():
    assert probability_of_improvement([np.array([1.0])], [np.array([2.0, 3])]) == (1, None)
    with pytest.raises(ValueError, match="at least one seed"):
        probability_of_improvement([np.zeros(0)], [np.zeros(2)])


def test_ratio_of_areas_by_hand():
    result = ratio_of_areas([np.array([2.0, 4])], [np.array([1.0, 2])])
    assert result["value"] == 2
    assert result["interval"] == [1, 4]
    assert result["parity"] is False
    assert result["never_worse"] == "inconclusive"
    assert ratio_of_areas([np.array([1.0, 1])] * 2, [np.array([1.0, 1]), np.array([3.0, 3])])["value"] == 0.5


def test_never_worse_needs_sixteen_seeds_in_both():
    same = np.full(16, 0.5)
    result = ratio_of_areas([same], [same])
    assert (result["parity"], result["never_worse"]) == (True, True)
    assert ratio_of_areas([same], [same[:15]])["never_worse"] == "inconclusive"
    assert ratio_of_areas([0.94 * same], [same])["never_worse"] is False
    assert ratio_of_areas([0.94 * same], [same])["parity"] is True
    assert ratio_of_areas([0.84 * same], [same])["parity"] is False


@pytest.mark.parametrize(
    ("x", "y", "reason"),
    [
        ([-1.0, 1], [1.0, 1], "negative"),
        ([1.0, 1], [0.0, 0], "is zero$"),
        ([1.0, 1], [0.0, 1], "zero in some resamples"),
        ([1.0], [1.0, 1], "one seed"),
        ([NAN], [1.0, 1], "no seed"),
    ],
)
def test_ratios_that_say_nothing_give_a_reason(x, y, reason):
    result = ratio_of_areas([np.array(x)], [np.array(y)])
    assert result["interval"] is result["parity"] is result["never_worse"] is None
    assert re.search(reason, result["reason"])


# The comparison


def test_compare_arms_by_hand():
    curves = make(
        {"fast": [[0, 1, 1, 1, 1], [0, 0, 1, 1, 1], [0, 1, 1, 1, 1]], "slow": [[0, 0, 0, 1, 1], [0] * 5, [0, 0, 0, 0, 1]]}
    )
    result = compare_arms(curves)
    fast, slow = result["arms"]["fast"], result["arms"]["slow"]
    assert (result["metric"], result["threshold"], result["metric_note"]) == ("success", 0.9, None)
    assert fast["area"]["mean"] == pytest.approx((35 + 25 + 35) / 3 / 40)
    assert fast["steps_to_threshold"]["median"] == 10
    assert fast["steps_to_threshold"]["interval"] == [10, 20]
    assert fast["steps_to_threshold"]["fraction_reached"] == 1
    assert fast["curve"]["interquartile_mean"] == pytest.approx([0, 2 / 3, 1, 1, 1])
    assert slow["steps_to_threshold"]["median"] is None
    assert slow["steps_to_threshold"]["censored"] is True
    assert slow["steps_to_threshold"]["interval_censored"] == [False, True]
    assert slow["steps_to_threshold"]["reached"] == 1
    assert slow["tasks"]["task"]["steps_to_threshold"] == [30, None, None]
    assert len(result["pairs"]) == 2
    assert pair(result, "fast", "slow")["probability_of_improvement"] == {"value": 1, "interval": [1, 1]}
    assert pair(result, "slow", "fast")["probability_of_improvement"] == {"value": 0, "interval": [0, 0]}
    json.dumps(result, allow_nan=False)


def test_both_directions_of_a_pair_mirror_each_other():
    generator = np.random.default_rng(0)
    result = compare_arms(make({arm: generator.random((6, 5)) for arm in "ab"}), threshold=0.3)
    ab, ba = (pair(result, *names)["probability_of_improvement"] for names in ("ab", "ba"))
    assert ab["value"] == pytest.approx(1 - ba["value"])
    assert ab["interval"] == pytest.approx([1 - end for end in reversed(ba["interval"])])


def test_a_comparison_repeats_itself():
    generator = np.random.default_rng(0)
    curves = make({arm: generator.random((6, 5)) for arm in "abc"})
    assert compare_arms(curves, seed=3) == compare_arms(curves, seed=3)
    assert compare_arms(curves, seed=3) != compare_arms(curves, seed=4)


def test_an_arm_says_the_same_in_any_company():
    generator = np.random.default_rng(0)
    arms = {arm: generator.random((6, 5)) for arm in "abc"}
    alone, together = compare_arms(make({"b": arms["b"]})), compare_arms(make(arms))
    assert alone["arms"]["b"] == together["arms"]["b"]


def test_an_interrupted_arm_is_compared_as_far_as_it_came():
    cut = [[0, 0, 0, NAN, NAN], [0, 0, 0, NAN, NAN]]
    result = compare_arms(make({"whole": [[0, 0, 0, 1, 1], [0, 0, 0, 1, 1]], "cut": cut}))
    entry = pair(result, "whole", "cut")
    assert entry["env_steps"] == {"task": 20}
    assert entry["probability_of_improvement"]["value"] == 0.5
    assert entry["ratio_of_areas"]["reason"] is not None


def test_a_seed_that_stopped_stays_in_the_comparison():
    rows = [[0, 0, 1, 1, 1], [0, 0, NAN, NAN, NAN], [NAN] * 5]
    result = compare_arms(make({"broken": rows, "whole": [[0, 0, 0, 1, 1]] * 3}))
    arm = result["arms"]["broken"]
    assert arm["seeds"] == 3
    assert arm["tasks"]["task"]["incomplete_seeds"] == [1, 2]
    assert arm["tasks"]["task"]["area"] == [pytest.approx(25 / 40), 0, None]
    assert arm["steps_to_threshold"]["reached"] == 1
    assert pair(result, "broken", "whole")["probability_of_improvement"]["value"] == pytest.approx(1 / 3)


def test_arms_of_different_seeds_and_grids():
    env_steps = [0, 5, 10, 15]
    result = compare_arms(make({"a": [[0, NAN, 1, NAN], [1, NAN, 1, NAN]], "b": [[NAN, 0.5, NAN, 1]]}, env_steps))
    assert result["arms"]["a"]["curve"]["env_steps"] == [0, 10]
    assert result["arms"]["b"]["curve"]["env_steps"] == [5, 15]
    assert pair(result, "a", "b")["env_steps"] == {"task": 10}
    # From 5 to 10: a is 0.5 to 1 and 1, b 0.5 to 0.75.
    assert pair(result, "a", "b")["ratio_of_areas"]["value"] == pytest.approx(((0.75 + 1) / 2) / 0.625)


def test_several_tasks_are_pooled():
    easy = make({"a": [[0, 1, 1, 1, 1]] * 2, "b": [[0, 0, 0, 1, 1]] * 2}, task="easy")
    hard = make({"a": [[0, 0, 0, 0, 0]] * 4, "b": [[0, 0, 1, 1, 1]] * 4, "c": [[0] * 5] * 4}, task="hard")
    result = compare_arms([easy, hard])
    assert result["tasks"] == ["easy", "hard"]
    assert result["arms"]["a"]["seeds"] == 6
    assert result["arms"]["a"]["steps_to_threshold"]["fraction_reached"] == pytest.approx(2 / 6)
    assert pair(result, "a", "b")["probability_of_improvement"] == {"value": 0.5, "interval": [0.5, 0.5]}
    assert list(pair(result, "b", "c")["env_steps"]) == ["hard"]


def test_arms_without_a_common_task():
    result = compare_arms([make({"a": [[1, 1]] * 2}, [0, 1], task="x"), make({"b": [[1, 1]] * 2}, [0, 1], task="y")])
    entry = pair(result, "a", "b")
    assert entry["probability_of_improvement"] is None
    assert entry["ratio_of_areas"]["reason"] == "an arm has no seed with a value"


def test_returns_take_the_place_of_an_unknown_success():
    curves = make({"a": [[0, 100, 200, 300, 300]] * 2}, metric="episode_return")
    result = compare_arms(curves)
    assert (result["metric"], result["threshold"]) == ("episode_return", None)
    assert "success" in result["metric_note"]
    assert result["arms"]["a"]["steps_to_threshold"] is None
    assert compare_arms(curves, threshold=200)["arms"]["a"]["steps_to_threshold"]["median"] == 20
    greedy = make({"a": [[0, 1]]}, [0, 1], metric="greedy_episode_return")
    assert choose_metric([greedy], "greedy_success", None) == ("greedy_episode_return", None)


def test_an_unknown_metric_is_named():
    curves = make({"a": [[0, 1]]}, [0, 1])
    with pytest.raises(ValueError, match="no metric 'reward'"):
        compare_arms(curves, "reward")
    with pytest.raises(ValueError, match="threshold is nan"):
        compare_arms(curves, threshold=NAN)
    with pytest.raises(ValueError, match="No curves"):
        compare_arms([])
