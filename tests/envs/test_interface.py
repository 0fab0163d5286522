"""What all environments promise alike."""

import gymnasium
import numpy as np
import pytest
import torch

import recall_traces.envs as envs
from recall_traces.envs.interface import check_choices
from recall_traces.envs.sb3 import make_vec_env

ALL = ["FourRooms-13", "CartPole-v1", "PointMaze-U", "PointMass-3", "Hopper-v5", "gymnasium/Pendulum-v1"]


@pytest.mark.parametrize("env_id", ALL)
def test_actions_of_another_shape_are_refused_and_change_nothing(env_id: str) -> None:
    env = envs.make(env_id, num_envs=3, seed=0)
    action = env.action_space.shape or ()
    right = torch.zeros(3, *action, dtype=torch.float32 if action else torch.int64)
    start = env.reset().clone()
    for wrong in (right[:1], right[:, None], right.new_zeros(()), right[:, :1] if action and action != (1,) else right[:2]):
        with pytest.raises(ValueError, match=r"actions must have the shape \(3,"):
            env.step(wrong)
    again = envs.make(env_id, num_envs=3, seed=0)
    assert torch.equal(again.reset(), start)
    assert torch.equal(env.step(right).final_obs, again.step(right).final_obs)
    for one in (env, again):
        getattr(one, "close", lambda: None)()


@pytest.mark.parametrize("action", [-1, 4, 0.5])
def test_what_is_no_action_is_refused_by_gymnasiums_and_stable_baselines3s_environments(action: float) -> None:
    one, many = gymnasium.make("recall_traces/FourRooms-11-v0"), make_vec_env("FourRooms-11", n_envs=2)
    vector = gymnasium.make_vec("recall_traces/FourRooms-11-v0", num_envs=2)
    for env in (one, many, vector):
        env.reset()
    with pytest.raises(ValueError, match=r"is no action of Discrete\(4\)"):
        one.unwrapped.step(action)
    for env in (many, vector):
        with pytest.raises(ValueError, match=r"is no action of Discrete\(4\)"):
            env.step(np.array([0, action]))
    check_choices(gymnasium.spaces.Discrete(3, start=-1), np.array([-1, 0, 1]))
