"""Which observation and action spaces are served, and what their values look like as tensors."""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

ObservationSpace: TypeAlias = spaces.Box | spaces.Discrete | spaces.MultiDiscrete
ActionSpace: TypeAlias = spaces.Box | spaces.Discrete


class UnsupportedSpaceError(ValueError):
    """A space that the library does not serve; the message says which one and what wrapper would help."""


def check_observation_space(space: gymnasium.Space[Any]) -> ObservationSpace:
    """Return the space if it is a flat `Box`, a `Discrete` or a one-row `MultiDiscrete`.

    Raises:
        UnsupportedSpaceError: it is something else.
    """
    check_start(space)
    if isinstance(space, spaces.Discrete):
        return space
    if isinstance(space, spaces.Box | spaces.MultiDiscrete) and len(space.shape) == 1:
        return space
    raise UnsupportedSpaceError(
        f"observation space {space} is not supported (flat Box, Discrete and MultiDiscrete are): {observation_wrapper(space)}"
    )


def observation_wrapper(space: gymnasium.Space[Any]) -> str:
    """What would make observations of a space that is not served into some that are."""
    if isinstance(space, spaces.Text):
        return "gymnasium.wrappers.TransformObservation can turn it into numbers"
    if not space.is_np_flattenable:  # a Sequence or a Graph, or something that holds one
        return "its values have no fixed size; gymnasium.wrappers.TransformObservation can turn each into a vector that has"
    return "gymnasium.wrappers.FlattenObservation makes one vector of it"


def check_action_space(space: gymnasium.Space[Any]) -> ActionSpace:
    """Return the space if it is a flat, bounded `Box` or a `Discrete`.

    Raises:
        UnsupportedSpaceError: it is something else, or has a dimension with nothing to choose.
    """
    check_start(space)
    if isinstance(space, spaces.Discrete):
        return space
    if isinstance(space, spaces.Box) and len(space.shape) == 1:
        if not space.is_bounded():
            raise UnsupportedSpaceError(
                f"action space {space} has no bounds: gymnasium.wrappers.TransformAction(env, lambda action: action, "
                f"Box(-1, 1, {space.shape})) gives it some"
            )
        fixed = np.flatnonzero(space.low >= space.high)
        if fixed.size:
            k = int(fixed[0])
            raise UnsupportedSpaceError(
                f"action dimension {k} has low == high ({space.low[k]:g}), so there is nothing to choose: leave it out with "
                "gymnasium.wrappers.TransformAction"
            )
        return space
    hint = "gymnasium.wrappers.TransformAction can map one Discrete or one flat Box onto it"
    raise UnsupportedSpaceError(f"action space {space} is not supported (flat Box and Discrete are): {hint}")


def check_start(space: gymnasium.Space[Any]) -> None:
    """Raise `UnsupportedSpaceError` for finite values that do not count from 0."""
    if isinstance(space, spaces.Discrete | spaces.MultiDiscrete) and np.any(space.start != 0):
        raise UnsupportedSpaceError(
            f"{space} has a start that is not 0: gymnasium.wrappers.TransformObservation (or Action) shifts it"
        )


def is_finite(space: gymnasium.Space[Any]) -> bool:
    """Whether values are integers."""
    return not isinstance(space, spaces.Box)


def factor_sizes(space: gymnasium.Space[Any]) -> list[int]:
    """How many values each factor of a finite space has: one factor for `Discrete`."""
    if isinstance(space, spaces.MultiDiscrete):
        return [int(n) for n in space.nvec]
    assert isinstance(space, spaces.Discrete)
    return [int(space.n)]


def num_states(space: gymnasium.Space[Any]) -> int:
    """How many values a finite space has."""
    return math.prod(factor_sizes(space))


def state_index(obs: Tensor, space: gymnasium.Space[Any]) -> Tensor:
    """The number of a finite value, mixed radix: `(..., *observation)` to int64 `(...)`."""
    if isinstance(space, spaces.Discrete):
        return obs
    sizes = factor_sizes(space)
    index = obs[..., 0]
    for k in range(1, len(sizes)):
        index = index * sizes[k] + obs[..., k]
    return index


def state_at(index: Tensor, space: gymnasium.Space[Any]) -> Tensor:
    """Inverse of `state_index`."""
    if isinstance(space, spaces.Discrete):
        return index
    factors = []
    for size in reversed(factor_sizes(space)):
        factors.append(index % size)
        index = index // size
    return torch.stack(factors[::-1], -1)


def tensor_dtype(space: gymnasium.Space[Any]) -> torch.dtype:
    """int64 for finite spaces, float32 for `Box`."""
    return torch.int64 if is_finite(space) else torch.float32


def tensor_shape(space: gymnasium.Space[Any]) -> tuple[int, ...]:
    """Shape of one value: `()` for `Discrete`."""
    return tuple(space.shape or ())
