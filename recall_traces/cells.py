"""A coarse map of states: which cell a state lies in, so that visits can be counted and states told apart."""

from __future__ import annotations

import torch
from gymnasium import spaces
from torch import Tensor

from recall_traces.seeding import seeded_generator
from recall_traces.spaces import ObservationSpace, num_states, state_index

MAX_CELLS = 1 << 14
"""Hashed cells: of a `Box`, and of finite spaces with more than `MAX_STATES` states."""
MAX_STATES = 1 << 18
"""Largest finite space in which each state is a cell of its own."""
FACTORS = (1, 2_654_435_761, 805_459_861)
"""Of the three numbers of a place in a grid, to hash it."""
PRIME = 2_147_483_647


class Cells:
    """Maps observations to cell numbers below `num_cells`.

    A finite space with at most `MAX_STATES` states has one cell per state. A larger one is hashed. A `Box` is cut into a grid
    of `bins` per dimension, over its bounds where it has some and else over six standard deviations of the first states
    seen (per seed); of a `Box` with more than three dimensions three random projections are cut, and cells are hashed.

    Args:
        space: Of one observation.
        num_seeds: `S`.
        bins: Cells along one dimension of a `Box`.
        seed: Draws the projections.
        device: Where observations lie.
    """

    def __init__(self, space: ObservationSpace, num_seeds: int, bins: int, seed: int, device: torch.device | str) -> None:
        self.space, self.bins = space, bins
        self.finite = not isinstance(space, spaces.Box)
        self.num_cells = MAX_CELLS
        if self.finite and num_states(space) <= MAX_STATES:
            self.num_cells = num_states(space)
        if isinstance(space, spaces.Box):
            size = space.shape[0]
            low, high = torch.as_tensor(space.low, dtype=torch.float32), torch.as_tensor(space.high, dtype=torch.float32)
            bounded = (low > -1e6) & (high < 1e6)
            self.low = torch.where(bounded, low, 0.0).to(device).expand(num_seeds, 1, size).clone()
            self.width = torch.where(bounded, (high - low) / bins, 0.0).to(device).expand(num_seeds, 1, size).clone()
            self.unbounded = ~bounded.to(device)
            self.projection: Tensor | None = None
            if size > 3:
                generator = seeded_generator(seed, "cells")
                self.projection = (torch.randn(size, 3, generator=generator) / size**0.5).to(device)

    @property
    def calibrated(self) -> bool:
        """Whether the grid is fixed: from the beginning, but for a `Box` with an unbounded dimension."""
        return self.finite or bool(((self.width > 0) | ~self.unbounded).all())

    def calibrate(self, obs: Tensor) -> None:
        """Fix the grid of unbounded dimensions by the first states seen, `(S, B, *observation)`; later calls change nothing."""
        if self.calibrated:
            return
        mean, std = obs.mean(1, keepdim=True), obs.std(1, correction=0, keepdim=True).clamp(min=1e-3)
        self.low = torch.where(self.unbounded, mean - 3 * std, self.low)
        self.width = torch.where(self.unbounded, 6 * std / self.bins, self.width)

    def __call__(self, obs: Tensor) -> Tensor:
        """Cell of each observation `(S, B, *observation)`, int64 `(S, B)`."""
        if self.finite:
            if num_states(self.space) <= MAX_STATES:
                return state_index(obs, self.space)
            # Factor by factor, since the number of a state of many factors may be too large for an int64.
            factors = obs[..., None] if isinstance(self.space, spaces.Discrete) else obs
            hashed = torch.zeros_like(factors[..., 0])
            for k in range(factors.shape[-1]):
                hashed = (hashed + factors[..., k]) * FACTORS[1] % PRIME
            return hashed % MAX_CELLS
        scaled = (obs - self.low) / self.width.clamp(min=1e-12)
        if self.projection is not None:
            scaled = scaled @ self.projection
        grid = scaled.floor().long()
        index = sum((grid[..., k] * FACTORS[k] for k in range(1, grid.shape[-1])), grid[..., 0])
        return index % PRIME % MAX_CELLS

    def state_dict(self) -> dict[str, Tensor]:
        """What `calibrate` fixed."""
        return {} if self.finite else {"low": self.low, "width": self.width}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take over what `state_dict` gave."""
        for name, value in state.items():
            setattr(self, name, value.clone())
