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
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SEEDS = 4
PROGRAM = "import sys; from recall_traces.cli import main; sys.exit(main())"


def resident_bytes(pid: int) -> int:
    """Of a process; 0 once it has ended."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmRSS")), 0)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--steps", type=int, default=10_000_000, help="of all seeds together")
    parser.add_argument("--out", type=Path, help="a CSV file for all measurements")
    options = parser.parse_args()
    per_seed, measured = options.steps // SEEDS, []
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        task = f"train ppo FourRooms-13 --arm recall --seeds {SEEDS} --steps {per_seed} --eval-every {per_seed // 100} --quiet"
        command = [sys.executable, "-c", PROGRAM, *task.split(), "--checkpoint-every", "30", "--out", str(run)]
        with subprocess.Popen(command) as training:
            while training.poll() is None:
                rows = (run / "timings.csv").read_text().splitlines()[1:] if (run / "timings.csv").exists() else []
                if len(rows) > len(measured):
                    measured += [(int(row.split(",")[1]) * SEEDS, resident_bytes(training.pid)) for row in rows[len(measured) :]]
                time.sleep(0.2)
    if training.returncode:
        return training.returncode
    measured = [row for row in measured if row[1]]
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
