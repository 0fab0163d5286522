"""What the command line tells about itself: help, version, the list of environments and arms."""

import re
import subprocess
import sys
import time

import pytest
from cli_helpers import call

from recall_traces.cli import SUBCOMMANDS


@pytest.mark.parametrize("command", ["", "--help", "-h"])
def test_help_shows_the_subcommands(command, capsys):
    assert call(command) == 0
    out = capsys.readouterr().out
    for word in ("examples:", "exit codes:"):
        assert f"\n{word}\n" in out
    assert re.findall(r"^  ([a-z]+) ", out.partition("examples:")[0], flags=re.MULTILINE) == list(SUBCOMMANDS)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("train --help", ["AGENT ENV", "recall-traces train ppo", "--agent.learning-rate", "--recall.model.kind", "--env.slip"]),
        (
            "compare -h",
            [
                "recall-traces compare\n",
                "--arms",
                "--sil.priority-exponent",
                "--bonus.kind",
                "(default: 0.003)",
                "those of FourRooms-15",
            ],
        ),
        ("compare CartPole-v1 --help", ["--agent.gae-lambda", "(default: linear)"]),
        ("train ppo Pendulum-v1 --help", ["--env.KEY VALUE", "(default: 0.0003)"]),
        ("plot --help", ["RUN", "--out", "recall-traces plot runs/x"]),
        ("report -h", ["RUN", "--out", "--threshold", "recall-traces report runs/x"]),
        ("list --help", ["recall-traces list"]),
        ("doctor --help", ["--json", "recall-traces doctor"]),
        ("completion -h", ["{bash,zsh,fish}", "recall-traces completion bash >"]),
    ],
)
def test_help_of_subcommands_has_options_and_examples(command, words, capsys):
    assert call(command) == 0
    captured = capsys.readouterr()
    unwrapped = " ".join(captured.out.replace("│", " ").split())  # a narrow terminal breaks lines anywhere
    assert all(word in captured.out or word in unwrapped for word in words), captured.out
    assert captured.err == ""


def test_version(capsys):
    assert call("--version") == 0
    assert capsys.readouterr().out == "recall-traces 0.1.0\n"


def test_list_tells_what_there_is(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert call("list") == 0
    out = capsys.readouterr().out
    for word in ("FourRooms-<n>", "--env.layout-seed", "CartPole-v1", "Breaks-v0", "ppo", "own-traces", "sil+bonus", "novelty"):
        assert word in out
    assert out.count("--env.layout-seed") == out.count("--env.main-body") == 1
    for words in ("options: those of PointMaze-U", "SparseAnt-v5", "options: those of Ant-v5"):
        assert words in " ".join(out.split())


def test_plain_things_answer_without_torch():
    code = (
        "import sys; from recall_traces.cli import main; main(['--help']); main(['nonsense']); "
        "main(['plot']); main(['plot', '--help']); "
        "main(['report', '--help']); main(['doctor', '--help']); sys.exit('torch' in sys.modules)"
    )
    began = time.perf_counter()
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0
    assert time.perf_counter() - began < 60
