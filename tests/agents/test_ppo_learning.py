"""The learning loop: small tasks that it must solve, rollouts and minibatches, normalisers, schedule and seeds."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from ppo_helpers import Drift, Probe, Spaces, always, never, signs, tensors, zeros

from recall_traces.agents.ppo import PPO, Minibatch, PPOConfig

# Probes: each task can be failed for one reason -----------------------------------------------------------------------------


PROBE = PPOConfig(learning_rate=5e-3, n_steps=16, batch_size=64, n_epochs=4, gamma=0.8, net_arch=(16,))
SEEDS = 8


def train(first, transition, steps=4096, action_space=None, **changes):
    config = PPOConfig(**{**vars(PROBE), **changes})
    return PPO(Probe(8 * SEEDS, first, transition, action_space), config, num_seeds=SEEDS, seed=0).learn(steps)


def values(ppo, obs):
    return ppo.value(torch.full((SEEDS, 1, 1), obs))[:, 0].tolist()


def chance(ppo, obs, action):
    with torch.no_grad():
        return ppo.log_prob(torch.full((SEEDS, 1, 1), obs), torch.full((SEEDS, 1), action)).exp()[:, 0]


def near(value, tolerance=0.1):
    return pytest.approx([value] * SEEDS, abs=tolerance)


def test_probe_constant_reward():
    """Fails if the critic does not learn at all, or bootstraps over termination (the value would be 5)."""
    ppo = train(zeros, lambda obs, actions, age: (torch.ones_like(obs), obs, always(obs), never(obs)))
    assert values(ppo, 0.0) == near(1.0)


def test_probe_reward_by_observation():
    """Fails if rewards are paired with the wrong observations."""
    ppo = train(signs, lambda obs, actions, age: (obs, obs, always(obs), never(obs)))
    assert values(ppo, 1.0) == near(1.0)
    assert values(ppo, -1.0) == near(-1.0)


def test_probe_delayed_reward():
    """Fails if discounting or the way back in time is wrong."""

    def two_steps(obs, actions, age):
        return (obs == 1.0).float(), obs + 1.0, obs == 1.0, never(obs)

    ppo = train(zeros, two_steps)
    assert values(ppo, 1.0) == near(1.0)
    assert values(ppo, 0.0) == near(0.8)


def test_probe_truncation():
    """Fails if truncation is termination (the value would be 1)."""
    ppo = train(zeros, lambda obs, actions, age: (torch.ones_like(obs), obs, never(obs), always(obs)), steps=8192)
    assert values(ppo, 0.0) == near(5.0, 0.5)


def test_probe_final_observation():
    """Fails if a truncated step bootstraps from the next episode's first observation instead of its true successor."""

    def leads_from_minus_one_to_one(obs, actions, age):
        good = obs == 1.0
        return good.float(), torch.ones_like(obs), good, ~good

    ppo = train(signs, leads_from_minus_one_to_one)
    assert values(ppo, 1.0) == near(1.0)
    # From the first observation it would be V(-1) = 0.8 · (V(-1) + 1) / 2, so 0.67.
    assert values(ppo, -1.0) == near(0.8, 0.06)


def test_probe_reward_by_action():
    """Fails if the policy does not learn."""
    ppo = train(zeros, lambda obs, actions, age: (actions.float(), obs, always(obs), never(obs)))
    assert chance(ppo, 0.0, 1).min() > 0.95


def test_probe_reward_by_action_and_observation():
    """Fails if advantages are paired with the wrong observations or actions."""
    ppo = train(signs, lambda obs, actions, age: ((actions == (obs > 0)).float(), obs, always(obs), never(obs)))
    assert chance(ppo, 1.0, 1).min() > 0.95
    assert chance(ppo, -1.0, 0).min() > 0.95


def test_probe_box_action():
    """Fails if continuous actions are paired, clipped or scaled wrongly: the best one is 0.5 above the observation."""

    def miss(obs, actions, age):
        assert bool((actions.abs() <= 2).all())
        return -((actions[:, 0] - 0.5 - obs) ** 2), obs, always(obs), never(obs)

    ppo = train(signs, miss, steps=16_384, action_space=spaces.Box(-2, 2, (1,)))
    for obs in (-1.0, 1.0):
        actions = ppo.act(torch.full((SEEDS, 1, 1), obs), greedy=True)[:, 0, 0]
        assert actions.tolist() == near(obs + 0.5, 0.25)


# Rollouts and minibatches ---------------------------------------------------------------------------------------------------


def test_actions_leave_within_bounds_and_are_stored_as_drawn():
    env = Probe(512, zeros, lambda obs, actions, age: (obs, obs, always(obs), never(obs)), spaces.Box(-0.5, 0.5, (1,)))
    seen, step = [], env.step
    env.step = lambda actions: (seen.append(actions), step(actions))[1]
    ppo = PPO(env, PPOConfig(n_steps=2))
    stored = ppo.collect().actions.flatten(1, 2)
    taken = torch.stack(seen)
    assert stored.abs().max() > 0.5
    assert torch.equal(taken, stored.clamp(-0.5, 0.5))
    assert ppo.act(torch.zeros(1, 1000, 1), greedy=False).abs().max() == 0.5


def test_episodes_go_on_from_one_rollout_to_the_next():
    def climb(obs, actions, age):
        return obs, obs + 1.0, age == 7, never(obs)

    ppo = PPO(Probe(2, zeros, climb), PPOConfig(n_steps=5))
    seen = torch.cat([ppo.collect().obs for _ in range(3)])
    assert seen[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4, 5, 6, 0, 1, 2, 3, 4, 5, 6, 0]


def test_steps_are_counted_per_seed_and_in_whole_rollouts():
    ppo, seen = PPO(Drift([0, 1, 2, 3]), PPOConfig(n_steps=5, n_epochs=1), num_seeds=2), []
    ppo.learn(25, lambda learner, metrics: seen.append((learner.env_steps, set(metrics))))
    assert [steps for steps, _ in seen] == [0, 10, 20, 30]
    assert seen[0][1] == set()
    assert {"policy_loss", "value_loss", "entropy", "approx_kl", "seconds/collect"} <= seen[1][1]


def test_minibatches_take_every_row_once_per_epoch_and_keep_rows_together():
    ppo = PPO(Spaces(num_envs=4), PPOConfig(batch_size=8, n_epochs=3), num_seeds=2)
    rows = 27  # three minibatches, three rows left out
    number = torch.arange(2 * rows, dtype=torch.float32).view(2, rows)
    batch = Minibatch(number[..., None].expand(2, rows, 3) / 100, number[..., None].expand(2, rows, 2) / 100, *[number / 100] * 3)
    seen = []
    original = ppo.loss

    def spy(minibatch):
        seen.append(minibatch)
        return original(minibatch)

    ppo.loss = spy
    ppo.update(batch, 0.0)
    assert len(seen) == 9
    for minibatch in seen:
        for value in (
            minibatch.actions,
            minibatch.log_probs[..., None],
            minibatch.advantages[..., None],
            minibatch.returns[..., None],
        ):
            assert torch.equal(value[..., 0], minibatch.obs[..., 0])
    orders = torch.stack([(torch.cat([x.returns for x in seen[e : e + 3]], 1) * 100).round() for e in (0, 3, 6)])
    for s in range(2):
        for epoch in orders[:, s]:
            assert len(set(epoch.tolist())) == 24
            assert set(epoch.tolist()) <= set(number[s].tolist())
        assert not torch.equal(orders[0, s], orders[1, s])  # another order in every epoch
    assert not torch.equal(orders[0, 0], orders[0, 1] - rows)  # and for every seed


def test_minibatches_of_one_step_are_as_in_stable_baselines3():
    """A single advantage has no standard deviation."""
    ppo = PPO(Drift([0, 1]), PPOConfig(n_steps=4, batch_size=1, n_epochs=1)).learn(16)
    assert not ppo.failures
    assert bool(ppo.policy_optimizer.values.isfinite().all())


# Normalisers, schedule ------------------------------------------------------------------------------------------------------


def test_observations_are_normalised_by_all_that_was_seen():
    ppo = PPO(Drift([0, 1, 2, 3]), PPOConfig(n_steps=9, batch_size=18, n_epochs=1, normalize_observations=True), num_seeds=2)
    rollouts, original = [], ppo.estimate

    def spy(transitions, bonus):
        rollouts.append(transitions.obs.transpose(0, 1).flatten(1, 2))
        return original(transitions, bonus)

    ppo.estimate = spy
    ppo.learn(90)
    seen = torch.cat(rollouts, 1)
    assert seen.shape == (2, 90, 2)
    for s in range(2):
        mean, std = seen[s].numpy().mean(0), seen[s].numpy().std(0)
        np.testing.assert_allclose(ppo.obs_normalizer.mean[s, 0], mean, atol=1e-5)
        np.testing.assert_allclose(ppo.obs_normalizer.var[s, 0].sqrt(), std, rtol=1e-4)
        # The network really sees them: a policy is a function of normalised observations.
        probe = torch.tensor([[[0.3, -0.4]]]).expand(2, 1, 2)
        normal = (probe[s, 0].numpy() - mean) / std
        seen_by_policy = ppo.critic(torch.as_tensor(normal, dtype=torch.float32).expand(2, 1, 2))[s, 0, 0]
        assert float(ppo.value(probe)[s, 0]) == pytest.approx(seen_by_policy.item(), abs=1e-4)


def test_finite_observations_are_never_normalised():
    ppo = PPO(Spaces(spaces.Discrete(4), spaces.Discrete(2)), PPOConfig(normalize_observations=True))
    obs = torch.tensor([[0, 1, 2, 3]])
    assert torch.equal(ppo.obs_normalizer(obs), obs)


def test_values_are_in_the_units_of_the_environments_rewards():
    """Self-imitation compares them with recorded returns."""
    ppo = train(signs, lambda obs, actions, age: (100 + 50 * obs, obs, always(obs), never(obs)), normalize_rewards=True)
    assert values(ppo, 1.0) == near(150.0, 15.0)
    assert values(ppo, -1.0) == near(50.0, 15.0)


@pytest.mark.parametrize(("schedule", "expected"), [("constant", [1.0] * 4), ("linear", [1.0, 0.75, 0.5, 0.25])])
def test_learning_rate_schedule(schedule, expected):
    ppo = PPO(Drift([0, 1]), PPOConfig(learning_rate=2e-3, learning_rate_schedule=schedule, n_steps=5, n_epochs=1))
    rates, original = [], ppo.update
    ppo.update = lambda rollout, rate: (rates.append(rate), original(rollout, rate))[1]
    ppo.learn(40)
    assert rates == pytest.approx([2e-3 * x for x in expected])
    ppo.learn(40)  # each call has a schedule of its own
    assert rates[4:] == pytest.approx([2e-3 * x for x in expected])


# Random numbers -------------------------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_run_and_another_another():
    first, again, other = (PPO(Drift([0, 1, 2, 3]), PPOConfig(n_steps=8), num_seeds=2, seed=seed).learn(64) for seed in (3, 3, 4))
    for name, value in tensors(first).items():
        assert torch.equal(value, tensors(again)[name]), name
    assert not torch.equal(first.policy_optimizer.values, other.policy_optimizer.values)


def test_torchs_global_generator_is_left_alone():
    before = torch.get_rng_state()
    PPO(Drift([0, 1]), PPOConfig(n_steps=8)).learn(32)
    assert torch.equal(torch.get_rng_state(), before)
