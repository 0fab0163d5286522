"""Configurations, fleets, spaces and replays that SAC refuses, and what it says about them."""

import math

import numpy as np
import pytest
from gymnasium import spaces
from ppo_helpers import BOX, BOX_ACTION, Drift, Spaces

from recall_traces.agents import replay
from recall_traces.agents.sac import SAC, SACConfig

SMALL = SACConfig(net_arch=(4,), buffer_size=8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"learning_rate": 0.0}, "learning_rate must be positive, not 0.0"),
        ({"learning_rate": math.nan}, "learning_rate"),
        ({"buffer_size": 0}, "buffer_size must be at least 1, not 0"),
        ({"batch_size": 0}, "batch_size"),
        ({"batch_size": 2.5}, "batch_size must be a whole number, not 2.5"),
        ({"train_freq": 0}, "train_freq"),
        ({"n_steps": -1}, "n_steps"),
        ({"gradient_steps": -2}, "gradient_steps must be at least -1, not -2"),
        ({"learning_starts": -1}, "learning_starts must be at least 0, not -1"),
        ({"tau": 0.0}, "tau must be positive, not 0.0"),
        ({"tau": 1.1}, r"tau must lie in \[0, 1\], not 1.1"),
        ({"gamma": -0.1}, "gamma"),
        ({"gamma": 1.1}, r"gamma must lie in \[0, 1\], not 1.1"),
        ({"gamma": math.nan}, "gamma"),
        ({"ent_coef": -0.1}, "ent_coef must not be negative, not -0.1"),
        ({"ent_coef": math.nan}, "ent_coef"),
        ({"initial_ent_coef": 0.0}, "initial_ent_coef must be positive, not 0.0"),
        ({"activation": "gelu"}, "activation must be one of tanh, relu, elu, silu, not 'gelu'"),
        ({"net_arch": (64, 0)}, "net_arch must hold positive numbers of units"),
        ({"net_arch": (-1,)}, "net_arch"),
        ({"net_arch": (8.5,)}, "net_arch"),
        ({"gradient_steps": 1.5}, "gradient_steps must be a whole number, not 1.5"),
        ({"train_freq": True}, "train_freq must be a whole number, not True"),
        ({"learning_rate": math.inf}, "learning_rate must be positive and finite"),
        ({"ent_coef": math.inf}, "ent_coef must not be negative, and finite"),
        ({"target_entropy": math.nan}, "target_entropy must be finite"),
    ],
)
def test_numbers_out_of_range_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        SACConfig(**change)


def test_numbers_at_the_ends_of_their_ranges_are_accepted():
    config = SACConfig(tau=1.0, gamma=1.0, gradient_steps=-1, ent_coef=0.0, learning_starts=0, net_arch=())
    assert SAC(Spaces(), config).config.gradient_steps == -1
    SACConfig(gamma=0.0, gradient_steps=0, buffer_size=1, batch_size=1, train_freq=1, n_steps=1)


def test_seeds_must_share_the_environments_equally():
    with pytest.raises(ValueError, match="5 environments cannot be shared equally by 2 seeds"):
        SAC(Spaces(num_envs=5), SMALL, num_seeds=2)
    with pytest.raises(ValueError, match="0 seeds"):
        SAC(Spaces(num_envs=5), SMALL, num_seeds=0)


def test_discrete_actions_are_for_ppo():
    with pytest.raises(ValueError, match=r"SAC needs a Box of actions, not Discrete\(3\): use PPO"):
        SAC(Spaces(action_space=spaces.Discrete(3)), SMALL)


@pytest.mark.parametrize("space", [spaces.Dict({"a": BOX}), spaces.Box(0, 255, (8, 8, 3), np.uint8), spaces.MultiBinary(3)])
def test_observations_that_are_not_served_are_named(space):
    with pytest.raises(ValueError, match="FlattenObservation"):
        SAC(Spaces(space), SMALL)


def test_actions_without_bounds_are_refused():
    with pytest.raises(ValueError, match=r"has no bounds: .*TransformAction"):
        SAC(Spaces(action_space=spaces.Box(-np.inf, np.inf, (2,))), SMALL)


def test_a_dimension_without_a_choice_is_refused():
    # Its scale would be 0, and the density of the actions not a number.
    with pytest.raises(ValueError, match="action dimension 0 has low == high"):
        SAC(Spaces(action_space=spaces.Box(np.float32([0, -1]), np.float32([0, 1]))), SMALL)


def test_a_replay_that_does_not_fit_is_refused(monkeypatch):
    needed = replay.replay_bytes(BOX, BOX_ACTION, 2, 300)
    monkeypatch.setattr(replay, "available_bytes", lambda device: needed - 1)
    with pytest.raises(ValueError, match=r"the replay does not fit: 2 seeds of 300 steps need .* lower buffer_size"):
        SAC(Spaces(num_envs=4), SACConfig(buffer_size=300), num_seeds=2)
    monkeypatch.setattr(replay, "available_bytes", lambda device: needed)
    assert SAC(Spaces(num_envs=4), SACConfig(buffer_size=300), num_seeds=2).replay.capacity == 300


def test_a_replay_holds_at_least_one_step_of_every_environment():
    with pytest.raises(ValueError, match="raise buffer_size"):
        SAC(Spaces(num_envs=4), SACConfig(buffer_size=3))


@pytest.mark.parametrize("total_steps", [0, -1])
def test_there_is_something_to_learn_for(total_steps):
    with pytest.raises(ValueError, match=f"total_steps must be at least 1, not {total_steps}"):
        SAC(Drift([0, 1], True), SMALL).learn(total_steps)
