"""A trained PPO predicts, is evaluated by Stable-Baselines3, saved and loaded."""

import os

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from ppo_helpers import BOX, BOX_ACTION, TWO_NUMBERS, Drift, Spaces, tensors
from safetensors.torch import save_file
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv

from recall_traces.agents.ppo import PPO, Minibatch, PPOConfig
from recall_traces.envs import make

# Predicting -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("observation_space", "observation"),
    [(BOX, np.array([0.1, -0.2, 0.3])), (spaces.Discrete(5), np.int64(3)), (spaces.MultiDiscrete([3, 4]), np.array([2, 1]))],
)
@pytest.mark.parametrize("action_space", [spaces.Discrete(3), BOX_ACTION], ids=["discrete", "box"])
def test_predict(observation_space, observation, action_space):
    one, three = (PPO(Spaces(observation_space, action_space, n), num_seeds=n) for n in (1, 3))
    action, memory = one.predict(observation, deterministic=True)
    assert memory is None
    assert isinstance(action, np.ndarray)
    assert action_space.contains(action[()])
    rows, _ = one.predict(np.stack([observation] * 6), deterministic=True)
    np.testing.assert_allclose(rows, np.stack([action] * 6), atol=1e-6)

    batch = torch.as_tensor(np.stack([observation] * 6))
    by_seed, _ = three.predict(batch, deterministic=True)
    assert isinstance(by_seed, torch.Tensor)
    assert by_seed.shape == (6, *action_space.shape)
    expected = three.act(
        batch[:2].to(batch.dtype if batch.dtype == torch.int64 else torch.float32).expand(3, 2, *batch.shape[1:]), greedy=True
    )
    torch.testing.assert_close(by_seed, expected.flatten(0, 1))

    sampled = np.stack([one.predict(observation)[0] for _ in range(50)])
    assert len(np.unique(sampled, axis=0)) > 1
    with pytest.raises(ValueError, match="4 observations, which 3 seeds"):
        three.predict(batch[:4])


def test_stable_baselines3_can_evaluate_a_fleet_of_one():
    ppo = PPO(make("CartPole-v1", num_envs=8), PPOConfig(n_steps=64, batch_size=128, learning_rate=3e-3)).learn(512)
    for env in (gymnasium.make("CartPole-v1"), DummyVecEnv([lambda: gymnasium.make("CartPole-v1")] * 2)):
        mean, _ = evaluate_policy(ppo, env, n_eval_episodes=4, deterministic=True, warn=False)
        assert 8 <= mean <= 500
    mean, _ = evaluate_policy(
        PPO(Spaces(spaces.Box(-8, 8, (3,)), spaces.Box(-2, 2, (1,)))), gymnasium.make("Pendulum-v1"), 1, warn=False
    )
    assert -2000 < mean < 0


def test_predicting_in_a_callback_changes_nothing_in_training():
    drawn = []

    def predict(learner, metrics):
        drawn.append(learner.predict(np.zeros((4, 2), np.float32))[0])

    config = PPOConfig(n_steps=8, batch_size=8, net_arch=(8,))
    runs = [PPO(Drift([0, 1, 2, 3], True), config, num_seeds=2).learn(48, callback) for callback in (None, predict)]
    for name, value in tensors(runs[0]).items():
        assert torch.equal(value, tensors(runs[1])[name]), name
    assert not np.array_equal(drawn[0], drawn[1])


# Saving and loading ---------------------------------------------------------------------------------------------------------


def trained(num_seeds=2, box_actions=True):
    config = PPOConfig(
        n_steps=8, batch_size=8, net_arch=(8, 4), activation="relu", normalize_observations=True, normalize_rewards=True
    )
    return PPO(Drift(list(range(2 * num_seeds)), box_actions), config, num_seeds=num_seeds).learn(48)


@pytest.mark.parametrize("num_seeds", [1, 3])
@pytest.mark.parametrize("box_actions", [False, True])
def test_what_was_saved_acts_the_same(tmp_path, num_seeds, box_actions):
    ppo = trained(num_seeds, box_actions)
    ppo.save(tmp_path / "ppo.safetensors")
    loaded = PPO.load(tmp_path / "ppo.safetensors", Drift(list(range(num_seeds)), box_actions))  # other copies than in training
    assert loaded.config == ppo.config
    assert loaded.env_steps == 48
    assert loaded.num_seeds == num_seeds
    for name, value in tensors(ppo).items():
        assert torch.equal(value, tensors(loaded)[name]), name
    obs = torch.randn(num_seeds, 20, 2, generator=torch.Generator().manual_seed(0))
    assert torch.equal(ppo.act(obs, greedy=True), loaded.act(obs, greedy=True))
    drawn = [x.act(obs, greedy=False, generator=torch.Generator().manual_seed(1)) for x in (ppo, loaded)]
    assert torch.equal(*drawn)
    assert torch.equal(ppo.value(obs), loaded.value(obs))
    # The next update is the same too: moments and step counts are there.
    batch = Minibatch(obs, ppo.act(obs, greedy=True), *torch.randn(3, num_seeds, 20, generator=torch.Generator().manual_seed(2)))
    for learner in (ppo, loaded):
        learner.config = PPOConfig(**{**vars(learner.config), "batch_size": 20, "n_epochs": 1})
        learner.update(batch, 1e-3)
    torch.testing.assert_close(ppo.policy_optimizer.values, loaded.policy_optimizer.values)


def test_a_frozen_seed_stays_frozen_when_saved(tmp_path):
    ppo = PPO(Drift([0, 1, 2], broken=[1], breaks_at=3), PPOConfig(n_steps=8, batch_size=8), num_seeds=3).learn(16)
    ppo.save(tmp_path / "ppo.safetensors")
    loaded = PPO.load(tmp_path / "ppo.safetensors", Drift([0, 1, 2]))
    assert loaded.alive == [True, False, True]
    assert loaded.failures == ppo.failures


class Other(Spaces):
    """Four rows of other spaces than those of `trained`."""

    def __init__(self, observation_space=TWO_NUMBERS, action_space=BOX_ACTION):
        super().__init__(observation_space, action_space, 4)


@pytest.mark.parametrize(
    "env",
    [
        Other(spaces.Box(-1, 1, (3,))),
        Other(spaces.Discrete(2)),
        Other(spaces.MultiDiscrete([1, 1])),
        Other(action_space=spaces.Discrete(2)),
        Other(action_space=spaces.Box(-1, 1, (3,))),
    ],
)
def test_an_environment_with_other_spaces_is_refused(tmp_path, env):
    trained().save(tmp_path / "ppo.safetensors")
    with pytest.raises(ValueError, match=r"ppo\.safetensors does not fit"):
        PPO.load(tmp_path / "ppo.safetensors", env)


def test_spaces_of_the_same_size_are_told_apart(tmp_path):
    """Four numbers, four values, and two times two values all make four inputs."""
    PPO(Spaces(spaces.Box(-1, 1, (4,)), spaces.Discrete(2))).save(tmp_path / "ppo.safetensors")
    for space in (spaces.Discrete(4), spaces.MultiDiscrete([2, 2])):
        with pytest.raises(ValueError, match=r"ppo\.safetensors does not fit"):
            PPO.load(tmp_path / "ppo.safetensors", Spaces(space, spaces.Discrete(2)))


def test_files_that_are_something_else_are_refused(tmp_path):
    path = tmp_path / "file"
    with pytest.raises(FileNotFoundError):
        PPO.load(path, Spaces())
    torch.save({"policy": torch.zeros(3)}, path)  # a pickle
    with pytest.raises(ValueError, match="is not a saved PPO"):
        PPO.load(path, Spaces())
    path.write_bytes(b"\x10" + bytes(range(200)))
    with pytest.raises(ValueError, match="is not a saved PPO"):
        PPO.load(path, Spaces())
    for metadata in (None, {"config": "{}"}, {"config": '{"tau": 0.005, "net_arch": [4]}', "num_seeds": "1", "env_steps": "0"}):
        save_file({"policy": torch.zeros(3)}, path, metadata=metadata)
        with pytest.raises(ValueError, match="is not a saved PPO"):
            PPO.load(path, Spaces())


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), torch.cuda.OutOfMemoryError("CUDA out of memory")])
def test_a_machine_that_fails_in_reading_says_nothing_about_the_file(tmp_path, monkeypatch, error):
    def fail(*arguments):
        raise error

    ppo = PPO(Spaces(), PPOConfig(net_arch=(4,)))
    ppo.save(tmp_path / "file")
    monkeypatch.setattr("recall_traces.agents.learner.load_tree", fail)
    for load in (ppo.load_policy, lambda path: PPO.load(path, Spaces())):
        with pytest.raises(type(error), match=r"Input/output error|^CUDA out of memory"):
            load(tmp_path / "file")


def test_saving_makes_folders_and_leaves_rights_to_the_umask(tmp_path):
    ppo = PPO(Spaces(), PPOConfig(net_arch=(4,)))
    old = os.umask(0o027)
    try:
        ppo.save(tmp_path / "new" / "ppo.safetensors")
    finally:
        os.umask(old)
    assert (tmp_path / "new" / "ppo.safetensors").stat().st_mode & 0o777 == 0o640
    assert PPO.load(tmp_path / "new" / "ppo.safetensors", Spaces()).num_seeds == 1
