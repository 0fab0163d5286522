"""Random numbers for many steps at once: drawing for each step alone costs more than the step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from recall_traces.seeding import restore_generator

MOST_NUMBERS = 2**20
MOST_STEPS = 256


class Blocks:
    """Gives one row per step with `next`, for ever.

    What is ahead in a block has been drawn already, so the generator alone does not tell which row comes next. The state is the
    generator's from before the block, and how many of its rows are used: that is enough to draw the block again.

    Args:
        draw: given a number of steps, returns `(steps, num_envs, ...)`; it may depend on nothing but the generator.
        num_envs: how many copies a row serves; many copies make short blocks, so that memory stays small.
        generator: what `draw` draws with.
    """

    def __init__(self, draw: Callable[[int], Tensor], num_envs: int, generator: torch.Generator) -> None:
        self._draw, self._generator = draw, generator
        self._steps = max(1, min(MOST_STEPS, MOST_NUMBERS // num_envs))
        self._before = generator.get_state()
        self._rows: tuple[Tensor, ...] = ()
        self._used = 0

    def __iter__(self) -> Blocks:
        return self

    def __next__(self) -> Tensor:
        if self._used == len(self._rows):
            self._before = self._generator.get_state()
            self._rows, self._used = self._draw(self._steps).unbind(0), 0
        self._used += 1
        return self._rows[self._used - 1]

    def state_dict(self) -> dict[str, Any]:
        """Where it is."""
        return {"generator": self._before, "used": self._used if self._used < len(self._rows) else 0}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from where `state_dict` was called; leaves the generator as it is."""
        self._rows, self._used = (), int(state["used"])
        if self._used:
            now = self._generator.get_state()
            restore_generator(self._generator, state["generator"])
            self._before, self._rows = self._generator.get_state(), self._draw(self._steps).unbind(0)
            self._generator.set_state(now)
