"""The learning loop: small tasks that it must solve, when it trains, and on what."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from gymnasium import spaces
from ppo_helpers import BOX, Drift, Probe, Spaces, always, never, signs, zeros
from sac_helpers import UNEQUAL, Columns, Given, random_batch

from recall_traces.agents.arms import ArmConfigs, make_learner
from recall_traces.agents.bonus import BonusConfig, VisitBonus
from recall_traces.agents.sac import SAC, Batch, SACConfig
from recall_traces.agents.seams import NoBonus, NoImitation
from recall_traces.data import Transitions
from recall_traces.recall import RecallConfig

# What the critics are drawn to ----------------------------------------------------------------------------------------------


def flat(sac, first=1.0, second=1.0):
    """Make the policy tanh of a standard normal, and the target critics the same everywhere."""
    sac.policy_optimizer.values.zero_()
    sac.critic_optimizer.values.zero_()
    sac.target_values.zero_()
    for row, value in enumerate((first, second)):
        sac.target_critics.later[-1].bias.data[row] = value


def test_targets_are_the_reward_and_unless_terminated_the_discounted_soft_value():
    """r + γ (min(3, 2) - α log π), worked out by hand for noise 0 and 1: log π is that of the normal less log(1 - tanh²)."""
    config = SACConfig(net_arch=(4,), gamma=0.5, tau=0.1, ent_coef=0.1, buffer_size=8)
    sac = SAC(Spaces(action_space=spaces.Box(-1, 1, (1,))), config)
    flat(sac, 3.0, 2.0)
    sac.critics.later[-1].bias.data[1] = 0.5  # the first critic says 0, the second 0.5
    rewards, terminated = torch.tensor([[1.0, 1.0, -4.0]]), torch.tensor([[False, True, False]])
    obs = torch.zeros(1, 3, 3)
    noise = torch.tensor([9.0, 9.0, 9.0, 0.0, 0.0, 1.0]).view(1, 6, 1)
    _, errors = sac.learn_from(Batch(obs, torch.zeros(1, 3, 1), rewards, obs, terminated, torch.ones(1, 3)), noise)
    log_normal = -0.5 * math.log(2 * math.pi)
    at_zero, at_one = log_normal, log_normal - 0.5 - math.log(1 - math.tanh(1.0) ** 2)
    targets = [1 + 0.5 * (2 - 0.1 * at_zero), 1.0, -4 + 0.5 * (2 - 0.1 * at_one)]
    # Of the two critics the one that is further off.
    assert errors[0].tolist() == pytest.approx([max(abs(x), abs(x - 0.5)) for x in targets], rel=1e-4)
    expected = [0.9 * old + 0.1 * float(new.detach()) for old, new in zip((3.0, 2.0), sac.critics.later[-1].bias, strict=True)]
    assert sac.target_critics.later[-1].bias.flatten().tolist() == pytest.approx(expected, rel=1e-5)


def test_weights_scale_the_critics_loss_of_their_step():
    sac = SAC(Spaces(), SACConfig(net_arch=(4,), gamma=0.0, buffer_size=8))
    flat(sac)
    batch, noise = random_batch(1, 8)
    metrics, errors = sac.learn_from(batch, noise)
    assert torch.equal(errors, batch.rewards.abs())
    expected = (batch.weights * batch.rewards.square()).mean()  # half of it by each of the two critics
    assert float(metrics["critic_loss"][0]) == pytest.approx(float(expected), rel=1e-5)


# Probes: each task can be failed for one reason -----------------------------------------------------------------------------


SEEDS = 8
PROBE = SACConfig(
    learning_rate=1e-2, buffer_size=400, learning_starts=20, batch_size=32, tau=0.1, gamma=0.5, ent_coef=0.0, n_steps=50,
    net_arch=(16,),
)  # fmt: skip


def train(first, transition, steps, action_space=BOX, **changes):
    env = Probe(2 * SEEDS, first, transition, action_space)
    return SAC(env, replace(PROBE, **changes), num_seeds=SEEDS).learn(steps)


def values(sac, obs):
    return sac.value(torch.full((SEEDS, 1, 1), obs))[:, 0].tolist()


def near(value, tolerance=0.1):
    return pytest.approx([value] * SEEDS, abs=tolerance)


def test_probe_constant_reward():
    """An episode that is cut after each step is worth 1 / (1 - 0.5): 1 if truncation is termination."""
    sac = train(zeros, lambda obs, actions, age: (torch.ones_like(obs), obs, never(obs), always(obs)), 500)
    assert values(sac, 0.0) == near(2.0, 0.15)


def test_probe_final_observation():
    """-1 is followed by 1, where a reward of 1 ends the episode.

    Fails if a terminated step bootstraps (V(1) is at least 1.33 then), a truncated one does not (V(-1) is 0), or does so from
    the first observation of the next episode instead of its true successor (V(-1) is 0.33).
    """

    def leads_from_minus_one_to_one(obs, actions, age):
        good = obs == 1.0
        return good.float(), torch.ones_like(obs), good, ~good

    sac = train(signs, leads_from_minus_one_to_one, 500)
    assert values(sac, 1.0) == near(1.0)
    assert values(sac, -1.0) == near(0.5, 0.08)


def test_learning_of_eight_seeds():
    """Fails if actions are stored, scaled or paired wrongly: the best one is 0.5 above the observation, twice out of bounds.

    The learned temperature ends where the entropy is what it should be, in nats of actions in [-1, 1].
    """
    space, entropies = spaces.Box(-1, 3, (1,)), []

    def miss(obs, actions, age):
        assert bool(((actions >= -1) & (actions <= 3)).all())
        return -((actions[:, 0] - 0.5 - obs) ** 2), obs, always(obs), never(obs)

    env = Probe(2 * SEEDS, signs, miss, space)
    sac = SAC(env, replace(PROBE, ent_coef=None, target_entropy=-1.5, learning_rate=2e-2), num_seeds=SEEDS)
    sac.learn(1400, lambda _, metrics: entropies.append(metrics.get("entropy")))
    misses = [sac.act(torch.full((SEEDS, 1, 1), obs), greedy=True) - 0.5 - obs for obs in (-1.0, 1.0)]
    assert float(torch.stack(misses).abs().mean()) < 0.2  # 0.02 to 0.05 with other seeds, 1 before learning
    assert float(torch.stack(entropies[-5:]).mean()) == pytest.approx(-1.5, abs=0.3)
    assert bool((sac.ent_coef < 0.3).all())


# When it acts at random, and when it trains ---------------------------------------------------------------------------------


def test_actions_are_uniform_within_the_bounds_until_learning_starts():
    """A policy of which every action is known shows which steps are its own."""
    sac = SAC(
        Probe(2 * 500, zeros, lambda obs, actions, age: (obs, obs, always(obs), never(obs)), UNEQUAL),
        SACConfig(learning_starts=2000, n_steps=5, batch_size=4, net_arch=(4,), buffer_size=5000, gradient_steps=0),
        num_seeds=2,
    )
    flat(sac)
    sac.policy.mlp.later[-1].bias.data[..., 2:] = -20.0
    steps = [sac.collect() for _ in range(5)]
    random, own = (torch.stack([x.actions for x in part]) for part in (steps[:4], steps[4:]))
    torch.testing.assert_close(own, torch.tensor([0.0, 2.5]).expand_as(own), atol=1e-5, rtol=0)
    for s in range(2):
        for dimension, (low, high) in enumerate(zip(UNEQUAL.low, UNEQUAL.high, strict=True)):
            share = (random[:, s, :, dimension].flatten() - low) / (high - low)
            assert share.histc(10, 0.0, 1.0).sum() == 2000
            assert (share.histc(10, 0.0, 1.0) - 200).abs().max() < 70  # five standard deviations
    assert np.corrcoef(random[..., 0].flatten(), random[..., 1].flatten())[0, 1] == pytest.approx(0.0, abs=0.1)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, 12),
        ({"gradient_steps": 3}, 36),
        ({"gradient_steps": 0}, 0),
        ({"gradient_steps": -1}, 24),  # as many as a seed took steps in its two environments
        ({"train_freq": 3}, 4),
        ({"train_freq": 3, "gradient_steps": 2}, 8),
        ({"train_freq": 3, "gradient_steps": -1}, 24),
        ({"learning_starts": 9}, 8),  # not after steps 2, 4, 6 and 8
        ({"learning_starts": 10}, 7),  # more steps than that must have been taken
        ({"learning_starts": 100}, 0),
        ({"train_freq": 4}, 3),  # a rollout of 6 steps is no reason to count anew
        ({"train_freq": 12, "gradient_steps": -1}, 24),
    ],
)
def test_number_of_gradient_steps(change, expected):
    """Twelve steps in two rollouts, of two environments of each seed."""
    config = replace(SACConfig(n_steps=6, batch_size=4, learning_starts=0, net_arch=(4,), buffer_size=100), **change)
    sac = SAC(Drift([0, 1, 2, 3], True), config, num_seeds=2).learn(24)
    assert sac.env_steps == 24
    for optimizer in sac.optimizers:
        assert optimizer.steps.tolist() == [expected] * len(optimizer.steps)


def test_steps_are_counted_per_seed_and_in_whole_rollouts():
    config = SACConfig(n_steps=5, batch_size=4, learning_starts=10, net_arch=(4,), buffer_size=100)
    sac, seen = SAC(Drift([0, 1, 2, 3], True), config, num_seeds=2), []
    sac.learn(25, lambda learner, metrics: seen.append((learner.env_steps, set(metrics))))
    assert [steps for steps, _ in seen] == [0, 10, 20, 30]
    assert seen[0][1] == set()
    learned = {"critic_loss", "actor_loss", "entropy", "ent_coef"}
    assert not learned & seen[1][1]
    assert learned | {"seconds/collect", "seconds/update", "seconds/recall"} <= seen[2][1]


# What it learns from --------------------------------------------------------------------------------------------------------


def test_steps_are_replayed_as_they_happened():
    """Actions as they were played, in the bounds of the environment, and episodes that go on from rollout to rollout."""

    def climb(obs, actions, age):
        return obs + actions.sum(-1), obs + 1.0, age == 5, age == 7

    env, played = Probe(2, zeros, climb, UNEQUAL), []
    step = env.step
    env.step = lambda actions: (played.append(actions), step(actions))[1]
    config = SACConfig(n_steps=3, learning_starts=6, train_freq=1, batch_size=4, net_arch=(4,), buffer_size=30)
    sac = SAC(env, config).learn(24)
    time = torch.arange(12)
    assert len(sac.replay) == 24
    held = sac.replay.at(torch.arange(24)[None]).map(lambda x: x[0].unflatten(0, (12, 2)))
    assert torch.equal(held.actions, torch.stack(played))
    assert torch.equal(held.obs[..., 0], (time % 5).float()[:, None].expand(12, 2))
    assert torch.equal(held.next_obs, held.obs + 1)
    assert torch.equal(held.rewards, held.obs[..., 0] + held.actions.sum(-1))
    assert torch.equal(held.terminated, (time % 5 == 4)[:, None].expand(12, 2))
    # What the critics see lies in [-1, 1].
    sac.config, sac.sampling = replace(config, batch_size=24), Columns(torch.arange(24)[None])
    expected = torch.stack(played).flatten(0, 1) / torch.tensor([2.0, 2.5]) - torch.tensor([0.0, 1.0])
    torch.testing.assert_close(sac.draw()[0].actions[0], expected)
    assert expected.abs().amax(0).tolist() == pytest.approx([1.0, 1.0], abs=0.3)


def filled(bonus=None, recall=None, columns=(0, 1, 2, 2), **changes):
    """A learner of two seeds that has taken four made-up steps in each, and draws the given columns."""
    config = SACConfig(**{"net_arch": (4,), "buffer_size": 4, "batch_size": 4, **changes})
    drawn = torch.tensor(columns).expand(2, -1)
    sac = SAC(Spaces(num_envs=8), config, bonus=bonus, recall=recall, sampling=Columns(drawn), num_seeds=2)
    number = torch.arange(8.0).view(2, 4)
    obs = number[..., None].expand(2, 4, 3) / 10
    sac.replay.add(Transitions(obs, obs[..., :2], number, obs + 0.05, number > 5, number < 2))
    return sac


class Paying(NoBonus):
    """Pays 1000 and the first number of where one arrives, and 1000 more after each rollout."""

    pay = 1000.0

    def rewards(self, transitions):
        self.pay += 1000.0
        return torch.full_like(transitions.rewards, 7.0)

    def at(self, next_obs):
        return self.pay + next_obs[..., 0]


def test_the_bonus_is_paid_by_what_is_known_when_a_batch_is_drawn():
    sac = filled(Paying())
    number = torch.tensor([[0.0, 1, 2, 2], [4, 5, 6, 6]])
    for pay in (1000.0, 5.0):
        sac.bonus.pay = pay
        batch, columns = sac.draw()
        torch.testing.assert_close(batch.rewards, number + pay + number / 10 + 0.05)
        assert columns.tolist() == [[0, 1, 2, 2]] * 2
        assert torch.equal(batch.terminated, number > 5)
        torch.testing.assert_close(batch.next_obs, (number / 10 + 0.05)[..., None].expand(2, 4, 3))
    assert torch.equal(sac.replay.steps.rewards, torch.arange(8.0).view(2, 4))


def test_visits_since_a_step_was_taken_lower_its_bonus():
    bonus = VisitBonus(BOX, BonusConfig(coefficient=6.0), num_seeds=2, seed=0, device="cpu")
    sac = filled(bonus)
    rewards = sac.draw()[0].rewards
    assert torch.equal(rewards, torch.tensor([[0.0, 1, 2, 2], [4, 5, 6, 6]]) + 6)
    arrived = sac.replay.steps.map(lambda x: x[None, :, :1].expand(4, *x[:, :1].shape))  # four times where column 0 leads
    bonus.rewards(arrived)
    paid = sac.draw()[0].rewards - torch.tensor([[0.0, 1, 2, 2], [4, 5, 6, 6]])
    assert paid[:, 0].tolist() == [3.0, 3.0]
    assert paid[:, 2:].tolist() == [[6.0, 6.0]] * 2


def test_the_sampling_hears_how_far_the_critics_were_off():
    sac = filled(ent_coef=0.0, gamma=0.0)
    flat(sac)
    heard = []
    sac.sampling.learned = lambda columns, errors: heard.append((columns, errors))
    sac.update()
    [(columns, errors)] = heard
    assert columns.tolist() == [[0, 1, 2, 2]] * 2
    assert torch.equal(errors, torch.tensor([[0.0, 1, 2, 2], [4, 5, 6, 6]]))  # critics that say 0, and rewards alone


class Watching(NoImitation):
    """Notes what it is told and asked; there is nothing to imitate in what it gives."""

    imitation_ratio, imitation_batch_size, imitation_coefficient = 1.0, 5, 1.0

    def __init__(self):
        self.told, self.heard, self.asked, self.values = [], 0, [], []

    def observe(self, transitions, bonus=None):
        self.told.append((transitions, bonus))

    def update(self, value=None):
        self.heard += 1
        self.values.append(value)
        assert value(torch.zeros(2, 3, 2)).shape == (2, 3)
        return {"recall/heard": torch.full((2,), float(self.heard))}

    def sample(self, batch_size, value=None):
        self.asked.append((batch_size, self.heard))
        self.values.append(value)
        empty = Given(torch.zeros(2, 5, 2), torch.zeros(2, 5, 2), ())
        return empty.traces


def test_recall_hears_of_every_rollout_and_is_asked_once_per_gradient_step():
    config = SACConfig(n_steps=5, batch_size=4, learning_starts=0, net_arch=(4,), buffer_size=100, gradient_steps=2)
    watching, logged = Watching(), []
    sac = SAC(Drift([0, 1, 2, 3], True), config, recall=watching, bonus=Paying(), num_seeds=2)
    sac.learn(30, lambda _, metrics: logged.append(metrics))
    assert len(watching.told) == 3
    held = sac.replay.steps
    for k, (transitions, bonus) in enumerate(watching.told):
        assert transitions.rewards.shape == (5, 2, 2)
        assert torch.equal(bonus, torch.full((5, 2, 2), 7.0))
        for seen, kept in zip(vars(transitions).values(), vars(held).values(), strict=True):
            assert torch.equal(seen.transpose(0, 1).flatten(1, 2), kept[:, 10 * k : 10 * k + 10])
    assert watching.values == [sac.value] * (3 + 20)
    # Before its first update there is nothing to ask for.
    assert watching.asked == [(5, 1)] * 10 + [(5, 2)] * 10
    assert "imitation_loss" not in logged[1]
    assert logged[2]["imitation_loss"].tolist() == [0.0, 0.0]
    assert logged[3]["recall/heard"].tolist() == [3.0, 3.0]


def test_where_every_step_pays_recall_changes_nothing_bit_for_bit():
    class Pays(Drift):
        def step(self, actions):
            return replace(super().step(actions), rewards=torch.ones(self.num_envs))

    config = SACConfig(n_steps=8, batch_size=4, learning_starts=0, net_arch=(4,), buffer_size=100)
    configs = ArmConfigs(recall=RecallConfig(trace_length=5, search_length=5))
    ends = []
    for arm in ("none", "recall"):
        sac = make_learner("sac", arm, Pays([0, 1, 2, 3], True), config, configs, 2).learn(48)
        ends.append((sac.policy_optimizer.values, sac.critic_optimizer.values))
    assert sac.recall.share.nothing
    assert torch.equal(ends[0][0], ends[1][0])
    assert torch.equal(ends[0][1], ends[1][1])


def test_observations_are_normalised_by_all_that_was_seen():
    config = SACConfig(n_steps=9, learning_starts=100, buffer_size=100, net_arch=(4,), normalize_observations=True)
    watching = Watching()
    watching.imitation_ratio = 0.0
    sac = SAC(Drift([0, 1, 2, 3], True), config, recall=watching, num_seeds=2).learn(90)
    seen = torch.cat([transitions.obs.transpose(0, 1).flatten(1, 2) for transitions, _ in watching.told], 1)
    assert seen.shape == (2, 90, 2)
    mean, std = seen.mean(1, keepdim=True), seen.std(1, correction=0, keepdim=True)
    # Old steps are seen with the statistics of now.
    sac.config, sac.sampling = replace(config, batch_size=90), Columns(torch.arange(90).expand(2, -1))
    batch, _ = sac.draw()
    torch.testing.assert_close(batch.obs, (seen - mean) / std, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(batch.next_obs, (sac.replay.steps.next_obs[:, :90] - mean) / std, atol=1e-4, rtol=1e-4)
    # Policy and value take raw observations.
    probe = torch.tensor([[[0.3, -0.4]]]).expand(2, 1, 2)
    normal = (probe - mean) / std
    torch.testing.assert_close(sac.act(probe, greedy=True), sac.policy(normal).mode(), atol=1e-4, rtol=1e-4)
    noise = torch.zeros(2, 1, 2)
    sac.policy.noise = lambda shape, generator: noise
    actions, log_probs = sac.policy(normal).sample_with_log_prob(noise)
    expected = torch.minimum(*sac.q(sac.critics, normal, actions)) - sac.ent_coef * log_probs
    torch.testing.assert_close(sac.value(probe), expected, atol=1e-4, rtol=1e-4)


def test_the_value_is_by_the_critics_of_now():
    sac = SAC(Spaces(), SACConfig(net_arch=(4,), ent_coef=0.0, buffer_size=8))
    flat(sac, 9.0, 9.0)
    sac.critics.later[-1].bias.data[:, 0, 0] = torch.tensor([3.0, 2.0])
    assert sac.value(torch.zeros(1, 4, 3)).tolist() == [[2.0] * 4]


def test_finite_observations_are_never_normalised():
    sac = SAC(Spaces(spaces.Discrete(4)), SACConfig(normalize_observations=True, buffer_size=8))
    obs = torch.tensor([[0, 1, 2, 3]])
    assert torch.equal(sac.obs_normalizer(obs), obs)
