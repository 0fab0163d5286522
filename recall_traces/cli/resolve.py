"""Learner and environment decide which options there are and what their defaults are, so their names are found first."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any, TypeVar, get_type_hints

from tyro.conf import arg

import recall_traces.envs as envs
from recall_traces.agents.arms import LEARNERS
from recall_traces.agents.presets import ELSEWHERE, preset
from recall_traces.cli.errors import UsageError, one_line
from recall_traces.cli.options import DEMO_AGENT, DEMO_ENV, Keywords, RunOptions
from recall_traces.cli.parsing import HELP, Option, build, find_agent, find_env_id, in_full, option_table, scan

Run = TypeVar("Run", bound=RunOptions)


def parse_run(argv: Sequence[str], default: Run, name: str, description: str, positionals: Sequence[str]) -> Run | None:
    """Parse the command line of `train` or `compare`.

    Args:
        argv: Words after the subcommand.
        default: Options before the environment is known.
        name: Of the subcommand.
        description: Above the help.
        positionals: Names of the fields that are positionals, the environment the last; those that `default` misses are needed.

    Returns:
        The options; `None` if help was asked for and shown.

    Raises:
        UsageError: something in it is unknown, missing or out of range.
    """
    argv = in_full(argv)
    if any(word in HELP for word in argv):
        words = [word for word in argv if not word.startswith("-")]
        named = next((word for word in words if _known(word)), DEMO_ENV)
        agent = next((word for word in words if word in LEARNERS), DEMO_AGENT)
        full = _with_environment(default, named, agent)
        description += f"\n\ndefaults below are those of {named}: name an environment before --help to see its own"
        if isinstance(full.env, Keywords):
            description += f"\n\noptions of {named}: the keywords of its constructor, --env.KEY VALUE"
        return build(["--help"], full, name, description)
    index = len(positionals) - 1
    every_option: dict[str, Option] = {}
    for agent in LEARNERS:
        every_option |= option_table(dataclasses.replace(default, agent=getattr(ELSEWHERE, agent)))
    env_id = find_env_id(argv, every_option, index, _known)
    if env_id is None and not isinstance(getattr(default, positionals[-1]), str):
        raise UsageError(f"{name} needs an agent and an environment, such as: recall-traces {name} ppo FourRooms-19")
    try:
        chosen = find_agent(argv, every_option, "learner" in positionals, LEARNERS)
        full = _with_environment(default, env_id or DEMO_ENV, chosen or DEMO_AGENT)
        is_free = isinstance(full.env, Keywords)
        found = scan(argv, option_table(full), free=("--env.",) if is_free else (), taken=env_id)
        if len(found.positionals) > len(positionals):
            raise UsageError(f"unexpected argument {found.positionals[len(positionals)]!r} after {env_id!r}")
        options = build(found.rest, full, name, description)
        if options is None:
            return None
        options.check()
    except ValueError as error:
        raise UsageError(one_line(error)) from error
    return dataclasses.replace(options, env=found.keywords) if is_free else options


def _with_environment(default: Run, env_id: str, agent: str) -> Run:
    """The defaults for an environment and a learner.

    Raises:
        ValueError: there is none of that name.
    """
    look_here(env_id)
    options_class = envs.options_class(env_id)
    known = preset(env_id)
    return dataclasses.replace(
        default,
        env=(options_class or Keywords)(),
        eval_env=(all_optional(options_class) if options_class else Keywords)(),
        agent=getattr(known, agent),
        recall=known.recall,
        sil=known.sil,
        bonus=known.bonus,
        per=known.per,
        goal_gan=known.goal_gan,
    )


def all_optional(options: type[Any]) -> type[Any]:
    """A dataclass with the same fields, each None unless it is given."""
    help_text = arg(help="The same for the evaluation alone; as in training unless given.")
    hints = get_type_hints(options)
    columns = [(item.name, Annotated[hints[item.name] | None, help_text], None) for item in dataclasses.fields(options)]
    return dataclasses.make_dataclass(f"{options.__name__}ForEvaluation", columns, frozen=True)


def _known(env_id: str) -> bool:
    look_here(env_id)
    try:
        envs.options_class(env_id)
    except ValueError:
        return False
    return True


def look_here(env_id: str) -> None:
    """Let `module:name` name a module in the current folder, which a console script does not look into by itself."""
    if ":" in env_id and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
