"""Rounds of timing: every contestant once in each, in a process of its own; what is quoted are ratios within a round."""

import datetime
import json
import os
import pathlib
import platform
import statistics
import subprocess


def rounds(commands: dict[str, list[str]], pairs: list[tuple[str, str]], count: int, unit: str, out: pathlib.Path) -> None:
    """Time all contestants `count` times in turn; print and write medians and ratios.

    Args:
        commands: What to run for each; the last line it prints is JSON with the speed under `speed`.
        pairs: Contestants whose speeds are divided, one by the other.
        count: Rounds.
        unit: Of a speed.
        out: JSON file, written after every round, so that an interrupted run is not lost.
    """
    speeds: dict[str, list[float]] = {name: [] for name in commands}
    summary = ""
    for _ in range(count):
        for name, command in commands.items():
            output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            speeds[name].append(float(json.loads(output.strip().splitlines()[-1])["speed"]))
            print(f"{name:24s} {speeds[name][-1]:10.1f} {unit}", flush=True)
        summary = json.dumps(summarize(speeds, pairs, unit), indent=1)
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(summary)
    print(summary)


def summarize(speeds: dict[str, list[float]], pairs: list[tuple[str, str]], unit: str) -> dict:
    """Medians, and ratios within rounds."""
    ratios = {}
    for over, under in pairs:
        if over in speeds and under in speeds:
            found = sorted(a / b for a, b in zip(speeds[over], speeds[under], strict=True))
            ratios[f"{over} / {under}"] = {"min": found[0], "median": statistics.median(found), "max": found[-1]}
    return {
        "date": datetime.date.today().isoformat(),
        "hardware": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        f"median {unit}": {name: statistics.median(values) for name, values in speeds.items()},
        "ratios": ratios,
    }
