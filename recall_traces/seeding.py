"""One seed for a whole run, and independent generators for everything in it that draws."""

from __future__ import annotations

import zlib

import numpy as np
import torch
from torch import Tensor


def seeded_generator(seed: int, role: str, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator whose numbers depend on the seed and on what they are for.

    Two generators with the same seed give the same bits, so that noise of a policy and of its environment would go hand in
    hand (by rank, almost perfectly); a role of their own sets them apart.

    Args:
        seed: At least 0.
        role: What the numbers are for.
        device: Where they are drawn.
    """
    state = np.random.SeedSequence([seed, zlib.crc32(role.encode())]).generate_state(1, np.uint64)
    return torch.Generator(device).manual_seed(int(state[0] >> 1))


def restore_generator(generator: torch.Generator, state: Tensor) -> None:
    """Put a generator back to a state that `get_state` gave.

    Where that was on another kind of device, whose generators count differently, it is seeded by the state instead.
    """
    if state.shape == generator.get_state().shape:
        generator.set_state(state)
    else:
        generator.manual_seed(zlib.crc32(bytes(state.tolist())))
