"""A comparison of arms: what learning curves say about each and about each pair, ready for JSON."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from recall_traces.curves import METRICS, Curves, Floats, Integers
from recall_traces.statistics import (
    CURVE_RESAMPLES,
    RESAMPLES,
    areas,
    finite_or_none,
    interquartile_curve,
    mean_interval,
    median_interval,
    probability_of_improvement,
    ratio_of_areas,
    steps_to_threshold,
)

SUCCESS_THRESHOLD = 0.9


def incomplete_seeds(task: Curves, metric: str, arm: str) -> list[int]:
    """Seeds without a value at the last evaluation that any seed of their arm has: they stopped before the rest."""
    span = task.span(metric, arm)
    last = task.env_steps == (span[1] if span else -1)
    rows = zip(task.seeds[arm], task.values[metric][arm], strict=True)
    return [seed for seed, curve in rows if not np.isfinite(curve[last]).all()]


def choose_metric(curves: Sequence[Curves], metric: str, threshold: float | None) -> tuple[str, float | None]:
    """The metric and threshold that the data allow.

    Where some task knows no success, the return takes its place. Without a threshold it is 0.9 for success and none for
    a return.

    Raises:
        ValueError: there is no such metric, or the threshold is not finite, or no share of episodes where it is of success, or of
            success where the return takes its place.
    """
    if metric not in METRICS:
        raise ValueError(f"There is no metric {metric!r}; choose one of {', '.join(METRICS)}.")
    if threshold is not None and not math.isfinite(threshold):
        raise ValueError(f"The threshold is {threshold}; it must be a finite number.")
    if metric.endswith("success") and not all(
        any(np.isfinite(values).any() for values in task.values[metric].values()) for task in curves
    ):
        found = metric.replace("success", "episode_return")
        if threshold is not None:  # which would mean something else there
            reason = f"is for {metric}, which is not known for every task"
            raise ValueError(f"The threshold {threshold:g} {reason}: leave it out, or choose {found} as the metric.")
        metric = found
    elif metric.endswith("success") and threshold is not None and not 0 < threshold <= 1:
        raise ValueError(f"The threshold of {metric} is {threshold:g}; it must be above 0 and at most 1.")
    return metric, SUCCESS_THRESHOLD if threshold is None and metric.endswith("success") else threshold


def pool(curves: Sequence[Curves], metric: str, arm: str) -> tuple[Integers, Floats, Integers]:
    """All seeds of an arm over its tasks: env steps `(evaluations,)`, values `(seeds, evaluations)`, task of each row.

    With several tasks only the evaluations that all of them have are kept.
    """
    tasks = [task for task in curves if arm in task.seeds]
    known = [task.env_steps[np.isfinite(task.values[metric][arm]).any(axis=0)] for task in tasks]
    env_steps = known[0]
    for other in known[1:]:
        env_steps = np.intersect1d(env_steps, other)
    values = [task.values[metric][arm][:, np.isin(task.env_steps, env_steps)] for task in tasks]
    strata = np.repeat(np.arange(len(tasks)), [len(part) for part in values])
    return env_steps, np.concatenate(values), strata


def all_arms(curves: Iterable[Curves]) -> list[str]:
    """Names of the arms of all tasks, in order of first appearance."""
    return list(dict.fromkeys(arm for task in curves for arm in task.arms))


def compare_arms(
    curves: Curves | Sequence[Curves], metric: str = "success", threshold: float | None = None, seed: int = 0
) -> dict[str, Any]:
    """Everything the curves say about each arm and each ordered pair of arms, ready for JSON (no nan, no infinity).

    Pairs are compared up to the env steps that both arms have reached, so that an interrupted arm loses nothing by it; a
    seed that stopped before the rest of its arm keeps its last value in areas and is censored in steps to the threshold.

    Args:
        curves: of one task or several; several are pooled, each a stratum of the bootstrap.
        metric: a column of `curves.csv`; where some task knows no success, the return takes its place.
        threshold: of that metric, for steps to the threshold; `None` is 0.9 for success, and leaves them out for returns.
        seed: of the bootstrap.

    Returns:
        The content of `comparison.json`: how it was computed, `arms` by name, `pairs` as a list. A censored number is
        `None` beside a flag that says so.

    Raises:
        ValueError: there are no curves or no such metric, or a threshold of success where the return takes its place.
    """
    tasks = [curves] if isinstance(curves, Curves) else list(curves)
    if not tasks:
        raise ValueError("No curves to compare.")
    asked = metric
    metric, threshold = choose_metric(tasks, metric, threshold)
    arms = all_arms(tasks)
    return {
        "tasks": [task.task for task in tasks],
        "metric": metric,
        "metric_note": None if metric == asked else f"{asked} is not known for every task; {metric} takes its place",
        "threshold": threshold,
        "confidence": 0.95,
        "resamples": {"curves": CURVE_RESAMPLES, "numbers": RESAMPLES},
        "bootstrap_seed": seed,
        "arms": {arm: _describe(tasks, metric, threshold, arm, seed) for arm in arms},
        "pairs": [_pair(tasks, metric, threshold, x, y, seed) for x in arms for y in arms if x != y],
    }


def _numbers(values: Iterable[float]) -> list[float | None]:
    return [finite_or_none(value) for value in values]


def _describe(tasks: Sequence[Curves], metric: str, threshold: float | None, arm: str, seed: int) -> dict[str, Any]:
    env_steps, values, strata = pool(tasks, metric, arm)
    mean, low, high = interquartile_curve(values, strata, seed=seed)
    of_tasks: dict[str, dict[str, Any]] = {}
    areas_of, steps_of = [], []
    for task in (task for task in tasks if arm in task.seeds):
        span, curve = task.span(metric, arm), task.values[metric][arm]
        height = areas(task.env_steps, curve, *span) if span else np.full(len(curve), np.nan)
        areas_of.append(height)
        of_tasks[task.task] = {
            "seeds": list(task.seeds[arm]),
            "incomplete_seeds": incomplete_seeds(task, metric, arm),
            "env_steps": list(span) if span else None,
            "area": _numbers(height),
        }
        if threshold is not None:
            steps_of.append(steps_to_threshold(task.env_steps, curve, threshold))
            of_tasks[task.task]["steps_to_threshold"] = _numbers(steps_of[-1])
    height = np.concatenate(areas_of)
    known = np.isfinite(height)
    ends = mean_interval(height[known], strata[known], seed)
    return {
        "seeds": len(values),
        "area": {"mean": finite_or_none(height[known].mean()) if known.any() else None, "interval": ends},
        "steps_to_threshold": _steps(np.concatenate(steps_of), strata, seed) if steps_of else None,
        "curve": {
            "env_steps": [int(step) for step in env_steps],
            "interquartile_mean": _numbers(mean),
            "low": _numbers(low),
            "high": _numbers(high),
        },
        "tasks": of_tasks,
    }


def _steps(steps: Floats, strata: Integers, seed: int) -> dict[str, Any]:
    median = float(np.median(steps))
    ends = median_interval(steps, strata, seed)
    reached = int(np.isfinite(steps).sum())
    return {
        "median": finite_or_none(median),
        "censored": math.isinf(median),
        "interval": None if ends is None else _numbers(ends),
        "interval_censored": None if ends is None else [math.isinf(end) for end in ends],
        "reached": reached,
        "fraction_reached": reached / len(steps),
    }


def _pair(tasks: Sequence[Curves], metric: str, threshold: float | None, x: str, y: str, seed: int) -> dict[str, Any]:
    heights: dict[str, list[Floats]] = {x: [], y: []}
    steps: dict[str, list[Floats]] = {x: [], y: []}
    until: dict[str, int] = {}
    for task in tasks:
        spans = [task.span(metric, arm) for arm in (x, y) if arm in task.seeds]
        both = [span for span in spans if span is not None]
        if len(both) < 2:
            continue
        start, stop = max(span[0] for span in both), min(span[1] for span in both)
        if start > stop:
            continue
        until[task.task] = stop
        for arm in (x, y):
            curve = task.values[metric][arm]
            heights[arm].append(areas(task.env_steps, curve, start, stop))
            if threshold is not None:
                steps[arm].append(steps_to_threshold(task.env_steps, curve, threshold, stop))
    improvement: dict[str, Any] | None = None
    if steps[x]:
        # One computation serves both directions, so that they mirror each other exactly.
        first, second = sorted((x, y))
        value, ends = probability_of_improvement(steps[first], steps[second], seed=seed)
        if x != first:
            value, ends = 1 - value, None if ends is None else [1 - ends[1], 1 - ends[0]]
        improvement = {"value": value, "interval": ends}
    return {
        "arm": x,
        "against": y,
        "env_steps": until,
        "probability_of_improvement": improvement,
        "ratio_of_areas": ratio_of_areas(heights[x], heights[y], seed=seed),
    }
