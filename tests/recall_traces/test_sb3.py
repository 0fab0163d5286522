"""Whom the callback serves, and whom it refuses."""

import numpy as np
import pytest
from gymnasium import spaces
from sb3_helpers import OFF, ON, SMALL, Line, lines, net, steer
from stable_baselines3 import DQN, PPO

from recall_traces import RecallConfig, RecallTracesCallback


class Odd(Line):
    def __init__(self, space):
        super().__init__(discrete=True)
        self.observation_space = space

    def observe(self):
        return self.observation_space.sample()


IMAGE = spaces.Box(0, 255, (36, 36, 3), np.uint8)


def test_models_that_cannot_be_served_are_refused_when_training_starts():
    contrib = pytest.importorskip("sb3_contrib")
    refused = [
        (DQN("MlpPolicy", lines(1, discrete=True)), "DQN has no actor.*PPO, A2C, SAC, TD3, DDPG, TRPO and TQC"),
        (PPO("MultiInputPolicy", Odd(spaces.Dict(a=spaces.Discrete(3)))), "observations of PPO.*Dict"),
        (PPO("CnnPolicy", Odd(IMAGE)), "observations of PPO.*FlattenObservation.*and MlpPolicy"),
        (contrib.RecurrentPPO("MlpLstmPolicy", lines(1)), "recurrent"),
        (contrib.MaskablePPO("MlpPolicy", lines(1, discrete=True)), "masks"),
        (contrib.QRDQN("MlpPolicy", lines(1, discrete=True)), "QRDQN has no actor"),
        (contrib.ARS("LinearPolicy", lines(1)), "ARS has no actor"),
    ]
    for model, message in refused:
        with pytest.raises(ValueError, match=message) as error:
            model.learn(10, callback=RecallTracesCallback())
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="use another source"):
        RecallTracesCallback(RecallConfig(source="given"))
    with pytest.raises(ValueError, match="'generated'"):
        RecallTracesCallback(RecallConfig(source="generated"))
    with pytest.raises(ValueError, match="imagined steps are for"):
        RecallTracesCallback(RecallConfig(imagined_share=0.1))
    with pytest.raises(ValueError, match="oracle are for our own learners"):
        RecallTracesCallback(RecallConfig(traces_from="oracle"))


def test_arguments_that_are_none():
    with pytest.raises(TypeError, match="must be a RecallConfig, not dict"):
        PPO("MlpPolicy", lines(1), **ON, batch_size=16, **net()).learn(16, callback=RecallTracesCallback)
    with pytest.raises(ValueError, match="seed must be at least 0, not -1"):
        RecallTracesCallback(seed=-1)
    with pytest.raises(TypeError, match="float"):
        RecallTracesCallback(seed=1.5)


def test_a_seed_that_numpy_drew_is_saved(tmp_path):
    callback = RecallTracesCallback(SMALL, seed=np.int64(7))
    PPO("MlpPolicy", lines(1), **ON, batch_size=16, **net()).learn(16, callback=callback)
    callback.save(tmp_path / "seven")
    assert RecallTracesCallback().load(tmp_path / "seven").seed == 7


def test_contributed_algorithms_are_served():
    contrib = pytest.importorskip("sb3_contrib")
    for model in (
        contrib.TRPO("MlpPolicy", lines(2), **ON, batch_size=16, seed=0, **net()),
        contrib.TQC("MlpPolicy", lines(2), **OFF, seed=0, **net()),
    ):
        config = RecallConfig(source="critic", trace_length=10, search_length=10, rare_reward=1.0, model=SMALL.model)
        model.learn(96, callback=(callback := RecallTracesCallback(config)))
        for group in callback.actor.optimizer.param_groups:
            group["lr"] = 0.02
        assert np.median(np.abs(steer(model, callback, -1.2) + 1.2)) < 0.3


def test_another_environment_needs_another_callback():
    callback = RecallTracesCallback(SMALL)
    PPO("MlpPolicy", lines(2), **ON, batch_size=16, **net()).learn(32, callback=callback)
    with pytest.raises(ValueError, match="make a new one"):
        PPO("MlpPolicy", lines(2, discrete=True), **ON, batch_size=16, **net()).learn(32, callback=callback)
    with pytest.raises(ValueError, match="make a new one"):
        PPO("MlpPolicy", lines(3), **ON, batch_size=16, **net()).learn(32, callback=callback)
