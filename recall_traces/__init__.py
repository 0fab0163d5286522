"""Recall traces: learn backwards from high-value states, imitate the way there."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Whoever starts Python in a clone finds this folder before what is installed; `agents` and `envs` lie beside it there.
if not (Path(__file__).parent / "envs").is_dir():
    __path__.append(str(Path(__file__).parents[1]))

from recall_traces.envs import register_with_gymnasium

if TYPE_CHECKING:
    from recall_traces.data import Traces, Transitions
    from recall_traces.model import BacktrackingConfig, BacktrackingModel
    from recall_traces.recall import RecallConfig, RecallTraces
    from recall_traces.sb3 import RecallTracesCallback

__version__ = "0.1.0"

HOMES = {
    "BacktrackingConfig": "model",
    "BacktrackingModel": "model",
    "RecallConfig": "recall",
    "RecallTraces": "recall",
    "RecallTracesCallback": "sb3",
    "Traces": "data",
    "Transitions": "data",
}
__all__ = [
    "BacktrackingConfig",
    "BacktrackingModel",
    "RecallConfig",
    "RecallTraces",
    "RecallTracesCallback",
    "Traces",
    "Transitions",
]

register_with_gymnasium()


def __getattr__(name: str) -> Any:
    """Import what is asked for and nothing else, so that the command line starts fast."""
    if name in HOMES:
        return getattr(import_module(f"recall_traces.{HOMES[name]}"), name)
    raise AttributeError(f"module 'recall_traces' has no attribute {name!r}")
