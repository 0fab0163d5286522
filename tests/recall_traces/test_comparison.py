"""What curves say about arms and pairs of arms."""

import json
import math

import numpy as np
import pytest

from recall_traces.comparison import choose_metric, compare_arms
from recall_traces.curves import METRICS, Curves

STEPS = np.array([0, 10, 20, 30, 40])
NAN = math.nan


def make(arms, env_steps=STEPS, metric="success", task="task"):
    """Curves with the same values in one metric and nothing in the others, by way of arrays."""
    values = {name: {arm: np.full(np.shape(rows), NAN) for arm, rows in arms.items()} for name in METRICS}
    values[metric] = {arm: np.asarray(rows, dtype=float) for arm, rows in arms.items()}
    seeds = {arm: tuple(range(len(rows))) for arm, rows in arms.items()}
    return Curves(task=task, env_steps=np.asarray(env_steps), seeds=seeds, values=values)


def pair(result, arm, against):
    return next(entry for entry in result["pairs"] if (entry["arm"], entry["against"]) == (arm, against))


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
    assert compare_arms(curves, "episode_return", threshold=200)["arms"]["a"]["steps_to_threshold"]["median"] == 20
    greedy = make({"a": [[0, 1]]}, [0, 1], metric="greedy_episode_return")
    assert choose_metric([greedy], "greedy_success", None) == ("greedy_episode_return", None)


def test_a_threshold_of_success_is_none_of_returns():
    known, unknown = make({"a": [[0, 1]]}, [0, 1]), make({"a": [[0, 1]]}, [0, 1], metric="episode_return", task="other")
    words = "The threshold 0.5 is for success, which is not known for every task: leave it out, or choose episode_return"
    for tasks in ([unknown], [known, unknown]):
        with pytest.raises(ValueError, match=words):
            choose_metric(tasks, "success", 0.5)
    assert choose_metric([known], "success", 0.5) == ("success", 0.5)
    assert choose_metric([known, unknown], "success", None) == ("episode_return", None)


def test_an_unknown_metric_is_named():
    curves = make({"a": [[0, 1]]}, [0, 1])
    with pytest.raises(ValueError, match="no metric 'reward'"):
        compare_arms(curves, "reward")
    with pytest.raises(ValueError, match="threshold is nan"):
        compare_arms(curves, threshold=NAN)
    with pytest.raises(ValueError, match="No curves"):
        compare_arms([])
