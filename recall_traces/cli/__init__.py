"""The command line, `recall-traces`."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Sequence
from importlib import import_module

import recall_traces
from recall_traces.cli.errors import RunError, UsageError, describe

USAGE = """usage: recall-traces [-h] [--version] SUBCOMMAND ...

Reinforcement learning with recall traces: train learners over many seeds at once, and compare them.

  train       train one arm and write its curves into a folder
  compare     train several arms and compare them; without arguments, the demo
  resume      go on with a run that was stopped
  evaluate    play episodes with the policies of a run
  export      write a policy as a file that loads without this library
  plot        draw the curves of runs
  report      write one HTML file about runs: curves, statistics, traces, configuration
  watch       make a film of a policy
  traces      draw what an arm recalls
  list        tell the environments, agents, arms and sources there are
  doctor      tell what is installed here, and what each missing piece would enable
  completion  print a script for the shell that completes all of this

examples:
  recall-traces compare
  recall-traces compare FourRooms-19 --agent ppo --arms none sil bonus own-traces recall --seeds 16 --steps 150000 --out runs/x
  recall-traces train ppo FourRooms-19 --arm recall --seeds 4 --steps 150000
  recall-traces resume runs/x
  recall-traces plot runs/x
  recall-traces report runs/x
  recall-traces watch runs/x
  recall-traces traces runs/x
  recall-traces list

exit codes:
  0    it was done; seeds that broke while others went on are named on stderr
  1    something failed on the way: an error, a full disk, every seed of an arm; what was measured is on disk
  2    the command line asks for what cannot be; nothing was begun
  130  interrupted by Ctrl-C; what was measured is on disk

recall-traces SUBCOMMAND --help tells what a subcommand takes."""
SUBCOMMANDS = {
    "train": "train",
    "compare": "compare",
    "resume": "resume",
    "evaluate": "evaluate",
    "export": "export",
    "plot": "plot",
    "report": "report",
    "watch": "watch",
    "traces": "traces",
    "list": "listing",
    "doctor": "doctor",
    "completion": "completion",
}
"""Names, and the module of each."""


def main(argv: list[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: Words after the name of the program; by default those it was called with.

    Returns:
        The exit code, as `USAGE` tells.
    """
    try:
        return _dispatch(sys.argv[1:] if argv is None else argv)
    except UsageError as error:
        return _fail(str(error), 2)
    except RunError as error:
        return _fail(str(error), 1)
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except BrokenPipeError:  # whoever read the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        return _fail(describe(error), 1)


def _dispatch(argv: Sequence[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE)
        return 0
    if argv[0] == "--version":
        print(f"recall-traces {recall_traces.__version__}")
        return 0
    name = argv[0]
    if name not in SUBCOMMANDS:
        kind = "option" if name.startswith("-") else "subcommand"
        valid = [*SUBCOMMANDS, "--help", "--version"]
        near = difflib.get_close_matches(name, valid, n=2) or list(SUBCOMMANDS)
        raise UsageError(f"unknown {kind} {name!r}; the nearest: {', '.join(near)}")
    # Imported when asked for: what trains needs torch, which takes a second or two to load.
    outcome = import_module(f"recall_traces.cli.{SUBCOMMANDS[name]}").main(argv[1:])
    if outcome is None:
        return 0
    return _fail(outcome.message, outcome.exit_code) if outcome.message else int(outcome.exit_code)


def _fail(message: str, exit_code: int) -> int:
    print(f"recall-traces: {message}", file=sys.stderr)
    return exit_code
