"""What a run folder keeps of where its numbers come from: versions, hardware, command line, date."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import recall_traces

PACKAGES = ("torch", "numpy", "scipy", "gymnasium", "stable-baselines3", "mujoco", "mujoco-warp", "warp-lang", "safetensors")


def describe_call(argv: Sequence[str], command: str, arms: Sequence[str]) -> dict[str, Any]:
    """Everything about a call that may differ between two runs of the same configuration.

    Args:
        argv: Words after the name of the program.
        command: Which subcommand it amounts to.
        arms: Which arms it runs.
    """
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command_line": shlex.join(["recall-traces", *argv]),
        "command": command,
        "arms": list(arms),
        "versions": versions(),
        "git_commit": git_commit(),
        "hardware": hardware(),
    }


def versions() -> dict[str, str | None]:
    """Of Python, of this package, and of what computes."""
    found: dict[str, str | None] = {"python": platform.python_version(), "recall_traces": recall_traces.__version__}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def changed_versions(calls: Sequence[Mapping[str, Any]]) -> list[str]:
    """One line if the last call has other versions than the one before, by which numbers may differ; else none."""
    if len(calls) < 2:
        return []
    before, now = (call.get("versions") for call in calls[-2:])
    if not isinstance(before, dict) or not isinstance(now, dict):
        return []
    both = [name for name in now if name in before]
    changed = [f"{name} {before[name]} then, {now[name]} now" for name in both if before[name] != now[name]]
    return [f"versions have changed, so numbers may: {'; '.join(changed)}"] if changed else []


def git_commit() -> str | None:
    """The commit of the source, `-dirty` behind it where files were changed; `None` outside a checkout."""
    source = Path(recall_traces.__file__)
    if _git(source, "ls-files", "--error-unmatch", source.name) is None:
        return None  # installed, perhaps into a folder of somebody else's repository
    return _git(source, "describe", "--match=", "--always", "--abbrev=40", "--dirty")


def hardware() -> dict[str, Any]:
    """The machine: processor, cores that may be used, threads of torch, GPU."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"system": platform.platform(), "cpu": _cpu(), "cores": cores, "threads": torch.get_num_threads(), "gpu": gpu}


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _git(file: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(file.parent), *arguments], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
