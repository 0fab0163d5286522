"""`recall-traces evaluate`: how good the policies of a run are, in fresh episodes."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from tyro import MISSING
from tyro.conf import FlagCreatePairsOff, Positional, arg

from recall_traces.agents.evaluation import evaluate
from recall_traces.cli.errors import UsageError, one_line
from recall_traces.cli.load import LoadedRun, close_env, load_run
from recall_traces.cli.options import check_least
from recall_traces.cli.parsing import parse_plain
from recall_traces.cli.progress import warn
from recall_traces.seeding import seeded_generator
from recall_traces.statistics import mean_interval

DESCRIPTION = """Play episodes with the policies of a run: return and success of every seed, and their mean with its 95% interval.

examples:
  recall-traces evaluate runs/x --arm recall
  recall-traces evaluate runs/x --arm recall --episodes 100 --greedy
  recall-traces evaluate runs/x --arm recall --best --json"""


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """Play episodes with the policies of a run."""

    run: Annotated[Path, Positional, arg(metavar="RUN", help_behavior_hint="(required)")]
    """The folder of the run."""
    arm: Annotated[str | None, arg(metavar="ARM")] = None
    """Whose policies; may be left out where there is one arm."""
    episodes: Annotated[int, arg(metavar="N")] = 100
    """Episodes of each seed."""
    greedy: FlagCreatePairsOff[bool] = False
    """Play the most likely actions instead of drawing them."""
    best: FlagCreatePairsOff[bool] = False
    """The policies of the evaluation that was best for all seeds together, instead of the last."""
    seed: Annotated[int, arg(metavar="N")] = 0
    """Of the episodes: the same seed gives the same numbers."""
    json: FlagCreatePairsOff[bool] = False
    """Print JSON instead of a table."""


def main(argv: Sequence[str]) -> None:
    """Run the subcommand.

    Raises:
        UsageError: there are no such policies.
    """
    options = parse_plain(argv, EvaluateOptions(run=MISSING), "evaluate", DESCRIPTION, "evaluate runs/x")
    if options is None:
        return
    try:
        check_least(options, {"episodes": 1, "seed": 0})
        run = load_run(options.run, options.arm, best=options.best, say=warn)
    except ValueError as error:
        raise UsageError(one_line(error)) from error
    try:
        found = measure(run, options)
    finally:
        run.close()
    if options.json:
        print(json.dumps(found, indent=1))
    else:
        print_table(found)


def measure(run: LoadedRun, options: EvaluateOptions) -> dict[str, Any]:
    """What there is to tell, as JSON can hold it; None for what is not known."""
    learner, num_seeds = run.learner, run.options.seeds
    # One half of the copies is played greedily and one is not, see `evaluate`.
    env = run.make_env(num_seeds * 2 * options.episodes, seed=options.seed)
    generator = seeded_generator(options.seed, "evaluation", env.device)
    try:
        outcome = evaluate(lambda obs, greedy: learner.act(obs, greedy, generator), env, num_seeds)
    finally:
        close_env(env)
    prefix = "greedy_" if options.greedy else ""
    columns = {name: getattr(outcome, prefix + name).tolist() for name in ("episode_return", "success")}
    for seed in learner.failures:
        for values in columns.values():
            values[seed] = math.nan
    return {
        "task": run.folder.record.get("task", run.options.env_id),
        "arm": run.arm,
        "file": str(run.file),
        "env_steps": learner.env_steps,
        "episodes": options.episodes,
        "greedy": options.greedy,
        "seeds": [{"seed": seed} | {name: _known(values[seed]) for name, values in columns.items()} for seed in range(num_seeds)],
        **{name: _mean(values) for name, values in columns.items()},
    }


def print_table(found: dict[str, Any]) -> None:
    """Show it, one row per seed."""
    names = [name for name in ("episode_return", "success") if found[name]["mean"] is not None]
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("seed")
    for name in names:
        table.add_column(name.removeprefix("episode_"), justify="right")
    for row in found["seeds"]:
        table.add_row(str(row["seed"]), *(_text(row[name]) for name in names))
    means = []
    for name in names:
        interval = found[name]["interval"]
        means.append(_text(found[name]["mean"]) + ("" if interval is None else f" ({_text(interval[0])}, {_text(interval[1])})"))
    table.add_row("mean", *means)
    console = Console(highlight=False, soft_wrap=True)
    how = f"{found['episodes']} episodes, {'the most likely' if found['greedy'] else 'drawn'} actions"
    console.print(f"{found['arm']} on {found['task']} after {found['env_steps']:,} steps: {how}", markup=False)
    console.print(table, soft_wrap=False)


def _mean(values: list[float]) -> dict[str, Any]:
    known = np.array([value for value in values if math.isfinite(value)])
    if not known.size:
        return {"mean": None, "interval": None}
    return {"mean": float(known.mean()), "interval": mean_interval(known, np.zeros(known.size, np.int64))}


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _text(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
