"""Are returns of one policy the same on MuJoCo's C library and on MuJoCo Warp? A two-sample test.

    python scripts/compare_returns.py [--tasks Ant ...] [--device cuda] [--episodes 100] [--steps 100000]

PPO is trained on the C library with settings of its own preset, and then acts greedily, on each engine, for the first episode of
as many worlds; start states are drawn anew. Engines are compared by Kolmogorov's and Smirnov's test of the returns and of the
lengths. A p-value says how often two samples of one distribution differ as much as these; a small one (0.05 over the number of
tests) would say that the engines differ. Prints a table and writes `runs/compare_returns.json`. About five minutes a task on a
CPU.
"""

import argparse
import json
import pathlib

import torch
from scipy.stats import ks_2samp

from recall_traces import envs
from recall_traces.agents.ppo import PPO
from recall_traces.agents.presets import preset
from recall_traces.envs.interface import VectorEnv

TASKS = ("Hopper", "HalfCheetah", "Walker2d", "Ant", "Humanoid")


def first_episodes(env: VectorEnv, policy: PPO) -> tuple[list[float], list[int]]:
    """Return and length of each world's first episode."""
    obs, running = env.reset(), torch.ones(env.num_envs, dtype=torch.bool, device=env.device)
    returns = torch.zeros(env.num_envs, device=env.device)
    lengths = torch.zeros(env.num_envs, dtype=torch.int64, device=env.device)
    while running.any():
        step = env.step(policy.predict(obs.to(policy.device), deterministic=True)[0].to(env.device))
        returns += step.rewards * running
        lengths += running
        running &= ~(step.terminated | step.truncated)
        obs = step.obs
    env.close()
    return returns.tolist(), lengths.tolist()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--device", default="cpu", help="of MuJoCo Warp")
    parser.add_argument("--episodes", type=int, default=100)
    parser.add_argument("--steps", type=int, default=100_000, help="that PPO trains for")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    path, found = pathlib.Path("runs/compare_returns.json"), {}
    columns = ("task", "mean return, C", "mean return, Warp", "mean length, C", "mean length, Warp", "p, returns", "p, lengths")
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for task in arguments.tasks:
        env = envs.make(f"{task}-v5", 8, seed=0)
        policy = PPO(env, preset(env.name).ppo, seed=0)
        policy.learn(arguments.steps)
        env.close()
        samples = {}
        for engine, device, seed in (("cpu", "cpu", 1), ("warp", arguments.device, 2)):
            test_env = envs.make(f"{task}-v5", arguments.episodes, seed=seed, engine=engine, device=device)
            samples[engine] = first_episodes(test_env, policy)
        p = [ks_2samp(c, warp).pvalue for c, warp in zip(samples["cpu"], samples["warp"], strict=True)]
        found[task] = {"samples": samples, "p": p}
        pairs = zip(samples["cpu"], samples["warp"], strict=True)
        means = [sum(sample) / arguments.episodes for pair in pairs for sample in pair]
        print(f"| {task} | {' | '.join(f'{mean:.1f}' for mean in means)} | {p[0]:.2f} | {p[1]:.2f} |", flush=True)
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(found, indent=1))
