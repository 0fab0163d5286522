import re
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.utils import check_for_correct_spaces
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecMonitor, VecNormalize

from recall_traces.curves import read_curves
from recall_traces.envs import make
from recall_traces.envs.colours import AGENT
from recall_traces.envs.interface import Step
from recall_traces.envs.sb3 import BatchedVecEnv, make_vec_env
from recall_traces.envs.single import SingleEnv

DOCS = Path(__file__).parents[2] / "docs" / "environments.md"
UP, DOWN, LEFT = 0, 1, 2
TO_GOAL = [UP, LEFT, LEFT, LEFT, LEFT, UP, UP, UP]
"""The way through FourRooms-7."""


class Ticks:
    """Episodes of 2 steps, whose observation counts them, and whose reward is the action. Copy 0 terminates, others are cut.

    Everything that a step returns is written to by the next one.
    """

    success_return: float | None = 3.0
    observation_space = gymnasium.spaces.Box(0, 2, (1,), np.float32)
    action_space = gymnasium.spaces.Box(-5, 5, (1,), np.float32)

    def __init__(self, seed: int = 0) -> None:
        self.num_envs, self.device, self.seed, self.closed = 3, torch.device("cpu"), seed, False
        self.time, self.final, self.paid = torch.zeros(3, 1), torch.zeros(3, 1), torch.zeros(3)
        self.cut, self.over = torch.zeros(3, dtype=torch.bool), torch.zeros(3, dtype=torch.bool)

    def reset(self) -> torch.Tensor:
        return self.time.zero_()

    def step(self, actions: torch.Tensor) -> Step:
        self.actions = actions
        self.paid.copy_(actions[:, 0])
        self.final.copy_(self.time + 1)
        ended = self.final[:, 0] == 2
        self.over.copy_(ended & (torch.arange(3) == 0))
        self.cut.copy_(ended & (torch.arange(3) != 0))
        self.time.copy_(self.final * ~ended.unsqueeze(1))
        return Step(self.time, self.paid, self.over, self.cut, self.final)

    def close(self) -> None:
        self.closed = True


def pay(*rewards: float) -> np.ndarray:
    return np.array(rewards, np.float32).reshape(3, 1)


@pytest.mark.parametrize(
    ("env_id", "options", "dtype"),
    [
        ("FourRooms-7", {"slip": 0.5, "random_start": True}, np.int64),
        ("FourRooms-7", {"random_goal": True}, np.int64),
        ("CartPole-v1", {}, np.float32),
        ("gymnasium/MountainCar-v0", {}, np.float32),
    ],
)
def test_steps_are_those_of_the_batched_environment(env_id: str, options: dict[str, Any], dtype: type) -> None:
    num_envs, steps = 5, 210
    twin = make(env_id, num_envs, seed=3, **options)
    env = make_vec_env(env_id, num_envs, seed=3, monitor=False, **options)
    assert (env.num_envs, env.observation_space, env.action_space) == (num_envs, twin.observation_space, twin.action_space)
    obs, expected = env.reset(), twin.reset()
    draws = np.random.default_rng(0)
    terminated = truncated = 0
    for _ in range(steps):
        assert isinstance(obs, np.ndarray)
        assert (obs.dtype, obs.tolist()) == (dtype, expected.tolist())
        assert all(env.observation_space.contains(row) for row in obs)
        actions = draws.integers(int(twin.action_space.n), size=num_envs)
        obs, rewards, dones, infos = env.step(actions)
        step = twin.step(torch.from_numpy(actions))
        expected = step.obs
        assert (rewards.dtype, rewards.tolist()) == (np.float32, step.rewards.tolist())
        assert (dones.dtype, dones.tolist()) == (bool, (step.terminated | step.truncated).tolist())
        assert [info["TimeLimit.truncated"] for info in infos] == step.truncated.tolist()
        for n, info in enumerate(infos):
            assert ("terminal_observation" in info) == ("is_success" in info) == bool(dones[n])
            if dones[n]:
                assert info["terminal_observation"].dtype == dtype
                assert info["terminal_observation"].tolist() == step.final_obs[n].tolist()
        terminated, truncated = terminated + int(step.terminated.sum()), truncated + int(step.truncated.sum())
    assert terminated > 0 or env_id == "gymnasium/MountainCar-v0"
    assert truncated > 0 or env_id == "CartPole-v1"


def test_the_same_as_dummy_vec_env() -> None:
    theirs = DummyVecEnv([lambda: SingleEnv("FourRooms-7")] * 2)
    ours = make_vec_env("FourRooms-7", 2, monitor=False)
    assert theirs.reset().tolist() == ours.reset().tolist() == [40, 40]
    successes = []
    for k in range(100):
        actions = np.array([TO_GOAL[k % 8], DOWN])
        expected, (*found, infos) = theirs.step(actions), ours.step(actions)
        successes += [(k, n, info.pop("is_success")) for n, info in enumerate(infos) if "is_success" in info]
        for values, their_values in zip(found, expected, strict=False):
            assert isinstance(values, np.ndarray)
            assert (values.dtype, values.tolist()) == (their_values.dtype, their_values.tolist())
        assert infos == expected[3]
        assert [list(map(type, info.values())) for info in infos] == [list(map(type, info.values())) for info in expected[3]]
    assert successes == sorted([*((k, 0, True) for k in range(7, 100, 8)), (69, 1, False)])


def test_known_ends() -> None:
    env = make_vec_env("FourRooms-7", 2, monitor=False)
    env.reset()
    for action in TO_GOAL[:-1]:
        _, rewards, dones, infos = env.step(np.array([action, DOWN]))
        assert (rewards.tolist(), dones.tolist(), infos) == ([0, 0], [False, False], [{"TimeLimit.truncated": False}] * 2)
    obs, rewards, dones, infos = env.step(np.array([UP, DOWN]))
    assert (obs.tolist(), rewards.tolist(), dones.tolist()) == ([40, 40], [1, 0], [True, False])
    assert infos[0] == {"TimeLimit.truncated": False, "terminal_observation": 8, "is_success": True}
    for _ in range(62):
        obs, rewards, dones, infos = env.step(np.array([UP, LEFT]))
    assert (obs.tolist(), rewards.tolist(), dones.tolist()) == ([33, 40], [0, 0], [False, True])
    assert infos[1] == {"TimeLimit.truncated": True, "terminal_observation": 39, "is_success": False}


def test_success_is_of_the_whole_episode_and_of_no_other() -> None:
    env = BatchedVecEnv(Ticks())

    def successes(*actions: np.ndarray) -> list[Any]:
        for action in actions:
            infos = env.step(action)[3]
        return [info.get("is_success") for info in infos]

    env.reset()
    assert successes(pay(1, 4, 2), pay(2, -2, 1)) == [True, False, True]
    assert successes(pay(1, 1, 1)) == [None, None, None]
    assert successes(pay(1.5, 5, 2)) == [False, True, True]
    env.step(pay(3, 3, 3))
    env.reset()
    assert successes(pay(0, 0, 0), pay(0, 3, 0)) == [False, True, False]
    env.set_attr("success_return", None)
    assert successes(pay(9, 9, 9), pay(9, 9, 9)) == [None, None, None]


def test_monitor_reports_episodes() -> None:
    env = make_vec_env("FourRooms-7", 2)
    assert isinstance(env, VecMonitor)
    env.reset()
    ended = {}
    for k in range(70):
        infos = env.step(np.array([TO_GOAL[k % 8], DOWN]))[3]
        ended |= {(k, n): (info["episode"]["r"], info["episode"]["l"]) for n, info in enumerate(infos) if "episode" in info}
    assert ended == {(k, 0): (1.0, 8) for k in range(7, 70, 8)} | {(69, 1): (0.0, 70)}
    assert isinstance(make_vec_env("FourRooms-7", monitor=False), BatchedVecEnv)


@pytest.mark.parametrize("env_id", ["FourRooms-7", "CartPole-v1", "gymnasium/MountainCar-v0"])
@pytest.mark.parametrize("outside", [False, True])
def test_the_file_of_episodes_tells_the_task(env_id: str, outside: bool, tmp_path: Path) -> None:
    if outside:
        env: VecEnv = VecMonitor(make_vec_env(env_id, monitor=False), str(tmp_path / "log"))
    else:
        env = make_vec_env(env_id, monitor=tmp_path / "log")
    env.reset()
    for _ in range(500):
        env.step(np.zeros(1, np.int64))
    env.close()
    assert (tmp_path / "log.monitor.csv").read_text().count("\n") > 3
    curves = read_curves(tmp_path)
    assert [c.task for c in curves] == [env_id]


def test_a_folder_of_episodes_holds_a_file_that_is_seen(tmp_path: Path) -> None:
    make_vec_env("FourRooms-7", monitor=f"{tmp_path}/logs/run/").close()
    assert [file.name for file in (tmp_path / "logs" / "run").iterdir()] == ["monitor.csv"]


def test_seeds_take_effect_at_the_next_reset_and_once() -> None:
    env, twin = make_vec_env("CartPole-v1", 3, seed=5), make("CartPole-v1", 3, seed=5)

    def play(steps: int = 60) -> list[Any]:
        return [env.step(np.array([k % 2, 0, 1]))[0].tolist() for k in range(steps)]

    first = env.reset()
    assert first.tolist() == twin.reset().tolist()
    episodes = play()
    second = env.reset()
    assert second.tolist() != first.tolist()
    assert env.seed(5) == [5, 6, 7]
    moved = env.step(np.array([0, 0, 0]))[0]
    assert np.abs(moved[:, [0, 2]] - second[:, [0, 2]]).max() < 0.01  # the old episode goes on
    assert (env.reset().tolist(), play()) == (first.tolist(), episodes)
    assert env.reset().tolist() == second.tolist()
    env.seed(6)
    assert env.reset().tolist() != first.tolist()


def test_without_a_seed_numpy_draws_one() -> None:
    def first(number: int) -> list[Any]:
        np.random.seed(number)  # noqa: NPY002
        return make_vec_env("CartPole-v1", 2).reset().tolist()

    assert first(1) == first(1) != first(2)


def test_a_seeded_environment_is_built_when_the_one_before_is_gone() -> None:
    """A GPU may have no room for two."""
    alive: list[weakref.ref[Any]] = []

    def build(seed: int) -> Ticks:
        assert all(env() is None for env in alive)
        env = Ticks(seed)
        alive.append(weakref.ref(env))
        return env

    env = BatchedVecEnv(build)
    for seed in (3, 4):
        env.seed(seed)
        env.reset()
    assert len(alive) == 3


def test_infos_hold_what_the_environment_tells() -> None:
    env, twin = make_vec_env("Ant-v5", 2, seed=0, monitor=False), make("Ant-v5", 2, seed=0)
    env.reset()
    twin.reset()
    theirs = gymnasium.make("Ant-v5")
    theirs.reset()
    names = theirs.step(theirs.action_space.sample())[4].keys()
    for _ in range(3):
        actions = np.random.default_rng(0).uniform(-1, 1, (2, 8)).astype(np.float32)
        infos, step = env.step(actions)[3], twin.step(torch.from_numpy(actions))
        for n, info in enumerate(infos):
            assert info.keys() == {*names, "broken", "TimeLimit.truncated"}
            assert all(info[name] == step.info[name][n] for name in step.info)


def test_a_seed_replaces_and_closes_the_environment() -> None:
    env = BatchedVecEnv(Ticks)
    before = env.batched_env
    env.set_attr("success_return", 1.0)
    env.reset()
    assert env.batched_env is before
    env.seed(7)
    assert not before.closed
    env.reset()
    assert (before.closed, env.batched_env.closed, env.get_attr("seed")) == (True, False, [7, 7, 7])
    assert env.get_attr("success_return") == [1.0] * 3
    env.reset()
    assert not env.batched_env.closed
    env.close()
    assert env.batched_env.closed


def test_closing() -> None:
    make_vec_env("FourRooms-7").close()  # which has nothing to close
    env = make_vec_env("Pendulum-v1", 2)
    env.reset()
    env.close()
    with pytest.raises(RuntimeError, match="Pendulum-v1 was closed"):
        env.reset()


def test_attributes() -> None:
    env = make_vec_env("FourRooms-7", 3, seed=0)
    assert env.get_attr("size") == [7, 7, 7]
    assert env.get_attr("size", 1) == [7]
    assert env.get_attr("size", -1) == [7]
    assert env.get_attr("size", iter([0, 2])) == [7, 7]
    assert env.get_attr("size", []) == []
    assert env.has_attr("horizon")
    assert not env.has_attr("nothing")
    with pytest.raises(AttributeError, match="'FourRooms' object has no attribute 'nothing'"):
        env.get_attr("nothing")
    for index in (3, -4, [0, 5]):
        with pytest.raises(IndexError):
            env.get_attr("size", index)

    env.set_attr("horizon", 2)
    env.set_attr("horizon", 4, indices=[2, 0, 1])
    with pytest.raises(ValueError, match="cannot set 'horizon' for some copies only: all 3 are one object"):
        env.set_attr("horizon", 9, indices=[0, 1])
    with pytest.raises(AttributeError, match="'FourRooms' object has no attribute 'horizons'"):
        env.set_attr("horizons", 9)
    assert not env.has_attr("horizons")
    env.reset()
    assert [env.step(np.array([DOWN] * 3))[2].all() for _ in range(4)] == [False, False, False, True]


def test_methods() -> None:
    env = make_vec_env("FourRooms-7", 3, seed=0)
    env.reset()
    pictures = env.env_method("render", cell_pixels=2)
    assert [picture.shape for picture in pictures] == [(14, 14, 3)] * 3
    assert pictures[0] is pictures[2]
    assert env.env_method("render", 3, indices=range(3))[1].shape == (21, 21, 3)
    with pytest.raises(ValueError, match="cannot call 'render' for some copies only"):
        env.env_method("render", indices=0)
    with pytest.raises(AttributeError, match="'FourRooms' object has no attribute 'nothing'"):
        env.env_method("nothing")
    assert env.env_is_wrapped(Monitor) == [False] * 3
    assert env.env_is_wrapped(Monitor, indices=2) == [False]


def test_pictures() -> None:
    env = make_vec_env("FourRooms-7", 3)
    assert (env.render_mode, env.metadata["render_modes"]) == ("rgb_array", ["human", "rgb_array"])
    env.reset()
    env.step(np.array([UP, LEFT, LEFT]))
    picture = env.render()
    assert picture is not None
    assert (picture.dtype, picture.shape) == (np.uint8, (112, 112, 3))
    agent = (picture == AGENT).all(2)
    assert agent.sum() == 16 * 16
    assert agent[4 * 16 : 5 * 16, 5 * 16 : 6 * 16].all()  # the first copy's, one cell above its start
    assert len(env.get_images()) == 1

    plain = make_vec_env("Pendulum-v1", 2)
    assert plain.render_mode is None
    assert plain.get_images() == [None, None]
    with pytest.warns(UserWarning, match="no `render_mode`"):
        assert plain.render() is None


def test_arrays_belong_to_the_caller() -> None:
    """The environment writes to its tensors and the caller to the arrays, and neither notices."""
    env, twin = BatchedVecEnv(Ticks()), Ticks()
    kept, first = env.reset(), twin.reset().tolist()
    for k in range(6):
        actions = pay(k, 1, 2)
        env.step_async(actions)
        actions[:] = -1
        obs, rewards, dones, infos = env.step_wait()
        step = twin.step(torch.from_numpy(pay(k, 1, 2)))
        terminal = [info.get("terminal_observation") for info in infos]
        found = obs.tolist(), rewards.tolist(), dones.tolist(), [None if end is None else end.tolist() for end in terminal]
        ended = step.terminated | step.truncated
        finals = [final if end else None for final, end in zip(step.final_obs.tolist(), ended.tolist(), strict=True)]
        assert found == (step.obs.tolist(), step.rewards.tolist(), ended.tolist(), finals)
        assert env.batched_env.actions.tolist() == pay(k, 1, 2).tolist()
        dones[:] = True
        for array in (obs, rewards, *(end for end in terminal if end is not None)):
            array += 100
        for name in ("time", "final", "paid", "over", "cut"):
            assert getattr(env.batched_env, name).tolist() == getattr(twin, name).tolist()
        infos[0]["mine"] = True
        assert all("mine" not in info for info in env.step(pay(0, 0, 0))[3])
        twin.step(torch.zeros(3, 1))
    assert kept.tolist() == first


def test_four_rooms_survives_writing() -> None:
    env, twin = make_vec_env("FourRooms-7", 2), make("FourRooms-7", 2)
    env.reset()[:] = 8
    twin.reset()
    for action in TO_GOAL:
        obs = env.step(np.array([action, UP]))[0]
        assert obs.tolist() == twin.step(torch.tensor([action, UP])).obs.tolist()
        obs[:] = 0


def test_actions_are_converted_and_their_shape_checked() -> None:
    env = BatchedVecEnv(Ticks())
    env.reset()
    env.step(np.broadcast_to(np.float64(0.1), (3, 1)))
    assert env.batched_env.actions.dtype == torch.float32
    with pytest.raises(ValueError, match=re.escape("actions have the shape (3,); it must be (3, 1)")):
        env.step(np.zeros(3))
    rooms = make_vec_env("FourRooms-7", 2)
    rooms.reset()
    assert rooms.step(np.array([UP, LEFT], np.int32))[0].tolist() == [33, 39]
    assert rooms.step([DOWN, UP])[0].tolist() == [40, 32]
    with pytest.raises(ValueError, match=re.escape("actions have the shape (2, 1); it must be (2,)")):
        rooms.step(np.zeros((2, 1), np.int64))


def test_what_cannot_be_done() -> None:
    env = BatchedVecEnv(Ticks())
    with pytest.raises(ValueError, match="a ready-made environment cannot be seeded"):
        env.seed(0)
    env.set_options({})
    env.set_options([{}, {}, {}])
    for options in ({"start": 1}, [{}, {"start": 1}, {}]):
        with pytest.raises(ValueError, match="takes no options at reset"):
            env.set_options(options)
    with pytest.raises(ValueError, match="FourRooms-7 has no option 'slop'"):
        make_vec_env("FourRooms-7", slop=0.1)
    with pytest.raises(ValueError, match="num_envs is 0"):
        make_vec_env("FourRooms-7", 0)
    with pytest.raises(ValueError, match="seed is -1"):
        make_vec_env("FourRooms-7", seed=-1).reset()


def test_ppo_learns_from_normalized_cart_poles() -> None:
    env = VecNormalize(make_vec_env("CartPole-v1", 8, seed=0))
    check_for_correct_spaces(env, make("CartPole-v1").observation_space, make("CartPole-v1").action_space)
    model = PPO("MlpPolicy", env, n_steps=64, batch_size=128, n_epochs=2, seed=1).learn(1024)
    assert model.num_timesteps == 1024
    assert env.obs_rms.count > 1024
    assert env.unwrapped.batched_env.num_envs == 8
    lengths = [episode["l"] for episode in model.ep_info_buffer]
    assert lengths == [episode["r"] for episode in model.ep_info_buffer]
    assert min(lengths) >= 8
    assert max(lengths) < 500
    assert list(model.ep_success_buffer) == [False] * len(lengths)

    again = PPO("MlpPolicy", VecNormalize(make_vec_env("CartPole-v1", 8, seed=9)), n_steps=64, batch_size=128, n_epochs=2, seed=1)
    assert [episode["l"] for episode in again.learn(1024).ep_info_buffer] == lengths


@pytest.mark.parametrize("options", [{}, {"random_goal": True}])
def test_ppo_bootstraps_from_discrete_terminal_observations(options: dict[str, Any]) -> None:
    env = make_vec_env("FourRooms-31", 4, seed=0, **options)
    env.set_attr("horizon", 10)
    model = PPO("MlpPolicy", env, n_steps=16, batch_size=64, n_epochs=1, seed=0).learn(64)
    # No goal is near enough to be reached, so what is paid is the value of where the episodes were cut.
    assert (model.rollout_buffer.rewards != 0).all(1).nonzero()[0].tolist() == [9]


def test_sac_trains_and_is_evaluated() -> None:
    model = SAC("MlpPolicy", make_vec_env("Pendulum-v1", 2, seed=0), learning_starts=20, buffer_size=1000, seed=0).learn(60)
    assert model.replay_buffer.pos == 30
    returns, lengths = evaluate_policy(model, make_vec_env("Pendulum-v1", 2, seed=1), 2, return_episode_rewards=True)
    assert lengths == [200, 200]
    assert all(-2000 < episode_return < 0 for episode_return in returns)


@pytest.mark.parametrize("env_id", ["Ant-v5", "DelayedHopper-v5"])
def test_mujoco_tasks(env_id: str) -> None:
    twin, env = make(env_id, 3, seed=4), make_vec_env(env_id, 3, seed=4)
    assert env.reset().tolist() == twin.reset().tolist()
    actions = np.full((3, *env.action_space.shape), 0.5, np.float32)
    for _ in range(30):
        obs, rewards, dones, _ = env.step(actions)
        step = twin.step(torch.from_numpy(actions))
        assert (obs.tolist(), rewards.tolist()) == (step.obs.tolist(), step.rewards.tolist())
        assert dones.tolist() == (step.terminated | step.truncated).tolist()
    model = PPO("MlpPolicy", env, n_steps=32, batch_size=48, n_epochs=1, seed=0).learn(96)
    assert model.num_timesteps == 96
    env.close()


def test_documented_example() -> None:
    (block,) = (code for code in re.findall(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL) if "PPO" in code)
    assert block.count("200_000") == 1
    names: dict[str, Any] = {}
    exec(compile(block.replace("200_000", "1"), str(DOCS), "exec"), names)
    assert names["model"].num_timesteps == 64 * 32
    assert names["env"].num_envs == 64


def test_stable_baselines3_is_imported_by_this_module_alone() -> None:
    code = "import sys, recall_traces.envs; sys.exit('stable_baselines3' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
