"""What ends a command early. Each is shown as one line on stderr."""

from __future__ import annotations


class UsageError(Exception):
    """The command line asks for something that cannot be; nothing was run. Exit code 2."""


class RunError(Exception):
    """Something failed on the way; what was measured is on disk. Exit code 1."""


def one_line(error: BaseException) -> str:
    """The message of an error on one line; its type where it has no message."""
    return " ".join(str(error).split()) or type(error).__name__


def describe(error: BaseException) -> str:
    """The type and the message of an error that nobody raised on purpose."""
    message = " ".join(str(error).split())
    if isinstance(error, MemoryError):  # whose message, where there is one, says all
        return message or "there is not enough memory"
    return f"{type(error).__name__}: {message}" if message else type(error).__name__
