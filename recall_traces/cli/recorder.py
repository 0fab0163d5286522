"""What a run writes down while an arm trains: evaluations, the best policies, checkpoints."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from recall_traces.agents.evaluation import Evaluation, evaluate
from recall_traces.agents.learner import Learner
from recall_traces.checkpoints import Checkpoints
from recall_traces.cli.board import Board
from recall_traces.cli.errors import one_line
from recall_traces.cli.interruption import Interruption
from recall_traces.cli.load import EVALUATION_SEED
from recall_traces.cli.options import CompareOptions, TrainOptions
from recall_traces.cli.progress import Reporter, Status
from recall_traces.curves import METRICS
from recall_traces.envs.interface import VectorEnv, is_restorable
from recall_traces.recall import RecallTraces
from recall_traces.runs import RunFolder
from recall_traces.saving import is_passing, load_tree
from recall_traces.seeding import restore_generator, seeded_generator

PARTS = ("collect", "update", "recall")
LONG = 10.0
"""Seconds of evaluation that are worth a word, where training took less."""
LEAST_PAUSE = 9.0
"""Between two checkpoints there is so many times the time that the last one took, or more."""


class Best(NamedTuple):
    """The best evaluation of an arm so far, means over the seeds that go on."""

    success: float
    """0 where the task has no such notion."""
    episode_return: float
    env_steps: int


class Recorder:
    """The callback of `learn`: evaluates, and writes curves, the best policies and checkpoints.

    It evaluates at the first rollout's end at or past each multiple of `eval_every`, and at the last. Checkpoints depend on the
    clock; writing them draws nothing and changes nothing.
    """

    def __init__(
        self,
        options: TrainOptions | CompareOptions,
        arm: str,
        folder: RunFolder,
        reporter: Reporter,
        env: VectorEnv,
        interruption: Interruption,
        checkpoints: Checkpoints,
    ) -> None:
        self.options, self.arm, self.folder, self.reporter, self.env = options, arm, folder, reporter, env
        self.interruption, self.checkpoints = interruption, checkpoints
        self.generator = seeded_generator(options.seed + EVALUATION_SEED, "evaluation", env.device)
        self.next_steps = 0
        self.began = self.written = time.perf_counter()
        self.write_seconds = 0.0
        self.seconds = dict.fromkeys((*PARTS, "evaluate"), 0.0)
        self.latest = (math.nan, math.nan)
        self.best: Best | None = None
        self.failures: dict[int, str] = {}
        """What became of seeds whose evaluation went wrong; their training may be fine."""
        self.purge_step: int | None = None
        self.told = False
        """That evaluation takes more time than training."""

    def __enter__(self) -> Recorder:
        # What an attempt wrote after its last checkpoint is hidden by the step from which this one writes.
        tags = [f"evaluation/{name}" for name in METRICS]
        path, configuration = self.folder.tensorboard_path(self.arm), self.folder.record["configuration"]
        self.board = Board(path, self.arm, configuration, tags, self.purge_step)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with contextlib.suppress(OSError):
            self.board.close()

    def __call__(self, learner: Learner, metrics: dict[str, Any]) -> None:
        """Take note of a rollout."""
        for part in PARTS:
            self.seconds[part] += metrics.get(f"seconds/{part}", 0.0)
        if learner.env_steps >= min(self.next_steps, self.options.steps):
            self.next_steps = (learner.env_steps // self.options.eval_every + 1) * self.options.eval_every
            self.measure(learner, metrics)
        rate = self.steps_per_second(learner)
        left = max(0, self.options.steps - learner.env_steps) * self.options.seeds / rate if rate else math.nan
        self.reporter.show(Status(learner.env_steps, *self.latest, rate, left))
        every = self.options.checkpoint_every
        pause = max(every, LEAST_PAUSE * self.write_seconds) if every else 0.0
        due = time.perf_counter() - self.written >= pause
        if learner.env_steps and (due or self.interruption.asked):
            self.write(learner)
        if self.interruption.asked:
            raise KeyboardInterrupt

    @property
    def elapsed(self) -> float:
        """Seconds since the arm began, without those between a checkpoint and the attempt that goes on from it."""
        return time.perf_counter() - self.began

    def write(self, learner: Learner, at_the_end: bool = False) -> bool:
        """Write a checkpoint; where that fails, the one before stays, and the run goes on.

        Args:
            learner: What to write, with the state of this recorder.
            at_the_end: The arm has come to its end: what only further training needs is left out, unless it is to be kept.

        Returns:
            Whether it was written.
        """
        began = time.perf_counter()
        state = learner.training_state()
        if at_the_end and not self.options.keep_checkpoints:
            dropped = {"replay", "sampling"} if isinstance(learner.recall, RecallTraces) else {"replay", "sampling", "recall"}
            state = {name: value for name, value in state.items() if name not in dropped}
        written = True
        try:
            self.folder.synchronize()
            self.checkpoints.write(learner.env_steps, {"learner": state, "recorder": self.state()})
        except OSError as error:
            written = False
            what = f"no checkpoint after {learner.env_steps:,} steps, the last good one is kept"
            self.reporter.warn(f"{self.arm}: {what}: {one_line(error)}")
        self.written = time.perf_counter()
        self.write_seconds = self.written - began
        return written

    def state(self) -> dict[str, Any]:
        """What it needs to go on exactly, but for the clock."""
        return {
            "next_steps": self.next_steps,
            "elapsed": self.elapsed,
            "seconds": dict(self.seconds),
            "latest": list(self.latest),
            "best": None if self.best is None else list(self.best),
            "failures": {str(s): text for s, text in self.failures.items()},
            "generator": self.generator.get_state(),
            "env": self.env.state_dict() if is_restorable(self.env) else {},
        }

    def load_state(self, state: Mapping[str, Any], learner: Learner) -> None:
        """Go on from what `state` gave, with a learner that has gone back to where it was then."""
        self.next_steps, self.began = int(state["next_steps"]), time.perf_counter() - float(state["elapsed"])
        self.seconds = {name: float(state["seconds"][name]) for name in self.seconds}
        episode_return, success = state["latest"]
        self.latest = (float(episode_return), float(success))
        self.best = None if state["best"] is None else Best(*state["best"])
        self.failures = {int(s): str(text) for s, text in state["failures"].items()}
        restore_generator(self.generator, state["generator"])
        if is_restorable(self.env) and state["env"]:
            self.env.load_state_dict(state["env"])
        self.purge_step = learner.env_steps + 1
        self.check_best(learner)

    def check_best(self, learner: Learner) -> None:
        """Part with the best policies on disk if an attempt saved them after the checkpoint: that evaluation never was."""
        path = self.checkpoints.best
        if self.best is not None and self.best.env_steps == learner.env_steps:
            learner.save(path)
            return
        saved = None
        if path.exists():
            try:
                saved = load_tree(path, "cpu")[1]["env_steps"]
            except Exception as error:  # whatever lies there may be wrong in any way
                if is_passing(error):
                    raise
        if self.best is None or saved != self.best.env_steps:
            self.best = None
            if path.exists():
                path.unlink()
                self.reporter.say(f"{self.arm}: the best policies on disk were of steps that are lost; they are chosen anew")

    def measure(self, learner: Learner, metrics: dict[str, Any]) -> None:
        """Evaluate, and append to every file."""
        began = time.perf_counter()
        found = evaluate(lambda obs, greedy: learner.act(obs, greedy, self.generator), self.env, self.options.seeds)
        self.folder.add_curves(curve_rows(self.arm, learner, found))
        for s, copy in enumerate(found.broken.tolist()):
            if copy >= 0 and s not in learner.failures:
                what = f"evaluation environment {copy} gave a value that is not finite after {learner.env_steps} steps"
                self.failures.setdefault(s, f"seed {s}: {what}")
        self.seconds["evaluate"] += time.perf_counter() - began
        timing = (self.elapsed, self.steps_per_second(learner), *self.seconds.values())
        self.folder.add_timing((self.arm, learner.env_steps, *timing))
        evaluation, total = self.seconds["evaluate"], sum(self.seconds.values())
        if not self.told and learner.env_steps and evaluation > max(LONG, total - evaluation):
            self.told = True
            self.reporter.say(
                f"{self.arm}: {evaluation / total:.0%} of the time goes into evaluation (--eval-every, --eval-episodes)"
            )
        going = going_on(learner)
        means = {f"evaluation/{name}": _mean(getattr(found, name), going) for name in METRICS}
        self.latest = means["evaluation/episode_return"], means["evaluation/success"]
        self.keep_best(learner)
        for name, value in metrics.items():
            tag = name if "/" in name else f"train/{name}"
            means[tag] = _mean(value, going) if isinstance(value, Tensor) else float(value)
        self.board.add(means, learner.env_steps)
        self.board.show_traces(learner, self.elapsed, last=learner.env_steps >= self.options.steps)

    def keep_best(self, learner: Learner) -> None:
        """Save the policies if they were never better in evaluation: by success, then by return."""
        episode_return, success = self.latest
        found = Best(0.0 if math.isnan(success) else success, episode_return, learner.env_steps)
        if not math.isnan(episode_return) and (self.best is None or found[:2] > self.best[:2]):
            try:
                learner.save(self.checkpoints.best)
            except OSError as error:
                self.reporter.warn(f"{self.arm}: the best policies were not saved: {one_line(error)}")
            else:
                self.best = found

    def steps_per_second(self, learner: Learner) -> float:
        """Of all seeds together, evaluation included, since the arm began."""
        return learner.env_steps * self.options.seeds / max(self.elapsed, 1e-9)


def curve_rows(arm: str, learner: Learner, found: Evaluation) -> list[list[Any]]:
    """Rows of `curves.csv` for one evaluation; a seed that broke has no values any more."""
    values = torch.stack([getattr(found, name) for name in METRICS], 1)
    values = torch.where(going_on(learner)[:, None], values, torch.nan)
    return [[arm, seed, learner.env_steps, *row] for seed, row in enumerate(values.tolist())]


def going_on(learner: Learner) -> Tensor:
    """Which seeds have not broken, bool, `(S,)`."""
    return torch.tensor([seed not in learner.failures for seed in range(learner.num_seeds)], device=learner.device)


def _mean(values: Tensor, going: Tensor) -> float:
    """Over the seeds that go on; nan where there are none."""
    return float(values.float()[going].mean()) if bool(going.any()) else math.nan
