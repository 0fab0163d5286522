"""Ctrl-C where it does no harm."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any


class Interruption:
    """Ctrl-C while a rollout is under way: the first waits for its end, where a checkpoint is exact; the second stops at once.

    Args:
        say: Told, in one line, that it is waited for the end.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say, self.asked = say, False
        self.before: Any = None

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            self.before = signal.signal(signal.SIGINT, self.ask)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.before is not None:
            signal.signal(signal.SIGINT, self.before)

    def ask(self, number: int, frame: FrameType | None) -> None:
        """What Ctrl-C calls."""
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        self.say("stopping at the end of this rollout; Ctrl-C once more stops at once and loses it")
