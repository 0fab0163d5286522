"""When the reward of a task is paid: at every step, for each new metre, or in sums."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from recall_traces.envs.mujoco.task import Fields

DELAY = 20
"""Steps between two payments."""


class Payout(Protocol):
    """Turns a task's rewards into those that the learner gets."""

    counters: dict[str, Tensor]
    """What it remembers of the episodes under way, `(num_worlds,)` each; part of an environment's state."""

    def success_return(self, dense: float | None) -> float | None:
        """What a task's `success_return` becomes."""
        ...

    def pay(self, rewards: Tensor, fields: Fields, ages: Tensor, done: Tensor) -> Tensor:
        """Rewards of a step.

        Args:
            rewards: the task's, `(num_worlds,)`; kept by nobody.
            fields: after the step.
            ages: steps that the episodes have now.
            done: which of them ended.

        Returns:
            `(num_worlds,)`, fresh.
        """
        ...

    def begin(self, worlds: Tensor, fields: Fields) -> None:
        """Forget the episodes of some worlds, bool, `(num_worlds,)`; `fields` are those of the new ones' first states."""
        ...


class Dense:
    """Every reward at once."""

    def __init__(self, num_worlds: int, device: torch.device, dtype: torch.dtype) -> None:
        self.counters: dict[str, Tensor] = {}

    def success_return(self, dense: float | None) -> float | None:
        return dense

    def pay(self, rewards: Tensor, fields: Fields, ages: Tensor, done: Tensor) -> Tensor:
        return rewards

    def begin(self, worlds: Tensor, fields: Fields) -> None:
        pass


class Sparse:
    """1 for each whole metre (x = 1 m, 2 m, ...) that the torso passes for the first time in an episode, and nothing else."""

    def __init__(self, num_worlds: int, device: torch.device, dtype: torch.dtype) -> None:
        self.counters: dict[str, Tensor] = {"furthest": torch.zeros(num_worlds, device=device, dtype=dtype)}

    def success_return(self, dense: float | None) -> float | None:
        return None

    def pay(self, rewards: Tensor, fields: Fields, ages: Tensor, done: Tensor) -> Tensor:
        furthest = self.counters["furthest"]
        passed = (fields["qpos"][:, 0].floor() - furthest).clamp_(min=0)
        furthest.add_(passed)
        return passed

    def begin(self, worlds: Tensor, fields: Fields) -> None:
        furthest = self.counters["furthest"]
        furthest.copy_(torch.where(worlds, fields["qpos"][:, 0].floor().clamp_(min=0), furthest))


class Delayed:
    """The sum of the rewards every 20 steps of an episode, and what remains when it ends."""

    def __init__(self, num_worlds: int, device: torch.device, dtype: torch.dtype) -> None:
        self.counters: dict[str, Tensor] = {"owed": torch.zeros(num_worlds, device=device, dtype=dtype)}

    def success_return(self, dense: float | None) -> float | None:
        return dense

    def pay(self, rewards: Tensor, fields: Fields, ages: Tensor, done: Tensor) -> Tensor:
        owed = self.counters["owed"].add_(rewards)
        due = (ages % DELAY == 0).logical_or_(done)
        paid = owed * due
        owed.masked_fill_(due, 0)
        return paid

    def begin(self, worlds: Tensor, fields: Fields) -> None:
        self.counters["owed"].masked_fill_(worlds, 0)
