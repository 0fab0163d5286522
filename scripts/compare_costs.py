"""Tasks in which every step costs something until a goal ends the episode: all arms of PPO on Acrobot-v1 and MountainCar-v0.

    python scripts/compare_costs.py                              # all arms of both tasks
    python scripts/compare_costs.py --arms recall own-traces     # some, so that two processes share the work
    python scripts/compare_costs.py --join                       # pictures and statistics of what is there, no training

8 seeds, PPO's general settings, which are Stable-Baselines3's, and the arms' defaults: nothing was tuned. Each run is one
`recall-traces compare` that anyone can type. Runs lie in `runs/costs/<task>/<arm>`; a second call goes on where one stopped.
"""

import argparse
import json
import pathlib

import torch

from recall_traces.cli import main
from recall_traces.comparison import compare_arms
from recall_traces.curves import read_curves
from recall_traces.plotting import plot_comparison

FOLDER = pathlib.Path("runs/costs")
SEED = 71
"""Not looked at before, in tuning or development."""
SIZE = {"Acrobot-v1": (60_000, 4096), "MountainCar-v0": (200_000, 8192)}
"""Steps, and steps between evaluations."""
THRESHOLD = {"Acrobot-v1": -120.0, "MountainCar-v0": -170.0}
"""Mean return of 20 episodes, twice in a row, that counts as learnt; where the goal is never reached it is -500 and -200."""
ARMS = ("none", "recall", "own-traces", "sil", "bonus", "sil+bonus", "recall+bonus")


def compare(task: str, arm: str) -> None:
    """Train one arm, unless that is done."""
    steps, every = SIZE[task]
    size = ["--steps", str(steps), "--seeds", "8", "--seed", str(SEED), "--eval-every", str(every)]
    code = main(["compare", task, "--agent", "ppo", "--arms", arm, *size, "--out", str(FOLDER / task / arm), "--quiet"])
    assert not code, f"compare failed with exit code {code}"


def join(task: str) -> None:
    """Statistics and picture of what has been trained to the end."""
    folder = FOLDER / task
    finished = [folder / arm for arm in ARMS if (folder / arm / "comparison.json").exists()]
    if finished:
        curves = read_curves(*finished)
        comparison = compare_arms(curves, "episode_return", THRESHOLD[task])
        (folder / "comparison.json").write_text(json.dumps(comparison, indent=1))
        plot_comparison(curves, folder / "curves.png", metric="episode_return", title=f"PPO on {task}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=list(SIZE), choices=list(SIZE))
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=ARMS)
    parser.add_argument("--join", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for task in arguments.tasks:
        if not arguments.join:
            for arm in arguments.arms:
                compare(task, arm)
        join(task)
