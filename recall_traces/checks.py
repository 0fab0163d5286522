"""Checks of configurations: each raises a `ValueError` of one sentence that names the field and what would be valid.

NumPy's numbers, such as a sweep draws, become Python's, which JSON can write.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np


def plain(config: Any, name: str) -> Any:
    """A field's value, after NumPy's have been replaced by Python's in all fields, so that none depends on being checked."""
    for field in dataclasses.fields(config):
        # Frozen as it may be.
        object.__setattr__(config, field.name, _plain(getattr(config, field.name)))
    return getattr(config, name)


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    return tuple(map(_plain, value)) if isinstance(value, tuple | list) else value


def number(config: Any, name: str, of: str = "") -> float:
    """A field's value, refused if it is no number, such as a schedule or Stable-Baselines3's 'auto'."""
    value = plain(config, name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{of}{name} must be a number, not {value!r}")
    return value


def check_whole(config: Any, *names: str, least: int = 1, of: str = "") -> None:
    """Refuse what is no whole number of at least `least`; `of` stands before the name of the field."""
    for name in names:
        value = plain(config, name)
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValueError(f"{of}{name} must be a whole number, not {value}")
        if value < least:
            raise ValueError(f"{of}{name} must be at least {least}, not {value}")


def check_positive(config: Any, *names: str, of: str = "") -> None:
    """Refuse what is no finite number above 0."""
    for name in names:
        value = number(config, name, of)
        if not (value > 0 and math.isfinite(value)):
            raise ValueError(f"{of}{name} must be positive{'' if math.isfinite(value) else ' and finite'}, not {value}")


def check_not_negative(config: Any, *names: str, of: str = "") -> None:
    """Refuse what is no finite number of at least 0."""
    for name in names:
        value = number(config, name, of)
        if not (value >= 0 and math.isfinite(value)):
            raise ValueError(f"{of}{name} must not be negative{'' if math.isfinite(value) else ', and finite'}, not {value}")


def check_finite(config: Any, *names: str) -> None:
    """Refuse what is no finite number."""
    for name in names:
        if not math.isfinite(value := number(config, name)):
            raise ValueError(f"{name} must be finite, not {value}")


def check_flag(config: Any, *names: str) -> None:
    """Refuse what is neither True nor False."""
    for name in names:
        value = plain(config, name)
        if not isinstance(value, bool):
            raise ValueError(f"{name} must be True or False, not {value!r}")


def check_range(config: Any, *names: str) -> None:
    """Refuse what is no pair of numbers, the smaller one first."""
    for name in names:
        value = plain(config, name)
        pair = isinstance(value, tuple) and len(value) == 2
        if not (pair and all(isinstance(x, int | float) and not isinstance(x, bool) for x in value) and value[0] < value[1]):
            raise ValueError(f"{name} must be two numbers, the smaller one first, not {value!r}")


def check_share(config: Any, *names: str, of: str = "") -> None:
    """Refuse what does not lie in [0, 1]."""
    for name in names:
        value = number(config, name, of)
        if not 0 <= value <= 1:
            raise ValueError(f"{of}{name} must lie in [0, 1], not {value}")


def check_units(config: Any, *names: str, of: str = "") -> None:
    """Refuse hidden layers that are no whole numbers of at least 1."""
    for name in names:
        units = plain(config, name)
        if any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in units):
            raise ValueError(f"{of}{name} must hold positive numbers of units, not {units}")
