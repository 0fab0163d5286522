"""What the callback costs on the clock: Stable-Baselines3's PPO and SAC on Hopper-v5, with it and without, in turns.

    python scripts/benchmark_sb3.py [--rounds 5] [--steps-ppo 8192] [--steps-sac 1500]

Everything has its defaults. Prints the time of each round and the median over rounds of time with / time without - 1; the
aim is at most 0.30. Writes `runs/benchmark_sb3.json` after each round. Half a minute per round and algorithm on an idle machine.
"""

import argparse
import json
import pathlib
import platform
import statistics
import time

import torch
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.base_class import BaseAlgorithm

from recall_traces import RecallTracesCallback

OUT = pathlib.Path("runs/benchmark_sb3.json")
ALGORITHMS: dict[str, type[BaseAlgorithm]] = {"PPO": PPO, "SAC": SAC}


def seconds(algorithm: type[BaseAlgorithm], steps: int, with_recall: bool, seed: int) -> float:
    """Time of one `learn`, construction not counted."""
    model = algorithm("MlpPolicy", "Hopper-v5", seed=seed, device="cpu")
    callback = RecallTracesCallback() if with_recall else None
    began = time.perf_counter()
    model.learn(steps, callback=callback)
    return time.perf_counter() - began


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps-ppo", type=int, default=8192)
    parser.add_argument("--steps-sac", type=int, default=1500)
    arguments = parser.parse_args()
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in ALGORITHMS}
    result: dict[str, object] = {"rounds": rounds, "processor": platform.processor(), "torch": torch.__version__}
    OUT.parent.mkdir(exist_ok=True)
    for number in range(arguments.rounds):
        for name, algorithm in ALGORITHMS.items():
            steps = getattr(arguments, f"steps_{name.lower()}")
            # In turns, and the first of each pair in turns too: neither gets the warmer machine.
            order = [False, True] if number % 2 == 0 else [True, False]
            taken = {with_recall: seconds(algorithm, steps, with_recall, number) for with_recall in order}
            rounds[name].append({"without": taken[False], "with": taken[True], "overhead": taken[True] / taken[False] - 1})
            median = statistics.median(r["overhead"] for r in rounds[name])
            print(
                f"round {number} {name}: {taken[False]:.1f} s without, {taken[True]:.1f} s with, "
                f"{rounds[name][-1]['overhead']:+.0%}; median so far {median:+.0%}",
                flush=True,
            )
        OUT.write_text(json.dumps(result, indent=1))
