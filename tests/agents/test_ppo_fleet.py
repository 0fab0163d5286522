"""The seeds of a fleet learn as if each were alone, and one that stops or breaks leaves the others as they are."""

import math

import pytest
import torch
from ppo_helpers import Drift, Spaces, assert_same_seed, copy_seed, random_batch, state, steps_taken, tensors

from recall_traces.agents.ppo import PPO, Minibatch, PPOConfig


def row(batch, seed):
    return Minibatch(*(x[seed : seed + 1] for x in vars(batch).values()))


# Together and one by one ----------------------------------------------------------------------------------------------------


def test_updates_of_a_fleet_are_those_of_fleets_of_one():
    config = PPOConfig(batch_size=32, n_epochs=5, ent_coef=0.01, learning_rate=1e-2)
    fleet = PPO(Spaces(num_envs=6), config, num_seeds=3)
    singles = [PPO(Spaces(num_envs=2), config) for _ in range(3)]
    for s, single in enumerate(singles):
        copy_seed(fleet, single, s)
    for round_ in range(3):
        batch = random_batch(fleet, 32, round_)
        fleet.update(batch, 1e-2)
        for s, single in enumerate(singles):
            single.update(row(batch, s), 1e-2)
    for s, single in enumerate(singles):
        assert_same_seed(fleet, single, s)


def test_target_kl_stops_single_seeds():
    config = PPOConfig(batch_size=32, n_epochs=10, learning_rate=3e-3, target_kl=0.02)
    fleet = PPO(Spaces(num_envs=3), config, num_seeds=3)
    singles = [PPO(Spaces(), config) for _ in range(3)]
    for s, single in enumerate(singles):
        copy_seed(fleet, single, s)
    batch = random_batch(fleet, 32)
    with torch.no_grad():
        batch.log_probs.copy_(fleet.log_prob(batch.obs, batch.actions))
    batch.log_probs[1] += 0.4 * torch.randn(32, generator=torch.Generator().manual_seed(1))  # seed 1 is far off from the start
    before = state(fleet, 1).clone()
    fleet.update(batch, 3e-3)
    assert torch.equal(state(fleet, 1), before)
    taken = steps_taken(fleet)
    assert taken[1] == 0
    assert 0 < taken[0] < 10
    assert 0 < taken[2] < 10
    for s, single in enumerate(singles):
        single.update(row(batch, s), 3e-3)
        assert steps_taken(single) == [taken[s]]
        assert_same_seed(fleet, single, s)
    # The stop holds for one rollout only.
    fleet.update(random_batch(fleet, 32, 5), 3e-3)
    assert steps_taken(fleet)[1] > 0


@pytest.mark.parametrize("box_actions", [False, True])
def test_learning_as_a_fleet_is_learning_alone(box_actions, monkeypatch):
    """Whole training: with the same noise and minibatches, three seeds together are three seeds one by one."""
    config = PPOConfig(
        n_steps=10, batch_size=20, n_epochs=2, learning_rate=1e-2, learning_rate_schedule="linear", net_arch=(8,),
        normalize_observations=True, normalize_rewards=True,
    )  # fmt: skip
    env_rows = [0, 1, 2, 3, 4, 5]  # two of each seed
    fleet = PPO(Drift(env_rows, box_actions), config, num_seeds=3)
    singles = [PPO(Drift(env_rows[2 * s : 2 * s + 2], box_actions), config) for s in range(3)]
    for s, single in enumerate(singles):
        copy_seed(fleet, single, s)
    draws = []
    draw = fleet.policy.noise

    def remember(shape, generator):
        draws.append(draw(shape, generator))
        return draws[-1]

    monkeypatch.setattr(fleet.policy, "noise", remember, raising=False)
    fleet.learn(100)
    for s, single in enumerate(singles):
        left = [x[:, s : s + 1] for x in draws]
        monkeypatch.setattr(single.policy, "noise", lambda shape, generator, left=left: left.pop(0), raising=False)
        single.learn(100)
        assert not left
        assert_same_seed(fleet, single, s, atol=1e-4, rtol=1e-4)
    assert fleet.env_steps == 100


# Seeds that are left out ----------------------------------------------------------------------------------------------------


def test_a_frozen_seed_keeps_everything_and_the_others_do_not_notice():
    config = PPOConfig(batch_size=32, n_epochs=3)
    fleet, reference = (PPO(Spaces(num_envs=3), config, num_seeds=3) for _ in range(2))
    batch = random_batch(fleet, 32)
    fleet.update(batch, 1e-2)  # so that there is momentum
    reference.update(batch, 1e-2)
    fleet.alive[1] = False
    before = state(fleet, 1).clone()
    fleet.update(batch, 1e-2)
    reference.update(batch, 1e-2)
    assert torch.equal(state(fleet, 1), before)
    assert torch.equal(state(fleet, 0), state(reference, 0))
    assert torch.equal(state(fleet, 2), state(reference, 2))


def test_a_seed_that_is_left_out_does_not_mind_a_gradient_that_is_not_finite():
    fleet = PPO(Spaces(num_envs=2), PPOConfig(batch_size=32, n_epochs=1), num_seeds=2)
    batch = random_batch(fleet, 32)
    fleet.update(batch, 1e-3)
    before = state(fleet, 1).clone()
    fleet.alive[1] = False
    batch.returns[1] = math.nan
    fleet.update(batch, 1e-3)
    assert torch.equal(state(fleet, 1), before)


# Seeds that break -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("what", ["rewards", "obs"])
@pytest.mark.parametrize("box_actions", [False, True])
def test_a_broken_environment_stops_its_seed_alone(value, what, box_actions):
    config = PPOConfig(n_steps=8, batch_size=8, n_epochs=2, normalize_observations=True, normalize_rewards=True)
    # Environment 1 of seed 1 is row 3; the 13th step of each environment is the 5th of the second rollout.
    broken = Drift([0, 1, 2, 3, 4, 5], box_actions, broken=[3], breaks_at=13, what=what, value=value)
    ppo = PPO(broken, config, num_seeds=3).learn(80)
    reference = PPO(Drift([0, 1, 2, 3, 4, 5], box_actions), config, num_seeds=3).learn(80)
    after_one_rollout = PPO(Drift([0, 1, 2, 3, 4, 5], box_actions), config, num_seeds=3).learn(16)
    assert ppo.env_steps == 80
    assert ppo.alive == [True, False, True]
    assert list(ppo.failures) == [1]
    assert "seed 1" in ppo.failures[1]
    assert "environment 1 " in ppo.failures[1]
    assert "step 26" in ppo.failures[1]  # 13 steps of two environments
    for s in (0, 2):
        assert torch.equal(state(ppo, s), state(reference, s))
    assert torch.equal(state(ppo, 1), state(after_one_rollout, 1))
    for name, tensor in tensors(ppo).items():
        assert bool(tensor.isfinite().all()), name


def test_learning_stops_when_every_seed_is_broken():
    ppo = PPO(Drift([0, 1], broken=[0, 1], breaks_at=3), PPOConfig(n_steps=8), num_seeds=2).learn(80)
    assert ppo.env_steps == 8
    assert sorted(ppo.failures) == [0, 1]


@pytest.mark.parametrize("which", ["policy_optimizer", "critic_optimizer"])
def test_weights_that_are_not_finite_stop_their_seed_alone(which):
    config = PPOConfig(n_steps=8, batch_size=8)
    ppo, reference = (PPO(Drift([0, 1, 2, 3]), config, num_seeds=2).learn(16) for _ in range(2))
    getattr(ppo, which).values[1, 0] = math.nan
    ppo.learn(32)
    reference.learn(32)
    assert ppo.alive == [True, False]
    assert "seed 1" in ppo.failures[1]
    assert "weights" in ppo.failures[1]
    assert torch.equal(state(ppo, 0), state(reference, 0))
    assert bool(ppo.act(torch.zeros(2, 1, 2), greedy=True).isfinite().all())
