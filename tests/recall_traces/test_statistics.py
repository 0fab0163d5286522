"""Numbers of one seed, intervals over seeds, two arms."""

import math
import re

import numpy as np
import pytest
from scipy import stats

from recall_traces.curves import METRICS, Curves
from recall_traces.statistics import (
    areas,
    interquartile_curve,
    percentile_interval,
    probability_of_improvement,
    ratio_of_areas,
    resample,
    steps_to_threshold,
)

STEPS = np.array([0, 10, 20, 30, 40])
NAN, INF = math.nan, math.inf


def make(arms, env_steps=STEPS, metric="success", task="task"):
    """Curves with the same values in one metric and nothing in the others, by way of arrays."""
    values = {name: {arm: np.full(np.shape(rows), NAN) for arm, rows in arms.items()} for name in METRICS}
    values[metric] = {arm: np.asarray(rows, dtype=float) for arm, rows in arms.items()}
    seeds = {arm: tuple(range(len(rows))) for arm, rows in arms.items()}
    return Curves(task=task, env_steps=np.asarray(env_steps), seeds=seeds, values=values)


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
