"""What a MuJoCo task needs of a simulator: many worlds of one model that step together."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor


class Engine(Protocol):
    """Worlds of one model. A tensor that an engine hands out may be overwritten by its next call: copy what is to be kept."""

    num_worlds: int
    device: torch.device
    """Where the tensors are."""
    dtype: torch.dtype
    """Of every tensor: float64 for MuJoCo's C library, float32 for MuJoCo Warp."""
    fields: dict[str, Tensor]
    """By MuJoCo's names, `(num_worlds, ...)`: `qpos`, `qvel`, and the derived ones that were asked for.

    Derived fields are those of the last substep, one behind `qpos` and `qvel`, as Gymnasium reads them.
    """
    broken: Tensor
    """Worlds that the last step made NaN or too large and put back to the model's first state, bool, `(num_worlds,)`."""

    def step(self, controls: Tensor) -> None:
        """Simulate `frame_skip` substeps with the controls held, `(num_worlds, nu)`."""
        ...

    def reset(self, worlds: Tensor, qpos: Tensor, qvel: Tensor) -> None:
        """Put some worlds into given positions and velocities, with everything derived from them.

        Args:
            worlds: which, bool, `(num_worlds,)`.
            qpos: `(num_worlds, nq)`; rows of other worlds are not used.
            qvel: `(num_worlds, nv)`.
        """
        ...

    def get_state(self) -> Tensor:
        """All that the next step and the fields depend on, `(num_worlds, state)`, a tensor of its own."""
        ...

    def set_state(self, worlds: Tensor, state: Tensor) -> None:
        """Put some worlds (bool, `(num_worlds,)`) into states that `get_state` gave, `(num_worlds, state)`."""
        ...

    def close(self) -> None:
        """Free threads and memory."""
        ...
