"""Configurations, fleets and spaces that PPO refuses, and what it says about them."""

import math

import numpy as np
import pytest
from gymnasium import spaces
from ppo_helpers import BOX, Spaces

from recall_traces.agents.ppo import PPO, PPOConfig


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"learning_rate": float("inf")}, "learning_rate must be positive and finite, not inf"),
        ({"max_grad_norm": float("nan")}, "max_grad_norm must be positive, not nan"),
        ({"target_kl": float("nan")}, "target_kl must be positive"),
        ({"ent_coef": float("inf")}, "ent_coef must not be negative, and finite"),
        ({"net_arch": (1.5,)}, "net_arch must hold positive numbers of units"),
        ({"learning_rate": 0.0}, "learning_rate must be positive, not 0.0"),
        ({"learning_rate": math.nan}, "learning_rate"),
        ({"n_steps": 0}, "n_steps"),
        ({"batch_size": -1}, "batch_size"),
        ({"n_epochs": 0}, "n_epochs"),
        ({"clip_range": 0.0}, "clip_range"),
        ({"max_grad_norm": 0.0}, "max_grad_norm"),
        ({"gamma": 1.1}, r"gamma must lie in \[0, 1\], not 1.1"),
        ({"gae_lambda": -0.1}, "gae_lambda"),
        ({"activation": "gelu"}, "activation must be one of tanh, relu, elu, silu, not 'gelu'"),
        ({"learning_rate_schedule": "cosine"}, "learning_rate_schedule must be one of constant, linear"),
        ({"target_kl": 0.0}, "target_kl"),
        ({"target_kl": -1.0}, "target_kl"),
        ({"net_arch": (64, 0)}, "net_arch"),
        ({"net_arch": (-1,)}, "net_arch"),
    ],
)
def test_numbers_out_of_range_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        PPOConfig(**change)


def test_seeds_must_share_the_environments_equally():
    with pytest.raises(ValueError, match="5 environments cannot be shared equally by 2 seeds"):
        PPO(Spaces(num_envs=5), num_seeds=2)
    with pytest.raises(ValueError, match="0 seeds"):
        PPO(Spaces(num_envs=5), num_seeds=0)


@pytest.mark.parametrize("space", [spaces.Dict({"a": BOX}), spaces.Box(0, 255, (8, 8, 3), np.uint8), spaces.MultiBinary(3)])
def test_spaces_that_are_not_served_are_named(space):
    with pytest.raises(ValueError, match="FlattenObservation"):
        PPO(Spaces(space))
