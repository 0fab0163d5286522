"""The seams through which a learner meets the world outside its own loss, each with an object that does nothing.

Every arm of a comparison is a choice of objects for these seams, so no learner asks whether something is switched on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from recall_traces.data import Traces, Transitions

Value = Callable[[Tensor], Tensor]
"""V(s) of raw observations `(S, B, *observation)`, `(S, B)`."""


class Imitation(Protocol):
    """Steps to imitate besides learning from reward: `RecallTraces`, self-imitation, or nothing."""

    imitation_batch_size: int | None
    """Steps of one seed in such a minibatch; None for as many as the learner's own have."""
    imitation_coefficient: float
    """Weight of the imitation loss."""

    @property
    def imitation_ratio(self) -> float:
        """Minibatches to imitate per gradient step of the learner; may change with each update."""
        ...

    def observe(self, transitions: Transitions, bonus: Tensor | None = None) -> None:
        """Take in a rollout `(T, S, N, ...)`, in time order, and the intrinsic rewards that the learner added, `(T, S, N)`."""
        ...

    def update(self, value: Value | None = None) -> dict[str, Any]:
        """Renew what `sample` draws from; returns what to log."""
        ...

    def sample(self, batch_size: int, value: Value | None = None) -> Traces:
        """Steps to imitate, `(S, batch_size, ...)`; weights are 0 where a seed has none or leaves this minibatch out.

        Skip a seed whose weights are all 0: a step of an optimiser with momentum would move its policy nevertheless.
        """
        ...

    def imagine(self, batch_size: int) -> tuple[Transitions, Tensor] | None:
        """Made-up steps `(S, K, ...)` for a critic's batch of that size, and which are real, bool `(S, K)`; None for none."""
        ...

    def break_off(self) -> None:
        """All environments were put elsewhere since the last `observe`: what comes next continues no episode."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """What a run needs to go on exactly."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Copy what `state_dict` gave."""
        ...


class Bonus(Protocol):
    """Intrinsic reward."""

    def rewards(self, transitions: Transitions) -> Tensor:
        """What to add to the rewards of a rollout `(T, S, N, ...)`, `(T, S, N)`; learns from it too."""
        ...

    def at(self, next_obs: Tensor) -> Tensor:
        """What arriving in states `(S, B, *observation)` is worth by what has been learned up to now, `(S, B)`."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """What a run needs to go on exactly."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Copy what `state_dict` gave."""
        ...


class NoImitation:
    """Nothing to imitate."""

    imitation_ratio = 0.0
    imitation_batch_size: int | None = None
    imitation_coefficient = 0.0

    def observe(self, transitions: Transitions, bonus: Tensor | None = None) -> None:
        """Remember nothing."""

    def update(self, value: Value | None = None) -> dict[str, Any]:
        """Renew nothing."""
        return {}

    def sample(self, batch_size: int, value: Value | None = None) -> Traces:
        """Never called: there are no imitation updates.

        Raises:
            RuntimeError: always.
        """
        raise RuntimeError("there is nothing to imitate")

    def imagine(self, batch_size: int) -> None:
        """Make nothing up."""

    def break_off(self) -> None:
        """Nothing is going on."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing is kept."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to copy."""


class NoBonus:
    """No intrinsic reward."""

    def rewards(self, transitions: Transitions) -> Tensor:
        """Zeros `(T, S, N)`."""
        return torch.zeros_like(transitions.rewards)

    def at(self, next_obs: Tensor) -> Tensor:
        """Zeros `(S, B)`."""
        return torch.zeros(next_obs.shape[:2], device=next_obs.device)

    def state_dict(self) -> dict[str, Any]:
        """Nothing is kept."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to copy."""
