"""`recall-traces doctor`: what is found, missing or broken, and that nothing that breaks takes it along."""

import json

import pytest
from cli_helpers import call

from recall_traces.cli import doctor
from recall_traces.cli.doctor import Package, ask

WITH_JSON = Package("rich", "rich", "tables")
MISSING = Package("no-such-package", "no_such_package", "wonders")


@pytest.fixture
def modules(place, monkeypatch):
    """Modules that fail, each in its own way, where another process finds them."""
    folder = place / "modules"
    folder.mkdir()
    for name, code in {
        "raises": "raise ImportError('libfoo.so:\\ncannot open')",
        "crashes": "import os; print('chatter', flush=True); os.abort()",
        "exits": "import os; os._exit(0)",
        "hangs": "import time; time.sleep(1000)",
        "chats": "import os, sys; print('hello'); os.write(1, b'hello')",
    }.items():
        (folder / f"{name}.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    return folder


def test_what_breaks_is_named_and_the_others_are_tried(modules):
    assert list(ask(["json", "raises", "crashes", "exits", "chats", "crashes"])) == [
        ("found", ""),
        ("broken", "ImportError: libfoo.so: cannot open"),
        ("broken", "ended Python with code -6"),
        ("broken", "ended Python with code 0"),
        ("found", ""),
        ("broken", "ended Python with code -6"),
    ]


def test_what_hangs_is_given_up(modules, monkeypatch):
    monkeypatch.setattr(doctor, "PATIENCE", 3.0)
    assert list(ask(["hangs"])) == [("broken", "no answer in 3 seconds")]


def test_a_file_in_the_current_folder_is_no_package(place):
    (place / "this_package.py").write_text("")
    assert list(ask(["this_package"])) == [("broken", "ModuleNotFoundError: No module named 'this_package'")]


def test_opengl_is_tried_by_drawing():
    ((state, detail),) = ask(["gl"], MUJOCO_GL="nonsense")
    assert state == "missing"
    assert "MUJOCO_GL" in detail


def look_for(monkeypatch, *packages):
    monkeypatch.setattr(doctor, "PACKAGES", packages)
    monkeypatch.setattr(doctor, "BACKENDS", {})


def test_what_is_missing_is_no_failure(monkeypatch, capsys):
    look_for(monkeypatch, WITH_JSON, MISSING)
    assert call("doctor") == 0
    head, found, missing = capsys.readouterr().out.splitlines()
    assert head.startswith("recall-traces 0.1.0, python 3.")
    assert found.split()[:2] == ["found", "rich"]
    assert found.endswith(" tables")
    assert missing.split(maxsplit=2) == ["missing", "no-such-package", "would enable wonders: pip install no-such-package"]


def test_what_is_broken_is_a_failure(modules, monkeypatch, capsys):
    look_for(monkeypatch, Package("rich", "raises", "tables"), MISSING)
    assert call("doctor") == 1
    captured = capsys.readouterr()
    assert captured.err == "recall-traces: installed, and not working: rich\n"
    broken = captured.out.splitlines()[1]
    assert broken.startswith("broken   rich ")
    assert broken.endswith("tables (ImportError: libfoo.so: cannot open): pip install --force-reinstall rich")


def test_json_has_it_all(modules, monkeypatch, capsys):
    look_for(monkeypatch, WITH_JSON, MISSING, Package("numpy", "crashes", "arrays"))
    assert call("doctor --json") == 1
    found = json.loads(capsys.readouterr().out)
    assert found["recall-traces"] == "0.1.0"
    states = {finding["name"]: (finding["state"], bool(finding["version"]), finding["install"]) for finding in found["findings"]}
    assert states == {
        "rich": ("found", True, ""),
        "no-such-package": ("missing", False, "pip install no-such-package"),
        "numpy": ("broken", True, "pip install --force-reinstall numpy"),
    }


def test_everything_that_the_package_needs_is_looked_for(capsys):
    """On this machine, where tests run, all of it is there; a GPU, Warp and OpenGL may be or not."""
    assert call("doctor --json") == 0
    states = {finding["name"]: finding["state"] for finding in json.loads(capsys.readouterr().out)["findings"]}
    for name in ("torch", "mujoco", "stable-baselines3", "gymnasium", "scipy", "matplotlib", "tensorboard", "sb3-contrib"):
        assert states[name] == "found"
    assert {"GPU", "warp-lang", "mujoco-warp"} <= states.keys()
    assert set(states.values()) <= {"found", "missing"}
