"""Nested dictionaries of tensors on disk, as safetensors with a JSON header: nothing that is loaded can run code."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

EMPTY = "empty"
"""Header entry that names the dictionaries with nothing in them."""


def save_tree(path: str | Path, tree: Mapping[str, Any], header: Mapping[str, Any]) -> None:
    """Write a nested dictionary of tensors, and a header that JSON can hold; folders on the way are made."""
    leaves = dict(flatten(tree))
    empty = [name for name, value in leaves.items() if not isinstance(value, Tensor)]
    tensors = {name: value.detach().contiguous() for name, value in leaves.items() if isinstance(value, Tensor)}
    metadata = {name: json.dumps(value) for name, value in (dict(header) | {EMPTY: empty}).items()}
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()  # the umask decides who may read it; safetensors makes a file for its owner alone
    mode = path.stat().st_mode & 0o777
    save_file(tensors, str(path), metadata=metadata)
    path.chmod(mode)


def load_tree(path: str | Path, device: torch.device | str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The tree, on a device, and the header that `save_tree` wrote."""
    with safe_open(str(path), framework="pt", device="cpu") as file:
        names = file.keys()
        header = {name: json.loads(value) for name, value in file.metadata().items()}
        leaves = {name: file.get_tensor(name) for name in names} | {name: {} for name in header.pop(EMPTY)}
    tree: dict[str, Any] = {}
    for name, value in leaves.items():
        *parents, last = name.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    return to_device(tree, device), header


def to_device(tree: Mapping[str, Any], device: torch.device | str) -> dict[str, Any]:
    """The tree with its tensors on a device, but for those called `generator`: the state of one lies on the CPU always."""
    moved: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            moved[name] = to_device(value, device)
        else:
            moved[name] = value if name == "generator" else value.to(device)
    return moved


def flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Leaves by their path, and dictionaries with nothing in them."""
    for name, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{prefix}{name}/")
        else:
            yield f"{prefix}{name}", value
