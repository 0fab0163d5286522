"""What the callback for Stable-Baselines3 remembers."""

import sys

import cloudpickle
import numpy as np
import pytest
import torch
from sb3_helpers import OFF, ON, SERVED, SMALL, Line, Walk, lines, lived_through, net, remembered
from stable_baselines3 import A2C, PPO, SAC
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecFrameStack, VecNormalize

from recall_traces import RecallTracesCallback


@pytest.mark.parametrize("normalized", [False, True])
@pytest.mark.parametrize(("algorithm", "options"), SERVED)
def test_every_step_is_remembered_as_it_was(algorithm, options, normalized):
    env = lines(2, normalized=normalized)
    callback = RecallTracesCallback(SMALL, seed=0)
    algorithm("MlpPolicy", env, seed=0, **options, **net()).learn(160, callback=callback)
    callback._observe()
    off_policy = "learning_starts" in options
    skipped = 1 if off_policy and not normalized else 0  # nobody shows the callback where it began
    for n in range(2):
        found, truth = remembered(callback, n), lived_through(env, n)
        steps = len(found["rewards"])
        assert 60 < steps == 80 - skipped - 1  # the newest is held back
        assert truth["terminated"][:steps].sum() > 3 < truth["truncated"][:steps].sum()
        for name, value in found.items():
            expected = truth[name][skipped : skipped + steps]
            # Undoing the normalisation of a terminal observation rounds.
            tolerance = 1e-2 if normalized and name == "next_obs" else 1e-5
            np.testing.assert_allclose(value, expected, atol=tolerance, rtol=1e-5, err_msg=name)


def test_discrete_actions_and_one_environment():
    env = lines(1, discrete=True)
    callback = RecallTracesCallback(SMALL, seed=0)
    PPO("MlpPolicy", env, seed=0, gamma=0.5, **ON, batch_size=16, **net()).learn(64, callback=callback)
    assert callback.recall.memory.gamma == 0.5
    callback._observe()
    found, truth = remembered(callback, 0), lived_through(env, 0)
    for name, value in found.items():
        np.testing.assert_array_equal(value, truth[name][: len(value)], err_msg=name)


def test_environments_in_other_processes():
    module = sys.modules[Line.__module__]
    cloudpickle.register_pickle_by_value(module)  # the other process may not be able to import the tests
    env = SubprocVecEnv([Line, Line])
    cloudpickle.unregister_pickle_by_value(module)
    callback = RecallTracesCallback(SMALL)
    PPO("MlpPolicy", env, **ON, batch_size=16, **net()).learn(64, callback=callback)
    env.close()
    callback._observe()
    memory = callback.recall.memory
    assert memory.time == 31
    assert memory.steps.terminated[0, :, :31].any(1).all()
    assert memory.steps.truncated[0, :, :31].any(1).all()
    within = ~(memory.steps.terminated | memory.steps.truncated)[0, :, :30]
    assert torch.equal(memory.steps.next_obs[0, :, :30][within], memory.steps.obs[0, :, 1:31][within])


def test_several_calls_of_learn():
    """Going on keeps episodes whole; starting over breaks them off, as if their time was up."""
    env = lines(1)
    model, callback = PPO("MlpPolicy", env, **ON, batch_size=16, **net()), RecallTracesCallback(SMALL)
    model.learn(16, callback=callback)
    model.learn(16, callback=callback, reset_num_timesteps=False)
    callback._observe()
    found, truth = remembered(callback, 0), lived_through(env, 0)
    assert len(found["rewards"]) == 31
    for name, value in found.items():
        np.testing.assert_allclose(value, truth[name][:31], rtol=1e-5, err_msg=name)
    assert not (truth["terminated"] | truth["truncated"])[31]
    model.learn(16, callback=callback)  # resets the environment in the middle of an episode
    callback._observe()
    found = remembered(callback, 0)
    assert len(found["rewards"]) == 47
    assert found["truncated"][31]
    assert not found["terminated"][31]
    assert callback.recall.memory.age[0, 0, 32] == 0


@pytest.mark.parametrize(
    ("algorithm", "options", "count"), [(A2C, {}, 4), (SAC, {"buffer_size": 1000, "batch_size": 8, "learning_starts": 0}, 1)]
)
def test_the_grid_of_unbounded_observations_is_fixed_by_many_states(algorithm, options, count):
    callback = RecallTracesCallback(SMALL, seed=0)
    algorithm("MlpPolicy", DummyVecEnv([Walk] * count), seed=0, **options, **net()).learn(400, callback=callback)
    memory = callback.recall.memory
    assert memory.time * count >= 256
    first = memory.steps.next_obs[0, :, : 256 // count].flatten(0, 1)
    ratio = callback.recall.cells.width[0, 0] / (6 * first.std(0, correction=0) / SMALL.cell_bins)
    assert ((ratio > 0.5) & (ratio < 2)).all()


def continuous(memory):
    """Whether every step of lines takes one unit of time and begins where the one before it led, but for the ends of episodes."""
    held = memory.steps.map(lambda x: x[0, :, : memory.time])
    if not torch.equal(held.obs[..., 1] + 1, held.next_obs[..., 1]):
        return False
    within = ~(held.terminated | held.truncated)[:, :-1]
    return torch.equal(held.next_obs[:, :-1][within], held.obs[:, 1:][within])


def test_steps_between_that_the_callback_did_not_see():
    model, callback = SAC("MlpPolicy", lines(1), **OFF, **net()), RecallTracesCallback(SMALL)
    model.learn(40, callback=callback)
    model.learn(3, reset_num_timesteps=False)
    model.learn(40, callback=callback, reset_num_timesteps=False)
    callback._observe()
    assert callback.recall.memory.time > 70
    assert continuous(callback.recall.memory)


def test_an_environment_that_was_reset_between():
    env = lines(1)
    model, callback = PPO("MlpPolicy", env, **ON, batch_size=16, **net()), RecallTracesCallback(SMALL)
    model.learn(16, callback=callback)
    model.set_env(env)  # resets it, as Stable-Baselines3 knows
    model.learn(16, callback=callback, reset_num_timesteps=False)
    callback._observe()
    assert callback.recall.memory.time == 31
    assert continuous(callback.recall.memory)


def test_normalised_environments_tell_that_they_were_moved_between():
    env = lines(1, normalized=True)
    model, callback = PPO("MlpPolicy", env, **ON, batch_size=16, **net()), RecallTracesCallback(SMALL)
    model.learn(16, callback=callback)
    env.reset()
    model.learn(16, callback=callback, reset_num_timesteps=False)
    callback._observe()
    found = remembered(callback, 0)
    assert found["next_obs"][15, 1] == 4  # in the middle of an episode
    assert found["truncated"][15]
    assert found["obs"][16, 1] == 0


def test_the_same_model_from_a_file(tmp_path):
    model, callback = SAC("MlpPolicy", lines(1), **OFF, **net()), RecallTracesCallback(SMALL)
    model.learn(41, callback=callback)  # not at an episode's end
    model.save(tmp_path / "model")
    model = SAC.load(tmp_path / "model", env=lines(1))
    model.learn(40, callback=callback, reset_num_timesteps=False)
    callback._observe()
    assert callback.recall.memory.time > 70
    assert continuous(callback.recall.memory)


def test_stacked_frames_inside_and_outside_of_normalisation():
    """Outside, raw observations are remembered; inside they cannot be asked for, and are remembered as the policy sees them."""
    for inside in (False, True):
        env = VecFrameStack(lines(2, normalized=True), 3) if inside else VecNormalize(VecFrameStack(lines(2), 3), clip_obs=1e6)
        model, callback = PPO("MlpPolicy", env, **ON, batch_size=16, **net()), RecallTracesCallback(SMALL)
        model.learn(96, callback=callback)
        callback._observe()
        memory = callback.recall.memory
        assert memory.time == 47
        assert callback.recall.buffer[0].mask.any()
        found = remembered(callback, 0)
        truth = np.array([row[2] for row in (env.venv if inside else env).venv.unwrapped.envs[0].log])
        np.testing.assert_allclose(found["rewards"], truth[:47], rtol=1e-5)
        places = np.array([row[0] for row in env.unwrapped.envs[0].log])[:47]
        assert np.allclose(found["obs"][:, -2:], places, atol=1e-4) != inside
