"""Running statistics of a fleet, to normalise observations, rewards and changes of state."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class NoNormalizer(nn.Module):
    """Leaves values as they are."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(1, 1, 1), persistent=False)
        self.scale: Tensor
        """What values are divided by, `(1, 1, 1)`."""

    def update(self, values: Tensor, active: Tensor | None = None) -> None:
        """Learn nothing from the values."""

    def forward(self, values: Tensor) -> Tensor:
        return values


class RunningNormalizer(nn.Module):
    """Mean and variance of everything seen so far, per seed and dimension, merged batch by batch (Chan et al. 1979).

    Args:
        num_seeds: `S`.
        size: Dimensions `D` of a value.
        clip: Largest absolute value that comes out.
        center: Whether the mean is subtracted; rewards are only scaled.
    """

    def __init__(self, num_seeds: int, size: int, clip: float = 10.0, center: bool = True) -> None:
        super().__init__()
        self.clip, self.center = clip, center
        self.register_buffer("mean", torch.zeros(num_seeds, 1, size))
        self.register_buffer("var", torch.ones(num_seeds, 1, size))
        self.register_buffer("count", torch.full((num_seeds, 1, 1), 1e-4))
        self.mean: Tensor
        self.var: Tensor
        self.count: Tensor

    def update(self, values: Tensor, active: Tensor | None = None) -> None:
        """Take in values `(S, B, D)` of the active seeds, bool `(S,)`; of all by default."""
        if values.shape[1] == 0:
            return
        batch: int | Tensor = values.shape[1]
        if active is not None:
            batch, values = batch * active[:, None, None], torch.where(active[:, None, None], values, 0.0)
        mean, var = values.mean(1, keepdim=True), values.var(1, keepdim=True, unbiased=False)
        total = self.count + batch
        delta = mean - self.mean
        squares = self.var * self.count + var * batch + delta.square() * (self.count * batch / total)
        self.mean += delta * (batch / total)
        self.var.copy_(squares / total)
        self.count.copy_(total)

    @property
    def scale(self) -> Tensor:
        """What values are divided by, `(S, 1, D)`."""
        return (self.var + 1e-8).sqrt()

    @property
    def root_mean_square(self) -> Tensor:
        """Of all values, `(S, 1, D)`: about 0, where the deviation is about the mean."""
        return (self.var + self.mean.square() + 1e-8).sqrt()

    def forward(self, values: Tensor) -> Tensor:
        """Normalise `(S, B, D)`."""
        centered = values - self.mean if self.center else values
        return (centered / self.scale).clamp(-self.clip, self.clip)
