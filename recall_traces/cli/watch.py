"""`recall-traces watch`: a film of a policy."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from numpy.typing import NDArray
from tyro import MISSING
from tyro.conf import FlagCreatePairsOff, Positional, arg

from recall_traces.cli.errors import UsageError, one_line
from recall_traces.cli.parsing import HELP, build, option_table, scan

if TYPE_CHECKING:
    from torch import Tensor

    from recall_traces.agents.learner import Learner
    from recall_traces.envs.interface import VectorEnv
    from recall_traces.film import Film

DESCRIPTION = """Make a film of the policy that a run came to: a GIF, or an MP4 where ffmpeg is. No screen is needed.

Long films skip steps, so that they have 240 frames at most; the caption tells the step.

examples:
  recall-traces watch runs/x
  recall-traces watch runs/x --arm none --seed 3 --episodes 1
  recall-traces watch runs/hopper --greedy --out hopper.mp4 --fps 30"""
WIDTH = 320
"""Pixels of a MuJoCo world's picture."""
MOST_STEPS = 10_000
"""Of an episode that does not end by itself."""
Show = Callable[["Tensor | None"], NDArray[np.uint8] | None]
"""The picture of an observation; of None, the present one. None where a final observation cannot be shown any more."""


@dataclass(frozen=True, kw_only=True)
class WatchOptions:
    """Make a film of a policy."""

    run: Annotated[Path, Positional, arg(metavar="RUN")]
    """The folder of a run."""
    arm: Annotated[str | None, arg(metavar="ARM")] = None
    """Whose policy. By default the first arm that recalls, else the first."""
    seed: Annotated[int, arg(metavar="N")] = 0
    """Which of its seeds, from 0."""
    episodes: Annotated[int, arg(metavar="N")] = 3
    """How many episodes."""
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
    options = parse(argv)
    if options is None:
        return
    options.check()
    # After the command line was found good: torch and matplotlib are slow.
    import recall_traces.envs as envs
    from recall_traces.cli.saved import check_seed, choose_arm, draw_without_screen, environment_keywords, load_policy, open_run
    from recall_traces.film import check_film

    folder = open_run(options.run)
    arm = choose_arm(folder, options.arm, lambda name: folder.policy_path(name).exists(), "a saved policy")
    configuration = folder.record["configuration"]
    check_seed(options.seed, configuration["seeds"])
    out = options.out or folder.path / f"watch-{arm}-{options.seed}.gif"
    draw_without_screen()
    try:
        check_film(out)
        with contextlib.ExitStack() as stack:
            keywords = environment_keywords(configuration, "eval_env")

            def make(num_envs: int, **more: Any) -> VectorEnv:
                env = envs.make(configuration["env_id"], num_envs=num_envs, seed=options.seed, **keywords, **more)
                stack.callback(getattr(env, "close", lambda: None))
                return env

            learner = load_policy(folder, arm, make(configuration["seeds"]))
            show, env = camera(make)
            film = play(learner, env, show, options)
        film.write(out, options.fps)
    except (ValueError, RuntimeError) as error:
        raise UsageError(one_line(error)) from error
    except OSError as error:
        raise UsageError(f"cannot write {out}: {error.strerror or one_line(error)}") from error
    print(out)


def parse(argv: Sequence[str]) -> WatchOptions | None:
    """The options; `None` if help was asked for and shown."""
    default = WatchOptions(run=MISSING)
    if any(word in HELP for word in argv):
        return build(["--help"], default, "watch", DESCRIPTION)
    found = scan(argv, option_table(default)).positionals
    if len(found) != 1:
        raise UsageError(f"watch takes one run, such as: recall-traces watch runs/x; it got {len(found)}")
    return build(argv, default, "watch", DESCRIPTION)


def camera(make: Callable[..., VectorEnv]) -> tuple[Show, VectorEnv]:
    """One copy of an environment, and what draws it.

    Raises:
        ValueError: it cannot be drawn.
    """
    from recall_traces.envs.gymnasium_adapter import GymnasiumVectorEnv

    env: Any = make(1)
    if isinstance(env, GymnasiumVectorEnv):
        env.close()
        env = make(1, render_mode="rgb_array")
        drawn = env
        return (lambda obs: drawn.picture() if obs is None else None), env
    if hasattr(env, "pose"):  # draws its own state: of what an observation shows, the place would be missing
        return (lambda obs: env.render(0, WIDTH, WIDTH) if obs is None else None), env
    if not hasattr(env, "render"):
        raise ValueError("this environment cannot be drawn: it has no method render")
    if "obs" in inspect.signature(env.render).parameters:
        return (lambda obs: env.render(obs=obs)), env
    return (lambda obs: env.render() if obs is None else None), env


def play(learner: Learner, env: VectorEnv, show: Show, options: WatchOptions) -> Film:
    """Film some episodes of one seed's policy in an environment of one copy."""
    from recall_traces.film import Film
    from recall_traces.seeding import seeded_generator

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
