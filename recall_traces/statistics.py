"""Statistics of learning curves: areas, steps to a threshold, which of two arms is better, and how sure that is.

Intervals are 95% percentile bootstrap intervals over seeds, drawn within each task when there are several, and the same
for the same data and `seed`.

They are resampled here by index and not by `scipy.stats.bootstrap`, which refuses a sample of one seed, takes the standard
deviation of the resamples (undefined once a censored seed makes one infinite) and knows no gaps, while curves have all three.
With every seed of one arm ahead of every seed of another all resamples agree and the interval has no width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from scipy.integrate import trapezoid
from scipy.stats import trim_mean

from recall_traces.curves import Floats, Integers

PARITY = (0.85, 1.18)
NEVER_WORSE = 0.95
NEVER_WORSE_SEEDS = 16
CURVE_RESAMPLES = 2_000
RESAMPLES = 10_000


# Numbers of one seed -----------------------------------------------------------------------------------------------------


def areas(env_steps: Integers, values: Floats, start: int, until: int) -> Floats:
    """Area under each seed's curve between `start` and `until` env steps, divided by that span: its mean height.

    A seed whose curve ends early keeps its last value (it learns no more), one that begins late its first.

    Args:
        env_steps: `(evaluations,)`.
        values: `(seeds, evaluations)`, nan where there is none.
        start: first env steps that count.
        until: last env steps that count.

    Returns:
        In the unit of the metric, `(seeds,)`; nan for a seed without any value.
    """
    inside = (env_steps > start) & (env_steps < until)
    grid = np.concatenate([[start], env_steps[inside], [until]]).astype(np.float64)
    result = np.full(len(values), np.nan)
    for seed, curve in enumerate(values):
        known = np.isfinite(curve)
        if known.any():
            heights = np.interp(grid, env_steps[known], curve[known])
            result[seed] = trapezoid(heights, grid) / (until - start) if until > start else heights[0]
    return result


def steps_to_threshold(env_steps: Integers, values: Floats, threshold: float, until: int | None = None) -> Floats:
    """Env steps of the first of two consecutive evaluations at or above `threshold`, for each seed.

    Gaps are not evaluations: the next one that the seed has counts as consecutive. A value may fall short of the
    threshold by one part in a million, which is what a mean in float32 loses.

    Args:
        env_steps: `(evaluations,)`.
        values: `(seeds, evaluations)`, nan where there is none.
        threshold: in the unit of the metric.
        until: evaluations after so many env steps do not count.

    Returns:
        `(seeds,)`; infinite for a seed that never got there (censored), also when its last evaluation alone did.
    """
    result = np.full(len(values), np.inf)
    level = threshold - 1e-6 * max(1.0, abs(threshold))
    for seed, curve in enumerate(values):
        known = np.flatnonzero(np.isfinite(curve) & (env_steps <= (np.inf if until is None else until)))
        above = curve[known] >= level
        first = np.flatnonzero(above[:-1] & above[1:])
        if first.size:
            result[seed] = env_steps[known[first[0]]]
    return result


# Over seeds --------------------------------------------------------------------------------------------------------------


def percentile_interval(distribution: Floats) -> tuple[Floats, Floats]:
    """Ends of the middle 95% along the first axis: order statistics, so that infinite values stay what they are."""
    last = len(distribution) - 1
    low = int(0.025 * len(distribution))
    ordered = np.partition(distribution, [low, last - low], axis=0)
    return ordered[low], ordered[last - low]


def resample(strata: Integers, resamples: int, seed: int) -> Integers | None:
    """Row numbers of bootstrap samples, drawn within each stratum.

    Args:
        strata: which task each row belongs to, `(rows,)`.
        resamples: how many samples.
        seed: of the draw.

    Returns:
        `(resamples, rows)`, or `None` if a stratum has fewer than two rows: one seed says nothing about its spread.
    """
    generator = np.random.default_rng(seed)
    groups = [np.flatnonzero(strata == stratum) for stratum in np.unique(strata)]
    if not groups or min(map(len, groups)) < 2:
        return None
    return np.concatenate([group[generator.integers(len(group), size=(resamples, len(group)))] for group in groups], axis=1)


def interquartile_mean(values: Floats) -> Floats:
    """Mean of the middle half along the first axis (`scipy.stats.trim_mean`); no gaps allowed."""
    return np.asarray(trim_mean(values, 0.25, axis=0), dtype=np.float64)


def interquartile_curve(
    values: Floats, strata: Integers | None = None, *, seed: int = 0, resamples: int = CURVE_RESAMPLES
) -> tuple[Floats, Floats, Floats]:
    """Interquartile mean over seeds at each evaluation, with its 95% interval.

    Args:
        values: `(seeds, evaluations)`, nan where there is none; an evaluation is taken over the seeds that have it.
        strata: task of each row, `(seeds,)`; by default all are of one.
        seed: of the bootstrap.
        resamples: bootstrap samples.

    Returns:
        Mean, lower end and upper end, each `(evaluations,)`; the mean is nan where a task has no seed, the ends where it
        has fewer than two.
    """
    strata = np.zeros(len(values), dtype=np.int64) if strata is None else strata
    mean, low, high = (np.full(values.shape[1], np.nan) for _ in range(3))
    # Evaluations with the same seeds share their resamples; there are few such groups.
    patterns, group = np.unique(np.isfinite(values).T, axis=0, return_inverse=True)
    for number, pattern in enumerate(patterns):
        rows, columns = np.flatnonzero(pattern), np.flatnonzero(group.reshape(-1) == number)
        if len(np.unique(strata[rows])) < len(np.unique(strata)):
            continue
        mean[columns] = interquartile_mean(values[np.ix_(rows, columns)])
        drawn = resample(strata[rows], resamples, seed)
        if drawn is None:
            continue
        chunk = max(1, 4_000_000 // drawn.size)  # 32 MB at a time
        for part in (columns[start : start + chunk] for start in range(0, len(columns), chunk)):
            samples = values[np.ix_(rows, part)][drawn]
            low[part], high[part] = percentile_interval(np.asarray(trim_mean(samples, 0.25, axis=1)))
    return mean, low, high


def median_interval(values: Floats, strata: Integers, seed: int = 0) -> list[float] | None:
    """95% interval of the median over seeds, as tables, `comparison.json` and pictures show it.

    Args:
        values: of each seed, `(seeds,)`, infinite where censored.
        strata: task of each, `(seeds,)`.
        seed: of the bootstrap.

    Returns:
        Its ends, or `None` if a task has fewer than two seeds.
    """
    return _interval(lambda sample: np.asarray(np.median(sample, axis=-1)), values, strata, seed, RESAMPLES)


def mean_interval(values: Floats, strata: Integers, seed: int = 0) -> list[float] | None:
    """95% interval of the mean over seeds; arguments and result as those of `median_interval`."""
    return _interval(lambda sample: np.asarray(sample.mean(axis=-1)), values, strata, seed, RESAMPLES)


def _interval(
    statistic: Callable[[Floats], Floats], values: Floats, strata: Integers, seed: int, resamples: int
) -> list[float] | None:
    """95% interval of a statistic that takes `(resamples, rows)` and reduces the last axis."""
    drawn = resample(strata, resamples, seed)
    return None if drawn is None else [float(end) for end in percentile_interval(statistic(values[drawn]))]


# Two arms ----------------------------------------------------------------------------------------------------------------


def _wins(x: Floats, y: Floats) -> Floats:
    ahead = (x[:, None] < y[None, :]).astype(np.float64)
    return np.asarray(ahead + 0.5 * (x[:, None] == y[None, :]))


@lru_cache(maxsize=4)  # every pair of a comparison asks for the same
def _counts(sizes: tuple[int, ...], resamples: int, seed: int) -> tuple[Floats, ...]:
    """How often each seed is in each bootstrap sample: `(resamples, size)` for each size."""
    generator = np.random.default_rng(seed)
    return tuple(generator.multinomial(size, np.full(size, 1 / size), size=resamples).astype(np.float64) for size in sizes)


def probability_of_improvement(
    x: Sequence[Floats], y: Sequence[Floats], *, seed: int = 0, resamples: int = RESAMPLES
) -> tuple[float, list[float] | None]:
    """Probability that a seed of arm X needs fewer steps than a seed of arm Y, the mean over tasks, with its interval.

    A tie counts one half, and so do two seeds that never got there. Seeds of both arms are resampled independently.

    Args:
        x: steps to the threshold of arm X, one `(seeds,)` for each task, infinite where censored.
        y: the same of arm Y.
        seed: of the bootstrap.
        resamples: bootstrap samples.

    Returns:
        The probability, and the ends of its 95% interval or `None` if an arm has a single seed on some task.

    Raises:
        ValueError: an arm has no seed on some task, or there is no task.
    """
    if not x or len(x) != len(y) or min(len(part) for part in (*x, *y)) == 0:
        raise ValueError("The probability of improvement needs the same tasks for both arms and at least one seed on each.")
    wins = [_wins(ours, theirs) for ours, theirs in zip(x, y, strict=True)]
    value = float(np.mean([table.mean() for table in wins]))
    sizes = tuple(len(part) for part in (*x, *y))
    if min(sizes) < 2:
        return value, None
    counts = _counts(sizes, resamples, seed)
    total = np.zeros(resamples)
    for table, ours, theirs in zip(wins, counts[: len(x)], counts[len(x) :], strict=True):
        total += ((ours @ table) * theirs).sum(axis=1) / table.size
    # Sums of the same numbers in another order differ in the last bits, and 1.0000000000000002 is no probability.
    low, high = (min(1.0, max(0.0, round(float(end), 12))) for end in percentile_interval(total / len(wins)))
    return value, [low, high]


def ratio_of_areas(x: Sequence[Floats], y: Sequence[Floats], *, seed: int = 0, resamples: int = RESAMPLES) -> dict[str, Any]:
    """Mean area of arm X over mean area of arm Y, each task with the same weight, and what the interval says.

    Args:
        x: areas of arm X, one `(seeds,)` for each task.
        y: the same of arm Y.
        seed: of the bootstrap.
        resamples: bootstrap samples.

    Returns:
        `value` and `interval` (`None` where undefined), `parity` (the interval lies in 0.85 to 1.18), `never_worse` (its
        lower end is at least 0.95; 'inconclusive' with fewer than 16 seeds in an arm on some task), each `None` without an
        interval, and the `reason` for what is `None`.
    """
    result: dict[str, Any] = {"value": None, "interval": None, "parity": None, "never_worse": None, "reason": None}
    x, y = ([part[np.isfinite(part)] for part in arm] for arm in (x, y))
    sizes = tuple(len(part) for part in (*x, *y))
    if not x or min(sizes) == 0:
        return result | {"reason": "an arm has no seed with a value"}
    if min(part.min() for part in (*x, *y)) < 0:
        return result | {"reason": "a ratio says nothing where an area is negative"}
    below = float(sum(part.mean() for part in y))
    if below <= 0:
        return result | {"reason": "the area below the fraction bar is zero"}
    with np.errstate(over="ignore"):
        result["value"] = finite_or_none(np.float64(sum(part.mean() for part in x)) / below)
    if min(sizes) < 2:
        return result | {"reason": "one seed has no interval"}
    counts = _counts(sizes, resamples, seed)
    top, bottom = (
        np.asarray(sum(count @ part / len(part) for count, part in zip(drawn, arm, strict=True)))
        for drawn, arm in ((counts[: len(x)], x), (counts[len(x) :], y))
    )
    if bottom.min() <= 0:
        return result | {"reason": "the area below the fraction bar is zero in some resamples, too few seeds have any"}
    with np.errstate(over="ignore"):
        low, high = (float(end) for end in percentile_interval(top / bottom))
    if not math.isfinite(high):
        return result | {"value": None, "reason": "the ratio is too large for a number"}
    enough = min(sizes) >= NEVER_WORSE_SEEDS
    return result | {
        "interval": [low, high],
        "parity": PARITY[0] <= low and high <= PARITY[1],
        "never_worse": low >= NEVER_WORSE if enough else "inconclusive",
    }


def finite_or_none(value: float) -> float | None:
    """A number that JSON can hold: None for what is not finite."""
    return float(value) if math.isfinite(value) else None
