"""Gradient steps of SAC per second, against Stable-Baselines3 and with recall traces, the same work in one run.

    python scripts/benchmark_sac.py [--rounds 5]

One environment per seed, one gradient step per environment step, minibatches of 256, networks of two hidden layers; on
Gymnasium's Pendulum-v1, and for what recall costs on PointMaze-U with its preset's recall. Each round times every contestant
once, in turn, in a process of its own, warm-up excluded, on as many threads as torch likes; quoted are the medians and the ratios
within a round. Steps of all seeds count. Writes `runs/benchmark_sac.json`.
"""

import argparse
import json
import pathlib
import sys
import time
from dataclasses import dataclass

from contest import rounds

WARM_UP = 512


@dataclass(frozen=True)
class Contestant:
    """Who trains what for how many timed steps of a seed."""

    units: int
    steps: int
    num_seeds: int = 0
    """Of a fleet; 0: Stable-Baselines3."""
    arm: str = "none"
    env_id: str = "Pendulum-v1"


CONTESTANTS = {
    "Stable-Baselines3, 256": Contestant(256, 1000),
    "one seed, 256": Contestant(256, 1024, 1),
    "Stable-Baselines3, 64": Contestant(64, 2000),
    "one seed, 64": Contestant(64, 2048, 1),
    "8 seeds, 64": Contestant(64, 1024, 8),
    "8 seeds, 64, maze": Contestant(64, 1024, 8, env_id="PointMaze-U"),
    "8 seeds, 64, maze, recall": Contestant(64, 1024, 8, "recall", "PointMaze-U"),
    "one seed, 64, maze": Contestant(64, 2048, 1, env_id="PointMaze-U"),
    "one seed, 64, maze, recall": Contestant(64, 2048, 1, "recall", "PointMaze-U"),
}
PAIRS = [
    ("one seed, 256", "Stable-Baselines3, 256"),
    ("one seed, 64", "Stable-Baselines3, 64"),
    ("8 seeds, 64", "Stable-Baselines3, 64"),
    ("8 seeds, 64, maze", "8 seeds, 64, maze, recall"),
    ("one seed, 64, maze", "one seed, 64, maze, recall"),
]


def measure(contestant: Contestant) -> float:
    """Gradient steps per second of one contestant, in this process."""
    import torch

    torch.set_flush_denormal(True)
    c, arch = contestant, (contestant.units, contestant.units)
    if not c.num_seeds:
        from stable_baselines3 import SAC as Peer

        learner = Peer("MlpPolicy", c.env_id, learning_starts=256, policy_kwargs={"net_arch": list(arch)}, device="cpu")
        learner.learn(WARM_UP)
    else:
        from recall_traces import envs
        from recall_traces.agents.arms import ArmConfigs, make_learner
        from recall_traces.agents.presets import preset
        from recall_traces.agents.sac import SACConfig

        config = SACConfig(learning_starts=256, net_arch=arch, buffer_size=100_000)
        env = envs.make(c.env_id, num_envs=c.num_seeds)
        learner = make_learner("sac", c.arm, env, config, ArmConfigs(preset(c.env_id).recall), c.num_seeds)
        learner.learn(WARM_UP)
    start = time.perf_counter()
    learner.learn(c.steps, **({} if c.num_seeds else {"reset_num_timesteps": False}))
    return max(c.num_seeds, 1) * c.steps / (time.perf_counter() - start)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="about three minutes each")
    parser.add_argument("--measure", choices=list(CONTESTANTS), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps({"speed": measure(CONTESTANTS[arguments.measure])}))
    else:
        commands = {name: [sys.executable, __file__, "--measure", name] for name in CONTESTANTS}
        rounds(commands, PAIRS, arguments.rounds, "gradient steps per second", pathlib.Path("runs/benchmark_sac.json"))
