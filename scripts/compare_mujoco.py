"""Learning curves on MuJoCo tasks: our learners beside Stable-Baselines3's, and what recall traces change where reward is sparse.

    python scripts/compare_mujoco.py --tasks HalfCheetah-v5 Hopper-v5               # both learners against Stable-Baselines3's
    python scripts/compare_mujoco.py --tasks SparseHalfCheetah-v5 DelayedHopper-v5  # all arms of both learners
    python scripts/compare_mujoco.py --agents ppo --arms none recall                # some, so that two processes share the work
    python scripts/compare_mujoco.py --join           # pictures and statistics of what is there, no training

5 seeds; PPO takes 200,000 steps of the dense tasks and 500,000 of the sparse ones, SAC 50,000. Hyperparameters are those of
Stable-Baselines3 as they come, but for SAC's networks, which have 64 units in each of two layers instead of 256, so that all runs
fit into a day; no arm was tuned. Against Stable-Baselines3: `parity.py` says how. The sparse ones are `recall-traces compare`
calls that anyone can type. Runs lie in `runs/mujoco/<task>-<learner>`; a second call goes on where one stopped.
"""

import argparse
import json
import pathlib
from dataclasses import replace

import check_ppo_against_sb3
import check_sac_against_sb3
import torch
from parity import check

from recall_traces.agents.presets import preset
from recall_traces.cli import main
from recall_traces.comparison import compare_arms
from recall_traces.curves import read_curves
from recall_traces.plotting import plot_comparison

FOLDER = pathlib.Path("runs/mujoco")
DENSE, SPARSE = ("HalfCheetah-v5", "Hopper-v5"), ("SparseHalfCheetah-v5", "DelayedHopper-v5")
AGENTS = ("ppo", "sac")
ARMS = ("none", "recall", "own-traces", "bonus")
SEEDS = 5
SEED = {"dense": 0, "sparse": 51}
UNITS = (64, 64)
SAC_STEPS = 50_000
ROLLOUT = 2048
SPARSE_SIZE = {"ppo": (500_000, 10 * ROLLOUT), "sac": (SAC_STEPS, 2500)}
"""Steps, and steps between evaluations: of 10 episodes each, which are up to 1,000 steps long."""


def against_sb3(task: str, agent: str) -> None:
    """Train ours and Stable-Baselines3's, unless that is done."""
    out = FOLDER / f"{task}-{agent}"
    if agent == "ppo":
        config = preset(task).ppo
        every = 7 * ROLLOUT
        ppo = check_ppo_against_sb3.Options(
            task, out, SEEDS, 14 * every, every, ROLLOUT // config.n_steps, SEED["dense"], agent=config
        )
        check(check_ppo_against_sb3.PARITY, ppo)
    else:
        sac = replace(preset(task).sac, net_arch=UNITS, n_steps=250, buffer_size=SAC_STEPS)
        check(
            check_sac_against_sb3.PARITY, check_sac_against_sb3.Options(task, out, SEEDS, SAC_STEPS, 2500, 1, SEED["dense"], sac)
        )


def compare(task: str, agent: str, arm: str) -> None:
    """Train one arm, unless that is done."""
    out = FOLDER / f"{task}-{agent}" / arm
    steps, every = SPARSE_SIZE[agent]
    size = ["--steps", str(steps), "--seeds", str(SEEDS), "--eval-every", str(every), "--eval-episodes", "10"]
    units = ["--agent.net-arch", *map(str, UNITS)] if agent == "sac" else []
    common = ["--agent", agent, "--arms", arm, "--seed", str(SEED["sparse"]), "--out", str(out), "--quiet"]
    code = main(["compare", task, *common, *size, *units])
    assert not code, f"compare failed with exit code {code}"


def join(task: str, agent: str) -> None:
    """Statistics and picture of what has been trained to the end."""
    folder = FOLDER / f"{task}-{agent}"
    folders = [folder] if task in DENSE else [folder / arm for arm in ARMS]
    finished = [path for path in folders if (path / "result.json").exists() or (path / "comparison.json").exists()]
    if finished:
        curves = read_curves(*finished)
        if task in SPARSE:
            (folder / "comparison.json").write_text(json.dumps(compare_arms(curves, "episode_return"), indent=1))
        plot_comparison(curves, folder / "curves.png", metric="episode_return", title=f"{agent.upper()} on {task}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=[*DENSE, *SPARSE], choices=[*DENSE, *SPARSE])
    parser.add_argument("--agents", nargs="+", default=list(AGENTS), choices=AGENTS)
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=ARMS)
    parser.add_argument("--join", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for task in arguments.tasks:
        for agent in arguments.agents:
            if not arguments.join and task in DENSE:
                against_sb3(task, agent)
            elif not arguments.join:
                for arm in arguments.arms:
                    compare(task, agent, arm)
            join(task, agent)
