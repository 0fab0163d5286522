"""Stable-Baselines3's models with the callback and without: PPO on FourRooms-19, Hopper-v5, CartPole-v1, MountainCar-v0, SAC
on MountainCarContinuous-v0.

    python scripts/compare_sb3.py --tasks four-rooms                 # all seeds, with and without; goes on where it stopped
    python scripts/compare_sb3.py --tasks mountain-car --part 0      # every second seed, so that two processes can share the work
    python scripts/compare_sb3.py --tasks mountain-car-quarter --seeds 201   # other settings of the callback, on other seeds
    python scripts/compare_sb3.py --join                             # pictures and statistics of what is there, no training

Runs lie in `runs/sb3/<task>/<arm>-<seed>/curves.csv`, joined ones in `runs/sb3/<task>`. Evaluation is that of `recall-traces
compare`: 20 episodes with sampled actions and 20 with greedy ones in environments of their own. PPO on four rooms has the
preset's hyperparameters and the callback the settings of the arm `recall`, choosing among eight ways; SAC has those of
rl-baselines3-zoo without its state-dependent exploration, and the callback there imitates in every gradient step; everything else
is as it comes.
"""

import argparse
import csv
import json
import pathlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env as make_gymnasium
from stable_baselines3.common.vec_env import VecNormalize

from recall_traces import BacktrackingConfig, RecallConfig, RecallTracesCallback, envs
from recall_traces.agents.evaluation import evaluate
from recall_traces.agents.presets import preset
from recall_traces.comparison import compare_arms
from recall_traces.curves import COLUMNS, METRICS, read_curves
from recall_traces.envs.sb3 import make_vec_env
from recall_traces.plotting import plot_comparison

FOLDER = pathlib.Path("runs/sb3")
ARMS = ("SB3", "SB3 with recall")
FOUR_ROOMS = replace(preset("FourRooms-19").recall, candidates=8)
FULL = RecallConfig(imitation_ratio=1.0, imitation_batch_size=256)
"""The defaults when the mountain car was measured."""


def four_rooms(seed: int) -> BaseAlgorithm:
    c = preset("FourRooms-19").ppo
    options = {name: getattr(c, name) for name in ("learning_rate", "n_steps", "batch_size", "n_epochs", "ent_coef")}
    return PPO("MlpPolicy", make_vec_env("FourRooms-19", n_envs=8, seed=seed), seed=seed, device="cpu", **options)


def mountain_car(seed: int) -> BaseAlgorithm:
    options = {"learning_rate": 3e-4, "buffer_size": 50_000, "batch_size": 512, "ent_coef": 0.1, "train_freq": 32}
    options |= {"gradient_steps": 32, "gamma": 0.9999, "tau": 0.01, "learning_starts": 0}
    env = make_gymnasium("MountainCarContinuous-v0", seed=seed)
    return SAC("MlpPolicy", env, seed=seed, device="cpu", policy_kwargs={"net_arch": [64, 64]}, **options)


def cart_pole(seed: int) -> BaseAlgorithm:
    return PPO("MlpPolicy", make_gymnasium("CartPole-v1", seed=seed), seed=seed, device="cpu")


def discrete_mountain_car(seed: int) -> BaseAlgorithm:
    return PPO("MlpPolicy", make_gymnasium("MountainCar-v0", seed=seed), seed=seed, device="cpu")


def hopper(seed: int) -> BaseAlgorithm:
    return PPO("MlpPolicy", VecNormalize(make_gymnasium("Hopper-v5", seed=seed)), seed=seed, device="cpu")


@dataclass(frozen=True)
class Task:
    """What is trained, for how long, how often it is evaluated, and with what the callback recalls."""

    env_id: str
    build: Callable[[int], BaseAlgorithm]
    seeds: int
    steps: int
    every: int
    config: RecallConfig
    success_return: float | None = None
    first_seed: int = 100
    drawn: str = "success"
    compared: str = "success"


TASKS = {
    "four-rooms": Task("FourRooms-19", four_rooms, 16, 150_000, 2048, FOUR_ROOMS),
    # The callback's settings were tried on seeds below 300.
    "mountain-car": Task("MountainCarContinuous-v0", mountain_car, 8, 50_000, 2500, FULL, 90.0, 300, drawn="episode_return"),
    "hopper": Task("Hopper-v5", hopper, 5, 200_000, 20_480, RecallConfig(), drawn="episode_return", compared="episode_return"),
    "mountain-car-v0": Task(
        "MountainCar-v0",
        discrete_mountain_car,
        8,
        200_000,
        10_240,
        RecallConfig(),
        first_seed=300,
        drawn="episode_return",
        compared="episode_return",
    ),
    "cart-pole": Task(
        "CartPole-v1", cart_pole, 5, 50_000, 4096, RecallConfig(), drawn="episode_return", compared="episode_return"
    ),
}
# As many minibatches as were the default when it was measured: 4 after a rollout.
ALWAYS = RecallConfig(rare_reward=1.0, imitation_ratio=4 / 320, imitation_batch_size=256)
TASKS["cart-pole-always"] = replace(TASKS["cart-pole"], config=ALWAYS)
MAIN = list(TASKS)
"""What is run where no task is named; the others try settings of the callback on the mountain car."""
NARROW = BacktrackingConfig(support=2048, bandwidth=0.25)
BEFORE = RecallConfig(model=NARROW, imitation_batch_size=512, imitation_ratio=0.25, buffer_updates=1, novelty_ceiling=0.8)
for variant, config in {
    "before": BEFORE,
    "before-256": replace(BEFORE, imitation_batch_size=256, imitation_ratio=1.0),
    "quarter": RecallConfig(model=NARROW, imitation_batch_size=512, imitation_ratio=0.25),
    "narrow": replace(FULL, model=NARROW),
    "support": replace(FULL, model=replace(NARROW, support=8192)),
    "exploring": replace(FULL, novelty_actions=4),
    "half": RecallConfig(),
}.items():
    TASKS[f"mountain-car-{variant}"] = replace(TASKS["mountain-car"], config=config)


class Evaluate(BaseCallback):
    """Writes a row to `curves.csv` at the first rollout's start at or past each multiple of `every`, and at the end."""

    def __init__(self, task: Task, arm: str, seed: int, rows: list[list[Any]]) -> None:
        super().__init__()
        self.task, self.arm, self.seed, self.rows, self.next = task, arm, seed, rows, 0
        self.env = envs.make(task.env_id, num_envs=40, seed=seed + 1_000_003)

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        if self.model.num_timesteps >= self.next:
            self.next = (self.model.num_timesteps // self.task.every + 1) * self.task.every
            self.measure()

    def _on_training_end(self) -> None:
        self.measure()

    def measure(self) -> None:
        def act(obs: torch.Tensor, greedy: bool) -> torch.Tensor:
            normalize, seen = self.model.get_vec_normalize_env(), obs[0].cpu().numpy()
            actions, _ = self.model.predict(normalize.normalize_obs(seen) if normalize else seen, deterministic=greedy)
            return torch.as_tensor(actions)[None]

        # Sampling draws from the global generator: put it back, so that evaluating never touches training.
        state = torch.get_rng_state()
        self.env.success_return = self.task.success_return or self.env.success_return
        found = evaluate(act, self.env, 1)
        torch.set_rng_state(state)
        self.rows.append([self.arm, self.seed, self.model.num_timesteps, *(float(getattr(found, name)[0]) for name in METRICS)])


def run(name: str, arm: str, seed: int) -> None:
    """Train one seed, unless that is done."""
    folder, task = FOLDER / name / f"{arm.replace(' ', '-')}-{seed}", TASKS[name]
    if (folder / "curves.csv").exists():
        return
    model, rows = task.build(seed), []
    recall = RecallTracesCallback(task.config, seed=seed)
    # The callback comes first, so that the evaluation sees the policy after it imitated, as in `recall-traces compare`.
    callbacks = [*([recall] if arm == ARMS[1] else []), Evaluate(task, arm, seed, rows)]
    model.learn(task.steps, callback=callbacks)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"task": task.env_id, "arm": arm, "seed": seed, "seconds": recall.seconds}))
    with (folder / "curves.part").open("w", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *rows])
    (folder / "curves.part").rename(folder / "curves.csv")
    print(folder, rows[-1][3:], flush=True)


def join(name: str) -> None:
    """Statistics and picture."""
    folders = sorted(path.parent for path in (FOLDER / name).glob("*/curves.csv"))
    if folders:
        curves, task = read_curves(*folders), TASKS[name]
        (FOLDER / name / "comparison.json").write_text(json.dumps(compare_arms(curves, task.compared), indent=1))
        plot_comparison(curves, FOLDER / name / "curves.png", metric=task.drawn, title=f"Stable-Baselines3 on {task.env_id}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=MAIN, choices=list(TASKS))
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=ARMS)
    parser.add_argument("--seeds", type=int, nargs="+", help="instead of the task's own")
    parser.add_argument("--part", type=int, choices=(0, 1), help="seeds with this rest by 2")
    parser.add_argument("--join", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for name in arguments.tasks:
        for seed in arguments.seeds or range(TASKS[name].first_seed, TASKS[name].first_seed + TASKS[name].seeds):
            if not arguments.join and arguments.part in (None, seed % 2):
                for arm in arguments.arms:
                    run(name, arm, seed)
        join(name)
