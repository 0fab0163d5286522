"""Train arms one after the other, evaluate on the way, and write everything into a run folder."""

from __future__ import annotations

import contextlib
import math
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

import recall_traces.envs as envs
from recall_traces.agents.arms import check_kept, make_learner
from recall_traces.agents.evaluation import Evaluation, evaluate
from recall_traces.agents.learner import Learner
from recall_traces.agents.replay import available_bytes, in_words, replay_bytes
from recall_traces.cli.errors import UsageError, describe, one_line
from recall_traces.cli.options import CompareOptions, TrainOptions, replays
from recall_traces.cli.progress import Reporter, Status
from recall_traces.curves import METRICS
from recall_traces.envs.interface import VectorEnv
from recall_traces.runs import ERROR, FAILED, FINISHED, INTERRUPTED, RunFolder
from recall_traces.seeding import seeded_generator
from recall_traces.spaces import check_action_space, check_observation_space

EVALUATION_SEED = 1_000_003
"""Added to the seed for the environments and the actions of the evaluation."""
Options: TypeAlias = TrainOptions | CompareOptions
PARTS = ("collect", "update", "recall")


@dataclass(frozen=True)
class Outcome:
    """How a series of arms ended."""

    exit_code: int = 0
    message: str = ""
    """What to say on stderr, one line; empty if all went well."""


def choose_device(device: str) -> str:
    """What `auto` stands for here.

    Raises:
        UsageError: cuda was asked for, and there is none.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device is 'cuda', but torch sees no GPU; use cpu or auto")
    return ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device


def rehearse(options: Options, env_id: str, arms: Sequence[str], device: str) -> None:
    """Build every part once, so that what cannot be is refused before anything is run or written.

    Raises:
        UsageError: says what cannot be built.
    """
    rollout = options.agent.n_steps * options.num_envs
    for group, needed in (("recall", "recall own"), ("sil", "sil")):
        smallest = getattr(options, group).memory_size
        if smallest < rollout and any(part in arm for part in needed.split() for arm in arms):
            raise UsageError(f"--{group}.memory-size must be at least a rollout, {rollout} steps of a seed, not {smallest}")
    if replays(options.agent) and options.agent.buffer_size < options.num_envs:
        least = f"--num-envs, {options.num_envs}"
        raise UsageError(f"--agent.buffer-size must be at least {least}, not {options.agent.buffer_size}")
    try:
        env = envs.make(env_id, num_envs=1, device=device, seed=options.seed, **options.env_keywords)
        try:
            if replays(options.agent):
                observations, actions = check_observation_space(env.observation_space), check_action_space(env.action_space)
                asked = (observations, actions, options.seeds, options.arm_configs, options.agent.buffer_size, env.device)
                kept = max(check_kept(arm, *asked) for arm in arms)
                if not options.quiet:
                    print(f"recorded steps take {in_words(kept)} when the replay is full", flush=True)
            for arm in arms:
                one = make_learner(options.learner, arm, env, options.agent, options.arm_configs, seed=options.seed)
                check_size(options, arm, one)
        finally:
            _close(env)
        if options.eval_env_keywords != options.env_keywords:
            evaluation_env = envs.make(env_id, num_envs=1, device=device, seed=options.seed, **options.eval_env_keywords)
            same = (evaluation_env.observation_space, evaluation_env.action_space) == (env.observation_space, env.action_space)
            _close(evaluation_env)
            if not same:
                raise ValueError(f"--eval-env gives {env_id} other observations or actions than it is trained with")
    except (ValueError, TypeError) as error:
        raise UsageError(one_line(error)) from error


def check_size(options: Options, arm: str, one: Learner) -> None:
    """Refuse more seeds and environments than can fit, by what weights and remembered steps alone need.

    Args:
        options: How many there are to be.
        arm: What they are to do.
        one: A learner of one seed.

    Raises:
        ValueError: more than is free.
    """
    steps = options.agent.n_steps * options.num_envs
    steps += options.recall.memory_size if "recall" in arm or "own" in arm else 0
    observations, actions = check_observation_space(one.env.observation_space), check_action_space(one.env.action_space)
    weights = sum(4 * optimizer.values.nbytes for optimizer in one.optimizers)  # with gradients and two moments
    needed = options.seeds * (weights + replay_bytes(observations, actions, 1, steps))
    free = available_bytes(one.device)
    if needed > free:
        raise ValueError(
            f"--seeds {options.seeds} with --num-envs {options.num_envs} do not fit: {arm} needs at least "
            f"{needed / 2**30:,.1f} GiB, {free / 2**30:,.1f} GiB are free on {one.device}"
        )


def run_arms(options: Options, env_id: str, arms: Sequence[str], device: str, folder: RunFolder) -> Outcome:
    """Run the arms that the folder does not have yet; whatever stops this, what was measured is on disk."""
    # Adam's moments decay to denormal numbers, which slow a CPU down many times. The switch is the whole process's, so it is
    # not for the library to turn.
    torch.set_flush_denormal(True)
    outcome, arm = Outcome(), ""
    with Reporter(options.steps, options.quiet) as reporter:
        try:
            for arm in arms:
                if folder.status(arm) == FINISHED:
                    reporter.say(f"{arm}: finished before")
                    failures = folder.failures(arm)
                else:
                    folder.begin_arm(arm)
                    reporter.begin(arm)
                    began = time.perf_counter()
                    failures = run_arm(options, env_id, arm, device, folder, reporter)
                    folder.end_arm(arm, FINISHED, seconds=round(time.perf_counter() - began, 3), failures=failures)
                if failures:
                    everyone = len(failures) == options.seeds
                    lost = "; ".join(text for _, text in sorted(failures.items()))
                    outcome = Outcome(1 if everyone else outcome.exit_code, f"{outcome.message}{arm} on {env_id}: {lost}. ")
        except KeyboardInterrupt:
            with contextlib.suppress(OSError):
                folder.end_arm(arm, INTERRUPTED)
            outcome = Outcome(130, f"interrupted; what was measured so far is in {folder.path}")
        except Exception as error:
            with contextlib.suppress(OSError):
                (folder.path / ERROR).write_text(traceback.format_exc(), encoding="utf-8")
                folder.end_arm(arm, FAILED, error=describe(error))
            outcome = Outcome(1, f"{arm} failed: {describe(error)} (details in {folder.path / ERROR})")
    return outcome


def run_arm(options: Options, env_id: str, arm: str, device: str, folder: RunFolder, reporter: Reporter) -> dict[int, str]:
    """Train one arm and save its policies; returns what became of seeds that broke."""
    with contextlib.ExitStack() as stack:

        def make(num_envs: int, seed: int, keywords: dict[str, Any]) -> VectorEnv:
            env = envs.make(env_id, num_envs=num_envs, device=device, seed=seed, **keywords)
            stack.callback(_close, env)
            return env

        env = make(options.seeds * options.num_envs, options.seed, options.env_keywords)
        learner = make_learner(options.learner, arm, env, options.agent, options.arm_configs, options.seeds, options.seed)
        evaluation_seed = options.seed + EVALUATION_SEED
        evaluation_env = make(options.seeds * 2 * options.eval_episodes, evaluation_seed, options.eval_env_keywords)
        recorder = Recorder(options, arm, folder, reporter, evaluation_env, evaluation_seed)
        stack.callback(recorder.tensorboard.close)
        learner.learn(options.steps, recorder)
        learner.save(folder.policy_path(arm))
        lost = sorted({*recorder.failures, *learner.failures})
        return {s: "; ".join(texts[s] for texts in (recorder.failures, learner.failures) if s in texts) for s in lost}


class Recorder:
    """The callback of `learn`: evaluates at the first rollout's end at or past each multiple of `eval_every`, and at the last."""

    def __init__(self, options: Options, arm: str, folder: RunFolder, reporter: Reporter, env: VectorEnv, seed: int) -> None:
        self.options, self.arm, self.folder, self.reporter, self.env = options, arm, folder, reporter, env
        self.generator = seeded_generator(seed, "evaluation", env.device)
        self.tensorboard = SummaryWriter(str(folder.tensorboard_path(arm)))
        self.next_steps = 0
        self.began = time.perf_counter()
        self.seconds = dict.fromkeys((*PARTS, "evaluate"), 0.0)
        self.latest = (math.nan, math.nan)
        self.failures: dict[int, str] = {}
        """What became of seeds whose evaluation went wrong; their training may be fine."""

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
        elapsed = time.perf_counter() - self.began
        timing = (elapsed, self.steps_per_second(learner), *self.seconds.values())
        self.folder.add_timing((self.arm, learner.env_steps, *timing))
        going = going_on(learner)
        means = {f"evaluation/{name}": _mean(getattr(found, name), going) for name in METRICS}
        self.latest = means["evaluation/episode_return"], means["evaluation/success"]
        for name, value in metrics.items():
            tag = name if "/" in name else f"train/{name}"
            means[tag] = _mean(value, going) if isinstance(value, Tensor) else float(value)
        for tag, mean in means.items():
            if math.isfinite(mean):
                self.tensorboard.add_scalar(tag, mean, learner.env_steps)

    def steps_per_second(self, learner: Learner) -> float:
        """Of all seeds together, evaluation included, since the arm began."""
        return learner.env_steps * self.options.seeds / max(time.perf_counter() - self.began, 1e-9)


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


def _close(env: VectorEnv) -> None:
    close = getattr(env, "close", None)
    if close is not None:
        close()
