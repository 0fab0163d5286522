"""Random draws of a fleet that torch does not have."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def draw(weights: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Columns drawn in proportion to weights `(S, K)`, with replacement, `(S, count)`; and whether a seed had any weight."""
    return draw_cumulative(weights.double().cumsum(1), count, generator)


def draw_cumulative(cumulative: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """The same from running sums of weights, float64 `(S, K)`, for those who draw more than once."""
    total = cumulative[:, -1:]
    uniform = torch.rand(len(cumulative), count, generator=generator, device=cumulative.device, dtype=torch.float64)
    columns = torch.searchsorted(cumulative, uniform * total, right=True).clamp(max=cumulative.shape[1] - 1)
    return columns, total[:, 0] > 0


def gumbel(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """Standard Gumbel noise on the generator's device: the arg max of logits plus it is a draw from their softmax."""
    return torch.empty(tuple(shape), device=generator.device).exponential_(generator=generator).log_().neg_()
