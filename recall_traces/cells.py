"""A coarse map of states: which cell a state lies in, so that visits can be counted and states told apart."""

from __future__ import annotations

import torch
from gymnasium import spaces
from torch import Tensor

from recall_traces.spaces import ObservationSpace, num_states, state_index

MAX_CELLS = 1 << 14
PRIMES = (1, 2_654_435_761, 805_459_861, 3_674_653_429)


class Cells:
    """Maps observations to cell numbers below `num_cells`.

    A finite space with at most `MAX_CELLS` states has one cell per state. A larger one is hashed. A `Box` is cut into a grid
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
        self.num_cells = min(num_states(space), MAX_CELLS) if self.finite else MAX_CELLS
        if isinstance(space, spaces.Box):
            size = space.shape[0]
            low, high = torch.as_tensor(space.low, dtype=torch.float32), torch.as_tensor(space.high, dtype=torch.float32)
            bounded = (low > -1e6) & (high < 1e6)
            self.low = torch.where(bounded, low, 0.0).to(device).expand(num_seeds, 1, size).clone()
            self.width = torch.where(bounded, (high - low) / bins, 0.0).to(device).expand(num_seeds, 1, size).clone()
            self.unbounded = ~bounded.to(device)
            self.projection: Tensor | None = None
            if size > 3:
                generator = torch.Generator().manual_seed(seed)
                self.projection = (torch.randn(size, 3, generator=generator) / size**0.5).to(device)

    def calibrate(self, obs: Tensor) -> None:
        """Fix the grid of the unbounded dimensions from the first states seen, `(S, B, *observation)`; later calls change nothing."""
        if self.finite or not bool(self.unbounded.any()) or bool((self.width > 0).all()):
            return
        mean, std = obs.mean(1, keepdim=True), obs.std(1, keepdim=True).clamp(min=1e-3)
        self.low = torch.where(self.unbounded, mean - 3 * std, self.low)
        self.width = torch.where(self.unbounded, 6 * std / self.bins, self.width)

    def __call__(self, obs: Tensor) -> Tensor:
        """Cell of each observation `(S, B, *observation)`, int64 `(S, B)`."""
        if self.finite:
            index = state_index(obs, self.space)
            return index if num_states(self.space) <= MAX_CELLS else index * PRIMES[1] % 2_147_483_647 % MAX_CELLS
        scaled = (obs - self.low) / self.width.clamp(min=1e-12)
        if self.projection is not None:
            scaled = scaled @ self.projection
        grid = scaled.floor().long()
        index = sum((grid[..., k] * PRIMES[k] for k in range(1, grid.shape[-1])), grid[..., 0])
        return index % 2_147_483_647 % MAX_CELLS

    def state_dict(self) -> dict[str, Tensor]:
        """What `calibrate` fixed."""
        return {} if self.finite else {"low": self.low, "width": self.width}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take over what `state_dict` gave."""
        for name, value in state.items():
            setattr(self, name, value.clone())
