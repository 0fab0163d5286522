"""Speed on CartPole-v1 against the tools that users have now, the same work in one run.

    python scripts/benchmark_fleet.py [--rounds 5] [--rejax /tmp/peer/bin/python]

Per seed: 8 environments, 128-step rollouts, 4 epochs of 4 minibatches, two hidden layers of 64 tanh units. Each round times every
contestant once, in turn, in a process of its own, warm-up excluded; quoted are the medians and the ratios within a round.
`--rejax` names a Python with rejax, see `scripts/peers/rejax_ppo.py`. Writes `runs/benchmark_fleet.json`.
"""

import argparse
import json
import pathlib
import sys
import time
from dataclasses import replace

from contest import rounds

HERE = pathlib.Path(__file__).parent
ROLLOUT = 8 * 128
STEPS = {
    "fleet of 16": 40 * ROLLOUT,
    "fleet of 16, recall": 40 * ROLLOUT,
    "one seed": 60 * ROLLOUT,
    "Stable-Baselines3": 20 * ROLLOUT,
}

PAIRS = [
    ("fleet of 16", "Stable-Baselines3"),
    ("one seed", "Stable-Baselines3"),
    ("fleet of 16", "fleet of 16, recall"),
    ("fleet of 16", "rejax, 16"),
    ("one seed", "rejax, 1"),
]


def ours(num_seeds: int, arm: str, steps: int) -> float:
    """Steps per second of all seeds together."""
    import torch

    from recall_traces import envs
    from recall_traces.agents.arms import ArmConfigs, make_learner
    from recall_traces.agents.ppo import PPOConfig
    from recall_traces.agents.presets import preset

    torch.set_flush_denormal(True)
    env = envs.make("CartPole-v1", num_envs=8 * num_seeds)
    known = preset("CartPole-v1")
    config = PPOConfig(n_steps=128, batch_size=256, n_epochs=4)
    # Every step pays there, so by default nothing would be imitated, and it is imitation whose time is taken.
    configs = ArmConfigs(replace(known.recall, rare_reward=1.0), known.sil, known.bonus)
    ppo = make_learner("ppo", arm, env, config, configs, num_seeds)
    ppo.learn(4 * ROLLOUT)
    start = time.perf_counter()
    ppo.learn(steps)
    return num_seeds * steps / (time.perf_counter() - start)


def stable_baselines3(steps: int) -> float:
    """Steps per second of one run, on as many threads as torch likes."""
    from stable_baselines3 import PPO
    from stable_baselines3.common.env_util import make_vec_env

    ppo = PPO("MlpPolicy", make_vec_env("CartPole-v1", n_envs=8), n_steps=128, batch_size=256, n_epochs=4, device="cpu")
    ppo.learn(4 * ROLLOUT)
    start = time.perf_counter()
    ppo.learn(steps)
    return steps / (time.perf_counter() - start)


def measure(name: str) -> float:
    """Time one contestant in this process."""
    steps = STEPS[name]
    if name == "Stable-Baselines3":
        return stable_baselines3(steps)
    return ours(1 if name == "one seed" else 16, "recall" if "recall" in name else "none", steps)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="at least 1; about a minute and a half each")
    parser.add_argument("--rejax", help="a Python that has rejax")
    parser.add_argument("--measure", choices=list(STEPS), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps({"speed": measure(arguments.measure)}))
        return

    commands = {name: [sys.executable, __file__, "--measure", name] for name in STEPS}
    if arguments.rejax:
        for num_seeds in (1, 16):
            script = str(HERE / "peers" / "rejax_ppo.py")
            commands[f"rejax, {num_seeds}"] = [arguments.rejax, script, str(num_seeds), str(128 * ROLLOUT)]
    rounds(commands, PAIRS, arguments.rounds, "steps per second", pathlib.Path("runs/benchmark_fleet.json"))


if __name__ == "__main__":
    main()
