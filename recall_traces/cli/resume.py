"""`recall-traces resume`: go on with a run that was stopped, wherever that was."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from tyro import MISSING
from tyro.conf import FlagCreatePairsOff, Positional, arg

from recall_traces.cli import compare
from recall_traces.cli.errors import UsageError, one_line
from recall_traces.cli.experiment import Outcome, run
from recall_traces.cli.load import read_options
from recall_traces.cli.parsing import parse_plain
from recall_traces.runs import COMPARISON, FINISHED, RunFolder

DESCRIPTION = """Go on with a run that was stopped: by Ctrl-C, a crash, a full disk, a machine that went away.

Finished arms are not run again, and the one that was under way goes on from its last checkpoint; before the first it begins anew.
With environments in torch or MuJoCo, on the same machine, curves and weights are bit for bit those of a run that never stopped.

examples:
  recall-traces resume runs/x
  recall-traces resume runs/x --quiet"""


@dataclass(frozen=True, kw_only=True)
class ResumeOptions:
    """Go on with a run that was stopped."""

    run: Annotated[Path, Positional, arg(metavar="RUN", help_behavior_hint="(required)")]
    """The folder of the run."""
    quiet: FlagCreatePairsOff[bool] = False
    """Print nothing but errors and, at the end, the folder."""
    checkpoint_every: Annotated[float, arg(metavar="SECONDS")] = 60.0
    """Seconds between checkpoints; 0 for one after every rollout."""
    keep_checkpoints: FlagCreatePairsOff[bool] = False
    """Keep the last checkpoints of an arm when it is finished."""


def main(argv: Sequence[str]) -> Outcome:
    """Run the subcommand.

    Raises:
        UsageError: it is not the folder of a run, or the run cannot go on here.
    """
    asked = parse_plain(argv, ResumeOptions(run=MISSING), "resume", DESCRIPTION, "resume runs/x")
    if asked is None:
        return Outcome()
    changes: dict[str, Any] = {"out": asked.run, "quiet": asked.quiet}
    changes |= {"checkpoint_every": asked.checkpoint_every, "keep_checkpoints": asked.keep_checkpoints}
    try:
        folder = RunFolder(asked.run).load()
        options = dataclasses.replace(read_options(folder.record), **changes)
        options.check()
    except ValueError as error:
        raise UsageError(one_line(error)) from error
    arms = list(dict.fromkeys(options.arms))
    last = (folder.record.get("calls") or [{}])[-1]
    command = "train" if last.get("command", "compare") == "train" else "compare"
    compared = command == "train" or (folder.path / COMPARISON).exists()
    if compared and all(folder.status(arm) == FINISHED for arm in arms):
        print(f"{asked.run} is finished: there is nothing to go on with")
        return Outcome()
    device = str(folder.record["configuration"].get("device", "cpu"))
    if device != "cpu" and not torch.cuda.is_available():
        device = "cpu"
        if not options.quiet:
            print("the run was on a GPU, and there is none here: it goes on on the CPU, with other numbers", flush=True)
    folder, outcome = run(options, arms, ["resume", *argv], command, go_on=True, device=device)
    if command == "compare":
        return compare.finish(options, folder, outcome)
    if not outcome.exit_code:
        print(folder.path)
    return outcome
