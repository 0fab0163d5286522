"""The examples in the help and in the README: everything of them but the training is run."""

import re
import shlex
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest
from cli_helpers import call
from tyro import MISSING

import recall_traces.cli as cli
from recall_traces.cli import SUBCOMMANDS, compare, doctor, plot, report, train
from recall_traces.cli.experiment import Outcome
from recall_traces.cli.parsing import parse_plain

README = (Path(__file__).parents[3] / "README.md").read_text(encoding="utf-8")
MODULES = [import_module(f"recall_traces.cli.{module}") for module in SUBCOMMANDS.values()]
TEXTS = [cli.USAGE, *(getattr(module, "DESCRIPTION", None) or getattr(module, "HELP", "") for module in MODULES)]
IN_HELP = [
    line.strip() for text in TEXTS for line in text.partition("examples:\n")[2].partition("\n\n")[0].splitlines() if line.strip()
]
IN_README = re.findall(r"^recall-traces .*", "".join(re.findall(r"```bash\n(.*?)```", README, re.DOTALL)), re.MULTILINE)

WITHOUT_RUNS = ("train", "compare", "plot", "report", "list", "doctor", "completion")
"""Subcommands that need no run folder to be there."""
TRIED = [example for example in dict.fromkeys(IN_HELP + IN_README) if example.split()[1] in WITHOUT_RUNS]


@pytest.mark.parametrize("example", TRIED)
def test_the_example_is_accepted(example, monkeypatch, capsys):
    program, subcommand, *words = shlex.split(re.split(r" [>#] |  ", example)[0])
    assert program == "recall-traces"
    asked = []
    folder = SimpleNamespace(path=Path("somewhere"))
    for module in (train, compare):
        monkeypatch.setattr(module, "run", lambda options, *_, **__: asked.append(options) or (folder, Outcome(1, "not run")))
    monkeypatch.setattr(compare, "summarize", lambda folder: {})
    monkeypatch.setattr(doctor, "examine", lambda: iter(()))
    if subcommand in ("plot", "report"):
        options = {"plot": plot.PlotOptions, "report": report.ReportOptions}[subcommand]
        assert parse_plain(words, options(runs=MISSING), subcommand, "", "", several=True) is not None
        return
    code = call(shlex.join([subcommand, *words]))
    error = capsys.readouterr().err
    if subcommand in ("train", "compare"):
        assert (code, error) == (1, "recall-traces: not run\n")
        assert len(asked) == 1
    else:
        assert (code, error) == (0, "")


def test_every_subcommand_has_examples():
    assert {shlex.split(example)[1] for example in IN_HELP} == set(SUBCOMMANDS)
