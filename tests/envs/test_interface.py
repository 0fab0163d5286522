"""What all environments promise alike."""

import pytest
import torch

import recall_traces.envs as envs

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
