import gc
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from recall_traces.envs import gymnasium_adapter, make
from recall_traces.envs.gymnasium_adapter import GymnasiumVectorEnv

COUNTER, SPACES = "tests/Counter-v0", "tests/Spaces-v0"
TWO = spaces.Discrete(2)


@pytest.fixture(autouse=True)
def tiny_envs(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Make the module importable, here and in the workers, which inherit `sys.path`."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    import tiny_envs  # noqa: F401

    yield
    gc.collect()


def play(env: GymnasiumVectorEnv, steps: int) -> list[tuple[Tensor, ...]]:
    env.reset()
    played = torch.Generator().manual_seed(0)
    history = []
    for _ in range(steps):
        step = env.step(torch.randint(3, (env.num_envs,), generator=played))
        history.append((step.obs, step.rewards, step.terminated, step.truncated, step.final_obs))
    env.close()
    return history


@pytest.mark.parametrize("num_workers", [1, 2])
def test_the_true_final_observation_survives(num_workers: int) -> None:
    env = GymnasiumVectorEnv(COUNTER, 3, options={"length": 3}, num_workers=num_workers)
    obs = env.reset()
    assert obs.shape == (3, 2)
    assert obs.dtype == torch.float32
    assert obs[:, 0].tolist() == [0, 0, 0]
    zeros = torch.zeros(3, dtype=torch.int64)
    steps = [env.step(zeros + action) for action in (0, 1, 2, 0)]
    assert [step.final_obs[:, 0].tolist() for step in steps] == [[1] * 3, [2] * 3, [3] * 3, [1] * 3]
    assert [step.obs[:, 0].tolist() for step in steps] == [[1] * 3, [2] * 3, [0] * 3, [1] * 3]
    assert [step.terminated.tolist() for step in steps] == [[ended] * 3 for ended in (False, False, True, False)]
    assert not any(step.truncated.any() for step in steps)  # the task ended, so it was not cut
    assert [step.rewards.tolist() for step in steps] == [[5] * 3, [6] * 3, [7] * 3, [5] * 3]  # counted from `start`
    assert steps[0].rewards.dtype == torch.float32
    env.close()


def test_truncation_is_not_termination() -> None:
    env = GymnasiumVectorEnv(COUNTER, 2, options={"length": 2, "terminates": False})
    env.reset()
    zeros = torch.zeros(2, dtype=torch.int64)
    env.step(zeros)
    step = env.step(zeros)
    assert step.truncated.tolist() == [True, True]
    assert not step.terminated.any()
    assert step.final_obs[:, 0].tolist() == [2, 2]


def test_results_do_not_depend_on_the_number_of_workers() -> None:
    histories = [play(GymnasiumVectorEnv(COUNTER, 5, seed=3, num_workers=workers), 12) for workers in (1, 2, 3)]
    for other in histories[1:]:
        for ours, theirs in zip(histories[0], other, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_seeds_differ_between_copies_and_are_reproducible() -> None:
    first, again, other = (GymnasiumVectorEnv(COUNTER, 6, seed=seed).reset()[:, 1] for seed in (1, 1, 2))
    assert len(first.unique()) == 6
    assert torch.equal(first, again)
    assert not set(first.tolist()) & set(other.tolist())
    env = GymnasiumVectorEnv(COUNTER, 6, seed=1)
    assert not torch.equal(env.reset(), env.reset())  # the next episodes are others


def test_few_cheap_copies_stay_here_and_dear_ones_go_to_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(GymnasiumVectorEnv(COUNTER, 2)._shares) == 1
    monkeypatch.setattr(gymnasium_adapter, "WORTH_WORKERS", 0.0)
    monkeypatch.setattr(gymnasium_adapter, "_num_cores", lambda: 2)
    env = GymnasiumVectorEnv(COUNTER, 3)
    assert env._ranges == [(0, 1), (1, 3)]
    env.close()


@pytest.mark.parametrize("num_workers", [1, 2])
def test_an_error_in_a_copy_is_one_sentence(num_workers: int) -> None:
    env = GymnasiumVectorEnv(COUNTER, 4, options={"length": 99, "fails_at": 30}, num_workers=num_workers)
    env.reset()
    zeros = torch.zeros(4, dtype=torch.int64)
    for _ in range(29):
        env.step(zeros)
    with pytest.raises(RuntimeError, match=r"^copy 0 of tests/Counter-v0 failed in step: KeyError: 'lost count'$"):
        env.step(zeros)
    with pytest.raises(RuntimeError, match="closed"):
        env.step(zeros)


def test_an_error_in_a_worker_names_the_copy() -> None:
    env = GymnasiumVectorEnv(SPACES, 4, options={"observation_space": TWO, "action_space": TWO}, num_workers=2)
    env.reset()
    with pytest.raises(RuntimeError, match=r"^copy 3 of tests/Spaces-v0 failed in step: AssertionError: 2$"):
        env.step(torch.tensor([0, 1, 0, 2]))


def test_a_worker_that_dies_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    env = GymnasiumVectorEnv(COUNTER, 2, options={"length": 99, "dies_at": 25}, num_workers=2)
    env.reset()
    # Only the worker may die.
    monkeypatch.setattr(env._shares[0], "start", lambda *_: None)
    monkeypatch.setattr(env._shares[0], "finish", lambda: env_step_of_one())
    zeros = torch.zeros(2, dtype=torch.int64)
    for _ in range(24):
        env.step(zeros)
    with pytest.raises(RuntimeError, match="a worker process of tests/Counter-v0 died with exit code 7"):
        env.step(zeros)


def env_step_of_one() -> tuple[np.ndarray, ...]:
    return (
        np.zeros((1, 2), np.float32),
        np.zeros(1, np.float32),
        np.zeros(1, bool),
        np.zeros(1, bool),
        np.zeros((1, 2), np.float32),
    )


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="asks the system for the state of a process through /proc")
def test_workers_end_with_the_process_that_started_them(tmp_path: Path) -> None:
    """Also when it is killed, and the script needs no `if __name__ == "__main__"`."""
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(f"""
        import os, signal, sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        import tiny_envs
        from recall_traces.envs.gymnasium_adapter import GymnasiumVectorEnv
        env = GymnasiumVectorEnv({COUNTER!r}, 2, num_workers=2)
        env.reset()
        print(env._shares[1]._process.pid, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
        """)
    )
    output = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=60)
    assert output.stderr == ""
    process = Path(f"/proc/{int(output.stdout)}")
    deadline = time.monotonic() + 10
    while process.exists() and "\nState:\tZ" not in process.joinpath("status").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_observation_and_action_spaces_as_learners_see_them() -> None:
    env = GymnasiumVectorEnv(COUNTER, 1)
    infinity = np.full(2, np.inf, np.float32)
    assert env.observation_space == spaces.Box(-infinity, infinity, dtype=np.float32)
    assert env.action_space == spaces.Discrete(3)
    assert env.success_return == 3.0

    cases: list[tuple[spaces.Space[Any], spaces.Space[Any], tuple[int, ...], torch.dtype]] = [
        (spaces.Discrete(4, start=-2), spaces.Discrete(4), (), torch.int64),
        (spaces.MultiDiscrete([[2, 3], [4, 5]]), spaces.MultiDiscrete([2, 3, 4, 5]), (4,), torch.int64),
        (spaces.Box(0, 255, (5,), np.uint8), spaces.Box(0, 255, (5,), np.float32), (5,), torch.float32),
        (spaces.Box(-1, 1, (), np.float32), spaces.Box(-1, 1, (1,), np.float32), (1,), torch.float32),
    ]
    for given, seen, shape, dtype in cases:
        env = GymnasiumVectorEnv(SPACES, 3, options={"observation_space": given, "action_space": TWO})
        assert env.observation_space == seen
        for obs in (env.reset(), env.step(torch.zeros(3, dtype=torch.int64)).final_obs):
            assert obs.shape == (3, *shape)
            assert obs.dtype == dtype
            assert all(seen.contains(row.numpy().astype(seen.dtype)[()]) for row in obs)
        assert env.success_return is None


def test_box_actions_are_passed_on_in_their_own_shape() -> None:
    box = spaces.Box(-2, 2, (2, 2), np.float64)
    env = GymnasiumVectorEnv(SPACES, 2, options={"observation_space": TWO, "action_space": box})
    assert env.action_space == spaces.Box(-2, 2, (4,), np.float32)
    env.reset()
    step = env.step(torch.tensor([[0.5, 1.0, -2.0, 2.0], [0.0, 0.0, 0.0, 0.25]]))
    assert step.rewards.tolist() == [1.5, 0.25]


@pytest.mark.parametrize(
    ("observation_space", "action_space", "message"),
    [
        (spaces.Dict({"a": TWO}), TWO, r"observes Dict\(.*gymnasium.wrappers.FlattenObservation"),
        (spaces.Tuple([TWO]), TWO, r"observes Tuple\(.*gymnasium.wrappers.FlattenObservation"),
        (spaces.MultiBinary(3), TWO, r"observes MultiBinary\(.*gymnasium.wrappers.FlattenObservation"),
        (spaces.Text(3), TWO, "observes Text.*gymnasium.wrappers"),
        (spaces.Sequence(TWO), TWO, r"observes Sequence\(.*no fixed size.*gymnasium.wrappers.TransformObservation"),
        (spaces.Graph(TWO, None), TWO, r"observes Graph\(.*no fixed size.*gymnasium.wrappers.TransformObservation"),
        (spaces.Box(0, 255, (8, 8, 3), np.uint8), TWO, "observes images, Box.*gymnasium.wrappers.FlattenObservation"),
        (TWO, spaces.MultiDiscrete([2, 2]), r"acts in MultiDiscrete\(.*gymnasium.wrappers.TransformAction"),
        (TWO, spaces.Dict({"a": TWO}), r"acts in Dict\(.*gymnasium.wrappers.TransformAction"),
        (TWO, spaces.Box(0, 5, (2,), np.int64), r"acts in Box\(.*gymnasium.wrappers.TransformAction"),
    ],
)
def test_other_spaces_are_refused(observation_space: spaces.Space[Any], action_space: spaces.Space[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(SPACES, observation_space=observation_space, action_space=action_space)


def test_an_environment_that_fails_at_once_is_one_sentence() -> None:
    with pytest.raises(RuntimeError, match=r"^tests/Counter-v0 failed in its first steps: KeyError: 'lost count'$"):
        make(COUNTER, fails_at=2)
    with pytest.raises(ValueError, match=r"^tests/Counter-v0 has no option 'lenght'; valid options: length"):
        make(COUNTER, lenght=3)
