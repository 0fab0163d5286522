"""Kill runs with `kill -9` at random moments, resume them, and compare with a run that was never stopped, bit for bit.

    python scripts/check_resume.py                       # PPO on FourRooms-13 and SAC on PointMaze-U, every arm
    python scripts/check_resume.py --agents ppo --arms recall sil --kills 5

Prints a table, one row per arm, and exits with 1 if there is any difference. Each run is a process of its own.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import random
import shlex
import signal
import sys
import tempfile
import time
from pathlib import Path

import torch

from recall_traces.agents.arms import ARMS
from recall_traces.cli import main as command_line
from recall_traces.saving import flatten, load_tree

COMMON = "--seeds 2 --num-envs 4 --eval-episodes 3 --quiet --device cpu"
TASKS = {
    "ppo": f"ppo FourRooms-13 {COMMON} --steps 12288 --eval-every 1024",
    "sac": f"sac PointMaze-U {COMMON} --steps 3072 --eval-every 512 --agent.gradient-steps 1 --agent.net-arch 16 "
    "--agent.learning-starts 200 --agent.batch-size 32",
}
WITH_GOALS = {"ppo": "ppo PointMass-2 " + TASKS["ppo"].partition("FourRooms-13 ")[2], "sac": TASKS["sac"] + " --env.random-goal"}
EVERY = "--checkpoint-every 0"
FORK = multiprocessing.get_context("fork")


def call(command: str) -> None:
    """What a killed process was doing: the command line, in a process that has loaded everything already."""
    torch.set_num_threads(1)
    with open(os.devnull, "w") as silence, contextlib.redirect_stdout(silence):
        code = command_line(shlex.split(command))
    os._exit(code)


def run(command: str, seconds: float | None = None) -> int | None:
    """Run to the end, or kill after so many seconds; the exit code, None if it was killed."""
    process = FORK.Process(target=call, args=(command,))
    process.start()
    process.join(seconds)
    if process.exitcode is None:
        os.kill(process.pid or 0, signal.SIGKILL)
        process.join()
        return None
    return process.exitcode


def differences(found: Path, expected: Path, arm: str) -> list[str]:
    """What is not the same in two run folders."""
    wrong = []
    if (found / "curves.csv").read_bytes() != (expected / "curves.csv").read_bytes():
        wrong.append("curves.csv")
    steps = [[line.split(",")[:2] for line in (run / "timings.csv").read_text().splitlines()] for run in (found, expected)]
    if steps[0] != steps[1]:
        wrong.append("steps in timings.csv")
    ours, theirs = (dict(flatten(load_tree(run / f"{arm}.safetensors", "cpu")[0])) for run in (found, expected))
    for name, value in theirs.items():
        if isinstance(value, torch.Tensor) and not torch.equal(value.nan_to_num(), ours[name].nan_to_num()):
            wrong.append(name)
    if json.loads((found / "config.json").read_text())["arms"][arm]["status"] != "finished":
        wrong.append("status")
    return wrong


def check(agent: str, arm: str, kills: int, folder: Path, random_moments: random.Random) -> tuple[int, float, list[str]]:
    """Kills that hit a run under way, seconds of a whole run, and what is not the same in the end."""
    task = WITH_GOALS[agent] if "goal-gan" in arm else TASKS[agent]
    began = time.monotonic()
    if run(f"train {task} --arm {arm} --out {folder / 'whole'}") != 0:
        return 0, 0.0, ["the run that was never stopped failed"]
    seconds = time.monotonic() - began
    stopped, hits = folder / "stopped", 0
    for attempt in range(20 * kills):
        if hits == kills:
            break
        # Later attempts must get further, or the run would never end: each rollout that is written is kept.
        pause = random_moments.uniform(0, 2 * seconds / kills + 0.05 * attempt * seconds / kills)
        begun = (stopped / "config.json").exists()
        command = f"resume {stopped} --quiet {EVERY}" if begun else f"train {task} --arm {arm} --out {stopped} {EVERY}"
        if run(command, pause) is None:
            hits += 1
        elif json.loads((stopped / "config.json").read_text())["arms"][arm]["status"] == "finished":
            break
    begun = (stopped / "config.json").exists()
    code = run(f"resume {stopped} --quiet" if begun else f"train {task} --arm {arm} --out {stopped}")
    return hits, seconds, differences(stopped, folder / "whole", arm) if code == 0 else ["resuming failed"]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--agents", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--arms", nargs="+", default=list(ARMS))
    parser.add_argument("--kills", type=int, default=20, help="of each arm")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    options = parser.parse_args()
    random_moments, bad = random.Random(options.seed), 0
    print(f"{'agent':<6}{'arm':<18}{'kills':>6}{'seconds':>9}  result")
    for agent in options.agents:
        for arm in options.arms:
            if (agent == "ppo" and "per" in arm.split("+")) or (agent == "sac" and arm == "recall-oracle"):
                continue
            with tempfile.TemporaryDirectory() as folder:
                hits, seconds, wrong = check(agent, arm, options.kills, Path(folder), random_moments)
            bad += bool(wrong)
            print(f"{agent:<6}{arm:<18}{hits:>6}{seconds:>9.1f}  {', '.join(wrong) or 'the same'}", flush=True)
    print("all runs are the same as if they had never been stopped" if not bad else f"{bad} arms differ")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
