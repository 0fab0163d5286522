"""`recall-traces completion`: what real shells offer with its script."""

import re
import shlex
import shutil
import subprocess

import pytest
from cli_helpers import call

from recall_traces.agents.arms import ARMS
from recall_traces.cli import SUBCOMMANDS
from recall_traces.cli.completion import SHELLS, script


@pytest.fixture(scope="module")
def scripts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scripts")
    for shell in SHELLS:
        (folder / shell).write_text(script(shell))
    return folder


def bash(scripts, line):
    """What bash would offer for the last word of a line."""
    words = re.findall(r"=|[^\s=]+", line) + [""] * (line[-1] in " =")  # bash takes = for a word of its own
    if line[-1] == "=":
        words[-1:] = []
    return run(
        "bash",
        f"source {scripts / 'bash'}; COMP_WORDS=({shlex.join(words)}); COMP_CWORD={len(words) - 1}; "
        '_recall_traces 2>&1; printf "%s\\n" "${COMPREPLY[@]}"',
    )


def fish(scripts, line):
    """The same of fish, which on its own account also offers words that only have the letters in them."""
    offered = run("fish", f"source {scripts / 'fish'}; complete -C {shlex.quote(line)}")
    return beginning(line, [text.partition("\t")[0] for text in offered])


def zsh(scripts, line):
    """The same of zsh, with its editor's commands replaced by ones that tell what they are given."""
    words = line.split() + [""] * line.endswith(" ")
    offered = run(
        "zsh",
        f"compdef() {{ }}; compadd() {{ shift; print -l -- $@ }}; _files() {{ print -l -- * }}; source {scripts / 'zsh'}; "
        f"words=({shlex.join(words)}); CURRENT={len(words)}; _recall_traces",
    )
    return beginning(line, offered)


def beginning(line, offered):
    """Those that begin like the last word of a line."""
    last = "" if line.endswith(" ") else line.split()[-1]
    return [word for word in offered if word.startswith(last)]


def run(shell, code):
    if shutil.which(shell) is None:
        pytest.skip(f"there is no {shell}")
    command = [shell, "-f", "-c", code] if shell == "zsh" else [shell, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr == ""
    return [text.strip() for text in done.stdout.splitlines() if text.strip()]


EACH_SHELL = pytest.mark.parametrize("offers", [bash, zsh, fish])


@EACH_SHELL
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("recall-traces ", [*SUBCOMMANDS, "--help", "--version"]),
        ("recall-traces co", ["compare", "completion"]),
        ("recall-traces train ", ["ppo", "sac"]),
        ("recall-traces train ppo FourRooms-1", [f"FourRooms-{n}" for n in (11, 13, 15, 17, 19)]),
        (
            "recall-traces train ppo Point",
            [f"PointMaze-{n}" for n in ("U", "Medium", "Large")] + [f"PointMass-{n}" for n in range(2, 9)],
        ),
        ("recall-traces train ppo Pend", ["Pendulum-v1"]),
        ("recall-traces train --quiet ppo Pend", ["Pendulum-v1"]),
        ("recall-traces train --seeds 4 ppo Pend", ["Pendulum-v1"]),
        ("recall-traces train --seeds ", []),
        ("recall-traces compare --agent ", ["ppo", "sac"]),
        ("recall-traces compare --device cu", ["cuda"]),
        ("recall-traces compare FourRooms-7 --arms none recall sil ", list(ARMS)),
        ("recall-traces compare FourRooms-7 --arms none recall sil+", ["sil+bonus"]),
        ("recall-traces compare FourRooms-7 --arms none --ste", ["--steps"]),
        ("recall-traces train ppo FourRooms-7 --env.s", ["--env.slip"]),
        ("recall-traces train ppo PointMaze-U --env.s", ["--env.start"]),
        ("recall-traces train ppo PointMaze-U --env.start ", ["far", "uniform"]),
        ("recall-traces train ppo FourRooms-7 --eval-env.random-start ", ["True", "False"]),
        ("recall-traces train sac Hopper-v5 --env.random-", []),
        ("recall-traces train sac Hopper-v5 --engine ", ["auto", "cpu", "warp"]),
        ("recall-traces compare --env.random-s", ["--env.random-start"]),
        ("recall-traces train sac Pendulum-v1 --agent.n-e", []),
        ("recall-traces train ppo Pendulum-v1 --agent.n-e", ["--agent.n-epochs"]),
        ("recall-traces compare Pendulum-v1 --agent sac --agent.buf", ["--agent.buffer-size"]),
        ("recall-traces compare --agent.buf", ["--agent.buffer-size"]),
        ("recall-traces train ppo FourRooms-7 --recall.source gen", ["generated"]),
        ("recall-traces train ppo FourRooms-7 --qu", ["--quiet"]),
        ("recall-traces train ppo FourRooms-7 --no-q", []),
        ("recall-traces plot --metric greedy_", ["greedy_success", "greedy_episode_return"]),
        ("recall-traces completion ", ["bash", "zsh", "fish"]),
        ("recall-traces doctor --", ["--json", "--help"]),
        ("recall-traces list ", ["--help"]),
        ("recall-traces nonsense ", []),
    ],
)
def test_what_is_offered(scripts, offers, line, expected):
    assert sorted(offers(scripts, line)) == sorted(expected)


def test_values_after_an_equals_sign(scripts):
    assert bash(scripts, "recall-traces train ppo FourRooms-7 --device=") == ["auto", "cpu", "cuda"]
    assert bash(scripts, "recall-traces train ppo FourRooms-7 --device=cu") == ["cuda"]
    assert bash(scripts, "recall-traces train --seeds=4 ppo FourRooms-3") == ["FourRooms-31"]


@EACH_SHELL
def test_files_are_offered_where_files_are_meant(scripts, offers, place):
    (place / "run one").mkdir()
    (place / "run two").mkdir()
    found = sorted(text.rstrip("/") for text in offers(scripts, "recall-traces plot run"))
    assert [text.replace("\\", "") for text in found] == ["run one", "run two"]
    assert len(offers(scripts, "recall-traces plot a.csv b.csv run")) == 2
    assert len(offers(scripts, "recall-traces train ppo FourRooms-7 --out run")) == 2


def test_bash_takes_it_as_the_completion_of_the_command(scripts):
    assert run("bash", f"source {scripts / 'bash'}; complete -p recall-traces") == ["complete -F _recall_traces recall-traces"]


@pytest.mark.parametrize("shell", SHELLS)
def test_the_script_is_printed(shell, capsys):
    assert call(f"completion {shell}") == 0
    out = capsys.readouterr().out
    assert out == script(shell) + "\n"
    assert "@" not in re.sub(r"\[@\]", "", out)  # every mark was filled in
