"""What a user's site-packages get, and that no module exists under two names."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import zipfile
from collections import Counter
from email.parser import Parser
from pathlib import Path

import pytest

import recall_traces
import recall_traces.agents
import recall_traces.envs

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """Build in a copy: setuptools leaves files in the source tree and would pack those of an earlier build."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "setup.cfg", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("recall_traces", "envs", "agents"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
        "--wheel-dir",
        "dist",
        ".",
    ]
    built = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    (path,) = (source / "dist").glob("*.whl")
    return zipfile.ZipFile(path)


def test_the_wheel_installs_one_name(wheel: zipfile.ZipFile) -> None:
    names = {name.split("/")[0] for name in wheel.namelist()}
    assert {name for name in names if not name.endswith(".dist-info")} == {"recall_traces"}


@pytest.mark.parametrize(("folder", "inside"), [("recall_traces", ""), ("envs", "envs/"), ("agents", "agents/")])
def test_the_wheel_holds_every_file(wheel: zipfile.ZipFile, folder: str, inside: str) -> None:
    """A package that is missing from the list in pyproject.toml would be missing here."""
    expected = {f"recall_traces/{inside}{path.relative_to(ROOT / folder).as_posix()}" for path in (ROOT / folder).rglob("*.py")}
    assert expected
    assert expected <= set(wheel.namelist())


def test_the_wheel_holds_what_reports_are_made_of(wheel: zipfile.ZipFile) -> None:
    assert {f"recall_traces/report.{suffix}" for suffix in ("html", "css", "js")} <= set(wheel.namelist())


def test_the_wheel_says_that_it_is_typed_and_licensed(wheel: zipfile.ZipFile) -> None:
    assert "recall_traces/py.typed" in wheel.namelist()
    assert any(name.endswith("/LICENSE") for name in wheel.namelist())


def test_the_version_is_the_packages(wheel: zipfile.ZipFile) -> None:
    (metadata,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    assert Parser().parsestr(wheel.read(metadata).decode())["Version"] == recall_traces.__version__


def test_the_folders_are_imported_from_the_source_tree() -> None:
    assert Path(recall_traces.__path__[0]) == ROOT / "recall_traces"
    assert Path(recall_traces.envs.__path__[0]) == ROOT / "envs"
    assert Path(recall_traces.agents.__path__[0]) == ROOT / "agents"


@pytest.mark.parametrize("name", ["envs", "agents", "scripts"])
def test_folders_are_not_importable_by_their_own_names(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # `python -m pytest` puts the current folder on the path, as Python does for any module; that is not what is tested.
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if Path(entry).resolve() != ROOT])
    assert importlib.util.find_spec(name) is None


def test_no_module_has_two_names() -> None:
    files = [Path(file).resolve() for module in list(sys.modules.values()) if (file := getattr(module, "__file__", None))]
    ours = Counter(file for file in files if file.is_relative_to(ROOT) and not file.is_relative_to(ROOT / ".venv"))
    assert ROOT / "recall_traces" / "__init__.py" in ours
    assert [str(file) for file, count in ours.items() if count > 1] == []


def test_a_clone_can_be_used_from_its_own_folder():
    """There Python finds the folder `recall_traces` before what is installed, and `envs` and `agents` are not in it."""
    code = """if True:
        import sys
        sys.meta_path = [finder for finder in sys.meta_path if "editable" not in str(finder).lower()]
        sys.path = [".", *(path for path in sys.path if path)]
        import recall_traces.envs, recall_traces.agents.ppo
        print(recall_traces.envs.__file__)
    """
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert Path(found.stdout.strip()) == ROOT / "envs" / "__init__.py"
