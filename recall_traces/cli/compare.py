"""`recall-traces compare`: several arms, over seeds, with statistics and a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from recall_traces.cli.errors import RunError, describe
from recall_traces.cli.experiment import Outcome, run
from recall_traces.cli.options import CompareOptions
from recall_traces.cli.resolve import parse_run
from recall_traces.comparison import compare_arms
from recall_traces.curves import read_curves
from recall_traces.plotting import plot_comparison
from recall_traces.runs import PICTURE, RunFolder
from recall_traces.wording import area_form, goal_text, steps_text, stopped_text, with_interval

DESCRIPTION = """Train several arms over the same seeds and compare them: curves, statistics, and a picture.
Without arguments it runs the demo. Into a folder with results of the same configuration it goes on where it stopped.

examples:
  recall-traces compare
  recall-traces compare FourRooms-19 --arms none sil bonus own-traces recall --seeds 16 --steps 150000 --out runs/x
  recall-traces compare CartPole-v1 --arms none recall --steps 50000 --agent.n-steps 128
  recall-traces compare FourRooms-19 --env.random-start --recall.model.kind network"""
BASELINE = "none"


def main(argv: Sequence[str]) -> Outcome:
    """Run the subcommand.

    Raises:
        UsageError: the command line asks for something that cannot be.
        RunError: the comparison could not be written.
    """
    options = parse_run(argv, CompareOptions(), "compare", DESCRIPTION, ("env_id",))
    if options is None:
        return Outcome()
    arms = list(dict.fromkeys(options.arms))
    return finish(options, *run(options, arms, ["compare", *argv], "compare", go_on=True))


def finish(options: CompareOptions, folder: RunFolder, outcome: Outcome) -> Outcome:
    """Compare the arms that there are, and show what came out.

    Raises:
        RunError: the comparison could not be written.
    """
    try:
        comparison = summarize(folder)
    except (OSError, ValueError) as error:
        if not outcome.exit_code:
            raise RunError(f"the comparison could not be written: {describe(error)}") from error
        return outcome
    if outcome.exit_code:
        return outcome
    if options.quiet:
        print(folder.path)
    else:
        print_table(comparison)
        print(f"picture: {folder.path / PICTURE}")
    return outcome


def summarize(folder: RunFolder) -> dict[str, Any]:
    """Write `comparison.json` and `curves.png` from what there is.

    Raises:
        ValueError: there is no evaluation yet.
        OSError: something could not be written.
    """
    curves = read_curves(folder.path)
    comparison = compare_arms(curves)
    folder.write_comparison(comparison)
    plot_comparison(curves, folder.path / PICTURE)
    return comparison


def print_table(comparison: Mapping[str, Any]) -> None:
    """Show what came out, one row per arm."""
    arms = comparison["arms"]
    baseline = BASELINE if BASELINE in arms else next(iter(arms))
    over_baseline = [pair for pair in comparison["pairs"] if pair["against"] == baseline]
    improvements = {pair["arm"]: pair["probability_of_improvement"] for pair in over_baseline}
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("arm")
    form = area_form(comparison["metric"])
    if comparison["threshold"] is not None:
        goal = goal_text(comparison["metric"], comparison["threshold"])
        table.add_column(f"got to\n{goal}", justify="right")
        table.add_column(f"median steps\nto {goal}", justify="right")
    table.add_column("area", justify="right")
    if comparison["threshold"] is not None:
        table.add_column(f"P(better than\n{escape(baseline)})", justify="right")
    for arm, found in arms.items():
        cells = [escape(arm)]
        steps = found["steps_to_threshold"]
        if steps is not None:
            cells += [f"{steps['reached']} of {found['seeds']}", steps_text(steps)]
        cells.append(with_interval(found["area"]["mean"], found["area"]["interval"], form))
        if steps is not None:
            better = improvements.get(arm)
            cells.append("" if better is None else with_interval(better["value"], better["interval"], ".2f"))
        table.add_row(*cells)
    console = Console(highlight=False, soft_wrap=True)
    console.print(table, soft_wrap=False)
    meaning = "95% intervals in parentheses; area: mean height of the curve"
    console.print(meaning if comparison["threshold"] is None else f"{meaning}; better: fewer steps")
    for arm, found in arms.items():
        stopped = stopped_text(arm, found)
        if stopped:
            console.print(escape(stopped))
