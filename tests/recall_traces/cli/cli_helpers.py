"""What several tests of the command line use: calling it, and reading the folder of a run."""

import csv
import json
import shlex

from recall_traces.cli import main

TINY = "--seeds 2 --steps 2048 --eval-every 1024 --eval-episodes 5"


def call(command):
    return main(shlex.split(command))


def rows(folder, name="curves.csv"):
    with (folder / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def record(folder):
    return json.loads((folder / "config.json").read_text())
