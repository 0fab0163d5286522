"""The two things that flow between environments, the method and learners: transitions and traces."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

from torch import Tensor


@dataclass(frozen=True)
class Transitions:
    """Steps of an environment, all fields with the same leading axes.

    The leading axes are `(T, S, N)` in a rollout and `(S, B)` in a batch: `T` steps in time order, `S` seeds of the
    fleet, `N` environments of one seed, `B` drawn at random. Discrete values are int64, flags bool, the rest float32.

    Raises:
        ValueError: a field has other leading axes than `rewards`.
    """

    obs: Tensor
    """What the agent saw, `(..., *observation)`."""
    actions: Tensor
    """What it did, `(...)` for `Discrete` and `(..., action)` for `Box`."""
    rewards: Tensor
    """What it got on arrival, `(...)`."""
    next_obs: Tensor
    """The true successor, before any reset, `(..., *observation)`."""
    terminated: Tensor
    """The episode ended in `next_obs`, `(...)`; its value there is 0."""
    truncated: Tensor
    """The episode was cut after `next_obs`, `(...)`; its value there is not 0."""

    def __post_init__(self) -> None:
        shape = self.rewards.shape
        for field in fields(self):
            value = getattr(self, field.name)
            if value.shape[: len(shape)] != shape:
                raise ValueError(f"Transitions.{field.name} has shape {tuple(value.shape)}; it must start with {tuple(shape)}")

    def map(self, function: Callable[[Tensor], Tensor]) -> Transitions:
        """Apply `function` to every field."""
        return Transitions(*(function(getattr(self, field.name)) for field in fields(self)))


@dataclass(frozen=True)
class Traces:
    """Recall traces in forward time: index `L - 1` is the step that leads into the high-value state.

    Shapes are `(S, B, L, ...)` for whole traces and `(S, B, ...)` for single steps drawn from them.

    Raises:
        ValueError: a field has other leading axes than `mask`.
    """

    obs: Tensor
    """States on the way, `(S, B, L, *observation)`."""
    actions: Tensor
    """Actions that led on, `(S, B, L)` for `Discrete` and `(S, B, L, action)` for `Box`."""
    mask: Tensor
    """Which steps are valid, bool, `(S, B, L)`."""
    weights: Tensor
    """How much each step counts in the imitation loss, float32, `(S, B, L)`; 0 where `mask` is False."""

    def __post_init__(self) -> None:
        shape = self.mask.shape
        for field in fields(self):
            value = getattr(self, field.name)
            if value.shape[: len(shape)] != shape:
                raise ValueError(f"Traces.{field.name} has shape {tuple(value.shape)}; it must start with {tuple(shape)}")
