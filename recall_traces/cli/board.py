"""What TensorBoard shows of an arm: curves, a row in the table of hyperparameters, pictures of what is recalled."""

from __future__ import annotations

import contextlib
import gc
import math
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from recall_traces.agents.learner import Learner
from recall_traces.recall import RecallTraces

PICTURE = "recall/traces of the first seed"
PICTURE_SHARE = 0.01
"""Of an arm's time, at most, for pictures; the one at the end may take so many seconds..."""
LAST_PICTURE_AFTER = 10.0
"""...if the arm took at least this long."""
PICTURE_SECONDS = 1.0
"""What the first picture is thought to take."""


class Board:
    """Writes TensorBoard's events of one arm into one folder.

    Args:
        path: The folder.
        arm: Its name.
        configuration: Of the run; becomes the hyperparameters.
        metrics: Tags that stand beside them, those of scalars that will be written.
        purge_step: What was written for this step and later ones is hidden.
    """

    def __init__(
        self,
        path: Path,
        arm: str,
        configuration: Mapping[str, Any],
        metrics: Iterable[str],
        purge_step: int | None = None,
    ) -> None:
        self.arm, self.task = arm, str(configuration.get("env_id", ""))
        self.writer: Any = SummaryWriter(str(path), purge_step=purge_step)
        # `add_hparams` would make another run beside the curves: the same summaries go into theirs instead. All arms of a run
        # have the same columns, since TensorBoard asks one of them which there are.
        settings = {"arm": arm, **flat(configuration)}
        experiment, start, self.end = hparams(settings, dict.fromkeys(metrics, 0.0))
        self._tell(experiment)
        self._tell(start)
        self.pictures_took, self.picture_takes = 0.0, PICTURE_SECONDS

    def add(self, means: Mapping[str, float], env_steps: int) -> None:
        """Write scalars by tag, but for those that are not finite."""
        for tag, mean in means.items():
            if math.isfinite(mean):
                self.writer.add_scalar(tag, mean, env_steps)

    def show_traces(self, learner: Learner, elapsed: float, last: bool) -> None:
        """Draw the traces of the first seed that goes on, if the arm recalls, the task has a floor plan, and there is time.

        Args:
            learner: What trains.
            elapsed: Seconds since the arm began.
            last: Whether the arm is at its end.
        """
        recall, plan = getattr(learner, "recall", None), getattr(learner.env, "floor_plan", None)
        due = self.pictures_took + self.picture_takes <= PICTURE_SHARE * elapsed or (last and elapsed >= LAST_PICTURE_AFTER)
        going = [seed for seed, alive in enumerate(learner.alive) if alive]
        if not due or plan is None or not going or not isinstance(recall, RecallTraces) or not recall.buffer:
            return
        floor = plan()
        if floor is None or not any(bool(traces.mask[going[0]].any()) for traces in recall.buffer):
            return
        began = time.perf_counter()
        # Where it is needed: matplotlib is slow to import.
        from recall_traces.scene import make_scene
        from recall_traces.trace_picture import trace_pixels

        title = f"{self.task}, {self.arm}, seed {going[0]}, {learner.env_steps:,} steps"
        picture = trace_pixels(make_scene(recall, learner.value, going[0], floor), title)
        self.writer.add_image(PICTURE, picture, learner.env_steps, dataformats="HWC")
        # A figure's parts refer to each other, and Python looks for such circles the less often the longer a run has lasted.
        gc.collect()
        self.picture_takes = time.perf_counter() - began
        self.pictures_took += self.picture_takes

    def close(self) -> None:
        """End the row of the table, and the file."""
        self._tell(self.end)
        self.writer.close()

    def _tell(self, summary: Any) -> None:
        self.writer.file_writer.add_summary(summary)


@contextlib.contextmanager
def quiet_threads() -> Iterator[None]:
    """TensorBoard writes in a thread. What stops it is raised with the next event, and no traceback is needed before."""

    def hook(told: threading.ExceptHookArgs) -> None:
        if not isinstance(told.exc_value, OSError):
            before(told)

    before, threading.excepthook = threading.excepthook, hook
    try:
        yield
    finally:
        threading.excepthook = before


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, str | float]:
    """Nested settings by dotted names, as TensorBoard takes them: numbers and text."""
    return dict(_flat(settings, prefix))


def _flat(settings: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, str | float]]:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield f"{prefix}{name}", value
        else:
            yield f"{prefix}{name}", str(value)
