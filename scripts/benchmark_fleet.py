"""Speed on CartPole-v1 against the tools that users have now, the same work in one run.

    python scripts/benchmark_fleet.py [--rounds 5] [--rejax /tmp/peer/bin/python]

Per seed: 8 environments, 128-step rollouts, 4 epochs of 4 minibatches, two hidden layers of 64 tanh units. Each round times every
contestant once, in turn, in a process of its own, warm-up excluded; quoted are the medians and the ratios within a round.
`--rejax` names a Python with rejax, see `scripts/peers/rejax_ppo.py`. Writes `runs/benchmark_fleet.json`.
"""

import argparse
import datetime
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).parent
ROLLOUT = 8 * 128
STEPS = {
    "fleet of 16": 40 * ROLLOUT,
    "fleet of 16, recall": 40 * ROLLOUT,
    "one seed": 60 * ROLLOUT,
    "Stable-Baselines3": 20 * ROLLOUT,
}


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
    configs = ArmConfigs(known.recall, known.sil, known.bonus)
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


def contest(command: list[str]) -> float:
    """Time one contestant in a process of its own."""
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return float(json.loads(output.strip().splitlines()[-1])["steps_per_second"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="at least 1; about a minute and a half each")
    parser.add_argument("--rejax", help="a Python that has rejax")
    parser.add_argument("--measure", choices=list(STEPS), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps({"steps_per_second": measure(arguments.measure)}))
        return

    commands = {name: [sys.executable, __file__, "--measure", name] for name in STEPS}
    if arguments.rejax:
        for num_seeds in (1, 16):
            commands[f"rejax, {num_seeds}"] = [
                arguments.rejax,
                str(HERE / "peers" / "rejax_ppo.py"),
                str(num_seeds),
                str(128 * ROLLOUT),
            ]
    speeds: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(arguments.rounds):
        for name, command in commands.items():
            speeds[name].append(contest(command))
            print(f"{name:24s} {speeds[name][-1]:10.0f} steps per second", flush=True)
        summary = json.dumps(summarize(speeds), indent=1)  # after every round, so that an interrupted run is not lost
        pathlib.Path("runs").mkdir(exist_ok=True)
        pathlib.Path("runs/benchmark_fleet.json").write_text(summary)
    print(summary)


def summarize(speeds: dict[str, list[float]]) -> dict:
    """Medians, and ratios within rounds."""
    pairs = [
        ("fleet of 16", "Stable-Baselines3"),
        ("one seed", "Stable-Baselines3"),
        ("fleet of 16", "fleet of 16, recall"),
        ("fleet of 16", "rejax, 16"),
        ("one seed", "rejax, 1"),
    ]
    ratios = {}
    for over, under in pairs:
        if over in speeds and under in speeds:
            found = sorted(a / b for a, b in zip(speeds[over], speeds[under], strict=True))
            ratios[f"{over} / {under}"] = {"min": found[0], "median": statistics.median(found), "max": found[-1]}
    return {
        "date": datetime.date.today().isoformat(),
        "hardware": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "median_steps_per_second": {name: statistics.median(values) for name, values in speeds.items()},
        "ratios": ratios,
    }


if __name__ == "__main__":
    main()
