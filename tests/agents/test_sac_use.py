"""A trained SAC predicts, is evaluated by Stable-Baselines3, saved and loaded."""

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from ppo_helpers import BOX, BOX_ACTION, TWO_NUMBERS, Drift, Spaces, tensors
from sac_helpers import random_batch
from safetensors.torch import save_file
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv

from recall_traces.agents import replay
from recall_traces.agents.sac import SAC, SACConfig
from recall_traces.envs import make
from recall_traces.saving import load_tree, save_tree

SMALL = SACConfig(net_arch=(8,), buffer_size=8)
UNEQUAL = spaces.Box(np.array([-2, 0], np.float32), np.array([2, 5], np.float32))

# Predicting -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("observation_space", "observation"),
    [(BOX, np.array([0.1, -0.2, 0.3])), (spaces.Discrete(5), np.int64(3)), (spaces.MultiDiscrete([3, 4]), np.array([2, 1]))],
)
def test_predict(observation_space, observation):
    one, three = (SAC(Spaces(observation_space, UNEQUAL, n), SMALL, num_seeds=n) for n in (1, 3))
    action, memory = one.predict(observation, deterministic=True)
    assert memory is None
    assert isinstance(action, np.ndarray)
    assert UNEQUAL.contains(action)
    rows, _ = one.predict(np.stack([observation] * 6), deterministic=True)
    np.testing.assert_allclose(rows, np.stack([action] * 6), atol=1e-6)

    batch = torch.as_tensor(np.stack([observation] * 6))
    by_seed, _ = three.predict(batch, deterministic=True)
    assert isinstance(by_seed, torch.Tensor)
    assert by_seed.shape == (6, 2)
    obs = batch[:2].to(batch.dtype if batch.dtype == torch.int64 else torch.float32).expand(3, 2, *batch.shape[1:])
    torch.testing.assert_close(by_seed, three.act(obs, greedy=True).flatten(0, 1))
    assert len(by_seed.unique(dim=0)) == 3

    sampled = np.stack([one.predict(observation)[0] for _ in range(50)])
    assert len(np.unique(sampled, axis=0)) > 1
    assert all(UNEQUAL.contains(x) for x in sampled)
    with pytest.raises(ValueError, match="4 observations, which 3 seeds"):
        three.predict(batch[:4])


def set_policy(sac, mean, deviation):
    """Make the policy the same in all observations, before the squashing."""
    sac.policy_optimizer.values.zero_()
    output = torch.cat([torch.as_tensor(mean), torch.full((len(mean),), deviation).log()])
    sac.policy.mlp.later[-1].bias.data.copy_(output.expand(sac.num_seeds, 1, -1))


def test_actions_are_the_policys_between_the_bounds():
    """The middle of the policy's range is the middle of the space, and a deterministic action is the policy's mode."""
    sac = SAC(Spaces(action_space=UNEQUAL), SMALL)
    set_policy(sac, [0.0, 0.5493061], 1e-8)  # whose hyperbolic tangents are 0 and 0.5
    for deterministic in (True, False):
        actions, _ = sac.predict(np.zeros((4, 3)), deterministic=deterministic)
        np.testing.assert_allclose(actions, [[0.0, 3.75]] * 4, atol=1e-5)
    set_policy(sac, [0.0, 0.5493061], 1.0)
    np.testing.assert_allclose(sac.predict(np.zeros(3), deterministic=True)[0], [0.0, 3.75], atol=1e-5)
    sampled, _ = sac.predict(torch.zeros(20_000, 3))
    standardised = torch.atanh(torch.stack([sampled[:, 0] / 2, sampled[:, 1] / 2.5 - 1], 1).double())
    assert standardised.mean(0).tolist() == pytest.approx([0.0, 0.5493], abs=0.03)
    assert standardised.std(0).tolist() == pytest.approx([1.0, 1.0], abs=0.03)


@pytest.mark.parametrize(("low", "high"), [([-2.0, 0.0], [2.0, 5.0]), ([-0.7, 0.1], [0.1, 0.7])], ids=["exact", "rounded"])
def test_the_surest_policy_stays_within_the_bounds(low, high):
    space = spaces.Box(np.array(low, np.float32), np.array(high, np.float32))
    sac = SAC(Spaces(action_space=space), SMALL)
    for sign, expected in ((1.0, space.high), (-1.0, space.low)):
        set_policy(sac, [sign * 100.0] * 2, 1.0)
        for deterministic in (True, False):
            action, _ = sac.predict(np.zeros(3), deterministic=deterministic)
            np.testing.assert_allclose(action, expected, atol=1e-6)
            assert space.contains(action), f"{action - expected} beyond"


def test_stable_baselines3_can_evaluate_a_fleet_of_one():
    config = SACConfig(net_arch=(16,), buffer_size=400, learning_starts=20, batch_size=32, n_steps=40, train_freq=4)
    sac = SAC(make("Pendulum-v1", num_envs=4), config).learn(320)
    for env in (gymnasium.make("Pendulum-v1"), DummyVecEnv([lambda: gymnasium.make("Pendulum-v1")] * 2)):
        mean, _ = evaluate_policy(sac, env, n_eval_episodes=2, deterministic=True, warn=False)
        assert -2000 < mean < 0


def test_predicting_in_a_callback_changes_nothing_in_training():
    drawn = []

    def predict(learner, metrics):
        drawn.append(learner.predict(np.zeros((4, 2), np.float32))[0])

    config = SACConfig(net_arch=(8,), buffer_size=64, batch_size=8, learning_starts=4, n_steps=8)
    runs = [SAC(Drift([0, 1, 2, 3], True), config, num_seeds=2).learn(48, callback) for callback in (None, predict)]
    for name, value in tensors(runs[0]).items():
        assert torch.equal(value, tensors(runs[1])[name]), name
    assert not np.array_equal(drawn[0], drawn[1])


# Saving and loading ---------------------------------------------------------------------------------------------------------


def trained(num_seeds=2):
    config = SACConfig(
        n_steps=8, batch_size=8, net_arch=(8, 4), activation="elu", learning_starts=4, buffer_size=40, tau=0.1,
        learning_rate=1e-2, normalize_observations=True,
    )  # fmt: skip
    return SAC(Drift(list(range(2 * num_seeds)), True), config, num_seeds=num_seeds).learn(48)


@pytest.mark.parametrize("num_seeds", [1, 3])
def test_what_was_saved_acts_the_same(tmp_path, num_seeds):
    sac = trained(num_seeds)
    sac.save(tmp_path / "sac.safetensors")
    # Other copies than in training, and other weights before they are read.
    loaded = SAC.load(tmp_path / "sac.safetensors", Drift(list(range(num_seeds)), True), seed=7)
    assert loaded.config == sac.config
    assert loaded.env_steps == 48
    assert loaded.num_seeds == num_seeds
    for name, value in tensors(sac).items():
        assert torch.equal(value, tensors(loaded)[name]), name
    obs = torch.randn(num_seeds, 20, 2, generator=torch.Generator().manual_seed(0))
    assert torch.equal(sac.act(obs, greedy=True), loaded.act(obs, greedy=True))
    drawn = [x.act(obs, greedy=False, generator=torch.Generator().manual_seed(1)) for x in (sac, loaded)]
    assert torch.equal(*drawn)
    for learner in (sac, loaded):
        learner.value_seed, learner.updates = 2, 0
    assert torch.equal(sac.value(obs), loaded.value(obs))
    # The next update is the same too: targets, temperature, moments and step counts are there.
    batch, noise = random_batch(num_seeds, 16)
    batch = batch._replace(obs=batch.obs[..., :2], next_obs=batch.next_obs[..., :2])
    before = {name: value.clone() for name, value in tensors(sac).items()}
    for learner in (sac, loaded):
        learner.learn_from(batch, noise)
    for name, value in tensors(sac).items():
        torch.testing.assert_close(value, tensors(loaded)[name])
        assert "normalizer" in name or not torch.equal(value, before[name]), name


def test_a_loaded_learner_goes_on_learning(tmp_path):
    sac = trained()
    sac.save(tmp_path / "sac.safetensors")
    loaded = SAC.load(tmp_path / "sac.safetensors", Drift([0, 1, 2, 3], True)).learn(16)
    assert loaded.env_steps == 64
    # Its random actions are behind it, but it has no replay yet: it trains once there are more than four steps again.
    assert (loaded.policy_optimizer.steps - sac.policy_optimizer.steps).tolist() == [6, 6]


@pytest.mark.parametrize(
    ("learning_starts", "buffer_size", "expected"), [(0, 4, 8), (2, 4, 7), (5, 4, 7), (5, 40, 6), (40, 4, 7)]
)
def test_a_loaded_learner_fills_its_replay_first(tmp_path, learning_starts, buffer_size, expected):
    """Eight steps of two environments: as many as before training in the first place, or what the replay holds."""
    config = SACConfig(n_steps=8, batch_size=8, net_arch=(8,), learning_starts=learning_starts, buffer_size=buffer_size)
    SAC(Drift([0, 1], True), config).learn(48).save(tmp_path / "sac.safetensors")
    loaded = SAC.load(tmp_path / "sac.safetensors", Drift([0, 1], True))
    before = loaded.policy_optimizer.steps.clone()
    assert (loaded.learn(16).policy_optimizer.steps - before).tolist() == [expected]


def test_a_policy_that_only_predicts_takes_no_replay(tmp_path, monkeypatch):
    trained().save(tmp_path / "sac.safetensors")
    monkeypatch.setattr(replay, "available_bytes", lambda device: 0)
    loaded = SAC.load(tmp_path / "sac.safetensors", Drift(list(range(60)), True))  # more environments than the replay has steps
    assert loaded.predict(torch.zeros(2, 2))[0].shape == (2, 2)
    loaded = SAC.load(tmp_path / "sac.safetensors", Drift([0, 1], True))
    with pytest.raises(ValueError, match="the replay does not fit"):
        loaded.learn(16)


def test_bounds_in_float64_are_served():
    """Actions and what is learned from them are float32 whatever the bounds are."""
    env = Drift([0, 1], True)
    env.action_space = spaces.Box(np.array([-2.0, 0.0]), np.array([2.0, 5.0]), dtype=np.float64)
    sac = SAC(env, SACConfig(n_steps=8, batch_size=8, net_arch=(8,), learning_starts=4, buffer_size=40)).learn(16)
    assert sac.predict(np.zeros((2, 2)))[0].dtype == np.float32


def test_a_frozen_seed_stays_frozen_when_saved(tmp_path):
    config = SACConfig(n_steps=8, batch_size=8, learning_starts=4, buffer_size=40, net_arch=(8,))
    sac = SAC(Drift([0, 1, 2], True, broken=[1], breaks_at=3), config, num_seeds=3).learn(16)
    sac.save(tmp_path / "sac.safetensors")
    loaded = SAC.load(tmp_path / "sac.safetensors", Drift([0, 1, 2], True))
    assert loaded.alive == [True, False, True]
    assert loaded.failures == sac.failures
    assert list(loaded.failures) == [1]
    before = [optimizer.values.clone() for optimizer in loaded.optimizers]
    loaded.learn(16)
    for optimizer, values in zip(loaded.optimizers, before, strict=True):
        still = [torch.equal(*rows) for rows in zip(optimizer.values, values, strict=True)]
        assert still == [False, True, False] * (len(still) // 3)


class Other(Spaces):
    """Four rows of other spaces than those of `trained`."""

    def __init__(self, observation_space=TWO_NUMBERS, action_space=BOX_ACTION):
        super().__init__(observation_space, action_space, 4)


@pytest.mark.parametrize(
    ("env", "message"),
    [
        (Other(spaces.Box(-1, 1, (3,))), r"sac\.safetensors does not fit"),
        (Other(spaces.Discrete(2)), r"sac\.safetensors does not fit"),
        (Other(spaces.MultiDiscrete([1, 1])), r"sac\.safetensors does not fit"),
        (Other(action_space=spaces.Box(-1, 1, (3,))), r"sac\.safetensors does not fit"),
        (Other(action_space=spaces.Discrete(2)), "use PPO"),
    ],
)
def test_an_environment_with_other_spaces_is_refused(tmp_path, env, message):
    trained().save(tmp_path / "sac.safetensors")
    with pytest.raises(ValueError, match=message):
        SAC.load(tmp_path / "sac.safetensors", env)


def test_an_environment_with_other_action_bounds_is_refused(tmp_path):
    path = tmp_path / "sac.safetensors"
    trained().save(path)
    wider = spaces.Box(np.array([-1, -2], np.float32), np.array([1, 2], np.float32))
    with pytest.raises(ValueError, match=r"trained with actions in \[\[-1.0, -1.0\], \[1.0, 1.0\]\], not \[\[-1.0, -2.0\]"):
        SAC.load(path, Other(action_space=wider))
    assert SAC.load(path, Other(action_space=spaces.Box(-1.0, 1.0, (2,), np.float64))).num_seeds == 2
    # A file of before bounds were written says nothing about them.
    tree, header = load_tree(path, "cpu")
    header.pop("action_bounds")
    save_tree(path, tree, header)
    assert SAC.load(path, Other(action_space=wider)).num_seeds == 2


def test_files_that_are_something_else_are_refused(tmp_path):
    path = tmp_path / "file"
    with pytest.raises(FileNotFoundError):
        SAC.load(path, Spaces())
    torch.save({"policy": torch.zeros(3)}, path)  # a pickle
    with pytest.raises(ValueError, match="is not a saved SAC"):
        SAC.load(path, Spaces())
    path.write_bytes(b"\x10" + bytes(range(200)))
    with pytest.raises(ValueError, match="is not a saved SAC"):
        SAC.load(path, Spaces())
    ppo = '{"clip_range": 0.2, "net_arch": [4]}'
    for metadata in (None, {"config": "{}"}, {"config": ppo, "num_seeds": "1", "env_steps": "0"}):
        save_file({"policy": torch.zeros(3)}, path, metadata=metadata)
        with pytest.raises(ValueError, match="is not a saved SAC"):
            SAC.load(path, Spaces())
