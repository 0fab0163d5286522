"""Goals that a Goal GAN proposes and recall traces into them, on points in boxes of 2 to 8 dimensions, 8 seeds.

    python scripts/compare_goal_gan.py                       # all tasks, one after the other; goes on where it stopped
    python scripts/compare_goal_gan.py --tasks 2 8           # some, so that two processes can share the work
    python scripts/compare_goal_gan.py --join                # pictures, statistics and a table of whatever is there, no training

Training episodes have goals anywhere in a cube, most of them out of reach, unless the GAN proposes others; evaluation has goals
drawn uniformly among those that can be reached. Runs lie in `runs/goal_gan/<dimensions>/<arm>`; each is one
`recall-traces compare` that anyone can type. `--join` puts the arms of a task together into `comparison.json` and `curves.png`.
"""

import argparse
import json
import pathlib

import numpy as np
import torch
from tables import table

from recall_traces.cli import main
from recall_traces.comparison import compare_arms
from recall_traces.curves import Curves, read_curves
from recall_traces.plotting import plot_comparison
from recall_traces.statistics import mean_interval

FOLDER = pathlib.Path("runs/goal_gan")
SEED = 43
"""Not looked at before, in tuning or development."""
TASKS = ("2", "4", "6", "8")
"""Dimensions."""
ARMS = ("none", "goal-gan", "recall", "recall+goal-gan")
NUM_ENVS = 8
ITERATION_STEPS = 512
"""Of every environment, between two sets of goals: shorter than the default, since the first iterations decide."""


def run(task: str, arm: str, iterations: int) -> None:
    """Train one arm on one task, unless that is done."""
    task_and_arm = f"PointMass-{task} --agent ppo --arms {arm} --env.goals all --eval-env.goals feasible --seeds 8 --seed {SEED}"
    steps = NUM_ENVS * ITERATION_STEPS
    size = f"--steps {iterations * steps} --num-envs {NUM_ENVS} --eval-every {2 * steps} --eval-episodes 50"
    gan = f"--goal-gan.iteration-steps {ITERATION_STEPS}" if "goal-gan" in arm else ""
    code = main(["compare", *task_and_arm.split(), *size.split(), *gan.split(), "--out", str(FOLDER / task / arm), "--quiet"])
    assert not code, f"compare failed with exit code {code}"


def join(task: str) -> Curves:
    """Statistics, picture and table of all arms that have been trained on a task, and which share of the goals is reached."""
    [curves] = read_curves(*finished(task))
    comparison = compare_arms(curves)
    (FOLDER / task / "comparison.json").write_text(json.dumps(comparison, indent=1))
    plot_comparison([curves], FOLDER / task / "curves.png", title=f"PointMass-{task}, goals in the whole cube")
    print(f"\nPointMass-{task}\n\n{table(comparison, 'recall+goal-gan')}\n")
    for arm in curves.arms:
        reached = curves.values["success"][arm][:, -1]
        low, high = mean_interval(reached, np.zeros(len(reached), np.int64)) or (np.nan, np.nan)
        print(f"{arm}: {reached.mean():.3f} ({low:.3f}, {high:.3f}) of the goals reached after {curves.env_steps[-1]:,} steps")
    return curves


def finished(task: str) -> list[pathlib.Path]:
    """Folders of the arms that have been trained to the end."""

    def done(arm: str) -> bool:
        record = FOLDER / task / arm / "config.json"
        return record.exists() and json.loads(record.read_text())["arms"][arm]["status"] == "finished"

    return [FOLDER / task / arm for arm in ARMS if done(arm)]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=[str(d) for d in range(2, 9)])
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--iterations", type=int, default=200)
    parser.add_argument("--join", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if not arguments.join:
        for task in arguments.tasks:
            for arm in arguments.arms:
                run(task, arm, arguments.iterations)
            print(task, "done", flush=True)
    joined = [join(task) for task in filter(finished, arguments.tasks)]
    for pair in compare_arms(joined)["pairs"] if joined else ():
        if pair["arm"] == "recall+goal-gan":
            chance = pair["probability_of_improvement"]
            low, high = chance["interval"]
            print(f"all tasks: fewer steps than {pair['against']} with probability {chance['value']:.2f} ({low:.2f}, {high:.2f})")
