"""`recall-traces watch`: a film of a policy."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from tyro import MISSING
from tyro.conf import FlagCreatePairsOff, Positional, arg

import recall_traces.envs as envs
from recall_traces.agents.learner import Learner
from recall_traces.cli.errors import UsageError, one_line
from recall_traces.cli.load import LoadedRun
from recall_traces.cli.parsing import parse_plain
from recall_traces.cli.saved import open_arm
from recall_traces.envs.gymnasium_adapter import GymnasiumVectorEnv
from recall_traces.envs.interface import VectorEnv
from recall_traces.film import Film, check_film
from recall_traces.seeding import seeded_generator

DESCRIPTION = """Make a film of the policy that a run came to: a GIF, or an MP4 where ffmpeg is. No screen is needed.

Long films skip steps, so that they have about 240 frames at most; the caption tells the step.

examples:
  recall-traces watch runs/x
  recall-traces watch runs/x --arm none --seed 3 --episodes 1
  recall-traces watch runs/hopper --greedy --out hopper.mp4 --fps 30"""
WIDTH = 320
"""Pixels of a MuJoCo world's picture."""
MOST_STEPS = 10_000
"""Of an episode that does not end by itself."""
Show = Callable[[Tensor | None], NDArray[np.uint8] | None]
"""The picture of an observation; of None, the present one. None where a final observation cannot be shown any more."""


@dataclass(frozen=True, kw_only=True)
class WatchOptions:
    """Make a film of a policy."""

    run: Annotated[Path, Positional, arg(metavar="RUN", help_behavior_hint="(required)")]
    """The folder of a run."""
    arm: Annotated[str | None, arg(metavar="ARM")] = None
    """Whose policy. By default the first arm that recalls, else the first."""
    seed: Annotated[int, arg(metavar="N")] = 0
    """Which of its seeds, from 0."""
    episodes: Annotated[int, arg(metavar="N")] = 3
    """How many episodes."""
    best: FlagCreatePairsOff[bool] = False
    """The policy of the evaluation that was best for all seeds together, instead of the newest."""
    greedy: FlagCreatePairsOff[bool] = False
    """Take the most likely actions instead of drawing them."""
    out: Annotated[Path | None, arg(metavar="FILE")] = None
    """The film, a .gif or .mp4. By default watch-ARM-SEED.gif in the folder of the run."""
    fps: Annotated[int, arg(metavar="N")] = 15
    """Frames per second."""

    def check(self) -> None:
        """Refuse what is out of range.

        Raises:
            UsageError: names the option and what would be valid.
        """
        for name in ("episodes", "fps"):
            if getattr(self, name) < 1:
                raise UsageError(f"--{name} is {getattr(self, name)}; it must be at least 1")


def main(argv: Sequence[str]) -> None:
    """Run the subcommand.

    Raises:
        UsageError: there is no such run, arm or seed, it cannot be drawn, or the film cannot be written.
    """
    options = parse_plain(argv, WatchOptions(run=MISSING), "watch", DESCRIPTION, "watch runs/x")
    if options is None:
        return
    options.check()
    try:
        if options.out is not None:
            check_film(options.out)
        run = open_arm(options.run, options.arm, options.seed, best=options.best)
        out = options.out or run.folder.path / f"watch-{run.arm}-{options.seed}.gif"
        with contextlib.closing(run):
            film = film_of(run, options)
    except (ValueError, RuntimeError) as error:
        raise UsageError(one_line(error)) from error
    try:
        film.write(out, options.fps)
    except OSError as error:
        raise UsageError(f"cannot write {out}: {error.strerror or one_line(error)}") from error
    print(out)


def film_of(run: LoadedRun, options: WatchOptions) -> Film:
    """Film the policy of an arm in an environment of one copy, with the options of its evaluation."""

    def make(**more: Any) -> VectorEnv:
        keywords = run.options.eval_env_keywords | more
        return envs.make(run.options.env_id, num_envs=1, device=run.learner.device, seed=options.seed, **keywords)

    show, env = camera(make)
    try:
        return play(run.learner, env, show, options)
    finally:
        getattr(env, "close", lambda: None)()


def camera(make: Callable[..., VectorEnv]) -> tuple[Show, VectorEnv]:
    """One copy of an environment, and what draws it.

    Raises:
        ValueError: it cannot be drawn.
    """
    env: Any = make()
    if isinstance(env, GymnasiumVectorEnv):
        env.close()
        if not env.draws_pictures:
            raise ValueError("this environment cannot be drawn: it has no render mode 'rgb_array'")
        drawn: Any = make(render_mode="rgb_array")
        return (lambda obs: drawn.picture() if obs is None else None), drawn
    if hasattr(env, "pose"):  # draws its own state: of what an observation shows, the place would be missing
        return (lambda obs: env.render(0, WIDTH, WIDTH) if obs is None else None), env
    if not hasattr(env, "render"):
        raise ValueError("this environment cannot be drawn: it has no method render")
    if "obs" in inspect.signature(env.render).parameters:
        return (lambda obs: env.render(obs=obs)), env
    return (lambda obs: env.render() if obs is None else None), env


def play(learner: Learner, env: VectorEnv, show: Show, options: WatchOptions) -> Film:
    """Film some episodes of one seed's policy in an environment of one copy."""
    film, generator = Film(), seeded_generator(options.seed, "watch")
    obs = env.reset()
    for episode in range(1, options.episodes + 1):
        total, number = 0.0, f"episode {episode} of {options.episodes}, " if options.episodes > 1 else ""
        picture = show(None)
        assert picture is not None
        film.add(picture, f"{number}step 0, return 0")
        for count in range(1, MOST_STEPS + 1):
            actions = learner.act(obs[None].expand(learner.num_seeds, *obs.shape), options.greedy, generator)[options.seed]
            step = env.step(actions)
            obs, total = step.obs, total + float(step.rewards[0])
            ended, cut = bool(step.terminated[0]), bool(step.truncated[0]) or count == MOST_STEPS
            # Where a new episode has begun, what is not shown by its final observation can be shown no more.
            seen = show(step.final_obs[0]) if ended or cut else show(None)
            picture = picture if seen is None else seen
            end = ", ended" if ended else ", time is up" if cut else ""
            film.add(picture, f"{number}step {count}, return {total:.4g}{end}", last=ended or cut)
            if ended or cut:
                break
    return film
