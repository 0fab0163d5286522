"""`recall-traces export`: a policy of a run as a file that loads without this library."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro import MISSING
from tyro.conf import FlagCreatePairsOff, Positional, arg

from recall_traces.agents.export import export_policy
from recall_traces.cli.errors import UsageError, one_line
from recall_traces.cli.load import load_run
from recall_traces.cli.parsing import parse_plain
from recall_traces.cli.progress import warn

DESCRIPTION = """Write the policy of one seed, its normaliser included, as a file that loads without this library.

A .pt2 file loads with torch.export.load(FILE).module(), an .onnx file wherever ONNX runs; to write one takes
pip install 'recall-traces[onnx]'. Both take raw observations (B, ...) and give the most likely actions, and what to draw
others from.

examples:
  recall-traces export runs/x --arm recall
  recall-traces export runs/x --arm recall --seed 3 --best --out policy.onnx"""


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Write the policy of one seed."""

    run: Annotated[Path, Positional, arg(metavar="RUN", help_behavior_hint="(required)")]
    """The folder of the run."""
    arm: Annotated[str | None, arg(metavar="ARM")] = None
    """Whose policy; may be left out where there is one arm."""
    seed: Annotated[int, arg(metavar="N")] = 0
    """Which seed, counted from 0."""
    best: FlagCreatePairsOff[bool] = False
    """The policies of the evaluation that was best for all seeds together, instead of the last."""
    out: Annotated[Path | None, arg(metavar="FILE")] = None
    """A .pt2 or .onnx file. By default ARM-SEED.pt2 in the folder of the run."""


def main(argv: Sequence[str]) -> None:
    """Run the subcommand.

    Raises:
        UsageError: there is no such policy, or it cannot be written.
    """
    options = parse_plain(argv, ExportOptions(run=MISSING), "export", DESCRIPTION, "export runs/x")
    if options is None:
        return
    try:
        run = load_run(options.run, options.arm, device="cpu", best=options.best, say=warn)
        out = options.out or run.folder.path / f"{run.arm}-{options.seed}.pt2"
        try:
            export_policy(run.learner, options.seed, out)
        finally:
            run.close()
    except ValueError as error:
        raise UsageError(one_line(error)) from error
    except OSError as error:
        raise UsageError(f"cannot write {options.out or options.run}: {error.strerror or one_line(error)}") from error
    print(out)
