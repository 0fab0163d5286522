"""From a command line to an options dataclass. tyro builds and shows it; what is wrong is found first, and said in one line."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import difflib
import io
import itertools
import re
import types
import typing
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypeVar, Union

import tyro

from recall_traces.cli.errors import UsageError, one_line

T = TypeVar("T")
HELP = ("-h", "--help")
OF_ENVIRONMENTS = ("--env.", "--eval-env.")
"""Beginnings of options that depend on the environment."""
SHORT = {"--engine": "--env.engine"}
"""Short for options of environments."""
NUMBERS = {int: "a whole number", float: "a number"}


@dataclass(frozen=True)
class Option:
    """What may follow an option."""

    kind: type[Any] | None
    """`int` or `float` where each value must be one."""
    takes: int | None
    """0 or 1 values, or `None` for as many as there are."""
    choices: tuple[str, ...] = ()
    """The only values, if there are such."""
    optional: bool = False
    """Whether None is a value."""

    def check(self, name: str, value: str) -> None:
        """Refuse a value that cannot be one.

        Raises:
            UsageError: names the option, the value and what would be valid.
        """
        if self.optional and value == "None":
            return
        if self.choices and value not in self.choices:
            raise UsageError(f"{name} is {value!r}; it must be one of {', '.join(self.choices)}")
        if self.kind in NUMBERS:
            try:
                self.kind(value)
            except ValueError:
                raise UsageError(f"{name} is {value!r}; it must be {NUMBERS[self.kind]}") from None


@dataclass
class Scan:
    """A command line taken apart."""

    positionals: list[str] = field(default_factory=list)
    after_unknown: list[str] = field(default_factory=list)
    """What may be a positional or the value of an option nobody knows yet."""
    keywords: dict[str, Any] = field(default_factory=dict)
    """Values of options of a free prefix."""
    rest: list[str] = field(default_factory=list)
    """The command line without those."""


def option_table(options: type[Any] | Any, prefix: str = "--") -> dict[str, Option]:
    """Every option of a dataclass (or of an instance, whose values tell the types that are left open), nested ones dotted."""
    table: dict[str, Option] = {}
    hints = typing.get_type_hints(options if isinstance(options, type) else type(options), include_extras=True)
    for item in dataclasses.fields(options):
        hint, name = hints[item.name], item.name
        extras: list[Any] = []
        if typing.get_origin(hint) is Annotated:
            hint, *extras = typing.get_args(hint)
        if tyro.conf.Positional in extras:
            continue
        name = next((extra.name for extra in extras if getattr(extra, "name", None)), name).replace("_", "-")
        value = None if isinstance(options, type) else getattr(options, item.name)
        nested = value if hint is Any else hint
        if dataclasses.is_dataclass(nested):
            table |= option_table(nested, f"{prefix}{name}.")
        elif tyro.conf.FlagCreatePairsOff in extras:
            table[f"{prefix}{name}"] = Option(None, 0)
        elif hint is not Any:
            table |= _options(f"{prefix}{name}", hint)
    return table


def _options(name: str, hint: Any) -> dict[str, Option]:
    optional = False
    if typing.get_origin(hint) in (Union, types.UnionType):
        kinds = [kind for kind in typing.get_args(hint) if kind is not type(None)]
        optional = len(kinds) < len(typing.get_args(hint))
        hint = kinds[0] if len(kinds) == 1 else str
    if hint is bool and optional:
        return {name: Option(None, 1, ("True", "False"), optional)}
    if hint is bool:
        head, dot, last = name.rpartition(".")
        no = f"{head}.no-{last}" if dot else f"--no-{name[2:]}"
        return {key: Option(None, 0) for key in (name, no)}
    origin = typing.get_origin(hint) or hint
    if origin is Literal:
        return {name: Option(None, 1, tuple(map(str, typing.get_args(hint))), optional)}
    if isinstance(origin, type) and issubclass(origin, tuple | list | set | frozenset | dict):
        kinds = [kind for kind in typing.get_args(hint) if kind is not Ellipsis]
        return {name: Option(kinds[0] if len(set(kinds)) == 1 else None, None, (), optional)}
    return {name: Option(hint, 1, (), optional)}


def scan(argv: Sequence[str], table: Mapping[str, Option], free: tuple[str, ...] = (), taken: str | None = None) -> Scan:
    """Take a command line apart.

    Args:
        argv: Words after the subcommand.
        table: Options that are known.
        free: Beginnings of further options that may be anything.
        taken: A word that is a positional, even where it could be the value of a free option.

    Raises:
        UsageError: an option is unknown, or a value is missing or no number; the message names it and the nearest valid.
    """
    found, words = Scan(), list(argv)
    while words:
        word = words.pop(0)
        if not _is_option(word):
            found.positionals.append(word)
            found.rest.append(word)
            continue
        name, equals, value = word.partition("=")
        name = _hyphenated(name)
        values = [value] if equals else []
        if name not in table:
            if not name.startswith(free) or name in free:
                raise UsageError(f"unknown option {word.partition('=')[0]}; {_nearest(name, table)}")
            if not equals and words and not _is_option(words[0]) and words[0] != taken:
                values = [words.pop(0)]
                found.after_unknown += values
            found.keywords[name.partition(".")[2].replace("-", "_")] = _literal(values[0]) if values else True
            continue
        option = table[name]
        if not equals:
            while words and not _is_option(words[0]) and (option.takes is None or len(values) < option.takes):
                values.append(words.pop(0))
        if option.takes == 1 and not values:
            raise UsageError(f"{name} needs a value" + (f": one of {', '.join(option.choices)}" if option.choices else ""))
        if option.takes == 0 and equals:
            raise UsageError(f"{name} takes no value; leave out {equals}{value}")
        for value in values:
            option.check(name, value)
        found.rest += [name, *values]
    return found


def in_full(argv: Sequence[str]) -> list[str]:
    """The command line with what is short for an option written out."""
    return [SHORT.get(name, name) + equals + value for name, equals, value in (word.partition("=") for word in argv)]


def find_env_id(argv: Sequence[str], table: Mapping[str, Option], index: int, known: Callable[[str], bool]) -> str | None:
    """The environment that a command line names, before its options are known; `None` if it names none.

    Args:
        argv: Words after the subcommand.
        table: Options that do not depend on the environment.
        index: Which positional it is.
        known: Whether there is an environment of a name.
    """
    found = scan(argv, table, free=OF_ENVIRONMENTS)
    if len(found.positionals) > index:
        return found.positionals[index]
    # `--env.random-start FourRooms-19`: a flag and the environment, or an option and its value?
    return next((word for word in found.after_unknown if known(word)), None)


def find_agent(argv: Sequence[str], table: Mapping[str, Option], positional: bool, known: Container[str]) -> str | None:
    """The learner that a command line names, before its options are known; `None` if it names no known one.

    Args:
        argv: Words after the subcommand.
        table: Options of every learner that do not depend on the environment.
        positional: Whether it is the first positional, or else the value of `--agent`.
        known: Names of learners.
    """
    found = scan(argv, table, free=OF_ENVIRONMENTS)
    words = [*found.positionals[:1], *found.after_unknown]
    if not positional:
        words = [value for name, value in itertools.pairwise(found.rest) if name == "--agent"]
    return next((word for word in words if word in known), None)


def build(argv: Sequence[str], default: T, name: str, description: str) -> T | None:
    """Let tyro fill in an options dataclass.

    Args:
        argv: Words after the subcommand.
        default: Instance with the default of every field.
        name: Of the subcommand.
        description: Above the help.

    Returns:
        The options; `None` if help was asked for and shown.

    Raises:
        UsageError: tyro or a dataclass refuses a value.
    """
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            return tyro.cli(
                type(default), args=list(argv), prog=f"recall-traces {name}", description=description, default=default
            )
    except ValueError as error:
        raise UsageError(one_line(error)) from error
    except SystemExit as stop:
        if not stop.code:
            return None
        raise UsageError(_unboxed(errors.getvalue(), option_table(default))) from None


def parse_plain(argv: Sequence[str], default: T, name: str, description: str, example: str, several: bool = False) -> T | None:
    """Parse the command line of a subcommand whose options depend on nothing, and which takes a run.

    Args:
        argv: Words after the subcommand.
        default: Instance with the default of every field, `MISSING` for the positional.
        name: Of the subcommand.
        description: Above the help.
        example: How to call it, for the message where the positional is missing.
        several: Whether it takes several runs.

    Returns:
        The options; `None` if help was asked for and shown.

    Raises:
        UsageError: something in it is unknown, missing or out of range.
    """
    if any(word in HELP for word in argv):
        return build(["--help"], default, name, description)
    found = scan(argv, option_table(default))
    if not found.positionals:
        what = "at least one run" if several else "the folder of a run"
        raise UsageError(f"{name} needs {what}, such as: recall-traces {example}")
    if len(found.positionals) > 1 and not several:
        raise UsageError(f"unexpected argument {found.positionals[1]!r} after {found.positionals[0]!r}")
    return build(found.rest, default, name, description)


def _is_option(word: str) -> bool:
    return word.startswith("-") and word != "-" and not re.match(r"-\.?\d", word)


def _hyphenated(name: str) -> str:
    """Underscores in the name of an option mean hyphens."""
    return "--" + name[2:].replace("_", "-") if name.startswith("--") else name


def _nearest(name: str, table: Mapping[str, Option]) -> str:
    near = difflib.get_close_matches(name, table, n=3, cutoff=0.6)
    last = name.rpartition(".")[2].lstrip("-")
    near += [known for known in table if known.rpartition(".")[2].lstrip("-") == last and known not in near]
    return f"the nearest: {', '.join(near[:3])}" if near else "--help shows what there is"


def _literal(text: str) -> Any:
    """A keyword's value as Python would write it, else as text."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _unboxed(box: str, table: Mapping[str, Option]) -> str:
    """The message in tyro's box: between the title and the next line across."""
    words = " ".join(re.sub(r"[│|╭╮╰╯+]", " ", box).split())
    parts = [part.strip() for part in re.split(r"[─-]{4,}", words)]
    text = next((part for part in parts[1:] if part), words)
    where = re.match(r"Error parsing ([\w.-]+): ", text)
    if where is None:
        return text
    # `recall: source must be ...` is about `--recall.source`.
    prefix, (name, _, reason) = "--" + where[1].replace("_", "-"), text[where.end() :].partition(" ")
    option = f"{prefix}.{name.replace('_', '-')}"
    return f"{option} {reason}" if option in table else f"{prefix}: {name} {reason}"
