"""The code in docs/environments.md runs and does what the text says."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import pytest
import torch

from recall_traces.envs import registered_ids, registry

DOCS = Path(__file__).parents[2] / "docs" / "environments.md"


@pytest.fixture
def blocks() -> Iterator[list[str]]:
    families = dict(registry._FAMILIES)
    yield re.findall(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), flags=re.DOTALL)
    registry._FAMILIES.clear()
    registry._FAMILIES.update(families)
    gymnasium.registry.pop("Corridor-v0", None)


def block_with(blocks: list[str], word: str) -> str:
    """The only one that has the word."""
    (block,) = (block for block in blocks if word in block)
    return block


def run(block: str) -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": "documented"}
    exec(compile(block, str(DOCS), "exec"), names)
    return names


def test_single_environment(blocks: list[str]) -> None:
    names = run(block_with(blocks, "Corridor-v0"))
    env = names["env"]
    assert names["obs"].tolist() == [0, 0, 0, 0]
    assert env.success_return == 1.0
    right = torch.ones(4, dtype=torch.int64)
    for place in range(1, 9):
        assert env.step(right).obs.tolist() == [place] * 4
    step = env.step(right)
    assert step.final_obs.tolist() == [9] * 4
    assert step.obs.tolist() == [0] * 4
    assert step.terminated.all()
    assert step.rewards.tolist() == [1.0] * 4


def test_batched_environment(blocks: list[str]) -> None:
    names = run(block_with(blocks, "BatchedCorridor"))
    assert names["step"].obs.tolist() == [1] * 4096
    env = names["env"]
    env.reset()
    for _ in range(9):
        step = env.step(torch.ones(4096, dtype=torch.int64))
    assert step.terminated.all()
    assert step.final_obs.eq(9).all()
    assert step.obs.eq(0).all()
    for _ in range(50):
        step = env.step(torch.zeros(4096, dtype=torch.int64))
    assert step.truncated.all()


def test_states_of_mujoco(blocks: list[str]) -> None:
    names = run(block_with(blocks, "set_obs"))
    assert names["env"].get_state()["age"].tolist() == [0] * 64


def test_a_mujoco_task_that_the_user_registers(blocks: list[str]) -> None:
    env = run(block_with(blocks, "DelayedReacher"))["env"]
    paid = [bool(env.step(torch.ones(8, 2)).rewards.all()) for _ in range(50)]
    assert [k for k, some in enumerate(paid, 1) if some] == [20, 40, 50]


def test_ours_are_listed() -> None:
    text = DOCS.read_text(encoding="utf-8")
    for name in registered_ids():
        assert f"`{name}`" in text
