import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from recall_traces.envs import register_with_gymnasium
from recall_traces.envs.colours import AGENT, AT_GOAL
from recall_traces.envs.single import SingleEnv


@pytest.fixture(autouse=True)
def registered() -> None:
    register_with_gymnasium()
    register_with_gymnasium()  # a second time changes nothing and warns of nothing


@pytest.mark.parametrize(
    ("env_id", "options"),
    [
        ("FourRooms-7-v0", {}),
        ("FourRooms-13-v0", {"slip": 0.3, "random_start": True, "random_goal": True}),
        ("FourRooms-31-v0", {"layout_seed": 2}),
        ("CartPole-v1", {}),
    ],
)
@pytest.mark.parametrize("render_mode", [None, "rgb_array"])
def test_gymnasium_accepts_ours(env_id: str, options: dict[str, object], render_mode: str | None) -> None:
    env = gymnasium.make(f"recall_traces/{env_id}", render_mode=render_mode, **options).unwrapped
    with warnings.catch_warnings():
        if env_id == "CartPole-v1":  # as in Gymnasium's own, velocities have no bounds
            warnings.filterwarnings("ignore", message=".*A Box observation space m.*imum value is -?infinity")
        check_env(env)
    env.close()


def test_seeds_reproduce_episodes() -> None:
    env = gymnasium.make("recall_traces/FourRooms-9-v0", slip=0.5, random_start=True)

    def play() -> list[int]:
        return [int(env.step(k % 4)[0]) for k in range(80)]

    first, _ = env.reset(seed=5)
    episode = play()
    assert env.reset(seed=5)[0] == first
    assert play() == episode
    second, _ = env.reset()
    assert (second, play()) != (first, episode)
    env.reset(seed=6)
    assert play() != episode


def test_what_an_environment_holds_is_freed_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """As MuJoCo's pictures, also where a seed builds it anew."""
    from recall_traces.envs.mujoco.env import MujocoEnv

    closed: list[MujocoEnv] = []
    monkeypatch.setattr(MujocoEnv, "close", lambda self: closed.append(self))
    env = gymnasium.make("recall_traces/Hopper-v5")
    for _ in range(2):
        inner = env.unwrapped._env
        env.reset(seed=1)
        assert closed.pop() is inner
    env.reset()
    assert not closed
    env.close()
    assert closed == [env.unwrapped._env]


def test_an_episode_ends_with_its_true_final_observation() -> None:
    env = gymnasium.make("recall_traces/FourRooms-7-v0")
    obs, info = env.reset(seed=0)
    assert (obs, info) == (5 * 7 + 5, {})
    up, down, left = 0, 1, 2
    for action in [up, left, left, left, left, up, up]:
        obs, reward, terminated, truncated, _ = env.step(action)
        assert (reward, terminated, truncated) == (0.0, False, False)
    obs, reward, terminated, truncated, _ = env.step(up)
    assert (obs, reward, terminated, truncated) == (8, 1.0, True, False)
    assert isinstance(obs, np.int64)
    assert env.reset()[0] == 40
    for _ in range(69):
        assert not env.step(down)[3]
    assert env.step(down)[2:4] == (False, True)


@pytest.mark.parametrize("env_id", ["Hopper-v5", "SparseAnt-v5", "DelayedHumanoid-v5", "Reacher-v5"])
def test_gymnasium_accepts_mujoco_tasks(env_id: str) -> None:
    env = gymnasium.make(f"recall_traces/{env_id}").unwrapped
    with warnings.catch_warnings():  # as in Gymnasium's own, observations have no bounds
        warnings.filterwarnings("ignore", message=".*A Box observation space m.*imum value is -?infinity")
        check_env(env, skip_render_check=True)
    env.close()


def test_infos_are_gymnasiums() -> None:
    ours, theirs = gymnasium.make("recall_traces/Ant-v5"), gymnasium.make("Ant-v5")
    for env in (ours, theirs):
        env.reset(seed=0)
    info, expected = (env.step(np.zeros(8, np.float32))[4] for env in (ours, theirs))
    assert info.keys() == {*expected, "broken"}
    assert all(np.shape(info[name]) == np.shape(value) for name, value in expected.items())
    assert gymnasium.spec("recall_traces/Ant-v5").reward_threshold == gymnasium.spec("Ant-v5").reward_threshold == 6000.0
    assert gymnasium.spec("recall_traces/SparseAnt-v5").reward_threshold is None


def test_thresholds_and_render_modes() -> None:
    assert gymnasium.spec("recall_traces/FourRooms-7-v0").reward_threshold == 1.0
    assert gymnasium.spec("recall_traces/CartPole-v1").reward_threshold == 475.0
    assert SingleEnv("FourRooms-7").render() is None
    with pytest.raises(ValueError, match="no render mode 'human'"):
        SingleEnv("FourRooms-7", render_mode="human")
    with pytest.raises(ValueError, match="MountainCar-v0 cannot be drawn"):
        SingleEnv("MountainCar-v0", render_mode="rgb_array")


@pytest.mark.parametrize(
    ("env_id", "options", "to_goal"),
    [
        ("FourRooms-7", {}, lambda obs: [0, 2, 2, 2, 2, 0, 0, 0]),
        ("PointMaze-U", {}, lambda obs: [[0.0, 0.0]] + [[1.0, 0.0]] * 8 + [[0.0, 1.0]] * 8 + [[-1.0, 0.0]] * 8),
        ("PointMass-2", {}, lambda obs: [(5 * (obs[2:] - obs[:2])).clip(-1, 1).tolist()]),
    ],
)
def test_a_picture_after_the_last_step_shows_the_agent_at_the_goal(env_id, options, to_goal) -> None:
    """And not where the next episode starts."""
    env = SingleEnv(env_id, render_mode="rgb_array", **options)
    obs, _ = env.reset(seed=0)
    start, terminated, steps = env.render(), False, 0
    while not terminated:
        ways = to_goal(obs)
        obs, _, terminated, truncated, _ = env.step(ways[steps % len(ways)])
        steps += 1
        assert not truncated
    at_end, at_start = ((image == AGENT).all(-1) for image in (env.render(), start))
    assert at_end.any()
    assert not (at_end & at_start).any()
    # What lies next to the agent belongs to the goal; a cell of four rooms is the goal's as a whole.
    around = env.render()[np.roll(at_end, 4, 0) & ~at_end]
    assert env_id.startswith("FourRooms") or (around == AT_GOAL).all(-1).any()
    env.reset(seed=0)
    assert (env.render() == start).all()


def test_a_picture_after_the_last_step_shows_the_fallen_pole() -> None:
    env = SingleEnv("CartPole-v1", render_mode="rgb_array")
    env.reset(seed=0)
    terminated = False
    while not terminated:
        obs, _, terminated, _, _ = env.step(1)
    rows, columns = (env.render() == (200, 150, 100)).all(-1).nonzero()
    lean = columns[rows == rows.min()].mean() - columns[rows == rows.max()].mean()
    assert obs[2] < -0.2
    assert lean < -5
