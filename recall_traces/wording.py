"""Numbers of a comparison in words, the same in the table of the terminal and in reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from recall_traces.panels import format_steps


def goal_text(metric: str, threshold: float) -> str:
    """A threshold: 90% of episodes, or a return."""
    return f"{threshold:.0%}" if metric.endswith("success") else f"{threshold:g}"


def area_form(metric: str) -> str:
    """The format of a mean height of a curve."""
    return ".2f" if metric.endswith("success") else ".4g"


def steps_text(steps: Mapping[str, Any]) -> str:
    """The median of steps to a threshold with its interval, from `steps_to_threshold` of an arm."""
    median = step_text(steps["median"])
    if steps["interval"] is None:
        return median
    low, high = map(step_text, steps["interval"])
    return f"{median} ({low}, {high})"


def step_text(steps: float | None) -> str:
    """Steps to a threshold with three digits; `None` is never."""
    return "never" if steps is None else format_steps(float(f"{steps:.3g}"))


def with_interval(value: float | None, interval: Sequence[float] | None, form: str) -> str:
    """A number, and its interval where there is one."""
    if value is None:
        return "-"
    return f"{value:{form}}" if interval is None else f"{value:{form}} ({interval[0]:{form}}, {interval[1]:{form}})"


def unequal_texts(comparison: Mapping[str, Any]) -> list[str]:
    """What arms that were not trained alike are compared on: `comparison` is what `compare_arms` gives."""
    arms, tasks, texts = comparison["arms"], comparison["tasks"], []
    for arm, found in arms.items():
        if len(found["tasks"]) < len(tasks):
            texts.append(f"{arm} was trained on {len(found['tasks'])} of {len(tasks)} tasks; its numbers are of these alone")
    for task in tasks:
        spans = [found["tasks"].get(task, {}).get("env_steps") for found in arms.values()]
        ends = sorted({span[1] for span in spans if span})
        if len(ends) > 1:
            texts.append(
                f"{task}: arms ended between {ends[0]:,} and {ends[-1]:,} steps; probabilities compare two arms up to where the "
                "shorter one ended, areas and steps are of each arm's whole run"
            )
    return texts


def stopped_text(arm: str, found: Mapping[str, Any]) -> str | None:
    """That seeds of an arm stopped before the rest, if there are any; `found` is what `compare_arms` tells of the arm."""
    stopped = sum(len(task["incomplete_seeds"]) for task in found["tasks"].values())
    return f"{arm}: {stopped} of {found['seeds']} seeds stopped early, and keep their last value" if stopped else None
