"""Measure whether a run's memory grows: resident memory over 10 million environment steps of PPO with recall on FourRooms-13.

    python scripts/measure_memory.py
    python scripts/measure_memory.py --steps 1000000 --out memory.csv

Steps are counted over all seeds and environments. Memory is that of the process (VmRSS), after each hundredth of the steps; the
first tenth is warming up, since memories of past steps fill there. Prints first, last and largest, and exits with 1 if the
last is more than 5% above what it was after the first tenth.
"""

from __future__ import annotations

import argparse
import csv
import sys
import tempfile
from pathlib import Path

from recall_traces.cli import main as command_line
from recall_traces.cli.recorder import Recorder

SEEDS = 4


def resident_bytes() -> int:
    """Of this process."""
    with open("/proc/self/status", encoding="ascii") as lines:
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--steps", type=int, default=10_000_000, help="of all seeds together")
    parser.add_argument("--out", type=Path, help="a CSV file for all measurements")
    options = parser.parse_args()
    per_seed, measured = options.steps // SEEDS, []
    real = Recorder.__call__

    def record(self, learner, metrics):  # type: ignore[no-untyped-def]
        real(self, learner, metrics)
        if learner.env_steps * 100 >= (len(measured) + 1) * per_seed:
            measured.append((learner.env_steps * SEEDS, resident_bytes()))

    Recorder.__call__ = record  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as folder:
        command = f"train ppo FourRooms-13 --arm recall --seeds {SEEDS} --steps {per_seed} --eval-every {per_seed // 50} --quiet"
        code = command_line([*command.split(), "--checkpoint-every", "30", "--out", str(Path(folder) / "run")])
    if code:
        return code
    if options.out:
        with options.out.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("env_steps", "resident_bytes"), *measured])
    warm = measured[max(0, len(measured) // 10 - 1)]
    for name, (steps, size) in (
        ("first", measured[0]),
        ("after a tenth", warm),
        ("last", measured[-1]),
        ("largest", max(measured, key=lambda row: row[1])),
    ):
        print(f"{name:<14}{steps:>12,} steps {size / 2**20:>9,.1f} MiB")
    grown = measured[-1][1] / warm[1] - 1
    print(f"growth after the first tenth: {grown:+.1%}")
    return 1 if grown > 0.05 else 0


if __name__ == "__main__":
    sys.exit(main())
