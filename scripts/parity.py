"""What the parity checks share: both learners measured by the same code, curves kept as they grow, areas compared.

Ours trains all seeds as one fleet, Stable-Baselines3 one seed after the other. Both are evaluated in environments of their own,
20 episodes with sampled actions and 20 with the most likely ones. Every evaluation is written to `curves.csv` at once; a second
call goes on with the seeds that are missing. The result, the ratio of areas under the curves with its 95% interval, is printed
and written to `result.json`.
"""

from __future__ import annotations

import csv
import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from torch import Tensor, nn

from recall_traces.agents.evaluation import evaluate
from recall_traces.agents.learner import Learner
from recall_traces.curves import COLUMNS, METRICS, read_curves
from recall_traces.envs import make
from recall_traces.envs.interface import VectorEnv
from recall_traces.statistics import areas, percentile_interval, ratio_of_areas, resample

OURS, THEIRS = "recall-traces", "stable-baselines3"
EPISODES = 20
ACTIVATIONS = {"tanh": nn.Tanh, "relu": nn.ReLU, "elu": nn.ELU, "silu": nn.SiLU}


class Options(Protocol):
    """What the options of every parity check have."""

    task: str
    out: Path
    seeds: int
    steps: int
    evaluate_every: int
    num_envs: int
    seed: int
    agent: Any


@dataclass(frozen=True)
class Parity:
    """How both learn a task."""

    ours: Callable[[VectorEnv, Options], Learner]
    """A fleet of all seeds."""
    theirs: Callable[[Options, int], BaseAlgorithm]
    """A model with a seed."""
    act: Callable[[BaseAlgorithm, Tensor, bool], Tensor]
    """Actions `(B, ...)` of such a model for observations `(B, ...)`, greedy or not."""


class CurvesFile:
    """`curves.csv` while it grows. What an interrupted run left of unfinished seeds is dropped."""

    def __init__(self, path: Path, task: str, steps: int, seeds: range) -> None:
        self.path, self.task = path, task
        rows: list[dict[str, str]] = []
        if path.exists():
            with path.open(newline="", encoding="utf-8") as file:
                rows = [row for row in csv.DictReader(file) if all(row.get(column) is not None for column in COLUMNS)]
        self.finished = {(row["arm"], int(row["seed"])) for row in rows if int(row["env_steps"]) >= steps}
        if any((OURS, seed) not in self.finished for seed in seeds):  # a fleet starts anew as a whole
            self.finished = {(arm, seed) for arm, seed in self.finished if arm != OURS}
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(row for row in rows if (row["arm"], int(row["seed"])) in self.finished)

    def write(self, arm: str, seed: int, env_steps: int, act: Callable[[Tensor, bool], Tensor], num_seeds: int = 1) -> None:
        """Evaluate `num_seeds` policies, numbered from `seed`, and append their rows."""
        env = make(self.task, num_envs=num_seeds * 2 * EPISODES, seed=1_000_003 * (seed + 1) + env_steps)
        result = evaluate(act, env, num_seeds)
        with self.path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            for s in range(num_seeds):
                writer.writerow([arm, seed + s, env_steps, *(float(getattr(result, name)[s]) for name in METRICS)])


def train_ours(parity: Parity, options: Options, curves: CurvesFile) -> None:
    """All seeds as one fleet."""
    env = make(options.task, num_envs=options.seeds * options.num_envs, seed=options.seed)
    generator = torch.Generator().manual_seed(options.seed + 1)

    def callback(learner: Any, metrics: dict[str, Any]) -> None:
        if learner.env_steps % options.evaluate_every == 0:
            curves.write(
                OURS, options.seed, learner.env_steps, lambda obs, greedy: learner.act(obs, greedy, generator), options.seeds
            )

    parity.ours(env, options).learn(options.steps, callback)


class Evaluator(BaseCallback):
    """Measures a Stable-Baselines3 model between an update and the next rollout."""

    def __init__(self, parity: Parity, every: int, seed: int, curves: CurvesFile) -> None:
        super().__init__()
        self.parity, self.every, self.seed, self.curves = parity, every, seed, curves

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        self.evaluate()

    def _on_training_end(self) -> None:
        self.evaluate()

    def evaluate(self) -> None:
        """Write a row. Stable-Baselines3 draws from torch's global generator, whose state is kept as it was."""
        if self.num_timesteps % self.every:
            return
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1_000_003 * (self.seed + 1) + self.num_timesteps)
            self.curves.write(
                THEIRS, self.seed, self.num_timesteps, lambda obs, greedy: self.parity.act(self.model, obs[0], greedy)[None]
            )


def summarize(options: Options, seconds: float) -> dict[str, Any]:
    """What the curves say, with all that is needed to obtain them again."""
    curves = read_curves(options.out)[0]
    result: dict[str, Any] = {
        "task": options.task,
        "env_steps": options.steps,
        "num_envs": options.num_envs,
        "config": asdict(options.agent),
    }
    for metric in ("episode_return", "greedy_episode_return"):
        by_arm = {arm: areas(curves.env_steps, curves.values[metric][arm], 0, options.steps) for arm in (OURS, THEIRS)}
        # Returns that are never positive are costs: the ratio is that of costs.
        sign = -1 if all((area <= 0).all() for area in by_arm.values()) else 1
        result[metric] = {"ratio_of_areas": ratio_of_areas([sign * by_arm[OURS]], [sign * by_arm[THEIRS]])}
        for arm, area in by_arm.items():
            drawn = resample(np.zeros(len(area), dtype=np.int64), 10_000, 0)
            interval = None if drawn is None else [float(end) for end in percentile_interval(area[drawn].mean(1))]
            last = curves.values[metric][arm][:, curves.env_steps == options.steps]
            result[metric][arm] = {
                "seeds": len(area),
                "area": float(area.mean()),
                "interval": interval,
                "at_the_end": float(last.mean()),
            }
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False, cwd=Path(__file__).parent)
    return result | {
        "command": " ".join(["python", *sys.argv]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(seconds, 1),
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in ("torch", "gymnasium", "stable-baselines3", "numpy", "recall-traces")},
        "commit": commit.stdout.strip() or None,
        "hardware": {"processor": processor(), "torch_threads": torch.get_num_threads()},
    }


def processor() -> str:
    """Name of the processor, as Linux knows it."""
    info = Path("/proc/cpuinfo")
    names = (
        [line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line]
        if info.exists()
        else []
    )
    return f"{names[0]}, {len(names)} cores" if names else platform.processor()


def check(parity: Parity, options: Options) -> None:
    """Train what is missing, then compare."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    config = options.agent
    rollout = config.n_steps * options.num_envs
    if config.normalize_observations:
        sys.exit("normalisation is a wrapper in Stable-Baselines3 and is not compared here")
    if options.evaluate_every % rollout or options.steps % options.evaluate_every:
        sys.exit(
            f"--steps must be a multiple of --evaluate-every, {options.evaluate_every}, "
            f"and that of the {rollout} steps of a rollout"
        )
    options.out.mkdir(parents=True, exist_ok=True)
    same = {
        "task": options.task,
        "env_steps": options.steps,
        "num_envs": options.num_envs,
        "seed": options.seed,
        "config": asdict(config),
    }
    config_file = options.out / "config.json"
    if config_file.exists() and json.loads(config_file.read_text(encoding="utf-8")) != json.loads(json.dumps(same)):
        sys.exit(f"{options.out} holds runs of another configuration, see its config.json; choose another --out")
    config_file.write_text(json.dumps(same, indent=2) + "\n", encoding="utf-8")
    seeds, start = range(options.seed, options.seed + options.seeds), time.perf_counter()
    curves = CurvesFile(options.out / "curves.csv", options.task, options.steps, seeds)
    if (OURS, options.seed) not in curves.finished:
        train_ours(parity, options, curves)
        print(f"{OURS}: {options.seeds} seeds after {time.perf_counter() - start:.0f} s", flush=True)
    for seed in seeds:
        if (THEIRS, seed) not in curves.finished:
            parity.theirs(options, seed).learn(options.steps, callback=Evaluator(parity, options.evaluate_every, seed, curves))
            print(f"{THEIRS}: seed {seed} after {time.perf_counter() - start:.0f} s", flush=True)
    result = summarize(options, time.perf_counter() - start)
    (options.out / "result.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    for metric in ("episode_return", "greedy_episode_return"):
        for arm in (OURS, THEIRS):
            one = result[metric][arm]
            print(f"{metric:22} {arm:18} area {one['area']:6.1f} {one['interval']} at the end {one['at_the_end']:6.1f}")
        ratio = result[metric]["ratio_of_areas"]
        found = ratio["reason"] or f"{ratio['value']:.3f}, 95% interval {ratio['interval']}, parity: {ratio['parity']}"
        print(f"{metric:22} ratio of areas: {found}")
