"""Step by step the same as Gymnasium's tasks, from the same states and with the same actions."""

from typing import Any

import gymnasium
import mujoco
import numpy as np
import pytest
import torch

from recall_traces import envs

STEPS, WORLDS, WATCHED = 200, 2, 1
CLOSE = 1e-9
NEVER_UNHEALTHY: dict[str, Any] = {"terminate_when_unhealthy": False}
OPTIONS: dict[str, list[dict[str, Any]]] = {
    "Hopper-v5": [
        NEVER_UNHEALTHY,
        {
            "frame_skip": 2,
            "forward_reward_weight": 0.7,
            "ctrl_cost_weight": 0.3,
            "healthy_reward": 0.1,
            "healthy_state_range": (-3.0, 4.0),
            "healthy_z_range": (1.0, 1.5),
            "healthy_angle_range": (-0.1, 5.0),
            "reset_noise_scale": 0.02,
            "exclude_current_positions_from_observation": False,
        },
    ],
    "HalfCheetah-v5": [
        {
            "frame_skip": 3,
            "forward_reward_weight": 0.7,
            "ctrl_cost_weight": 0.3,
            "reset_noise_scale": 0.2,
            "exclude_current_positions_from_observation": False,
        },
    ],
    "Walker2d-v5": [
        NEVER_UNHEALTHY,
        {
            "frame_skip": 3,
            "forward_reward_weight": 0.7,
            "ctrl_cost_weight": 0.3,
            "healthy_reward": 0.1,
            "healthy_z_range": (1.0, 1.5),
            "healthy_angle_range": (-0.3, 0.5),
            "exclude_current_positions_from_observation": False,
        },
    ],
    "Ant-v5": [
        NEVER_UNHEALTHY,
        {
            "frame_skip": 3,
            "forward_reward_weight": 0.7,
            "ctrl_cost_weight": 0.3,
            "contact_cost_weight": 0.1,
            "healthy_reward": 0.1,
            "main_body": "aux_1",
            "healthy_z_range": (0.5, 0.9),
            "contact_force_range": (-0.1, 0.5),
            "exclude_current_positions_from_observation": False,
            "include_cfrc_ext_in_observation": False,
        },
    ],
    "Humanoid-v5": [
        NEVER_UNHEALTHY,
        {
            "frame_skip": 2,
            "forward_reward_weight": 0.7,
            "ctrl_cost_weight": 0.3,
            "contact_cost_weight": 1e-3,
            "contact_cost_range": (0.5, 3.0),
            "healthy_reward": 0.1,
            "healthy_z_range": (1.1, 1.5),
            "exclude_current_positions_from_observation": False,
            "include_cinert_in_observation": False,
            "include_qfrc_actuator_in_observation": False,
        },
        {"include_cvel_in_observation": False, "include_cfrc_ext_in_observation": False},
    ],
    "Reacher-v5": [{"frame_skip": 3, "reward_dist_weight": 0.5, "reward_control_weight": 2.0}],
}
CASES = [(env_id, options) for env_id, variants in OPTIONS.items() for options in [{}, *variants]]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # reading HalfCheetah's model as Gymnasium does makes MuJoCo write a log


class Pair:
    """One world of ours and Gymnasium's, side by side; theirs follows where ours starts."""

    def __init__(self, env_id: str, options: dict[str, Any]) -> None:
        self.ours: Any = envs.make(env_id, num_envs=WORLDS, seed=1, dtype="float64", **options)
        self.theirs: Any = gymnasium.make(env_id, **options).unwrapped
        self.follow(self.ours.reset())

    def follow(self, obs: torch.Tensor) -> None:
        qpos, qvel = (self.ours.engine.fields[name][WATCHED].numpy() for name in ("qpos", "qvel"))
        mujoco.mj_resetData(self.theirs.model, self.theirs.data)
        self.theirs.set_state(qpos, qvel)
        np.testing.assert_allclose(obs[WATCHED].numpy(), self.theirs._get_obs(), rtol=0, atol=CLOSE)

    def step(self, actions: Any) -> tuple[Any, bool]:
        step = self.ours.step(torch.from_numpy(actions))
        obs, reward, terminated, _, info = self.theirs.step(actions[WATCHED])
        np.testing.assert_allclose(step.final_obs[WATCHED].numpy(), obs, rtol=0, atol=CLOSE)
        assert abs(step.rewards[WATCHED].item() - reward) < CLOSE
        assert step.terminated[WATCHED].item() == terminated
        assert set(step.info) == {*info, "broken"}
        for name, value in info.items():
            np.testing.assert_allclose(step.info[name][WATCHED].numpy(), value, rtol=0, atol=CLOSE, err_msg=name)
        return step, bool(terminated)


@pytest.mark.parametrize(("env_id", "options"), CASES)
def test_as_gymnasium(env_id: str, options: dict[str, Any]) -> None:
    pair, draws, ends = Pair(env_id, options), np.random.default_rng(0), 0
    low, high = pair.theirs.model.actuator_ctrlrange.T
    for k in range(STEPS):
        # Half as far again as MuJoCo lets them: control is clipped, its cost is not.
        actions = draws.uniform(1.5 * low, 1.5 * high, (WORLDS, len(low))).astype(np.float32).astype(np.float64)
        step, terminated = pair.step(actions)
        if terminated or step.truncated[WATCHED]:
            assert terminated or (env_id == "Reacher-v5" and k % 50 == 49)  # only Reacher is cut so soon
            ends += 1
            pair.follow(step.obs)
    mortal = env_id not in ("HalfCheetah-v5", "Reacher-v5", "Ant-v5") and options != NEVER_UNHEALTHY
    assert ends >= (mortal or env_id == "Reacher-v5")


@pytest.mark.parametrize(
    ("env_id", "options"),
    [
        ("Hopper-v5", {"healthy_state_range": (-3.0, 4.0), "healthy_angle_range": (-5.0, 5.0), "healthy_z_range": (-2.0, 3.0)}),
        ("Hopper-v5", {"healthy_state_range": (-9.0, 9.0), "healthy_angle_range": (-1.0, 2.0), "healthy_z_range": (-2.0, 3.0)}),
        ("Walker2d-v5", {"healthy_angle_range": (-1.0, 2.0), "healthy_z_range": (-2.0, 3.0)}),
        ("Ant-v5", {"healthy_z_range": (-1.0, 2.0)}),
        ("Humanoid-v5", {"healthy_z_range": (-1.0, 2.0)}),
    ],
)
def test_healthy_where_gymnasium_says_so(env_id: str, options: dict[str, Any]) -> None:
    """In states of all kinds, whether they can be reached or not."""
    count, deviation = 300, 1.3
    ours: Any = envs.make(env_id, dtype="float64", **options)
    theirs: Any = gymnasium.make(env_id, **options).unwrapped
    generator = torch.Generator().manual_seed(0)
    fields = {
        name: torch.randn(count, *values.shape[1:], generator=generator, dtype=torch.float64).mul_(deviation)
        for name, values in ours.engine.fields.items()
    }
    place = ours.task.place(fields)
    terminated = ours.task.judge(fields, place, place, torch.zeros(count, ours.model.nu, dtype=torch.float64)).terminated
    for qpos, qvel, ended in zip(fields["qpos"].numpy(), fields["qvel"].numpy(), terminated.tolist(), strict=True):
        theirs.data.qpos[:], theirs.data.qvel[:] = qpos, qvel
        assert ended != theirs.is_healthy
    assert 20 < terminated.sum() < count - 20


@pytest.mark.parametrize("env_id", OPTIONS)
def test_the_same_spaces_thresholds_and_horizons(env_id: str) -> None:
    ours: Any = envs.make(env_id, dtype="float64")
    theirs, spec = gymnasium.make(env_id).unwrapped, gymnasium.spec(env_id)
    assert ours.observation_space == theirs.observation_space
    assert ours.action_space == theirs.action_space
    assert (ours.success_return, ours.horizon) == (spec.reward_threshold, spec.max_episode_steps)


@pytest.mark.parametrize("env_id", OPTIONS)
def test_starts_are_distributed_alike(env_id: str) -> None:
    """Per number of the state: mean, deviation and tails of many starts."""
    draws = 1000
    ours: Any = envs.make(env_id, num_envs=draws, dtype="float64")
    theirs: Any = gymnasium.make(env_id).unwrapped
    theirs.reset(seed=0)
    rows = []
    for _ in range(draws):
        theirs.reset()
        rows.append(np.concatenate((theirs.data.qpos, theirs.data.qvel)))
    expected = np.stack(rows)
    found = torch.cat((ours.engine.fields["qpos"], ours.engine.fields["qvel"]), 1).numpy()
    scale = expected.std(0)
    assert ((scale < 1e-12) == (found.std(0) < 1e-12)).all()
    error = np.maximum(scale, 1e-12)
    assert (np.abs(found.mean(0) - expected.mean(0)) / error).max() < 5 * (2 / draws) ** 0.5
    assert np.abs(np.log((found.std(0) + 1e-12) / (scale + 1e-12))).max() < 5 / draws**0.5
    # How many lie far out tells uniform ones from normal ones.
    far = [(np.abs(rows - rows.mean(0)) > 1.8 * rows.std(0)).mean(0) for rows in (found, expected)]
    assert np.abs(far[0] - far[1]).max() < 0.04
