"""Learning curves as data: what `curves.csv` holds, read back, and beside it what `sb3_logs` makes of baselines.

One array per arm holds `(seeds, evaluations)`, nan where a seed has no value: curves may have unequal length, and arms may
lack seeds. Needs neither torch nor the code that trained.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from recall_traces.sb3_logs import Log

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

    A folder without `curves.csv` may hold logs of Stable-Baselines3, and a file may be one: see `sb3_logs`. Each is one seed
    of the arm that the folder is named after, `PPO_1` and `PPO_2` of `PPO`; seeds count from 0, past those already there. A
    log that does not tell its task is of the only task among the other paths, else of one called like the folder around it.
    A folder that holds neither, such as the `tensorboard_log` of several runs, stands for those of its subfolders that do,
    without runs that have no evaluation yet.

    Args:
        paths: files or folders.
        prefix_clashes: if several files have an arm of the same name on one task, call it `folder/arm` in each of them. Logs in
            numbered folders side by side are seeds of one arm, and do not clash.

    Raises:
        ValueError: a file is missing, has no evaluation, lacks a column, or holds something that is not a number; or the
            same arm, seed and env steps appear twice on one task.
    """
    if not paths:
        raise ValueError("No curves to read; give a curves.csv or a folder that holds one.")
    from recall_traces import sb3_logs  # which builds upon this module

    files = list(dict.fromkeys(file for path in paths for file in _find_all(Path(path))))
    rows = _add_logs([_read_rows(file) if isinstance(file, Path) else sb3_logs.read(file) for file in files])
    if prefix_clashes:
        folders = [file.parent if isinstance(file, Path) else file[0].parent.parent for file in files]
        names = _short_names(folders)
        places: dict[tuple[str, str], set[Path]] = {}
        for file, folder, part in zip(files, folders, rows, strict=True):
            for row in part:
                places.setdefault((row.task, row.arm), set()).add(file if isinstance(file, Path) else folder)
        rows = [
            [
                _Row(r.task, f"{name}/{r.arm}" if len(places[r.task, r.arm]) > 1 else r.arm, r.seed, r.env_steps, r.values)
                for r in part
            ]
            for name, part in zip(names, rows, strict=True)
        ]
    everything = [row for part in rows for row in part]
    return [
        _gather(task, [row for row in everything if row.task == task]) for task in dict.fromkeys(row.task for row in everything)
    ]


def _find_all(path: Path) -> list[Path | tuple[Path, ...]]:
    """What `_find` finds at a path; of a folder that holds nothing itself, in those of its subfolders that hold something."""
    from recall_traces import sb3_logs

    def holds(folder: Path) -> bool:
        return (folder / "curves.csv").is_file() or bool(sb3_logs.find(folder))

    def is_new(folder: Path) -> bool:
        """Whether it is a run that has no evaluation yet: one whole line, the names of the columns."""
        file = folder / "curves.csv"
        return file.is_file() and file.read_bytes().count(b"\n") <= 1

    if path.is_dir() and not holds(path):
        # PPO_10 comes after PPO_9.
        folders = sorted((p for p in path.iterdir() if p.is_dir()), key=lambda p: (len(p.name), p.name))
        found = [folder for folder in folders if holds(folder)]
        if found:
            return [_find(folder) for folder in found if not is_new(folder)] or [_find(found[0])]
    return [_find(path)]


def _find(path: Path) -> Path | tuple[Path, ...]:
    """A `curves.csv`, or the files of one log of Stable-Baselines3."""
    from recall_traces import sb3_logs

    file = path / "curves.csv" if path.is_dir() else path
    log = () if path.is_dir() and file.is_file() else sb3_logs.find(path)
    if log:
        return log
    if not file.is_file():
        raise ValueError(
            f"{file} does not exist; give a curves.csv or a folder that holds one, or a log of Stable-Baselines3: "
            "evaluations.npz, monitor.csv, progress.csv or TensorBoard's events."
        )
    return file.resolve()


def _add_logs(parts: Sequence[list[_Row] | Log]) -> list[list[_Row]]:
    """The rows of every part; logs get what only the others tell them: a task if they know none, and a seed that is free."""
    from recall_traces.sb3_logs import plain_task

    own = [row for part in parts if isinstance(part, list) for row in part]
    taken = {(row.task, row.arm, row.seed) for row in own}
    known = {plain_task(row.task): row.task for row in own}  # by the name that a log would have for it
    known |= {part.task: part.task for part in parts if not isinstance(part, list) and part.task and part.task not in known}
    rows = []
    for part in parts:
        if isinstance(part, list):
            rows.append(part)
            continue
        guess = next(iter(known.values())) if len(known) == 1 else part.folder.parent.name or part.folder.name
        task = guess if part.task is None else known[part.task]
        arm = part.arm(task)
        seed = next(seed for seed in count() if (task, arm, seed) not in taken)
        taken.add((task, arm, seed))
        steps, values = part.table(task)
        rows.append([_Row(task, arm, seed, *row) for row in zip(steps.tolist(), map(tuple, values.tolist()), strict=True)])
    return rows


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


def read_table(file: Path, columns: Sequence[str], comments: int = 0) -> Iterator[tuple[str, dict[str, str]]]:
    """Read a CSV file line by line. What follows its last line end is left out.

    Args:
        file: it begins with a header.
        columns: what the header must name.
        comments: lines before the header.

    Yields:
        File and line, for messages, and the line's cells by column.

    Raises:
        ValueError: it cannot be read, lacks a column, or has a line of another length than the header.
    """
    try:
        # What follows the last line end was torn off; its numbers may look whole and still be wrong.
        text = file.read_bytes().rpartition(b"\n")
        stream = io.StringIO((text[0] + text[1]).decode("utf-8-sig"), newline="")
        for _ in range(comments):
            stream.readline()
        lines = csv.reader(stream, strict=True)
        table = [(lines.line_num + comments, line) for line in lines if line]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{file} is not a readable CSV file: {error}.") from error
    header = table[0][1] if table else []
    missing = [column for column in columns if column not in header]
    if missing:
        raise ValueError(f"{file} lacks the column {', '.join(missing)}; it needs {', '.join(columns)}.")
    for number, line in table[1:]:
        where = f"{file}, line {number}"
        if len(line) != len(header):
            raise ValueError(f"{where}: {len(line)} fields where the header names {len(header)}.")
        yield where, dict(zip(header, line, strict=True))


def read_real(where: str, column: str, cell: str) -> float:
    """The number in a cell, nan where it is empty.

    Raises:
        ValueError: it is none, or beyond `LARGEST`.
    """
    text = cell.strip()
    try:
        value = float(text or "nan")
    except ValueError:
        value = math.inf
    if abs(value) > LARGEST:
        raise ValueError(f"{where}: {column} is {text[:40]!r}; it must be a finite number, or empty where there is none.")
    return value


def _read_rows(file: Path) -> list[_Row]:
    task = _default_task(file)
    rows = [_parse(where, cells, task) for where, cells in read_table(file, COLUMNS)]
    if not rows:
        raise ValueError(f"{file} holds no evaluation yet.")
    return rows


def _parse(where: str, cells: Mapping[str, str], task: str) -> _Row:
    if not cells["arm"]:
        raise ValueError(f"{where}: the arm has no name.")

    def whole(column: str) -> int:
        text = cells[column].strip()
        # Longer numbers overflow int64; no run is that long.
        if not (text.isascii() and text.isdigit() and len(text) <= 18):
            raise ValueError(f"{where}: {column} is {text[:40]!r}; it must be a whole number, 0 or more.")
        return int(text)

    values = tuple(read_real(where, metric, cells[metric]) for metric in METRICS)
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
