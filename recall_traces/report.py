"""A report of runs: one HTML file that opens from disk and asks no network, from what runs left there.

`report.html` is the page (a Jinja template, which escapes every value), `report.css` its looks, `report.js` its curves. The
page's own policy lets a browser run that one script and nothing else, and fetch nothing.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, StrictUndefined
from PIL import Image

import recall_traces
from recall_traces.comparison import all_arms, choose_metric, compare_arms, pool
from recall_traces.curves import METRICS, Curves, Floats
from recall_traces.events import Scalars
from recall_traces.panels import COLOURS, CURVES_TITLE, STEPS_LABEL, STYLES, format_steps, metric_label
from recall_traces.plotting import plot_comparison
from recall_traces.statistics import interquartile_curve
from recall_traces.wording import area_form, goal_text, step_text, steps_text, stopped_text, unequal_texts, with_interval

LINE_WIDTH = 2.0
MOST_POINTS = 300
"""Of a line; more cannot be told apart on a screen."""
SEED_NUMBERS = 60_000
"""Points of all seeds' lines together, about 1 MB; where there would be more, each line keeps fewer."""
SUBJECTS = {
    "recall/model_loss": "loss of the backtracking model, nats per transition",
    "recall/model_unknown": "share of held-out steps that neighbours know nothing of",
    "recall/traces": "traces recalled by an update",
    "recall/trace_length": "mean length of traces, steps",
    "recall/states": "different high-value states",
    "recall/states_return": "mean return known from the high-value states",
    "recall/best_return": "highest return remembered",
    "recall/rarity": "share of imitation that is left, by how rare reward is",
    "recall/sureness": "share of imitation that is left, by the targets with a known way",
    "recall/share": "share of imitation that is left",
    "recall/novelty_share": "share of targets chosen for novelty",
    "train/imitation_loss": "loss of imitation",
}
"""What scalars are, those first that tell most of the model."""


@dataclass(frozen=True)
class Picture:
    """A picture and what it shows."""

    caption: str
    image: bytes
    """As a file holds it."""


@dataclass(frozen=True)
class Setting:
    """A setting of a run, as text."""

    name: str
    value: str
    default: str | None = None
    """What it is unless somebody changes it, where it was changed."""


@dataclass(frozen=True)
class Origin:
    """Where the numbers of one run come from."""

    folder: str
    record: Mapping[str, Any]
    """Its `config.json`."""
    settings: Sequence[Setting] = ()
    remark: str = ""
    """What is to be said about the settings."""


@dataclass(frozen=True)
class Report:
    """Everything that a report shows."""

    curves: Sequence[Curves]
    metric: str = "success"
    threshold: float | None = None
    scalars: Mapping[str, Mapping[str, Scalars]] = field(default_factory=dict)
    """By task, then by arm."""
    pictures: Sequence[Picture] = ()
    """Of what was recalled."""
    origins: Sequence[Origin] = ()
    remarks: Sequence[str] = ()
    """What could not be shown and why, in sentences."""


def write_report(report: Report, out: str | Path) -> Path:
    """Write a report into a file; folders on the way are made.

    Raises:
        ValueError: there is nothing to report, or no such metric.
    """
    out = Path(out)
    text = render(report)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text, encoding="utf-8")
    return out


def render(report: Report) -> str:
    """The page.

    Raises:
        ValueError: there is nothing to report, or no such metric.
    """
    tasks = list(report.curves)
    everything = compare_arms(tasks, report.metric, report.threshold)
    metric, threshold = everything["metric"], everything["threshold"]
    arms = all_arms(tasks)
    parts = [compare_arms(task, metric, threshold) for task in tasks] if len(tasks) > 1 else []
    tables = [table(part, part["tasks"][0]) for part in parts]
    tables.append(table(everything, "all tasks together" if parts else tasks[0].task))
    data = page_data(tasks, report.scalars, metric, threshold)
    style, script = _asset("report.css").replace("/* colours */", _colours()), _asset("report.js")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(_asset("report.html")).render(
        title=", ".join(task.task for task in tasks),
        size=_size(tasks),
        arms=[{"name": arm, **look} for arm, look in zip(arms, data["arms"], strict=True)],
        data=data,
        json=_json(data),
        tables=tables,
        picture=_inline(_curves_picture(tasks, metric, threshold)),
        traces=[{"caption": picture.caption, "source": _inline(picture.image)} for picture in report.pictures],
        origins=[_origin(origin) for origin in report.origins],
        remarks=list(report.remarks),
        metric_note=everything["metric_note"],
        curves_title=CURVES_TITLE,
        style=style,
        script=script,
        style_hash=_hash(style),
        script_hash=_hash(script),
        version=recall_traces.__version__,
    )


def _size(tasks: Sequence[Curves]) -> str:
    """How much there is: tasks, arms, runs, steps."""
    runs = sum(len(seeds) for task in tasks for seeds in task.seeds.values())
    counts = {"task": len(tasks), "arm": len(all_arms(tasks)), "learner": runs}
    words = [f"{count} {name}" if count == 1 else f"{count} {name}s" for name, count in counts.items()]
    return f"{', '.join(words)}, up to {format_steps(max(int(task.env_steps[-1]) for task in tasks))} steps each"


# Curves ------------------------------------------------------------------------------------------------------------------


def page_data(
    tasks: Sequence[Curves], scalars: Mapping[str, Mapping[str, Scalars]], metric: str, threshold: float | None
) -> dict[str, Any]:
    """What the script draws.

    Args:
        tasks: learning curves.
        scalars: by task, then by arm.
        metric: drawn at first.
        threshold: of that metric.
    """
    arms = all_arms(tasks)
    known = [name for name in METRICS if any(task.span(name, arm) for task in tasks for arm in task.arms)]
    count = sum(len(seeds) for task in tasks for seeds in task.seeds.values()) * len(known)
    most = max(12, min(MOST_POINTS, SEED_NUMBERS // max(1, count)))
    found = {tag for of_task in scalars.values() for of_arm in of_task.values() for tag in of_arm}
    tags = [tag for tag in SUBJECTS if tag in found] + sorted(found - set(SUBJECTS))
    if "recall/model_loss" not in found:  # what a model has beside its loss says little without it
        tags.sort(key=lambda tag: not tag.startswith("recall/"))
    return {
        "arms": [
            {
                "name": arm,
                "colour": number % len(COLOURS),
                "dash": _dash(STYLES[number % len(STYLES)]),
                "seeds": sum(len(task.seeds.get(arm, ())) for task in tasks),
            }
            for number, arm in enumerate(arms)
        ],
        "steps": STEPS_LABEL,
        "learning": {
            "chosen": metric,
            "choices": [
                {
                    "key": name,
                    "label": metric_label(name),
                    "rate": name.endswith("success"),
                    "threshold": choose_metric(tasks, name, threshold if name == metric else None)[1],
                }
                for name in known
            ],
            "panels": [
                {"title": task.task, "lines": {name: _learning_lines(task, arms, name, most) for name in known}} for task in tasks
            ],
        },
        "scalars": {
            "chosen": tags[0] if tags else None,
            "choices": [{"key": tag, "label": SUBJECTS.get(tag, tag), "rate": False, "threshold": None} for tag in tags],
            "panels": [
                {"title": task, "lines": {tag: _scalar_lines(of_task, arms, tag) for tag in tags}}
                for task, of_task in scalars.items()
                if any(of_task.values())
            ],
        },
    }


def _learning_lines(task: Curves, arms: Sequence[str], metric: str, most: int) -> list[dict[str, Any]]:
    lines = []
    for number, arm in enumerate(arms):
        if arm not in task.seeds:
            continue
        env_steps, values, strata = pool([task], metric, arm)
        if not env_steps.size:
            continue
        kept = _thin(env_steps.size, MOST_POINTS)
        env_steps, values = env_steps[kept], values[:, kept]
        mean, low, high = interquartile_curve(values, strata)
        seeds = []
        for curve in values:
            there = np.flatnonzero(np.isfinite(curve))
            there = there[_thin(there.size, most)]
            seeds.append([env_steps[there].tolist(), _short(curve[there])])
        ends = {"low": _short(low), "high": _short(high)}
        lines.append({"arm": number, "x": env_steps.tolist(), "mean": _short(mean), **ends, "seeds": seeds})
    return lines


def _scalar_lines(of_task: Mapping[str, Scalars], arms: Sequence[str], tag: str) -> list[dict[str, Any]]:
    lines = []
    for arm, scalars in of_task.items():
        if tag in scalars and arm in arms:
            steps, values = (np.asarray(column) for column in scalars[tag])
            kept = _thin(len(steps), MOST_POINTS)
            lines.append({"arm": arms.index(arm), "x": steps[kept].tolist(), "mean": _short(values[kept]), "seeds": []})
    return lines


def _thin(count: int, most: int) -> Any:
    """So many indices of so many, evenly, the first and the last among them."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.int64)) if count else np.zeros(0, np.int64)


def _short(values: Floats) -> list[float | None]:
    return [float(f"{value:.4g}") if math.isfinite(value) else None for value in values.tolist()]


def _dash(style: Any) -> str:
    """A style of matplotlib, whose dashes are in widths of the line, as SVG has it."""
    return "" if isinstance(style, str) else " ".join(f"{part * LINE_WIDTH:g}" for part in style[1])


# Tables ------------------------------------------------------------------------------------------------------------------


def table(comparison: Mapping[str, Any], title: str) -> dict[str, Any]:
    """The statistics of a comparison, as `compare_arms` gives them, in words."""
    metric, threshold, arms = comparison["metric"], comparison["threshold"], comparison["arms"]
    goal = None if threshold is None else goal_text(metric, threshold)
    form = area_form(metric)
    rows = []
    for arm, found in arms.items():
        steps = found["steps_to_threshold"]
        row = {"arm": arm, "seeds": found["seeds"], "area": with_interval(found["area"]["mean"], found["area"]["interval"], form)}
        if steps is not None:
            row |= {"reached": f"{steps['reached']} of {found['seeds']}", "median": steps_text(steps)}
        rows.append(row)
    better = {(pair["arm"], pair["against"]): pair["probability_of_improvement"] for pair in comparison["pairs"]}
    pairs = [
        {
            "arm": x,
            "cells": ["" if not (p := better.get((x, y))) else with_interval(p["value"], p["interval"], ".2f") for y in arms],
        }
        for x in arms
    ]
    return {
        "title": title,
        "metric": metric_label(metric),
        "goal": goal,
        "rows": rows,
        "pairs": pairs if goal is not None and len(arms) > 1 else [],
        "seeds": _seeds(comparison, form),
        "notes": [
            *unequal_texts(comparison),
            *(text for arm, found in arms.items() if (text := stopped_text(arm, found))),
        ],
    }


def _seeds(comparison: Mapping[str, Any], form: str) -> list[dict[str, str]]:
    """What each seed came to, the seeds of a task and an arm in one row."""
    rows = []
    for task in comparison["tasks"]:
        for arm, found in comparison["arms"].items():
            of_task = found["tasks"].get(task)
            if of_task is not None:
                steps = ", ".join(map(step_text, of_task.get("steps_to_threshold", [])))
                heights = ", ".join(with_interval(area, None, form) for area in of_task["area"])
                seeds = ", ".join(map(str, of_task["seeds"]))
                rows.append({"task": task, "arm": arm, "seeds": seeds, "steps": steps, "area": heights})
    return rows


# Where numbers come from ---------------------------------------------------------------------------------------------------


def _origin(origin: Origin) -> dict[str, Any]:
    record = origin.record
    calls = [call for call in record.get("calls", []) if isinstance(call, Mapping)]
    last: Mapping[str, Any] = calls[-1] if calls else {}
    versions = {**_group(last, "versions"), **_group(last, "hardware")}
    began = [call for call in calls if not str(call.get("command_line", "")).startswith("recall-traces resume ")]
    lines = list(dict.fromkeys(str(call["command_line"]) for call in began if "command_line" in call))
    commit = last.get("git_commit")
    arms = []
    for arm, state in record.get("arms", {}).items():
        broken = state.get("failures")
        lost = list(broken.values()) if isinstance(broken, Mapping) else []
        arms.append(
            {"name": arm, "status": str(state.get("status")), "notes": "; ".join(map(str, lost or [state.get("error") or ""]))}
        )
    return {
        "folder": origin.folder,
        "task": str(record.get("task", "")),
        "arms": arms,
        "changed": [setting for setting in origin.settings if setting.default is not None],
        "settings": list(origin.settings),
        "remark": origin.remark,
        "versions": {name: "none" if value is None else str(value) for name, value in versions.items()},
        "commit": None if commit is None else str(commit),
        "calls": [{"date": str(call.get("date", "")), "line": str(call.get("command_line", ""))} for call in calls],
        "reproduce": "\n".join([*([f"git checkout {str(commit).removesuffix('-dirty')}"] if commit else []), *lines]),
        "dirty": str(commit).endswith("-dirty"),
    }


def _group(call: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    group = call.get(name)
    return group if isinstance(group, Mapping) else {}


# Parts of the file -------------------------------------------------------------------------------------------------------


def _curves_picture(tasks: Sequence[Curves], metric: str, threshold: float | None) -> bytes:
    with tempfile.TemporaryDirectory() as place:
        return plot_comparison(tasks, Path(place) / "curves.png", metric=metric, threshold=threshold, by_task=True).read_bytes()


def _inline(image: bytes) -> str:
    """A picture within the page, in 256 colours: a third of the bytes, and no eye sees it."""
    small = io.BytesIO()
    with Image.open(io.BytesIO(image)) as picture:
        picture.convert("RGB").quantize(256).save(small, "png", optimize=True)
    return "data:image/png;base64," + base64.b64encode(small.getvalue()).decode("ascii")


def _colours() -> str:
    """The colours of arms, as style sheets name them."""
    return "".join(f"--arm-{number}: {colour}; " for number, colour in enumerate(COLOURS)).strip()


def _json(data: Any) -> str:
    """JSON that may stand in a page: nothing in it looks like the end of the element, whatever an arm is called."""
    return json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def _asset(name: str) -> str:
    return files("recall_traces").joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")
