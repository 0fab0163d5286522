"""The main comparison: every arm on four rooms, 16 seeds, each with the settings that `tune_four_rooms.py` chose for it.

    python scripts/compare_four_rooms.py                       # all tasks, one after the other; goes on where it stopped
    python scripts/compare_four_rooms.py --tasks 19 19-slip    # some, so that two processes can share the work
    python scripts/compare_four_rooms.py --join                # pictures and statistics of whatever is there, no training

Runs lie in `runs/four_rooms/<task>/<arm>`; each is one `recall-traces compare` that anyone can type. One to three minutes per arm
of a 19x19 task on one core. `--join` puts the arms of a task together into its `comparison.json` and `curves.png`, and the eight
layouts into `runs/four_rooms/layouts`, stratified by layout.
"""

import argparse
import dataclasses
import json
import pathlib
from collections.abc import Sequence

import torch

from recall_traces.cli import main
from recall_traces.comparison import compare_arms
from recall_traces.curves import read_curves
from recall_traces.plotting import plot_comparison

FOLDER = pathlib.Path("runs/four_rooms")
SEED = 21
LAYOUTS = range(31, 39)
"""Neither seed nor layouts were looked at before, in tuning or development."""
SETTINGS: dict[str, list[str]] = {
    "none": [],
    "recall": ["--recall.imitation-ratio", "1", "--recall.recent-episodes", "20", "--recall.candidates", "1"],
    "own-traces": ["--recall.imitation-ratio", "1", "--recall.recent-episodes", "5", "--recall.candidates", "1"],
    "sil+bonus": ["--sil.imitation-ratio", "1", "--bonus.coefficient", "0.01"],
    "bonus": ["--bonus.coefficient", "0.01"],
    "sil": ["--sil.imitation-ratio", "2", "--sil.imitation-coefficient", "0.3"],
    "recall-return": ["--recall.imitation-ratio", "2", "--recall.trace-length", "100", "--recall.candidates", "8"],
    "recall+bonus": ["--recall.imitation-ratio", "1", "--bonus.coefficient", "0.01", "--recall.candidates", "8"],
    "recall-oracle": ["--recall.imitation-ratio", "1", "--recall.recent-episodes", "20", "--recall.candidates", "32"],
}
TASKS: dict[str, list[str]] = {
    "19": ["FourRooms-19", "--steps", "150000"],
    "19-slip": ["FourRooms-19", "--steps", "150000", "--env.slip", "0.2"],
    "19-random": ["FourRooms-19", "--steps", "150000", "--env.random-start", "--env.random-goal"],
    "25": ["FourRooms-25", "--steps", "300000"],
} | {f"19-layout-{k}": ["FourRooms-19", "--steps", "40000", "--env.layout-seed", str(k)] for k in LAYOUTS}


def run(task: str, arm: str) -> None:
    """Train one arm on one task, unless that is done."""
    common = ["--agent", "ppo", "--seeds", "16", "--seed", str(SEED), "--out", str(FOLDER / task / arm), "--quiet"]
    code = main(["compare", *TASKS[task], "--arms", arm, *common, *SETTINGS[arm]])
    assert not code, f"compare failed with exit code {code}"


def join(name: str, tasks: Sequence[str], title: str) -> None:
    """Statistics and picture of all arms that have been trained on some tasks, stratified by task."""
    curves = [dataclasses.replace(read_curves(*finished(task))[0], task=task) for task in tasks]
    (FOLDER / name).mkdir(exist_ok=True)
    (FOLDER / name / "comparison.json").write_text(json.dumps(compare_arms(curves), indent=1))
    plot_comparison(curves, FOLDER / name / "curves.png", title=title)


def finished(task: str) -> list[pathlib.Path]:
    """Folders of the arms that have been trained to the end."""
    return [folder for arm in SETTINGS if ((folder := FOLDER / task / arm) / "comparison.json").exists()]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--arms", nargs="+", default=list(SETTINGS), choices=list(SETTINGS))
    parser.add_argument("--join", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if not arguments.join:
        for task in arguments.tasks:
            for arm in arguments.arms:
                run(task, arm)
            print(task, "done", flush=True)
    titles = {"19": "FourRooms-19", "19-slip": "FourRooms-19, 20% slip", "19-random": "FourRooms-19, random start and goal"}
    for task in filter(finished, TASKS):
        join(task, [task], titles.get(task, TASKS[task][0]))
    layouts = [task for task in TASKS if "layout" in task and finished(task)]
    if layouts:
        join("layouts", layouts, f"FourRooms-19, {len(layouts)} layouts with random doors, start and goal")
