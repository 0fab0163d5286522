"""Random numbers for many steps at once: drawing for each step alone costs more than the step."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from torch import Tensor

MOST_NUMBERS = 2**20
MOST_STEPS = 256


def in_blocks(draw: Callable[[int], Tensor], num_envs: int) -> Iterator[Tensor]:
    """Yield one row per step, for ever.

    Args:
        draw: given a number of steps, returns `(steps, num_envs, ...)`.
        num_envs: how many copies a row serves; many copies make short blocks, so that memory stays small.
    """
    steps = max(1, min(MOST_STEPS, MOST_NUMBERS // num_envs))
    while True:
        yield from draw(steps).unbind(0)
