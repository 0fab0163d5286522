"""What matters in recall traces: source x (model or own record) x fit_on x choosing, trace length, coefficient, on FourRooms-19;
and with a random start and goal in every episode, shared contexts and choosing.

    python scripts/ablate_four_rooms.py            # goes on where it stopped; about half an hour on one core
    python scripts/ablate_four_rooms.py --part 0   # every second row, so that two processes can share the work (--part 1)

16 seeds, 30,000 steps (random start and goal: 60,000), the preset's settings and choosing among eight where nothing else is
said. Each row is one `recall-traces compare`, in `runs/ablation/<name>`. Prints a table; P compares each row's steps to 90%
success with those of the first row of its kind, `DEFAULT` or `RANDOM`.
"""

import argparse
import itertools
import pathlib

import torch

from recall_traces.cli import main
from recall_traces.comparison import compare_arms
from recall_traces.curves import read_curves

FOLDER = pathlib.Path("runs/ablation")
SEED = 22
DEFAULT = "model, auto, all, chosen among 8"
RANDOM = "random start and goal, model"


def rows() -> dict[str, tuple[str, list[str]]]:
    """Name of a row: arm and options."""
    found: dict[str, tuple[str, list[str]]] = {}
    for traces, source, fit_on, choosing in itertools.product(
        ("model", "own"), ("auto", "novelty", "return", "critic"), ("all", "top"), (8, 1)
    ):
        if traces == "own" and fit_on == "top":
            continue  # nothing is fitted
        name = [traces, source, *([fit_on] if traces == "model" else []), "chosen among 8" if choosing == 8 else "not chosen"]
        options = ["--recall.source", source, "--recall.fit-on", fit_on, "--recall.candidates", str(choosing)]
        found[", ".join(name)] = ("recall" if traces == "model" else "own-traces", options)
    for traces, arm in (("model", "recall"), ("own", "own-traces")):
        for length in (15, 30, 100):
            found[f"{traces}, trace length {length}"] = (arm, ["--recall.trace-length", str(length)])
        for coefficient in (0.1, 0.3, 3):
            found[f"{traces}, coefficient {coefficient}"] = (arm, ["--recall.imitation-coefficient", str(coefficient)])
    found["model, chosen among 32"] = ("recall", ["--recall.candidates", "32"])
    found["model, network instead of counts"] = ("recall", ["--recall.model.kind", "network"])
    everywhere = ["--env.random-start", "--env.random-goal"]
    found[RANDOM] = ("recall", everywhere)
    found["random start and goal, model, contexts not shared"] = ("recall", [*everywhere, "--recall.model.no-share-contexts"])
    found["random start and goal, model, return"] = ("recall", [*everywhere, "--recall.source", "return"])
    found["random start and goal, model, novelty"] = ("recall", [*everywhere, "--recall.source", "novelty"])
    found["random start and goal, model, not chosen"] = ("recall", [*everywhere, "--recall.candidates", "1"])
    found["random start and goal, own"] = ("own-traces", everywhere)
    return found


def base(name: str) -> str:
    """The row that another is compared with."""
    return RANDOM if name.startswith("random") else DEFAULT


def folder(name: str) -> pathlib.Path:
    return FOLDER / name.replace(", ", "-").replace(" ", "-")


def run(name: str) -> None:
    """Train one row, unless that is done."""
    arm, options = rows()[name]
    steps = "60000" if base(name) == RANDOM else "30000"
    common = ["--seeds", "16", "--seed", str(SEED), "--steps", steps, "--out", str(folder(name)), "--quiet"]
    if "--recall.candidates" not in options:
        options = ["--recall.candidates", "8", *options]
    code = main(["compare", "FourRooms-19", "--arms", arm, *common, *options])
    assert not code, f"compare failed with exit code {code}"


def line(name: str) -> str:
    """A row of the table."""
    paths = [folder(name), folder(base(name))] if name != base(name) else [folder(name)]
    comparison = compare_arms(read_curves(*paths, prefix_clashes=True)[0])
    own = next(arm for arm in comparison["arms"] if arm in rows()[name][0] or arm.startswith(folder(name).name + "/"))
    result = comparison["arms"][own]
    steps, (low, high) = result["steps_to_threshold"], result["area"]["interval"]
    median = "never" if steps["median"] is None else f"{steps['median'] / 1000:.1f}k"
    pair = [x["probability_of_improvement"] for x in comparison["pairs"] if x["against"] == own]
    chance = f"{pair[0]['value']:.2f} ({pair[0]['interval'][0]:.2f}, {pair[0]['interval'][1]:.2f})" if pair else ""
    reached = f"{steps['reached']} of {result['seeds']}"
    return f"| {name} | {reached} | {median} | {result['area']['mean']:.3f} ({low:.3f}, {high:.3f}) | {chance} |"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", type=int, choices=(0, 1), help="which half")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for name in list(rows())[arguments.part :: 2] if arguments.part is not None else rows():
        run(name)
    print("| row | seeds at 90% | median steps to 90% | area | P(first of its kind needs fewer steps) |\n|---|---|---|---|---|")
    for name in rows():
        if (folder(name) / "comparison.json").exists() and (folder(base(name)) / "comparison.json").exists():
            print(line(name), flush=True)
