"""Putting a saved learner back together."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces
from torch import Tensor

from recall_traces.envs.interface import VectorEnv
from recall_traces.spaces import factor_sizes, is_finite, tensor_shape


def restore_parts(path: str | Path, parts: Mapping[str, Any], tree: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Put states back where they came from.

    Raises:
        ValueError: a tensor is missing or has another shape; nothing has been changed then.
    """
    states: dict[str, dict[str, Tensor]] = {part: {} for part in parts}
    for part, holder in parts.items():
        for name, value in holder.state_dict().items():
            stored = tree.get(part, {}).get(name)
            if stored is None or stored.shape != value.shape:
                raise ValueError(f"{path} does not fit this environment: {part}.{name} should have shape {tuple(value.shape)}")
            states[part][name] = stored
    for part, holder in parts.items():
        holder.load_state_dict(states[part])


def describe_spaces(env: VectorEnv) -> list[str]:
    """Kind and sizes of an environment's observations and actions."""
    both = (env.observation_space, env.action_space)
    return [f"{type(x).__name__} {factor_sizes(x) if is_finite(x) else list(tensor_shape(x))}" for x in both]


def describe_action_bounds(env: VectorEnv) -> list[list[float]] | None:
    """Lower and upper bounds of the actions, as float32; None where they are finite in number."""
    space = env.action_space
    if not isinstance(space, spaces.Box):
        return None
    return [np.asarray(bound, np.float32).tolist() for bound in (space.low, space.high)]
