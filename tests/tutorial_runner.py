"""Runs the commands of docs/tutorial.md in the current folder, as a user's shell would, but all in one process.

`python tutorial_runner.py COMMAND ...` writes what became of them into results.json: for each its exit code and what it
printed. One process, since torch takes longer to load than most of them take to run.
"""

import contextlib
import io
import json
import os
import runpy
import shlex
import sys
from pathlib import Path

import torch

import recall_traces
from recall_traces.cli import main


def run(command: str) -> int:
    program, *words = shlex.split(command)
    if program == "recall-traces":
        return main(words)
    assert program == "python"
    sys.path.insert(0, os.getcwd())  # as Python does with the folder of a file that it runs
    try:
        runpy.run_path(words[0], run_name="__main__")
    finally:
        sys.path.pop(0)
    return 0


torch.set_num_threads(1)
results = {"installed": recall_traces.__file__, "commands": {}}
for command in sys.argv[1:]:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        code = run(command)
    results["commands"][command] = [code, out.getvalue()]
    if code:
        break
Path("results.json").write_text(json.dumps(results), encoding="utf-8")
