import re
from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from recall_traces.envs import make, register_with_gymnasium
from recall_traces.envs.gymnasium_vector import GymnasiumVector
from recall_traces.envs.single import SingleEnv

UP, DOWN, LEFT = 0, 1, 2
TO_GOAL = [UP, LEFT, LEFT, LEFT, LEFT, UP, UP, UP]
"""The way through FourRooms-7."""
IDS = ["FourRooms-7-v0", "PointMaze-U-v0", "CartPole-v1", "Hopper-v5", "SparseAnt-v5", "Reacher-v5"]


@pytest.fixture(autouse=True)
def registered() -> None:
    register_with_gymnasium()


@pytest.fixture
def rooms() -> Iterator[tuple[Any, Any]]:
    """Ours, and Gymnasium's own over single copies of ours."""
    mode = AutoresetMode.SAME_STEP
    theirs = SyncVectorEnv([lambda: SingleEnv("FourRooms-7")] * 2, autoreset_mode=mode)
    yield GymnasiumVector("FourRooms-7", 2), theirs
    theirs.close()


def assert_alike(found: Any, expected: Any) -> None:
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for name in expected:
            assert_alike(found[name], expected[name])
    elif isinstance(expected, np.ndarray) and expected.dtype == object:
        assert found.dtype == object
        for one, other in zip(found, expected, strict=True):
            assert (one is None) == (other is None)
            assert other is None or np.array_equal(one, other)
    else:
        assert np.array_equal(found, expected)
        assert (type(found), found.dtype, found.shape) == (type(expected), expected.dtype, expected.shape)


@pytest.mark.parametrize("env_id", IDS)
def test_made_by_gymnasium(env_id: str) -> None:
    env = gymnasium.make_vec(f"recall_traces/{env_id}", num_envs=5)
    assert isinstance(env.unwrapped, GymnasiumVector)
    assert env.metadata["autoreset_mode"] == AutoresetMode.SAME_STEP
    assert env.num_envs == 5
    obs, info = env.reset(seed=3)
    assert info == {}
    env.action_space.seed(0)
    ended = 0
    for _ in range(120):
        assert env.observation_space.contains(obs)
        obs, rewards, terminated, truncated, infos = env.step(env.action_space.sample())
        assert rewards.dtype == np.float64
        assert terminated.dtype == truncated.dtype == bool
        assert rewards.shape == terminated.shape == truncated.shape == (5,)
        done = terminated | truncated
        assert ("final_obs" in infos) == ("final_info" in infos) == bool(done.any())
        if done.any():
            assert infos["_final_obs"].tolist() == infos["_final_info"].tolist() == done.tolist()
            assert [one is not None for one in infos["final_obs"]] == done.tolist()
            assert all(env.single_observation_space.contains(one) for one in infos["final_obs"][done])
        ended += int(done.sum())
    assert ended or env_id == "SparseAnt-v5"
    env.close()


def test_as_gymnasiums_own(rooms: tuple[Any, Any]) -> None:
    ours, theirs = rooms
    assert ours.single_observation_space == theirs.single_observation_space
    assert ours.observation_space == theirs.observation_space
    assert ours.action_space == theirs.action_space
    for env in rooms:
        env.reset(seed=0)
    endings = 0
    for k in range(80):
        actions = np.array([TO_GOAL[k % 8], DOWN])
        found, expected = ours.step(actions), theirs.step(actions)
        for one, other in zip(found, expected, strict=True):
            assert_alike(one, other)
        endings += "final_obs" in expected[4]
    assert endings == 10 + 1


def test_infos_as_gymnasiums_own() -> None:
    options: dict[str, Any] = {"healthy_z_range": (1.24, 9.0)}
    ours = GymnasiumVector("Hopper-v5", 3, **options)
    theirs = SyncVectorEnv([lambda: SingleEnv("Hopper-v5", **options)] * 3, autoreset_mode=AutoresetMode.SAME_STEP)
    for env in (ours, theirs):
        env.reset(seed=0)
    ours.action_space.seed(0)
    ended = running = 0
    for _ in range(40):
        actions = ours.action_space.sample()
        infos, expected = ours.step(actions)[4], theirs.step(actions)[4]
        for name in set(infos) & set(expected) - {"final_obs", "_final_obs", "final_info", "_final_info"}:
            assert (infos[name].dtype, infos[name].shape) == (expected[name].dtype, expected[name].shape), name
        if "final_info" in infos and "final_info" in expected:
            assert infos["final_info"].keys() == expected["final_info"].keys()
            for found in (infos, expected):
                done, velocities = found["_final_info"], found["final_info"]["x_velocity"]
                assert found["final_info"]["_x_velocity"].tolist() == done.tolist()
                assert not velocities[~done].any()
                assert velocities[done].all()
            ended += 1
        # Where an episode has just ended Gymnasium's own tells of the reset there, of which ours says nothing new.
        if "final_info" not in infos and "final_info" not in expected:
            assert infos.keys() == expected.keys()
            running += 1
    assert ended
    assert running
    for env in (ours, theirs):
        env.close()


def test_steps_are_those_of_the_batched_environment() -> None:
    env = GymnasiumVector("PointMaze-U", 4, inertia=True)
    first, _ = env.reset(seed=1)
    twin = make("PointMaze-U", 4, seed=int(np.random.default_rng(1).integers(2**31)), inertia=True)
    assert first.tolist() == twin.reset().tolist()
    env.action_space.seed(0)
    kept = []
    for _ in range(120):
        actions = env.action_space.sample()
        obs, rewards, terminated, truncated, infos = env.step(actions)
        step = twin.step(torch.from_numpy(actions))
        assert obs.tolist() == step.obs.tolist()
        assert (rewards.tolist(), terminated.tolist(), truncated.tolist()) == (
            step.rewards.tolist(),
            step.terminated.tolist(),
            step.truncated.tolist(),
        )
        for copy in np.flatnonzero(terminated | truncated):
            assert infos["final_obs"][copy].tolist() == step.final_obs[copy].tolist()
        kept.append((obs, obs.copy()))
        actions[:] = 9
    assert all(np.array_equal(one, other) for one, other in kept)


def test_seeds() -> None:
    env = GymnasiumVector("PointMaze-U", 3)
    first, second = env.reset(seed=5)[0], env.reset()[0]
    assert not np.array_equal(first, second)
    assert np.array_equal(env.reset(seed=5)[0], first)
    assert np.array_equal(env.reset()[0], second)
    assert not np.array_equal(env.reset(seed=6)[0], first)


def test_refusals_and_pictures() -> None:
    env = GymnasiumVector("FourRooms-7", 2, render_mode="rgb_array")
    (picture,) = env.render()
    assert picture.ndim == 3
    assert GymnasiumVector("FourRooms-7", 2).render() is None
    for call, message in (
        (lambda: env.reset(seed=[1, 2]), "takes one seed for all copies"),
        (lambda: env.reset(options={"start": 1}), "takes no options at reset"),
        (lambda: env.step(np.zeros((2, 1), np.int64)), re.escape("actions have the shape (2, 1); it must be (2,)")),
        (lambda: GymnasiumVector("FourRooms-7", 2, render_mode="human"), "no render mode 'human'"),
        (lambda: GymnasiumVector("MountainCar-v0", 2, render_mode="rgb_array"), "cannot be drawn"),
        (lambda: GymnasiumVector("FourRooms-7", 2, slop=1), "no option 'slop'"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
