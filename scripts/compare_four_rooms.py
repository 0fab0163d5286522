"""The main comparison: every arm on four rooms, 16 seeds, with the settings chosen by `tune_four_rooms.py`.

    python scripts/compare_four_rooms.py                       # all tasks, one after the other; goes on where it stopped
    python scripts/compare_four_rooms.py --tasks 19 19-slip    # some, so that two processes can share the work
    python scripts/compare_four_rooms.py --pool                # the eight layouts together, once they are there

Runs lie in `runs/four_rooms/<task>`; each is one `recall-traces compare` that anyone can type. About a quarter of an hour per
19x19 task on one core.
"""

import argparse
import json
import pathlib

import torch

from recall_traces.cli import main

FOLDER = pathlib.Path("runs/four_rooms")
ARMS = ["none", "recall", "own-traces", "sil+bonus", "bonus", "sil", "recall-return", "recall+bonus", "recall-oracle"]
TASKS: dict[str, list[str]] = {
    "19": ["FourRooms-19", "--steps", "150000"],
    "19-slip": ["FourRooms-19", "--steps", "150000", "--env.slip", "0.2"],
    "19-random": ["FourRooms-19", "--steps", "150000", "--env.random-start", "--env.random-goal"],
    "25": ["FourRooms-25", "--steps", "300000"],
} | {f"19-layout-{k}": ["FourRooms-19", "--steps", "150000", "--env.layout-seed", str(k)] for k in range(1, 9)}


def pool() -> None:
    """Statistics and picture of the eight layouts together, stratified by layout."""
    from recall_traces.curves import read_curves
    from recall_traces.plotting import plot_comparison
    from recall_traces.statistics import compare_arms

    folders = [FOLDER / task for task in TASKS if "layout" in task]
    curves = read_curves(*folders)
    (FOLDER / "layouts.json").write_text(json.dumps(compare_arms(curves), indent=1))
    plot_comparison(curves, FOLDER / "layouts.png", title="FourRooms-19, eight layouts")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--pool", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.pool:
        pool()
    else:
        for task in arguments.tasks:
            out = str(FOLDER / task)
            main(["compare", *TASKS[task], "--agent", "ppo", "--arms", *ARMS, "--seeds", "16", "--out", out, "--quiet"])
            print(task, "done", flush=True)
