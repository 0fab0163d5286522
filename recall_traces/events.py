"""Scalars of TensorBoard's events, read back."""

from __future__ import annotations

import math
from pathlib import Path

Scalars = dict[str, tuple[list[int], list[float]]]
"""By tag: steps, and the value at each."""


def read_scalars(folder: str | Path, prefix: str = "") -> Scalars:
    """Read what one writer, or several one after the other, wrote into a folder. What a later one hid is left out.

    Args:
        folder: with the files of events; a folder without any gives nothing.
        prefix: beginning of the tags that are wanted.

    Raises:
        ValueError: the files cannot be read.
    """
    if not any(Path(folder).glob("events.out.tfevents.*")):
        return {}
    # Takes a second, and only those who have such files need it.
    from tensorboard.backend.event_processing.event_accumulator import SCALARS, EventAccumulator

    try:
        events = EventAccumulator(str(folder), size_guidance={SCALARS: 0}).Reload()
        tags = sorted(tag for tag in events.Tags()[SCALARS] if tag.startswith(prefix))
        samples = {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in tags}
    except Exception as error:  # what its parser raises is promised nowhere
        raise ValueError(f"{folder} holds no readable events of TensorBoard ({type(error).__name__})") from error
    finite = {tag: [(step, value) for step, value in pairs if math.isfinite(value)] for tag, pairs in samples.items()}
    return {tag: ([step for step, _ in pairs], [value for _, value in pairs]) for tag, pairs in finite.items() if pairs}
