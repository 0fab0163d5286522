"""How a run shows how far it is: one line per arm on a terminal, plain lines elsewhere, nothing when it is to be quiet."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Column

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
    """Of this arm; nan before the first step, 0 after the last."""

    def text(self) -> str:
        """The numbers in words."""
        parts = [f"return {self.episode_return:.4g}"]
        if not math.isnan(self.success):
            parts.append(f"success {self.success:.2f}")
        if self.env_steps:
            parts.append(f"{_rate(self.steps_per_second)} steps/s")
        if self.seconds_left > 0:
            parts.append(f"{_clock(self.seconds_left)} left")
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
        # A terminal that cannot move its cursor gets plain lines, and so does a file, even where FORCE_COLOR asks for colours.
        if self.console.is_interactive and self.console.file.isatty() and not self.quiet:
            # The bar takes what width the text leaves, and none where that is little.
            bar = BarColumn(bar_width=None, table_column=Column(ratio=1))
            share = TextColumn("{task.percentage:>3.0f}%", table_column=Column(min_width=4, no_wrap=True))
            columns = (TextColumn("{task.description}"), bar, share, TextColumn("{task.fields[text]}"))
            self.bars = Progress(*columns, console=self.console, refresh_per_second=4, expand=True)
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
            self.bar = self.bars.add_task(escape(arm), total=self.total_steps, text="")

    def show(self, status: Status) -> None:
        """The arm has come so far."""
        if self.bars is not None and self.bar is not None:
            self.bars.update(self.bar, completed=min(status.env_steps, self.total_steps), text=status.text())
        due = min(LINES, status.env_steps * LINES // self.total_steps)
        if due > self.lines:
            self.lines = due
            line = f"{self.arm}: {status.env_steps:,} of {self.total_steps:,} steps, {status.text()}"
            if self.bars is None:
                self.say(line)
            else:
                self.log(line)


def _rate(number: float) -> str:
    """Three digits are all that is steady."""
    return f"{number:.1f}" if number < 10 else f"{float(f'{number:.3g}'):,.0f}"


def _clock(seconds: float) -> str:
    whole = max(0, round(seconds))
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}" if whole >= 3600 else f"{whole // 60}:{whole % 60:02}"
