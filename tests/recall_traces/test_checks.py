"""NumPy's numbers, such as a sweep draws, become Python's in every field of every configuration, checked or not."""

import dataclasses
import json

import numpy as np
import pytest

from recall_traces.agents.bonus import BonusConfig
from recall_traces.agents.goal_gan import GoalGANConfig
from recall_traces.agents.ppo import PPO, PPOConfig
from recall_traces.agents.replay import PrioritizedConfig
from recall_traces.agents.sac import SACConfig
from recall_traces.agents.self_imitation import SelfImitationConfig
from recall_traces.envs import make
from recall_traces.model import BacktrackingConfig
from recall_traces.recall import RecallConfig

CONFIGS = [PPOConfig, SACConfig, BonusConfig, GoalGANConfig, PrioritizedConfig, SelfImitationConfig]
CONFIGS += [BacktrackingConfig, RecallConfig]


def of_numpy(value, nothing):
    """The same in NumPy's types, to the bit; `nothing` where there is nothing."""
    if isinstance(value, tuple):
        return [np.int64(n) for n in value]
    if dataclasses.is_dataclass(value):
        return value
    return np.asarray(nothing if value is None else value)[()]


def leaves(value):
    return [leaf for inner in value.values() for leaf in leaves(inner)] if isinstance(value, dict) else [value]


@pytest.mark.parametrize("kind", CONFIGS)
def test_every_field_becomes_plain(kind):
    fields = dataclasses.fields(kind)
    nothing = {field.name: 7 if "int" in str(field.type) else 0.5 for field in fields if getattr(kind(), field.name) is None}
    given = {field.name: of_numpy(getattr(kind(), field.name), nothing.get(field.name)) for field in fields}
    config = kind(**given)
    found = dataclasses.asdict(config)
    assert {type(leaf) for leaf in leaves(found)} <= {bool, int, float, str, tuple}
    assert found == dataclasses.asdict(kind()) | nothing
    json.dumps(found)


def test_a_policy_of_numpys_numbers_is_saved_and_loaded(tmp_path):
    env = make("CartPole-v1", num_envs=1)
    config = PPOConfig(max_grad_norm=np.float32(0.5), normalize_observations=np.bool_(True), net_arch=np.array([4, 3]))
    PPO(env, config).save(tmp_path / "ppo.safetensors")
    assert PPO.load(tmp_path / "ppo.safetensors", env).config == PPOConfig(net_arch=(4, 3), normalize_observations=True)
