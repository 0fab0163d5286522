"""Train arms one after the other, evaluate on the way, and write everything into a run folder."""

from __future__ import annotations

import contextlib
import itertools
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch

import recall_traces.envs as envs
from recall_traces.agents.arms import check_kept, kept_bytes, make_learner
from recall_traces.agents.learner import Learner
from recall_traces.agents.replay import available_bytes, in_words
from recall_traces.checkpoints import Checkpoint, Checkpoints
from recall_traces.cli.board import quiet_threads
from recall_traces.cli.errors import UsageError, describe, one_line
from recall_traces.cli.folder import open_folder
from recall_traces.cli.interruption import Interruption
from recall_traces.cli.load import EVALUATION_SEED, close_env
from recall_traces.cli.options import CompareOptions, TrainOptions, replays
from recall_traces.cli.progress import Reporter
from recall_traces.cli.provenance import changed_versions, describe_call
from recall_traces.cli.recorder import Recorder
from recall_traces.envs.interface import VectorEnv, is_restorable
from recall_traces.panels import format_steps
from recall_traces.recall import RecallTraces
from recall_traces.runs import COMPARISON, ERROR, FAILED, FINISHED, INTERRUPTED, RunFolder
from recall_traces.spaces import check_action_space, check_observation_space

Options: TypeAlias = TrainOptions | CompareOptions


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
            for arm in arms:  # each is let go of before the next is built
                check_size(
                    options, arm, make_learner(options.learner, arm, env, options.agent, options.arm_configs, seed=options.seed)
                )
        finally:
            close_env(env)
        if options.eval_env_keywords != options.env_keywords:
            evaluation_env = envs.make(env_id, num_envs=1, device=device, seed=options.seed, **options.eval_env_keywords)
            same = (evaluation_env.observation_space, evaluation_env.action_space) == (env.observation_space, env.action_space)
            close_env(evaluation_env)
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
    rollout = options.agent.n_steps * options.num_envs
    observations, actions = check_observation_space(one.env.observation_space), check_action_space(one.env.action_space)
    weights = sum(4 * optimizer.values.nbytes for optimizer in one.optimizers)  # with gradients and two moments
    needed = options.seeds * weights
    needed += kept_bytes(arm, observations, actions, options.seeds, options.arm_configs, rollout)
    free = available_bytes(one.device)
    if needed > free:
        raise ValueError(
            f"--seeds {options.seeds} with --num-envs {options.num_envs} do not fit: {arm} needs at least "
            f"{needed / 2**30:,.1f} GiB, {free / 2**30:,.1f} GiB are free on {one.device}"
        )


def run_arms(options: Options, env_id: str, arms: Sequence[str], device: str, folder: RunFolder) -> Outcome:
    """Run the arms that the folder does not have yet; whatever stops this, what was measured is on disk.

    An arm that was begun goes on from its last checkpoint.
    """
    # Adam's moments decay to denormal numbers, which slow a CPU down many times. The switch is the whole process's, so it is
    # not for the library to turn.
    torch.set_flush_denormal(True)
    outcome, arm = Outcome(), ""
    with contextlib.suppress(OSError):
        (folder.path / ERROR).unlink(missing_ok=True)  # of an attempt before this one
    show = Reporter(options.steps, options.quiet, folder.log)
    with show as reporter, Interruption(reporter.warn) as interruption, quiet_threads():
        try:
            for arm in arms:
                if folder.status(arm) == FINISHED:
                    reporter.say(f"{arm}: finished before")
                    failures = folder.failures(arm)
                else:
                    # What it says of other arms is no longer all; without it `resume` knows that it is to be made.
                    (folder.path / COMPARISON).unlink(missing_ok=True)
                    failures = run_arm(options, env_id, arm, device, folder, reporter, interruption)
                if failures:
                    everyone = len(failures) == options.seeds
                    lost = "; ".join(text for _, text in sorted(failures.items()))
                    outcome = Outcome(1 if everyone else outcome.exit_code, f"{outcome.message}{arm} on {env_id}: {lost}. ")
        except KeyboardInterrupt:
            with contextlib.suppress(OSError):
                folder.end_arm(arm, INTERRUPTED)
            go_on = f"`recall-traces resume {folder.path}` goes on"
            outcome = Outcome(130, f"interrupted; what was measured so far is in {folder.path}, and {go_on}")
        except Exception as error:
            details = ""
            with contextlib.suppress(OSError):
                (folder.path / ERROR).write_text(traceback.format_exc(), encoding="utf-8")
                details = f" (details in {folder.path / ERROR})"
                folder.end_arm(arm, FAILED, error=describe(error))
            less = "; fewer --seeds, --num-envs or --eval-episodes need less" if isinstance(error, MemoryError) else ""
            outcome = Outcome(1, f"{arm} failed: {describe(error)}{less}{details}")
    if outcome.message:
        folder.log(outcome.message)
    return outcome


def run_arm(
    options: Options,
    env_id: str,
    arm: str,
    device: str,
    folder: RunFolder,
    reporter: Reporter,
    interruption: Interruption,
) -> dict[int, str]:
    """Train one arm, from its last checkpoint if there is one, and save its policies; returns what became of seeds that broke."""
    checkpoints = Checkpoints(folder.checkpoints_path(arm), reporter.warn)
    began_before = folder.status(arm) is not None
    for checkpoint in itertools.chain(checkpoints.read(device) if began_before else (), [None]):
        with contextlib.ExitStack() as stack:
            learner, env, evaluation_env = build(stack, options, env_id, arm, device, checkpoint)
            recorder = Recorder(options, arm, folder, reporter, evaluation_env, interruption, checkpoints)
            if checkpoint is None:
                if began_before:
                    reporter.say(f"{arm}: begins anew, there is no checkpoint to go on from")
                folder.begin_arm(arm)
            else:
                try:
                    learner.load_training_state(checkpoint.tree["learner"])
                    recorder.load_state(checkpoint.tree["recorder"], learner)
                except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
                    checkpoints.set_aside(checkpoint.path, error)
                    continue
                checkpoint.tree.clear()  # a replay need not lie in memory twice
                reporter.say(f"{arm}: goes on after {checkpoint.env_steps:,} steps")
                if not is_restorable(env):
                    reporter.say(f"{arm}: the environments cannot be put back, so new episodes begin there")
                folder.continue_arm(arm, checkpoint.env_steps)
            reporter.begin(arm)
            with recorder:
                if checkpoint is None:
                    learner.learn(options.steps, recorder)
                else:
                    learner.go_on(recorder)
            lost = sorted({*recorder.failures, *learner.failures})
            failures = {s: "; ".join(texts[s] for texts in (recorder.failures, learner.failures) if s in texts) for s in lost}
            # In this order, so that wherever it is cut off the next attempt finds what it needs to finish.
            written = recorder.write(learner, at_the_end=True)
            learner.save(folder.policy_path(arm))
            if isinstance(learner.recall, RecallTraces) and (remark := remark_on(learner.recall)):
                reporter.say(f"{arm}: {remark}")
            if written and not options.keep_checkpoints:
                checkpoints.remove_before(learner.env_steps)
            best = None if recorder.best is None else recorder.best._asdict()
            folder.end_arm(arm, FINISHED, seconds=round(recorder.elapsed, 3), failures=failures, best=best)
            return failures
    raise AssertionError("an arm can always begin anew")


def remark_on(recall: RecallTraces) -> str:
    """What whoever wonders about the arm's curve should know; empty if there is nothing."""
    rewards = recall.memory.steps.rewards[:, :, : len(recall.memory)]
    if not recall.share.rarity.any():
        rare = recall.config.rare_reward
        return f"nothing is imitated where more than {2 * rare:.0%} of the steps pay (--recall.rare-reward {rare})"
    if not any(traces.mask.any() for traces in recall.buffer):
        return "there were no states to recall from, or no way into any, so nothing was imitated at last"
    if recall.config.imitation_ratio and not recall.imitation_ratio:
        return "the model knew ways into too few of the states to recall, so nothing was imitated at last (recall/sureness)"
    explores = recall.config.source in ("auto", "novelty") and not recall.states.progress.rewarded.any()
    if explores and (rewards < 0).float().mean() > 0.5:
        return "no goal was reached and most steps cost, so only ways to novel states were imitated: that can hold a learner back"
    return ""


def build(
    stack: contextlib.ExitStack, options: Options, env_id: str, arm: str, device: str, checkpoint: Checkpoint | None
) -> tuple[Learner, VectorEnv, VectorEnv]:
    """A learner, its environments, and those of the evaluation, as they are at the beginning of an arm.

    Environments that cannot be put back to where they were at a checkpoint get another seed, or they would begin with the
    same episodes again.
    """

    def make(num_envs: int, seed: int, keywords: dict[str, Any]) -> VectorEnv:
        env = envs.make(env_id, num_envs=num_envs, device=device, seed=seed, **keywords)
        if checkpoint is not None and not is_restorable(env):
            close_env(env)
            seed = int(np.random.SeedSequence([seed, checkpoint.env_steps]).generate_state(1)[0] >> 1)
            env = envs.make(env_id, num_envs=num_envs, device=device, seed=seed, **keywords)
        stack.callback(close_env, env)
        return env

    env = make(options.seeds * options.num_envs, options.seed, options.env_keywords)
    learner = make_learner(options.learner, arm, env, options.agent, options.arm_configs, options.seeds, options.seed)
    copies = options.seeds * 2 * options.eval_episodes
    return learner, env, make(copies, options.seed + EVALUATION_SEED, options.eval_env_keywords)


def run(
    options: Options, arms: Sequence[str], argv: Sequence[str], command: str, *, go_on: bool, device: str | None = None
) -> tuple[RunFolder, Outcome]:
    """Run arms into the folder that the options name, or a new one: what `train`, `compare` and `resume` share.

    Args:
        options: What to do.
        arms: The arms.
        argv: The command line, for the record.
        command: `train` or `compare`: what to do when all is done, for whoever resumes.
        go_on: Whether to go on with a run of the same configuration in that folder.
        device: Where to compute, if not where the options say.

    Raises:
        UsageError: it cannot be; nothing was run.
    """
    used = device or choose_device(options.device)
    rehearse(options, options.env_id, arms, used)
    call = describe_call(argv, command, arms)
    folder = open_folder(options, options.env_id, choose_device(options.device) if device is None else None, call, go_on=go_on)
    folder.log(call["command_line"])
    for line in changed_versions(folder.record["calls"]):
        folder.log(line)
        if not options.quiet:
            print(line, flush=True)
    if command == "compare" and not options.quiet:
        size = f"{options.seeds} seeds, {format_steps(options.steps)} steps each"
        print(f"{options.env_id}, {size}, into {folder.path}", flush=True)
    try:
        return folder, run_arms(options, options.env_id, arms, used, folder)
    finally:
        folder.release()
