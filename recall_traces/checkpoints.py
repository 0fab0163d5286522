"""Checkpoints of one arm of a run: files that hold everything it needs to go on, each there whole or not at all.

checkpoints/<arm>/2048.safetensors    everything, after so many environment steps of each seed
checkpoints/<arm>/best.safetensors    the policies of the evaluation that was best for all seeds together, by `Learner.save`
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from recall_traces.saving import UNFINISHED, is_passing, load_tree, save_tree

FORMAT = 1
KEPT = 2
"""Newest checkpoints that are kept while an arm is trained."""
SUFFIX, UNREADABLE = ".safetensors", ".unreadable"
BEST = f"best{SUFFIX}"


@dataclass(frozen=True)
class Checkpoint:
    """What was read from a file."""

    path: Path
    """Which file."""
    env_steps: int
    """Environment steps of each seed that it was written after."""
    tree: dict[str, Any]
    """Tensors, numbers and dictionaries of them, as they were given."""


class Checkpoints:
    """The checkpoints in a folder, which need not exist yet.

    Args:
        folder: Where they are.
        say: Told, in one line, which file cannot be used and why.
        rename: Whether such a file gets another name; not for those who only look.
    """

    def __init__(self, folder: str | Path, say: Callable[[str], None], rename: bool = True) -> None:
        self.folder, self.say, self.rename = Path(folder), say, rename

    @property
    def best(self) -> Path:
        """Where the best policies are."""
        return self.folder / BEST

    def steps(self) -> list[int]:
        """After how many environment steps there is one, the newest first."""
        names = [path.stem for path in self.folder.glob(f"*{SUFFIX}")]
        return sorted((int(name) for name in names if name.isascii() and name.isdigit()), reverse=True)

    def path(self, env_steps: int) -> Path:
        """The file of that number of steps."""
        return self.folder / f"{env_steps}{SUFFIX}"

    def write(self, env_steps: int, tree: Mapping[str, Any]) -> None:
        """Add one, and remove those before it but for the newest ones.

        Raises:
            OSError: it could not be written; the others are still there.
        """
        save_tree(self.path(env_steps), tree, {"checkpoint": FORMAT, "env_steps": env_steps})
        self.remove_before(env_steps, KEPT - 1)

    def remove_before(self, env_steps: int, keep: int = 0) -> None:
        """Remove those of fewer steps, but for the newest `keep` of them, and what was being written when a run was killed."""
        for old in [steps for steps in self.steps() if steps < env_steps][keep:]:
            self.path(old).unlink(missing_ok=True)
        for unfinished in self.folder.glob(f".*{SUFFIX}{UNFINISHED}"):
            unfinished.unlink(missing_ok=True)

    def read(self, device: torch.device | str) -> Iterator[Checkpoint]:
        """Those that can be read, the newest first; of each other one is told why not. Loading runs no code from a file.

        Raises:
            OSError: a file could not be read just now; it is still there.
            MemoryError: likewise.
        """
        for env_steps in self.steps():
            path = self.path(env_steps)
            try:
                if not path.is_file():
                    raise ValueError("it is not a file")
                tree, header = load_tree(path, device)
                if header["checkpoint"] != FORMAT or header["env_steps"] != env_steps:
                    raise ValueError("it is of another kind")
            except Exception as error:  # whatever lies there may be wrong in any way
                self.set_aside(path, error)
                continue
            yield Checkpoint(path, env_steps, tree)

    def set_aside(self, path: Path, error: Exception) -> None:
        """Tell that a file cannot be used, and give it another name, so that it does not count as one of the newest.

        Raises:
            OSError: the error says nothing about the file, which is still there: a disk failed.
            MemoryError: likewise, where memory was short.
        """
        reason = " ".join(str(error).split()) or type(error).__name__
        if is_passing(error):
            kind = OSError if isinstance(error, OSError) else MemoryError
            raise kind(f"{path} is kept, but could not be loaded now: {reason}") from error
        self.say(f"{path} is not used: {reason}")
        if self.rename:
            with contextlib.suppress(OSError):
                os.replace(path, path.with_name(path.name + UNREADABLE))
