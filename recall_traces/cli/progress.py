"""How a run shows how far it is: bars on a terminal, plain lines elsewhere, nothing when it is to be quiet."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn

LINES = 10
"""Plain lines of an arm."""


@dataclass(frozen=True)
class Status:
    """Where an arm is. Numbers are means over the seeds that go on."""

    env_steps: int
    """Of one seed."""
    episode_return: float
    """At the last evaluation."""
    success: float
    """At the last evaluation; nan where the task has no such notion."""
    steps_per_second: float
    """Of all seeds together."""
    seconds_left: float
    """Of this arm; nan before the first step."""

    def text(self) -> str:
        """The numbers in words."""
        parts = [f"return {self.episode_return:.4g}"]
        if not math.isnan(self.success):
            parts = [f"success {self.success:.2f}"]
        if self.env_steps:
            parts += [f"{round(self.steps_per_second, -2):,.0f} steps/s", f"{_clock(self.seconds_left)} left"]
        return ", ".join(parts)


class Reporter:
    """Shows the arms of a run one after the other.

    Args:
        total_steps: Of one seed of each arm.
        quiet: Show nothing.
        log: Told every line, also where nothing is shown.
    """

    def __init__(self, total_steps: int, quiet: bool, log: Callable[[str], None] = lambda text: None) -> None:
        self.total_steps, self.quiet, self.log = total_steps, quiet, log
        self.console = Console(highlight=False, soft_wrap=True)
        self.bars: Progress | None = None
        self.bar: TaskID | None = None
        self.arm = ""
        self.lines = 0

    def __enter__(self) -> Reporter:
        if self.console.is_terminal and not self.quiet:
            columns = (TextColumn("{task.description:<14}"), BarColumn(), TextColumn("{task.fields[steps]:>9}"))
            self.bars = Progress(*columns, TextColumn("{task.fields[text]}"), console=self.console, refresh_per_second=4)
            self.bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        if self.bars is not None:
            self.bars.stop()

    def say(self, text: str) -> None:
        """Print one line of text."""
        self.log(text)
        if not self.quiet:
            self.console.print(escape(text))

    def warn(self, text: str) -> None:
        """Print one line about something that went wrong, also where nothing else is shown."""
        self.log(text)
        if self.bars is not None:
            self.console.print(escape(text))
        else:
            print(text, file=sys.stderr, flush=True)

    def begin(self, arm: str) -> None:
        """The next arm starts."""
        self.arm, self.lines = arm, 0
        if self.bars is not None:
            self.bar = self.bars.add_task(escape(arm), total=self.total_steps, steps="0", text="")

    def show(self, status: Status) -> None:
        """The arm has come so far."""
        if self.bars is not None and self.bar is not None:
            self.bars.update(self.bar, completed=status.env_steps, steps=f"{status.env_steps:,}", text=status.text())
        due = min(LINES, status.env_steps * LINES // self.total_steps)
        if due > self.lines:
            self.lines = due
            line = f"{self.arm}: {status.env_steps:,} of {self.total_steps:,} steps, {status.text()}"
            if self.bars is None:
                self.say(line)
            else:
                self.log(line)


def _clock(seconds: float) -> str:
    whole = max(0, round(seconds))
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}" if whole >= 3600 else f"{whole // 60}:{whole % 60:02}"
