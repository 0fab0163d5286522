"""What a run shows of how far it is, on a terminal and elsewhere."""

import math
import os
import pty
import re
import shlex
import subprocess
import sys

import pytest
from cli_helpers import call

from recall_traces.cli.progress import LINES, Reporter, Status


def status(env_steps, episode_return=0.25, success=math.nan, steps_per_second=1234.5, seconds_left=75.0):
    return Status(env_steps, episode_return, success, steps_per_second, seconds_left)


@pytest.mark.parametrize(
    ("where", "text"),
    [
        (status(10), "return 0.25, 1,230 steps/s, 1:15 left"),
        (status(10, success=0.5), "return 0.25, success 0.50, 1,230 steps/s, 1:15 left"),
        (status(10, steps_per_second=42.4, seconds_left=3661), "return 0.25, 42 steps/s, 1:01:01 left"),
        (status(10, steps_per_second=0.26, seconds_left=0), "return 0.25, 0.3 steps/s"),
        (status(0, steps_per_second=0, seconds_left=math.nan), "return 0.25"),
    ],
)
def test_a_line_has_return_success_speed_and_time_left(where, text):
    assert where.text() == text


def test_plain_lines_come_a_few_times_per_arm(capsys):
    with Reporter(1000, quiet=False) as reporter:
        for arm in ("none", "recall"):
            reporter.begin(arm)
            for env_steps in range(0, 1001, 10):
                reporter.show(status(env_steps))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 * LINES
    assert lines[0] == "none: 100 of 1,000 steps, return 0.25, 1,230 steps/s, 1:15 left"
    assert lines[-1].startswith("recall: 1,000 of 1,000 steps, ")


def test_quiet_says_nothing(capsys):
    with Reporter(10, quiet=True) as reporter:
        reporter.begin("none")
        reporter.show(status(10))
        reporter.say("something")
    assert capsys.readouterr().out == ""


def test_colours_that_are_forced_into_a_file_bring_no_bars(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    with Reporter(10, quiet=False) as reporter:
        reporter.begin("none")
        reporter.show(status(10))
    assert capsys.readouterr().out.startswith("none: 10 of 10 steps, ")


SHOW = """
from recall_traces.cli.progress import Reporter, Status
with Reporter(1000, quiet=False) as reporter:
    for arm in ("none", "recall+goal-gan"):
        reporter.begin(arm)
        reporter.show(Status(500, -1234.5, 0.5, 123456.0, 75.0))
        reporter.show(Status(1000, -1234.5, 1.0, 123456.0, 0.0))
"""


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_on_a_terminal_each_arm_has_one_line(columns):
    ours, theirs = pty.openpty()
    command = f"stty cols {columns} && {shlex.quote(sys.executable)} -c {shlex.quote(SHOW)}"
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")} | {"TERM": "xterm"}
    with subprocess.Popen(["sh", "-c", command], stdin=theirs, stdout=theirs, stderr=theirs, env=environment) as running:
        os.close(theirs)
        shown = b""
        while part := _read(ours):
            shown += part
        assert running.wait() == 0
    os.close(ours)
    # The last picture of both lines stands after the last line that was wiped.
    lines = re.sub(r"\x1b\[[?\d;]*[a-zA-Z]", "", shown.decode().rpartition("\x1b[2K")[2]).splitlines()
    assert len(lines) == 2
    assert all(len(line) <= columns for line in lines)
    assert all("100% return -1234, success 1.00, 123,0" in line for line in lines)
    assert lines[0].startswith("none ")
    assert lines[1].startswith("recall+go")
    if columns >= 80:
        assert all(line.endswith("━ 100% return -1234, success 1.00, 123,000 steps/s") for line in lines)


def _read(terminal):
    try:
        return os.read(terminal, 4096)
    except OSError:  # Linux's way to say that the other end is closed
        return b""


def test_compare_shows_return_and_success(capsys):
    command = "compare FourRooms-7 --arms none --seeds 1 --steps 512 --eval-episodes 2 --eval-every 512 --out run"
    assert call(command) == 0
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("none: 512 of 512 steps"))
    assert "return " in line
    assert "success " in line
