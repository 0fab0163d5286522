"""The exit codes that `recall-traces --help` tells, each by the program itself, as a shell sees them."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time

import pytest
from cli_helpers import TINY, call

from recall_traces.cli import USAGE

RUN = f"{TINY} --agent.n-steps 64 --agent.batch-size 64 --out run --quiet"
PROGRAM = [sys.executable, "-c", "import sys; from recall_traces.cli import main; sys.exit(main())"]


def test_help_tells_those_there_are():
    assert re.findall(r"^  (\d+) ", USAGE.partition("exit codes:")[2], flags=re.MULTILINE) == ["0", "1", "2", "130"]


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("--version", 0),
        (f"train ppo Breaks-v0 {RUN} --env.breaks 0", 0),
        (f"train ppo Breaks-v0 {RUN} --env.breaks 1", 0),  # a seed is lost, and the other goes on
        (f"train ppo Breaks-v0 {RUN} --env.breaks 8", 1),  # both are lost
        (f"train ppo Breaks-v0 {RUN} --env.breaks 0 --env.fails-at 100", 1),
        (f"train ppo Breaks-v0 {RUN} --steps 0", 2),
        ("nonsense", 2),
    ],
)
def test_what_a_command_returns(command, code):
    assert call(command) == code


def test_the_shell_gets_the_code(place):
    assert subprocess.run([*PROGRAM, "--version"], capture_output=True).returncode == 0
    assert subprocess.run([*PROGRAM, "nonsense"], capture_output=True).returncode == 2


@pytest.mark.skipif(os.name == "nt", reason="Windows has another way to interrupt")
def test_ctrl_c_is_130(place):
    command = [*PROGRAM, *shlex.split("train ppo FourRooms-7 --steps 100000000 --out run")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        while not (place / "run" / "curves.csv").exists():  # until then it has not begun
            assert running.poll() is None
            time.sleep(0.1)
        running.send_signal(signal.SIGINT)
        assert running.wait() == 130
        assert running.stderr.read() == "recall-traces: interrupted; what was measured so far is in run\n"


def test_output_that_nobody_reads_is_no_crash(place):
    """`recall-traces list | head -1`."""
    with subprocess.Popen([*PROGRAM, "list"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        running.stdout.close()
        assert running.wait() == 1
        assert running.stderr.read() == ""
