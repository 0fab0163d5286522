"""What an environment with goals offers to whoever proposes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from recall_traces.envs.interface import VectorEnv

SPARE = 7
"""Further draws, which serve where an episode would start at its goal. All of them fail about once in 10⁸ episodes."""


class GoalEnv(VectorEnv, Protocol):
    """A position is to come near a goal of the same `D` coordinates; the observation shows both."""

    goal_low: Tensor
    """Lower corner of the box from which any goal can be proposed, float32, `(D,)`."""
    goal_high: Tensor
    """Upper corner, float32, `(D,)`."""
    goal_columns: slice
    """Where the goal stands in an observation."""
    position_columns: slice
    """Where the position stands in an observation."""
    goal_radius: float
    """A goal is reached within this distance."""
    propose: Callable[[int], Tensor] | None
    """Where new episodes take their goals from; the environment draws them where it is None.

    Called with `num_envs` whenever an episode may start, which is at every step; returns one goal per copy, `(num_envs, D)`.
    Copies that go on ignore theirs. Goals beyond the box are moved to its nearest point.
    """


def first_fine(draws: Tensor, fine: Tensor, generator: torch.Generator) -> Tensor:
    """The first `steps` draws, in random order; for one that is not fine the next that is, where `SPARE` draws follow the last.

    Sharing draws costs less than drawing several for every step, of which copies use few. The order keeps the same draw
    from starting one short episode after another.

    Args:
        draws: `(steps + SPARE, num_envs, D)`.
        fine: which may be taken, bool, `(steps + SPARE, num_envs)`.
        generator: decides the order.

    Returns:
        `(steps, num_envs, D)`; the very last draw where none is fine.
    """
    numbers = torch.arange(len(draws), device=draws.device).unsqueeze(1)
    taken = numbers.where(fine, numbers[-1]).flip(0).cummin(0).values.flip(0)
    order = torch.randperm(len(draws) - SPARE, generator=generator, device=draws.device)
    return draws.take_along_dim(taken[order].unsqueeze(2), 0)


def proposed_goals(env: GoalEnv) -> Tensor:
    """One goal per copy from `env.propose`, inside the box, float32, `(num_envs, D)`; NaN becomes the box's upper end.

    Raises:
        ValueError: the proposal has another shape.
    """
    assert env.propose is not None
    goals, shape = env.propose(env.num_envs).detach(), (env.num_envs, len(env.goal_low))
    if goals.shape != shape:
        raise ValueError(f"propose returned goals of shape {tuple(goals.shape)}; it must be {shape}")
    return goals.to(env.goal_low).nan_to_num(nan=torch.inf).clamp(env.goal_low, env.goal_high)
