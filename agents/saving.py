"""Learners on disk: tensors as safetensors, the rest as JSON in its header, so that nothing that is loaded can run code."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from recall_traces.envs.interface import VectorEnv
from recall_traces.spaces import factor_sizes, is_finite, tensor_shape


def save_parts(path: str | Path, parts: Mapping[str, Any], header: Mapping[str, Any]) -> None:
    """Write what has a `state_dict`, by name, and a header that JSON can hold."""
    states = {part: holder.state_dict() for part, holder in parts.items()}
    tensors = {f"{part}.{name}": value.contiguous() for part, state in states.items() for name, value in state.items()}
    save_file(tensors, str(path), metadata={name: json.dumps(value) for name, value in header.items()})


def read_parts(path: str | Path, device: torch.device | str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Header and tensors that `save_parts` wrote."""
    with safe_open(str(path), framework="pt", device=str(device)) as file:
        names = file.keys()
        header = {name: json.loads(value) for name, value in file.metadata().items()}
        return header, {name: file.get_tensor(name) for name in names}


def restore_parts(path: str | Path, parts: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Put tensors back where they came from.

    Raises:
        ValueError: one is missing or has another shape; nothing has been changed then.
    """
    states: dict[str, dict[str, Tensor]] = {part: {} for part in parts}
    for part, holder in parts.items():
        for name, value in holder.state_dict().items():
            stored = tensors.get(f"{part}.{name}")
            if stored is None or stored.shape != value.shape:
                raise ValueError(f"{path} does not fit this environment: {part}.{name} should have shape {tuple(value.shape)}")
            states[part][name] = stored
    for part, holder in parts.items():
        holder.load_state_dict(states[part])


def describe_spaces(env: VectorEnv) -> list[str]:
    """Kind and sizes of an environment's observations and actions."""
    both = (env.observation_space, env.action_space)
    return [f"{type(x).__name__} {factor_sizes(x) if is_finite(x) else list(tensor_shape(x))}" for x in both]
