"""Configurations, fleets, spaces and replays that SAC refuses, and what it says about them."""

import math

import numpy as np
import pytest
from gymnasium import spaces
from ppo_helpers import BOX, BOX_ACTION, Drift, Spaces

from recall_traces.agents import replay
from recall_traces.agents.arms import ArmConfigs, kept_bytes, make_learner
from recall_traces.agents.replay import PrioritizedSampling
from recall_traces.agents.sac import SAC, SACConfig
from recall_traces.agents.self_imitation import SelfImitationConfig
from recall_traces.recall import RecallConfig

SMALL = SACConfig(net_arch=(4,), buffer_size=8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"learning_rate": 0.0}, "learning_rate must be positive, not 0.0"),
        ({"learning_rate": math.nan}, "learning_rate"),
        ({"learning_rate": math.inf}, "learning_rate must be positive and finite, not inf"),
        ({"buffer_size": 0}, "buffer_size must be at least 1, not 0"),
        ({"batch_size": 0}, "batch_size"),
        ({"batch_size": 2.5}, "batch_size must be a whole number, not 2.5"),
        ({"train_freq": 0}, "train_freq"),
        ({"train_freq": True}, "train_freq must be a whole number, not True"),
        ({"n_steps": -1}, "n_steps"),
        ({"gradient_steps": -2}, "gradient_steps must be at least -1, not -2"),
        ({"gradient_steps": 1.5}, "gradient_steps must be a whole number, not 1.5"),
        ({"learning_starts": -1}, "learning_starts must be at least 0, not -1"),
        ({"learning_starts": 10.5}, "learning_starts must be a whole number, not 10.5"),
        ({"tau": 0.0}, "tau must be positive, not 0.0"),
        ({"tau": 1.1}, r"tau must lie in \[0, 1\], not 1.1"),
        ({"gamma": -0.1}, "gamma"),
        ({"gamma": 1.1}, r"gamma must lie in \[0, 1\], not 1.1"),
        ({"gamma": math.nan}, "gamma"),
        ({"ent_coef": -0.1}, "ent_coef must not be negative, not -0.1"),
        ({"ent_coef": math.nan}, "ent_coef"),
        ({"ent_coef": math.inf}, "ent_coef must not be negative, and finite, not inf"),
        ({"ent_coef": "auto"}, "ent_coef must be a number, not 'auto'"),
        ({"target_entropy": "auto"}, "target_entropy must be a number, not 'auto'"),
        ({"learning_rate": lambda left: left}, "learning_rate must be a number, not <function"),
        ({"initial_ent_coef": 0.0}, "initial_ent_coef must be positive, not 0.0"),
        ({"initial_ent_coef": math.inf}, "initial_ent_coef must be positive and finite, not inf"),
        ({"target_entropy": math.nan}, "target_entropy must be finite, not nan"),
        ({"activation": "gelu"}, "activation must be one of tanh, relu, elu, silu, not 'gelu'"),
        ({"net_arch": (64, 0)}, r"net_arch must hold positive numbers of units, not \(64, 0\)"),
        ({"net_arch": (8.5,)}, "net_arch"),
        ({"net_arch": (-1,)}, "net_arch"),
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


@pytest.mark.parametrize("arm", ["none", "per", "sil", "recall+per"])
def test_what_an_arm_keeps_is_checked_before_any_of_it_is_taken(arm, monkeypatch):
    def unwanted(*arguments, **options):
        raise AssertionError("taken before it was checked")

    env, config = Spaces(num_envs=4), SACConfig(buffer_size=10**12)
    monkeypatch.setattr(PrioritizedSampling, "__init__", unwanted)
    with pytest.raises(
        ValueError, match=r"2 seeds of 1,000,000,000,000 steps need [\d,.]+ GiB, .* are free on cpu; lower buffer_size"
    ):
        make_learner("sac", arm, env, config, ArmConfigs(), 2)


def test_what_an_arm_keeps_is_what_was_said():
    """Every tensor with a place for each recorded step counts."""
    env, config, size = Spaces(num_envs=4), SACConfig(buffer_size=2000), 500
    configs = ArmConfigs(recall=RecallConfig(memory_size=size), sil=SelfImitationConfig(memory_size=size))
    for arm in ("none", "per", "sil", "recall", "recall+per"):
        sac = make_learner("sac", arm, env, config, configs, 2)
        kept = [*vars(sac.replay.steps).values(), *getattr(sac.sampling, "levels", [])]
        if hasattr(sac.recall, "memory"):
            memory = sac.recall.memory
            kept += memory.rings().values()
            kept += [getattr(sac.recall, name) for name in ("priorities", "cumulative") if hasattr(sac.recall, name)]
        assert sum(x.numel() * x.element_size() for x in kept) == kept_bytes(arm, BOX, BOX_ACTION, 2, configs, 2000), arm


@pytest.mark.parametrize("total_steps", [0, -1])
def test_there_is_something_to_learn_for(total_steps):
    with pytest.raises(ValueError, match=f"total_steps must be at least 1, not {total_steps}"):
        SAC(Drift([0, 1], True), SMALL).learn(total_steps)
