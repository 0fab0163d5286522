"""Tasks whose states lie in a plane: where each state is, and what stands in the way. For pictures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class FloorPlan:
    """What an environment tells whoever draws it, by its method `floor_plan`."""

    x_edges: Floats
    """Between the columns of `walls`, growing, `(W + 1,)`."""
    y_edges: Floats
    """Between the rows of `walls`, growing, `(H + 1,)`."""
    walls: NDArray[np.bool_]
    """Where nothing can be, `(H, W)`."""
    labels: tuple[str, str]
    """Of the x and the y axis, with the unit."""
    rows_go_down: bool
    """Whether y grows downwards."""
    square: float
    """Side of the squares in which visits are counted and values shown."""
    positions: Callable[[Tensor], Tensor]
    """x and y of observations `(..., *observation)`, `(..., 2)`."""
    observations: Callable[[Tensor, Tensor], Tensor]
    """Observations `(B, *observation)` at rest at positions `(B, 2)`, with the goal of another, one observation."""
    goal: Callable[[Tensor], tuple[float, float]]
    """x and y of the goal that one observation shows or that is always the same."""
    goal_varies: bool
    """Whether each episode has its own, which observations show."""
    goal_radius: float
    """How near the goal counts as there."""

    def squares(self) -> tuple[Floats, Floats]:
        """Edges of the squares along x and y."""
        x, y = (
            np.linspace(edges[0], edges[-1], round((edges[-1] - edges[0]) / self.square) + 1)
            for edges in (self.x_edges, self.y_edges)
        )
        return x, y

    def free(self, positions: Floats) -> NDArray[np.bool_]:
        """Which positions `(B, 2)` are on the plan and in no wall, `(B,)`."""
        column = np.searchsorted(self.x_edges, positions[:, 0], side="right") - 1
        row = np.searchsorted(self.y_edges, positions[:, 1], side="right") - 1
        height, width = self.walls.shape
        inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
        free: NDArray[np.bool_] = inside & ~self.walls[np.clip(row, 0, height - 1), np.clip(column, 0, width - 1)]
        return free
