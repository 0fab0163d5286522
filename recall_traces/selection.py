"""Which remembered steps a backtracking model is fitted to, and which its ways are held against."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from recall_traces.data import Transitions
from recall_traces.draws import gumbel
from recall_traces.memory import Memory
from recall_traces.neighbours import HELD_OUT

BEFORE_ALL = 1e6
"""Added to the logarithm of a weight that is to beat all others."""


class Selection:
    """Chooses among remembered steps.

    Args:
        memory: Where they are.
        num_cells: How many places it tells apart.
        generator: Draws.
    """

    def __init__(self, memory: Memory, num_cells: int, generator: torch.Generator) -> None:
        self.memory, self.num_cells, self.generator = memory, num_cells, generator

    def best(self, fraction: float) -> Tensor:
        """Which remembered steps belong to the best trajectories by return, about this fraction of them, bool `(S, N, C)`."""
        sample = self.memory.sample(4096, self.generator)
        closed, returns = self.memory.closed, self.memory.episode_returns
        known = torch.where(self.memory.gather(closed, sample), self.memory.gather(returns, sample), torch.nan)
        threshold = known.nanquantile(1 - fraction, dim=1)[:, None, None]
        better = closed & (returns > threshold)
        # While fewer than the top share are better than the rest, those are the top; among equals all are.
        return torch.where(better.any((1, 2), keepdim=True), better, closed & (returns >= threshold))

    def support(self, among: Tensor, count: int, first: Tensor | None = None) -> Transitions:
        """Steps for a support of neighbours that moved something, spread evenly, and those held out, `(S, B, ...)`.

        Args:
            among: Which steps may be taken, bool `(S, N, C)`.
            count: Steps of the support.
            first: Which of them are taken before all others, bool `(S, N, C)`.

        Returns:
            Steps, those of `first` first, else in random order, at most `HELD_OUT` more than the support has; those too many
            for a seed, the last ones, lead from a state to itself.
        """
        filled = len(self.memory)  # the rest of the ring is empty
        obs, next_obs = (x[:, :, :filled] for x in (self.memory.steps.obs, self.memory.steps.next_obs))
        among = among[:, :, :filled] & (obs != next_obs).any(-1)
        steps, taken = self.evenly(among, count + HELD_OUT, first)
        return replace(steps, next_obs=torch.where(taken[..., None], steps.next_obs, steps.obs))

    def ways_into(self, stamps: Tensor, length: int) -> Tensor:
        """Which steps are among the last `length` of their episode up to a stamped one, of stamps `(S, B)`, bool `(S, N, C)`."""
        positions, held = self.memory.find(stamps)
        way, mask = self.memory.way_into(positions, length)
        marks = torch.zeros(len(way), self.memory.age[0].numel(), dtype=torch.uint8, device=way.device)
        marks = marks.scatter_reduce(1, way.flatten(1), (mask & held[..., None]).flatten(1).to(marks), "amax")
        return marks.bool().view_as(self.memory.age)

    def tried(self, count: int) -> Transitions:
        """At most `count` steps, also such that moved nothing, spread evenly."""
        return self.evenly(self.memory.held(), count)[0]

    def evenly(self, among: Tensor, count: int, first: Tensor | None = None) -> tuple[Transitions, Tensor]:
        """Draw steps evenly from the cells that they arrive in, each at most once.

        What led to a state does not depend on how often the state was visited, but whether anything is known of it does: drawn
        uniformly, the few steps into a state seen once, which novelty asks for, would hardly ever be there.

        Args:
            among: Which steps may be taken, bool `(S, N, C)`.
            count: How many per seed.
            first: Which of them are taken, and put, before all others, bool `(S, N, C)`.

        Returns:
            Steps `(S, B, ...)`, those of `first` first, else in random order, at most `count`, and which of them are real: a
            seed may have fewer, and then the last ones are not.
        """
        memory, filled = self.memory, len(self.memory)
        cells, among = memory.next_cells[:, :, :filled].flatten(1), among[:, :, :filled].flatten(1)
        counts = torch.zeros(len(cells), self.num_cells, device=cells.device).scatter_add_(1, cells, among.float())
        logits = gumbel(cells.shape, self.generator) - counts.clamp(min=1).log().gather(1, cells)
        if first is not None:
            logits = logits + BEFORE_ALL * first[:, :, :filled].flatten(1)
        best = logits.masked_fill(~among, -torch.inf).topk(min(count, cells.shape[1]), 1)
        order = torch.rand(best.values.shape, generator=self.generator, device=cells.device)
        order = (order - (best.values > BEFORE_ALL / 2).float() + best.values.isneginf().float()).argsort(1)
        chosen = best.indices.gather(1, order)
        steps = memory.at(chosen // filled * memory.num_columns + chosen % filled)
        return steps, best.values.gather(1, order).isfinite()
