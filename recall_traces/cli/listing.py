"""`recall-traces list`: what there is to choose from."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

import recall_traces.envs as envs
from recall_traces.agents.arms import ARMS
from recall_traces.cli.errors import UsageError
from recall_traces.cli.options import AGENTS
from recall_traces.targets import SOURCES

TASKS_FORWARD = ("Hopper", "HalfCheetah", "Walker2d", "Ant", "Humanoid")
ENVIRONMENTS = {
    "FourRooms-<n>": "n by n cells, n odd and at least 7; reward 1 at the goal, which is far from the start",
    "CartPole-v1": "Gymnasium's, in torch: keep a pole up for 500 steps",
    "PointMaze-U": "a point in a maze of 3 by 3 cells; reward 1 at the goal, at the other end of the U",
    "PointMaze-Medium": "the same, 6 by 6 cells, the goal 10 m from the start",
    "PointMaze-Large": "the same, 10 by 7 cells, the goal 18 m from the start",
    "PointMass-<n>": "a point in a long, thin box of n = 2 to 8 dimensions; reward 1 at a goal, another in every episode",
    "Hopper-v5": "Gymnasium's, batched MuJoCo: a leg that hops forward",
    "HalfCheetah-v5": "the same: two legs and a back that run forward",
    "Walker2d-v5": "the same: two legs that walk forward",
    "Ant-v5": "the same: four legs that walk forward",
    "Humanoid-v5": "the same: a person that walks forward",
    "Reacher-v5": "the same: an arm whose tip goes to a target",
    **{f"Sparse{task}-v5": f"{task}-v5 with reward 1 for each new metre forward, and no other" for task in TASKS_FORWARD},
    **{f"Delayed{task}-v5": f"{task}-v5 with the reward paid every 20 steps" for task in TASKS_FORWARD},
}
SOURCE_DESCRIPTIONS = {
    "auto": "novelty, and return as soon as there is some",
    "return": "states of the highest return that was seen from them (the paper's)",
    "critic": "states that the critic values most",
    "novelty": "states that were seldom visited",
    "given": "states that you name; from Python only",
    "generated": "states that a generative model makes: the arm recall+goal-gan has a Goal GAN",
}


def main(argv: Sequence[str]) -> None:
    """Run the subcommand.

    Raises:
        UsageError: it was given an argument.
    """
    if any(word in ("-h", "--help") for word in argv):
        print("usage: recall-traces list\n\nTell the environments, agents, arms and sources of high-value states there are.\n")
        print("examples:\n  recall-traces list")
        return
    if argv:
        raise UsageError(f"list takes no arguments, and got {argv[0]!r}")
    environments = {name: ENVIRONMENTS.get(name, "registered by you") + text for name, text in _options().items()}
    environments["any Gymnasium id"] = "such as Pendulum-v1; options: keywords of its constructor, --env.KEY VALUE"
    sources = {name: SOURCE_DESCRIPTIONS.get(name, "") for name in SOURCES}
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    sections = {
        "environments": environments,
        "agents": AGENTS,
        "arms (--arm, --arms)": ARMS,
        "sources (--recall.source)": sources,
    }
    for title, entries in sections.items():
        table.add_row(f"[bold]{title}[/bold]")
        for name, text in entries.items():
            table.add_row(f"  {escape(name)}", escape(text))
        table.add_row()
    Console(highlight=False).print(table)


def _options() -> dict[str, str]:
    """What to say of each environment's options."""
    texts: dict[str, str] = {}
    first: dict[type, str] = {}
    for name in envs.registered_ids():
        options = envs.options_class(name.replace("<n>", "13"))
        if options is None:
            texts[name] = "; options: --env.KEY VALUE"
        elif options in first:
            texts[name] = f"; options: those of {first[options]}" if dataclasses.fields(options) else ""
        else:
            first[options] = name
            names = [f"--env.{field.name.replace('_', '-')}" for field in dataclasses.fields(options)]
            texts[name] = f"; options: {', '.join(names)}" if names else ""
    return texts
