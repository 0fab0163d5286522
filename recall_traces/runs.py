"""Run folders: where a run keeps its configuration and what it measured. Data only; nothing here trains or draws.

* `config.json`: the task, the resolved configuration, what became of each arm, and how the run was called.
* `curves.csv`: one row per arm, seed and evaluation; no clock, so that the same run gives the same bytes.
* `timings.csv`: wall clock at each evaluation of an arm.
* `<arm>.safetensors`: its policies at the end.
* `checkpoints/<arm>`: what an arm needs to go on, see `checkpoints`; at the end what is worth keeping of it.
* `log.txt`: what was said on the terminal, with the time.
* `tensorboard/<arm>`: means over seeds, for TensorBoard.
* `comparison.json` and `curves.png`: what the arms of a comparison come to.
"""

from __future__ import annotations

import contextlib
import csv
import errno
import io
import json
import math
import os
import re
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from recall_traces.curves import COLUMNS, read_table

if sys.platform != "win32":
    import fcntl

CONFIG, CURVES, TIMINGS = "config.json", "curves.csv", "timings.csv"
COMPARISON, PICTURE, TENSORBOARD, ERROR = "comparison.json", "curves.png", "tensorboard", "error.txt"
CHECKPOINTS, LOG = "checkpoints", "log.txt"
TIMING_COLUMNS = ("arm", "env_steps", "seconds", "steps_per_second", "collect", "update", "recall", "evaluate")
"""Seconds since the arm began, steps of all seeds per second of them, and how many went into which part."""
MADE_OF_IT = re.compile(r"report\.html|traces-.+-\d+\.png|watch-.+-\d+\.gif|.+-\d+\.pt2|\..+\.new")
"""Names of what subcommands make of a run in its folder, unless they are told another one, and of what was being written."""
RUNNING, FINISHED, INTERRUPTED, FAILED = "running", "finished", "interrupted", "failed"


class RunFolder:
    """The folder of one run. It may not exist yet; `start` makes it.

    Args:
        path: Where it is.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.record: dict[str, Any] = {}
        """The content of `config.json`."""
        self._claim: int | None = None

    # -- the folder as a whole ----------------------------------------------------------------------------------------------

    def has_results(self) -> bool:
        """Whether a run has written here."""
        return any((self.path / name).exists() for name in (CONFIG, CURVES))

    def load(self) -> RunFolder:
        """Read `config.json`.

        Raises:
            ValueError: it is missing or is not what a run writes.
        """
        file = self.path / CONFIG
        try:
            record = json.loads(file.read_text(encoding="utf-8"))
            groups = [record["configuration"], record["arms"], *record["arms"].values()]
            groups += [record["arms"][arm].get("failures", {}) for arm in record["arms"]] + record.get("calls", [])
            if not all(isinstance(group, dict) for group in groups):
                raise ValueError("it is not the record of a run")
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            reason = error.strerror if isinstance(error, OSError) else _one_line(error)
            raise ValueError(f"{file} cannot be read ({reason})") from error
        self.record = record
        return self

    def start(self, task: str, configuration: Mapping[str, Any], call: Mapping[str, Any]) -> None:
        """Make the folder, or go on with the one that was loaded, and note how the run was called.

        Args:
            task: Name of the environment.
            configuration: Everything that decides the numbers.
            call: Command line, versions, hardware, date: what may differ between two calls that go on with the same run.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        if not self.record:
            self.record = {"task": task, "configuration": as_json(configuration), "arms": {}, "calls": []}
        self.record.setdefault("calls", []).append(as_json(call))
        self._write_record()
        for name, columns in ((CURVES, COLUMNS), (TIMINGS, TIMING_COLUMNS)):
            if not (self.path / name).exists():
                _replace(self.path / name, _csv_text([columns]))

    def claim(self) -> None:
        """Make the folder, and keep other processes from writing into it until `release`, or until this one ends.

        Raises:
            BlockingIOError: another process writes there.
            OSError: it cannot be made.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        if sys.platform == "win32":
            return
        self._claim = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.flock(self._claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.release()
            raise
        except OSError:
            pass  # a file system that knows no locks

    def release(self) -> None:
        """Let others write into the folder again."""
        if self._claim is not None:
            os.close(self._claim)
            self._claim = None

    def clear(self) -> None:
        """Remove what runs write and what is made of them there, and nothing else that may lie in the folder."""
        for name in (CONFIG, CURVES, TIMINGS, COMPARISON, PICTURE, ERROR, LOG):
            (self.path / name).unlink(missing_ok=True)
        for file in list(self.path.iterdir()):
            if file.suffix == ".safetensors" or MADE_OF_IT.fullmatch(file.name):
                file.unlink()
        for name in (TENSORBOARD, CHECKPOINTS):
            shutil.rmtree(self.path / name, ignore_errors=True)
        self.record = {}

    def log(self, text: str) -> None:
        """Append a line to `log.txt`, with the time; a disk that takes no more is no reason to stop here."""
        line = f"{datetime.now().isoformat(timespec='seconds')} {' '.join(text.split())}\n"
        with contextlib.suppress(OSError), (self.path / LOG).open("a", encoding="utf-8") as file:
            file.write(line)

    # -- arms ---------------------------------------------------------------------------------------------------------------

    def status(self, arm: str) -> str | None:
        """`running`, `finished`, `interrupted`, `failed`, or `None` for an arm that was never begun."""
        status = self.record["arms"].get(arm, {}).get("status")
        return status if isinstance(status, str) else None

    def failures(self, arm: str) -> dict[int, str]:
        """What became of seeds of an arm that broke, as `end_arm` was told."""
        failures = self.record["arms"].get(arm, {}).get("failures", {})
        return {int(seed): str(text) for seed, text in failures.items() if _is_whole(seed)}

    def begin_arm(self, arm: str) -> None:
        """Remove what an interrupted attempt left of an arm, and note that it runs."""
        for name in (CURVES, TIMINGS):
            self._remove_rows(name, arm)
        self.policy_path(arm).unlink(missing_ok=True)
        shutil.rmtree(self.tensorboard_path(arm), ignore_errors=True)
        for checkpoint in self.checkpoints_path(arm).glob("*.safetensors"):
            checkpoint.unlink()
        self.end_arm(arm, RUNNING)

    def continue_arm(self, arm: str, env_steps: int) -> None:
        """Remove the rows that an interrupted attempt wrote after so many environment steps, and note that the arm runs.

        Raises:
            ValueError: there are rows that no run wrote.
        """
        for name in (CURVES, TIMINGS):
            self._remove_rows(name, arm, env_steps)
        self.end_arm(arm, RUNNING)

    def end_arm(self, arm: str, status: str, **details: Any) -> None:
        """Note what became of an arm.

        Args:
            arm: Its name.
            status: See `status`.
            details: Further entries for it in `config.json`.
        """
        self.record["arms"][arm] = as_json({"status": status, **details})
        self._write_record()

    def policy_path(self, arm: str) -> Path:
        """Where the policies of an arm are."""
        return self.path / f"{arm}.safetensors"

    def checkpoints_path(self, arm: str) -> Path:
        """The folder with the checkpoints of an arm."""
        return self.path / CHECKPOINTS / arm

    def tensorboard_path(self, arm: str) -> Path:
        """Where TensorBoard's events of an arm are."""
        return self.path / TENSORBOARD / arm

    # -- rows ---------------------------------------------------------------------------------------------------------------

    def add_curves(self, rows: Iterable[Sequence[Any]]) -> None:
        """Append to `curves.csv`, columns as in `curves.COLUMNS`, and leave it on disk."""
        self._append(CURVES, rows)

    def add_timing(self, row: Sequence[Any]) -> None:
        """Append to `timings.csv`, columns as in `TIMING_COLUMNS`."""
        self._append(TIMINGS, [row])

    def synchronize(self) -> None:
        """Wait until all rows are on the disk: a checkpoint must not be there without the rows before it."""
        for name in (CURVES, TIMINGS):
            with (self.path / name).open("rb") as file:
                os.fsync(file.fileno())

    def check_tables(self) -> None:
        """Look through `curves.csv` and `timings.csv`.

        Raises:
            ValueError: one of them is not what a run writes; names the file and the line.
        """
        for name, columns in ((CURVES, COLUMNS), (TIMINGS, TIMING_COLUMNS)):
            if (self.path / name).exists():
                for where, cells in read_table(self.path / name, columns):
                    if not _is_whole(cells["env_steps"]):
                        raise ValueError(f"{where}: env_steps is {cells['env_steps'][:40]!r}; it must be a whole number")

    def _append(self, name: str, rows: Iterable[Sequence[Any]]) -> None:
        # One write for all rows of an evaluation; whatever stops the run then leaves whole lines.
        text = _csv_text([[format_cell(cell) for cell in row] for row in rows]).encode()
        with (self.path / name).open("ab", buffering=0) as file:
            size = file.tell()
            if file.write(text) != len(text):
                # The disk is full, or so it seems: it may have taken a part of the text.
                file.truncate(size)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path / name))

    def _remove_rows(self, name: str, arm: str, after: int | None = None) -> None:
        """Remove the rows of an arm, all or those after a number of environment steps, and what was torn off at the end."""
        file = self.path / name
        text = file.read_text(encoding="utf-8")
        whole = text[: text.rfind("\n") + 1]
        columns = COLUMNS if name == CURVES else TIMING_COLUMNS
        try:
            header, *lines = list(csv.reader(io.StringIO(whole))) or [list(columns)]
        except csv.Error as error:
            raise ValueError(f"{file} is not a readable CSV file: {error}") from error
        kept = [line for line in lines if line and line[0] != arm]
        if after is not None:
            where = columns.index("env_steps")
            for line in lines:
                if line and line[0] == arm and not (len(line) == len(columns) and _is_whole(line[where])):
                    raise ValueError(f"{file} has a line of {arm} that no run wrote: {','.join(line)[:80]!r}")
            kept = [line for line in lines if line and (line[0] != arm or int(line[where]) <= after)]
        new = _csv_text([header, *kept])
        if new != text:
            _replace(file, new)

    # -- json ---------------------------------------------------------------------------------------------------------------

    def write_comparison(self, comparison: Mapping[str, Any]) -> None:
        """Write `comparison.json`."""
        _replace(self.path / COMPARISON, json.dumps(comparison, indent=1, allow_nan=False) + "\n")

    def _write_record(self) -> None:
        _replace(self.path / CONFIG, json.dumps(self.record, indent=2) + "\n")


def new_run_path(task: str, parent: str | Path = "runs") -> Path:
    """A folder that does not exist yet, named by task and time; it is made, so that no other run takes it."""
    name = f"{re.sub(r'[^A-Za-z0-9._-]+', '-', task)}-{datetime.now():%Y%m%d-%H%M%S}"
    number = 1
    while True:
        path = Path(parent) / (name if number == 1 else f"{name}-{number}")
        try:
            path.mkdir(parents=True)
            return path
        except FileExistsError:
            if Path(parent).is_file():
                raise
            number += 1


def first_difference(old: Any, new: Any, defaults: Any = None, path: str = "") -> tuple[str, Any, Any] | None:
    """The first field in which two configurations differ: its dotted name, and both values; `None` where they agree.

    A field that the old one lacks is younger than it, and counts as its default; without one, and where the new one lacks
    it, as null.
    """
    if isinstance(old, dict) and isinstance(new, dict):
        defaults = defaults if isinstance(defaults, dict) else {}
        for key in [*new, *(key for key in old if key not in new)]:
            before = old.get(key, defaults.get(key))
            found = first_difference(before, new.get(key), defaults.get(key), f"{path}.{key}" if path else key)
            if found is not None:
                return found
        return None
    return None if old == new else (path, old, new)


def as_json(value: Any) -> Any:
    """The value as JSON gives it back: tuples are lists, what JSON lacks is text."""
    return json.loads(json.dumps(value, default=str))


def format_cell(cell: Any) -> str:
    """Text of a cell: the shortest that gives the same float32, and nothing for what is not finite."""
    if isinstance(cell, float):
        return str(np.float32(cell)) if math.isfinite(cell) else ""
    return str(cell)


def _csv_text(rows: Iterable[Sequence[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _is_whole(cell: str) -> bool:
    return cell.isascii() and cell.isdigit() and len(cell) <= 18


def _replace(file: Path, text: str) -> None:
    """Write a file whole or not at all, also if the machine stops."""
    temporary = file.with_name(f".{file.name}.new")
    try:
        with temporary.open("w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, file)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
