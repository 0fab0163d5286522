"""Nested dictionaries of tensors on disk, as safetensors with a JSON header: nothing that is loaded can run code."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

EMPTY = "empty"
"""Header entry that names the dictionaries with nothing in them."""
PLAIN = "plain"
"""Header entry with the leaves that are no tensors."""
UNFINISHED = ".new"
"""Ends the name of a file that is being written."""


def save_tree(path: str | Path, tree: Mapping[str, Any], header: Mapping[str, Any]) -> None:
    """Write a nested dictionary of tensors and of what JSON can hold, and a header of the same; folders on the way are made.

    The file is there whole or not at all, also if the machine stops: it is written under another name, synchronised with the
    disk, and then takes its name. What was there before stays until then.

    Raises:
        OSError: it could not be written.
    """
    tensors: dict[str, Tensor] = {}
    plain: dict[str, Any] = {}
    memory: set[int] = set()
    for name, value in flatten(tree):
        if isinstance(value, Tensor):
            # Tensors that share memory, such as the same one under two names, would be refused.
            shared = value.untyped_storage().data_ptr() in memory
            tensors[name] = value.detach().clone(memory_format=torch.contiguous_format) if shared else value.detach().contiguous()
            memory.add(value.untyped_storage().data_ptr())
        else:
            plain[name] = value
    empty = [name for name, value in plain.items() if isinstance(value, Mapping)]
    rest = {name: value for name, value in plain.items() if name not in empty}
    metadata = {name: json.dumps(value) for name, value in (dict(header) | {EMPTY: empty, PLAIN: rest}).items()}
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}{UNFINISHED}")
    try:
        temporary.touch()  # the umask decides who may read it; safetensors makes a file for its owner alone
        mode = (path if path.exists() else temporary).stat().st_mode & 0o777
        save_file(tensors, str(temporary), metadata=metadata)
        temporary.chmod(mode)
        synchronize(temporary)
        os.replace(temporary, path)
        if os.name == "posix":  # elsewhere a folder cannot be opened
            synchronize(path.parent)
    except (OSError, SafetensorError) as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise
        raise OSError(f"{path} cannot be written: {error}") from error


def synchronize(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def load_tree(path: str | Path, device: torch.device | str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The tree, on a device, and the header that `save_tree` wrote."""
    with safe_open(str(path), framework="pt", device="cpu") as file:
        names = file.keys()
        header = {name: json.loads(value) for name, value in file.metadata().items()}
        leaves: dict[str, Any] = {name: file.get_tensor(name) for name in names}
        leaves |= {name: {} for name in header.pop(EMPTY)} | header.pop(PLAIN, {})
    tree: dict[str, Any] = {}
    for name, value in leaves.items():
        *parents, last = name.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    return to_device(tree, device), header


def is_passing(error: BaseException) -> bool:
    """Whether memory or a disk failed, not what a file holds: the same file may be read another time."""
    # torch's allocator of the CPU has no error of its own.
    passing = isinstance(error, OSError | MemoryError | torch.cuda.OutOfMemoryError)
    return passing or "can't allocate memory" in str(error)


def to_device(tree: Mapping[str, Any], device: torch.device | str) -> dict[str, Any]:
    """The tree with its tensors on a device, but for those called `generator`: the state of one lies on the CPU always."""
    moved: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            moved[name] = to_device(value, device)
        else:
            moved[name] = value.to(device) if isinstance(value, Tensor) and name != "generator" else value
    return moved


def flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Leaves by their path, and dictionaries with nothing in them."""
    for name, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{prefix}{name}/")
        else:
            yield f"{prefix}{name}", value
