"""Pictures, where there is an OpenGL library; and what is said where there is none."""

import os
import subprocess
import sys
import warnings
from typing import Any

import mujoco
import pytest

from recall_traces import envs
from recall_traces.envs.mujoco import picture

DRAW = """
import sys
from recall_traces import envs
import torch
env = envs.make("Ant-v5", num_envs=2)
for _ in range(5):
    env.step(torch.ones(2, *env.action_space.shape) * torch.tensor([[0.0], [1.0]]))
try:
    large, first, second = env.render(), env.render(0, 64, 48), env.render(1, 64, 48)
except RuntimeError as error:
    print(error)
    sys.exit(3)
assert large.shape == (480, 480, 3)
assert first.shape == second.shape == (48, 64, 3)
assert str(first.dtype) == "uint8"
assert first.std() > 10
assert (first != second).any()
assert (env.render(0, 64, 48) == first).all()
shown = torch.randn(2, *env.observation_space.shape) * 0.1 + torch.tensor([[0.8], [0.6]])
posed = env.pose(shown, 64, 48)
assert (env.render(0, 64, 48) == first).all()  # the worlds go on as they were
env.set_obs(shown)
assert posed.shape == (2, 48, 64, 3)
assert (posed[0] == env.render(0, 64, 48)).all()
assert (posed[1] == env.render(1, 64, 48)).all()
assert (posed[0] != posed[1]).any()
env.close()
"""


def run(code: str, library: str) -> "subprocess.CompletedProcess[str]":
    """In a process of its own: MuJoCo chooses the library when it is imported."""
    command = [sys.executable, "-W", "ignore", "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | {"MUJOCO_GL": library})


def test_pictures_of_any_world() -> None:
    drawn = run(DRAW, library="egl")
    if drawn.returncode == 3 or "MUJOCO_GL" in drawn.stderr:
        pytest.skip(f"no OpenGL library here: {drawn.stdout or drawn.stderr[-300:]}")
    assert drawn.returncode == 0, drawn.stdout + drawn.stderr


def test_without_a_library_one_sentence_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    attempts = []

    def fail(*arguments: object) -> None:
        attempts.append(arguments)
        warnings.warn("DISPLAY is missing", stacklevel=1)
        raise mujoco.FatalError("an OpenGL platform library\n has not been loaded")

    monkeypatch.setattr(mujoco, "Renderer", fail)
    monkeypatch.setattr(picture, "_failures", [])
    env: Any = envs.make("Hopper-v5")
    with pytest.raises(ValueError, match="a picture of 0 x 480 pixels cannot be drawn"):
        env.render(width=0)
    with pytest.raises(IndexError, match="world is 1; worlds are counted from 0, and there are 1"):
        env.render(1)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="MuJoCo cannot draw here") as caught:
            env.render()
        assert str(caught.value) == (
            "MuJoCo cannot draw here (FatalError: an OpenGL platform library has not been loaded); install an OpenGL library "
            "(Debian, Ubuntu: apt install libegl1 or libosmesa6) and set the environment variable MUJOCO_GL=egl or "
            "MUJOCO_GL=osmesa before Python starts"
        )
    assert len(attempts) == 1  # a second one ends Python with some drivers


def test_a_library_that_there_is_not() -> None:
    made = run("import recall_traces.envs.mujoco", library="nonsense")
    assert "ValueError: MuJoCo cannot be imported with the environment variable MUJOCO_GL=nonsense" in made.stderr
