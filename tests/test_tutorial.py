"""docs/tutorial.md: every command and every file in it, with the package installed as a user installs it."""

import json
import os
import re
import runpy
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from recall_traces import RecallConfig, RecallTraces, envs
from recall_traces.agents.seams import NoImitation
from recall_traces.envs import registry

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", TEXT, flags=re.DOTALL | re.MULTILINE)
COMMANDS = [line for language, block in BLOCKS if language == "bash" for line in block.splitlines()]
FILES = {block.splitlines()[0].removeprefix("# "): block for language, block in BLOCKS if language == "python"}
FEWER = "--steps 2048"


class Tutorial(NamedTuple):
    folder: Path
    """Where the user is."""
    installed: Path
    """The package that ran."""
    target: Path
    """Where it was installed."""
    commands: dict[str, tuple[int, str]]
    """Exit code and output of each command."""


@pytest.fixture(scope="module")
def tutorial(tmp_path_factory: pytest.TempPathFactory) -> Tutorial:
    """Install, write the files, run the commands."""
    folder, target = tmp_path_factory.mktemp("user"), tmp_path_factory.mktemp("site-packages")
    first, *others = (re.sub(r"--steps \d+", FEWER, command) for command in COMMANDS)
    assert first == "pip install ."
    install(tmp_path_factory.mktemp("checkout"), target)
    for name, code in FILES.items():
        (folder / name).write_text(code, encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": str(target), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-P", str(Path(__file__).with_name("tutorial_runner.py")), *others]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    return Tutorial(folder, Path(results["installed"]), target, results["commands"])


def install(checkout: Path, target: Path) -> None:
    """`pip install .` in a copy of the sources, without a network and into a folder of its own."""
    for name in ("pyproject.toml", "setup.cfg", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, checkout)
    for name in ("recall_traces", "envs", "agents"):
        shutil.copytree(ROOT / name, checkout / name, ignore=shutil.ignore_patterns("__pycache__"))
    # For these two pip takes the variable for the option without its "no": 0 means no isolation, and nothing compiled.
    settings = {"NO_INDEX": "1", "NO_DEPS": "1", "NO_BUILD_ISOLATION": "0", "NO_COMPILE": "0", "TARGET": str(target)}
    environment = os.environ | {f"PIP_{name}": value for name, value in settings.items()}
    command = [sys.executable, "-m", "pip", "install", "."]
    done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_block_is_a_command_or_a_file() -> None:
    assert {language for language, _ in BLOCKS} == {"bash", "python"}
    assert TEXT.count("```") == 2 * len(BLOCKS)
    assert all(re.fullmatch(r"\w+\.py", name) for name in FILES)
    run = {command.split()[1] for command in COMMANDS if command.startswith("python ")}
    named = {match for command in COMMANDS for match in re.findall(r" (\w+):", command)}
    assert {name.removesuffix(".py") for name in FILES} == {name.removesuffix(".py") for name in run} | named


def test_every_command_works_with_the_installed_package(tutorial: Tutorial) -> None:
    assert tutorial.installed == tutorial.target / "recall_traces" / "__init__.py"
    codes = {command: code for command, (code, _) in tutorial.commands.items()}
    assert codes == dict.fromkeys((re.sub(r"--steps \d+", FEWER, command) for command in COMMANDS[1:]), 0)


def test_the_folder_holds_what_the_text_says(tutorial: Tutorial) -> None:
    first = tutorial.folder / "runs" / "first"
    for name in ("curves.csv", "curves.png", "comparison.json", "config.json", "none.safetensors", "recall.safetensors"):
        assert (first / name).stat().st_size > 0
    assert list((first / "tensorboard" / "recall").glob("events.*"))
    for name in ("first.png", "ppo.safetensors", "runs/corridor/curves.png", "runs/corridors/curves.png"):
        assert (tutorial.folder / name).stat().st_size > 0
    assert json.loads((tutorial.folder / "runs" / "slips" / "config.json").read_text())["configuration"]["env"] == {"slip": 0.1}
    assert json.loads((tutorial.folder / "runs" / "corridor" / "config.json").read_text())["configuration"]["env"] == {
        "length": 30
    }


def test_what_is_printed(tutorial: Tutorial) -> None:
    printed = {command: text for command, (_, text) in tutorial.commands.items()}
    (compared,) = (text for command, text in printed.items() if "FourRooms-11 --arms" in command)
    assert "median steps" in compared
    assert "recall: 2,048 of 2,048 steps, return" in compared
    assert re.search(r"^\| recall/ .*^\|    traces +\| [1-9]", printed["python with_sb3.py"], flags=re.DOTALL | re.MULTILINE)
    assert re.search(r"to the end: [01]\.\d\d\n", printed["python reinforce.py"])


@pytest.fixture
def learner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """What reinforce.py defines."""
    for name in ("corridors.py", "reinforce.py"):
        (tmp_path / name).write_text(FILES[name], encoding="utf-8")
    monkeypatch.setattr(registry, "_FAMILIES", dict(registry._FAMILIES))
    monkeypatch.syspath_prepend(tmp_path)
    yield runpy.run_path(str(tmp_path / "reinforce.py"), run_name="reinforce")
    sys.modules.pop("corridors", None)


def test_the_learner_finds_the_end_with_recall_traces_and_not_without(learner: dict[str, Any]) -> None:
    shares: dict[bool, list[float]] = {True: [], False: []}
    for seed in range(3):
        for recalls in shares:
            env = envs.make("Corridor-30", num_envs=8, seed=seed)
            recall = RecallTraces(
                env.observation_space, env.action_space, RecallConfig(candidates=1, memory_size=16_384), num_envs=8, seed=seed
            )
            shares[recalls].append(learner["reinforce"](env, recall if recalls else NoImitation(), seed=seed))
    assert statistics.mean(shares[True]) > 0.9
    assert statistics.mean(shares[False]) < 0.3
