"""Logs of Stable-Baselines3 as learning curves, so that a baseline trained elsewhere lies in one picture with our own runs.

A folder is one run: one seed of an arm. What is taken from it is the first of these that it has:

1. `evaluations.npz` of EvalCallback, at its own timesteps. It fills the sampled and the greedy columns: evaluations are
   deterministic unless the user said otherwise, and the file does not tell.
2. `*monitor.csv` of Monitor (one for each environment of the run) or VecMonitor: the sampled columns.
3. `progress.csv` of the logger, 4. TensorBoard's events: `rollout/...` fills the sampled columns (`eval/...` where it is
   missing), `eval/...` the greedy ones.

All but the first come at irregular steps. They are put on a grid, so that seeds line up: the mean over each window of 2048
steps, at its end; an empty window carries the last value on. Single episodes tell success by their return where Gymnasium
knows the task's threshold and the log has no success of its own.

Only numbers and names are read. Nothing is unpickled, imported or run.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from recall_traces.curves import LARGEST, METRICS, Floats, Integers, read_real, read_table

Series = tuple[Integers, Floats]
"""Steps of the run, of all its environments together, and a value at each (nan where there is none), both `(n,)`."""

WINDOW = 2048
LONGEST = 10**9  # steps of a run; a mistyped number could ask for more windows than fit into memory
PATTERNS = (EVALUATIONS, MONITOR, PROGRESS, EVENTS) = (
    "evaluations.npz",
    "*monitor.csv",
    "progress.csv",
    "events.out.tfevents.*",
)
TAGS = {
    "episode_return": ("rollout/ep_rew_mean", "eval/mean_reward"),
    "success": ("rollout/success_rate", "eval/success_rate"),
    "greedy_episode_return": ("eval/mean_reward",),
    "greedy_success": ("eval/success_rate",),
}
"""Where a column comes from in `progress.csv` and TensorBoard's events, the better place first."""
ALL_TAGS = tuple(dict.fromkeys(tag for tags in TAGS.values() for tag in tags))


@dataclass(frozen=True, eq=False)
class Log:
    """What one run measured."""

    folder: Path
    """Where its files are."""
    kind: str
    """Which of `PATTERNS` they are."""
    task: str | None
    """Our name of its task, `None` where no file tells."""
    series: Mapping[str, Series]
    """By metric, as the files have them: not yet on the grid."""

    def arm(self, task: str) -> str:
        """The folder's name without its number: `PPO_1` and `PPO_2` are seeds of `PPO`.

        A folder that is called after the task lies in one called after the algorithm: `ppo/CartPole-v1_1` is of `ppo`.
        """
        own = _unnumbered(self.folder)
        return (_unnumbered(self.folder.parent) if own == task else own) or "baseline"

    def table(self, task: str) -> tuple[Integers, Floats]:
        """Steps, increasing, `(n,)`, and what was measured there, `(n, 4)` in the order of `METRICS`, nan where nothing was.

        Args:
            task: our name of the task; its threshold tells which episodes succeeded where the log does not.
        """
        series, threshold = dict(self.series), _success_return(task)
        for metric, (steps, returns) in self.series.items():
            if self.kind in (EVALUATIONS, MONITOR) and threshold is not None and metric.endswith("episode_return"):
                reached = np.where(np.isnan(returns), np.nan, returns >= threshold)
                series.setdefault(metric.replace("episode_return", "success"), (steps, reached))
        means = {metric: _means(*samples, windowed=self.kind != EVALUATIONS) for metric, samples in series.items()}
        env_steps = np.unique(np.concatenate([steps for steps, _ in means.values()]))
        table = np.full((env_steps.size, len(METRICS)), np.nan)
        for metric, (steps, values) in means.items():
            table[np.searchsorted(env_steps, steps), METRICS.index(metric)] = values
        return env_steps, table


def find(path: Path) -> tuple[Path, ...]:
    """The files of one run that a path stands for: itself, or those of a folder, of the first kind in `PATTERNS` it has.

    Returns:
        Absolute paths in one folder; none if the path is no log, holds none, or does not exist.
    """
    folder = (path if path.is_dir() else path.parent).resolve()
    for pattern in PATTERNS:
        files = [file for file in sorted(folder.glob(pattern)) if file.is_file() and (path.is_dir() or file.name == path.name)]
        if files:
            return tuple(files)
    return ()


def read(files: Sequence[Path]) -> Log:
    """Read one run.

    Args:
        files: what `find` returned.

    Raises:
        ValueError: a file is not what Stable-Baselines3 writes, or holds no value yet; the message names it.
    """
    folder = files[0].parent
    kind = next(pattern for pattern in PATTERNS if fnmatchcase(files[0].name, pattern))
    if kind == MONITOR:
        headers = [_header(file) for file in files]
        series = _monitors(files, headers)
    else:
        headers = [_header(file, strict=False) for file in sorted(folder.glob(MONITOR))]  # they may tell the task
        read_kind = {EVALUATIONS: _evaluations, PROGRESS: _progress, EVENTS: _events}[kind]
        series = read_kind(files)
    tasks = list(dict.fromkeys(task for task in map(_task, headers) if task is not None))
    if kind == MONITOR and len(tasks) > 1:
        raise ValueError(f"{folder} holds monitor files of several tasks ({', '.join(tasks)}); name the files one by one.")
    for steps, values in series.values():
        if (np.abs(values) > LARGEST).any() or not ((steps >= 0) & (steps <= LONGEST)).all():
            raise ValueError(f"{files[0]}: values must be finite numbers, and steps be from 0 to {LONGEST:,}.")
    series = {metric: samples for metric, samples in series.items() if np.isfinite(samples[1]).any()}
    if kind in (PROGRESS, EVENTS):
        best = {metric: next((tag for tag in tags if tag in series), None) for metric, tags in TAGS.items()}
        series = {metric: series[tag] for metric, tag in best.items() if tag is not None}
    if not series:
        raise ValueError(f"{files[0]} holds no episode return or success yet.")
    return Log(folder, kind, tasks[0] if tasks else None, series)


def plain_task(task: str) -> str:
    """A task as Gymnasium calls it: `gymnasium/CartPole-v1` and `module:CartPole-v1` are `CartPole-v1`."""
    return task.removeprefix("gymnasium/").rpartition(":")[2]


def _unnumbered(folder: Path) -> str:
    return re.sub(r"_\d+$", "", folder.name) or folder.name


def _means(steps: Integers, values: Floats, windowed: bool) -> Series:
    """The mean at each step that has a value; of each window if `windowed`, empty ones between filled with what was last."""
    known = np.isfinite(values)
    at = -(-steps // WINDOW) * WINDOW if windowed else steps
    found, index = np.unique(at[known], return_inverse=True)
    means = np.bincount(index, values[known]) / np.bincount(index)
    if not windowed:
        return found, means
    grid = np.arange(found[0], found[-1] + 1, WINDOW)
    return grid, means[np.searchsorted(found, grid, side="right") - 1]


def _task(header: Mapping[str, Any]) -> str | None:
    env_id = header.get("env_id")
    if not isinstance(env_id, str) or env_id in ("", "None"):
        return None
    # Ours have another name in Gymnasium's registry. `gymnasium.spec` would import a module that a file may name.
    spec = gymnasium.registry.get(env_id) if env_id.startswith("recall_traces/") else None
    return env_id if spec is None else str(spec.kwargs.get("env_id", env_id))


def _success_return(task: str) -> float | None:
    specs = [gymnasium.registry.get(name) for name in (plain_task(task), f"recall_traces/{task}-v0")]
    return next((spec.reward_threshold for spec in specs if spec is not None), None)


# Files -------------------------------------------------------------------------------------------------------------------


def _header(file: Path, strict: bool = True) -> dict[str, Any]:
    """The first line of a monitor file; without `strict` it is empty where it cannot be read."""
    try:
        with file.open("rb") as stream:
            line = stream.readline()
        header = json.loads(line[1:]) if line.startswith(b"#") else None
    except (OSError, ValueError, RecursionError):
        header = None
    if isinstance(header, dict):
        return header
    if strict:
        raise ValueError(f"{file} does not begin with # and JSON, as the files of Stable-Baselines3's Monitor do.")
    return {}


def _columns(file: Path, needed: Sequence[str], optional: Sequence[str], comments: int = 0) -> dict[str, Floats]:
    """Columns of a CSV file by name, `(rows,)` each, nan where a cell is empty or the column is missing."""
    found: dict[str, list[float]] = {name: [] for name in (*needed, *optional)}
    for where, cells in read_table(file, needed, comments):
        for name, column in found.items():
            cell = cells.get(name, "")
            column.append(read_real(where, name, {"True": "1", "False": "0"}.get(cell, cell)))
    return {name: np.array(column, dtype=np.float64) for name, column in found.items()}


def _whole(file: Path, name: str, steps: NDArray[Any]) -> Integers:
    if not ((steps >= 0) & (steps <= LONGEST) & (steps % 1 == 0)).all():
        raise ValueError(f"{file}: {name} must be whole numbers from 0 to {LONGEST:,}.")
    return steps.astype(np.int64)


def _monitors(files: Sequence[Path], headers: Sequence[Mapping[str, Any]]) -> dict[str, Series]:
    parts = []
    for file, header in zip(files, headers, strict=True):
        part = _columns(file, ("r", "l", "t"), ("is_success",), comments=1)
        start = header.get("t_start", 0.0)
        if isinstance(start, bool) or not isinstance(start, int | float) or not abs(start) < LARGEST or np.isnan(part["t"]).any():
            raise ValueError(f"{file}: t_start in the first line and t in the others must be seconds.")
        # Whoever goes on with a run and appends to its file begins with a new clock.
        before = np.concatenate([[0.0], part["t"][:-1]])
        part["t"] += float(start) + np.cumsum(np.where(part["t"] < before, before, 0.0))
        _whole(file, "episode lengths l", part["l"])
        parts.append(part)
    run = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    order = np.argsort(run["t"], kind="stable")
    steps = np.cumsum(run["l"][order]).astype(np.int64)
    return {"episode_return": (steps, run["r"][order]), "success": (steps, run["is_success"][order])}


def _evaluations(files: Sequence[Path]) -> dict[str, Series]:
    try:
        # Opened here, since numpy leaves a broken archive open.
        with files[0].open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            steps, tables = archive["timesteps"], {"episode_return": archive["results"]}
            if "successes" in archive:
                tables["success"] = archive["successes"]
    except Exception as error:  # numpy, zipfile and zlib have each their own for a broken archive
        # Numpy's own message would advise to unpickle.
        raise ValueError(f"{files[0]} is no archive of plain arrays timesteps and results, as EvalCallback writes.") from error
    series: dict[str, Series] = {}
    for name, table in tables.items():
        if (
            (steps.dtype.kind, steps.ndim, table.ndim) != ("i", 1, 2)
            or table.dtype.kind not in "biuf"
            or len(table) != len(steps)
        ):
            raise ValueError(f"{files[0]}: timesteps must be whole numbers, results and successes numbers, a row for each step.")
        samples = np.repeat(steps.astype(np.int64), table.shape[1]), table.astype(np.float64).reshape(-1)
        series[name] = series[f"greedy_{name}"] = samples
    return series


def _progress(files: Sequence[Path]) -> dict[str, Series]:
    time = "time/total_timesteps"
    columns = _columns(files[0], (time,), ALL_TAGS)
    rows = ~np.isnan(columns[time])
    steps = _whole(files[0], time, columns[time][rows])
    return {tag: (steps, columns[tag][rows]) for tag in ALL_TAGS}


def _events(files: Sequence[Path]) -> dict[str, Series]:
    # Takes a second, and only those who have such files need it.
    from tensorboard.backend.event_processing.event_accumulator import (
        SCALARS,
        EventAccumulator,
    )

    found: dict[str, list[tuple[int, float]]] = {tag: [] for tag in ALL_TAGS}
    for file in files:
        try:
            events = EventAccumulator(str(file), size_guidance={SCALARS: 0}).Reload()
            for tag in set(ALL_TAGS) & set(events.Tags()[SCALARS]):
                found[tag] += [(event.step, event.value) for event in events.Scalars(tag)]
        except Exception as error:  # what its parser raises is promised nowhere
            raise ValueError(f"{file} is not a readable file of TensorBoard's events ({type(error).__name__}).") from error
    return {
        tag: (
            np.array([step for step, _ in samples], dtype=np.int64),
            np.array([value for _, value in samples], dtype=np.float64),
        )
        for tag, samples in found.items()
    }
