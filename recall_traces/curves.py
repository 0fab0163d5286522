"""Learning curves as data: what `curves.csv` holds, read back.

One array per arm holds `(seeds, evaluations)`, nan where a seed has no value: curves may have unequal length, and arms may
lack seeds. Needs neither torch nor the code that trained.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

METRICS = ("episode_return", "success", "greedy_episode_return", "greedy_success")
COLUMNS = ("arm", "seed", "env_steps", *METRICS)
LARGEST = 1e100  # far beyond float32; sums and means of such numbers stay finite


@dataclass(frozen=True, eq=False)
class Curves:
    """Learning curves of all arms on one task."""

    task: str
    """Name of the task."""
    env_steps: Integers
    """Environment steps of one seed at each evaluation of any arm, increasing, `(evaluations,)`."""
    seeds: Mapping[str, tuple[int, ...]]
    """Seeds of each arm, in the order of the rows in `values`."""
    values: Mapping[str, Mapping[str, Floats]]
    """By metric, then by arm: `(seeds, evaluations)`, nan where a seed has no value."""

    @property
    def arms(self) -> tuple[str, ...]:
        """Names of the arms, in the order of the file."""
        return tuple(self.seeds)

    def span(self, metric: str, arm: str) -> tuple[int, int] | None:
        """First and last env steps at which any seed of `arm` has a value; `None` if there is no value at all."""
        known = self.env_steps[np.isfinite(self.values[metric][arm]).any(axis=0)]
        return (int(known[0]), int(known[-1])) if known.size else None


@dataclass(frozen=True)
class _Row:
    task: str
    arm: str
    seed: int
    env_steps: int
    values: tuple[float, ...]


def read_curves(*paths: str | Path, prefix_clashes: bool = False) -> list[Curves]:
    """Read one or more `curves.csv`, or folders that hold one, into one `Curves` per task.

    The task of a row is its `task` column, else `task` in the `config.json` beside the file, else the name of the folder.
    Files of the same task are put together, each file once. A last line without its line end is left out: whoever wrote
    it was interrupted.

    Args:
        paths: files or folders.
        prefix_clashes: if several files have an arm of the same name, call it `folder/arm` in each of them.

    Raises:
        ValueError: a file is missing, has no evaluation, lacks a column, or holds something that is not a number; or the
            same arm, seed and env steps appear twice on one task.
    """
    if not paths:
        raise ValueError("No curves to read; give a curves.csv or a folder that holds one.")
    files = list(dict.fromkeys(_find(Path(path)) for path in paths))
    rows = [_read_rows(file) for file in files]
    if prefix_clashes:
        arms = [list(dict.fromkeys(row.arm for row in part)) for part in rows]
        names = _short_names([file.parent for file in files])
        clashing = {arm for part in arms for arm in part if sum(arm in other for other in arms) > 1}
        rows = [
            [_Row(r.task, f"{name}/{r.arm}" if r.arm in clashing else r.arm, r.seed, r.env_steps, r.values) for r in part]
            for name, part in zip(names, rows, strict=True)
        ]
    everything = [row for part in rows for row in part]
    return [
        _gather(task, [row for row in everything if row.task == task]) for task in dict.fromkeys(row.task for row in everything)
    ]


def _find(path: Path) -> Path:
    file = path / "curves.csv" if path.is_dir() else path
    if not file.is_file():
        raise ValueError(f"{file} does not exist; give a curves.csv or a folder that holds one.")
    return file.resolve()


def _short_names(folders: Sequence[Path]) -> list[str]:
    """The shortest tails of the paths that tell the folders apart."""
    depth = 1
    while True:
        names = ["/".join(folder.parts[-depth:]) for folder in folders]
        if len(set(names)) == len(set(folders)) or depth > max(len(folder.parts) for folder in folders):
            return names
        depth += 1


def _default_task(file: Path) -> str:
    try:
        config = json.loads((file.parent / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        config = None
    task = config.get("task") if isinstance(config, dict) else None
    return task if isinstance(task, str) and task else file.parent.name


def _read_rows(file: Path) -> list[_Row]:
    try:
        # What follows the last line end was torn off; its numbers may look whole and still be wrong.
        text = file.read_bytes().rpartition(b"\n")
        lines = csv.reader(io.StringIO((text[0] + text[1]).decode("utf-8-sig"), newline=""), strict=True)
        table = [(lines.line_num, line) for line in lines if line]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{file} is not a readable CSV file: {error}.") from error
    header = table[0][1] if table else []
    missing = [column for column in COLUMNS if column not in header]
    if missing:
        raise ValueError(f"{file} lacks the column {', '.join(missing)}; it needs {', '.join(COLUMNS)}.")
    if len(table) == 1:
        raise ValueError(f"{file} holds no evaluation yet.")
    task = _default_task(file)
    return [_parse(file, number, header, line, task) for number, line in table[1:]]


def _parse(file: Path, number: int, header: list[str], line: list[str], task: str) -> _Row:
    where = f"{file}, line {number}"
    if len(line) != len(header):
        raise ValueError(f"{where}: {len(line)} fields where the header names {len(header)}.")
    cells = dict(zip(header, line, strict=True))
    if not cells["arm"]:
        raise ValueError(f"{where}: the arm has no name.")

    def whole(column: str) -> int:
        text = cells[column].strip()
        # Longer numbers overflow int64; no run is that long.
        if not (text.isascii() and text.isdigit() and len(text) <= 18):
            raise ValueError(f"{where}: {column} is {text[:40]!r}; it must be a whole number, 0 or more.")
        return int(text)

    def real(column: str) -> float:
        text = cells[column].strip()
        try:
            value = float(text or "nan")
        except ValueError:
            value = math.inf
        if abs(value) > LARGEST:
            raise ValueError(f"{where}: {column} is {text[:40]!r}; it must be a finite number, or empty where there is none.")
        return value

    values = tuple(real(metric) for metric in METRICS)
    return _Row(cells.get("task") or task, cells["arm"], whole("seed"), whole("env_steps"), values)


def _gather(task: str, rows: list[_Row]) -> Curves:
    env_steps = np.unique(np.array([row.env_steps for row in rows], dtype=np.int64))
    found: dict[str, set[int]] = {}
    for row in rows:
        found.setdefault(row.arm, set()).add(row.seed)
    seeds = {arm: tuple(sorted(of_arm)) for arm, of_arm in found.items()}
    values = {metric: {arm: np.full((len(seeds[arm]), env_steps.size), np.nan) for arm in seeds} for metric in METRICS}
    index = {arm: {seed: position for position, seed in enumerate(seeds[arm])} for arm in seeds}
    seen: set[tuple[str, int, int]] = set()
    for row, column in zip(rows, np.searchsorted(env_steps, [row.env_steps for row in rows]), strict=True):
        if (row.arm, row.seed, row.env_steps) in seen:
            raise ValueError(f"{task}: arm {row.arm}, seed {row.seed} has two evaluations at {row.env_steps} steps; keep one.")
        seen.add((row.arm, row.seed, row.env_steps))
        for metric, value in zip(METRICS, row.values, strict=True):
            values[metric][row.arm][index[row.arm][row.seed], column] = value
    return Curves(task=task, env_steps=env_steps, seeds=seeds, values=values)
