import math
from collections import Counter

import pytest
import torch
from gymnasium import spaces

from recall_traces.agents.ppo import PPO, PPOConfig
from recall_traces.agents.self_imitation import SelfImitation, SelfImitationConfig
from recall_traces.data import Transitions
from recall_traces.envs.interface import Step

OBS, ACTIONS = spaces.Discrete(100), spaces.Discrete(4)


def rollout(obs, rewards, terminated=(), truncated=()):
    """One environment per seed: `obs` and `rewards` are `(S, T)`, ends are (seed, step); the action is the state modulo 4."""
    obs, rewards = torch.tensor(obs).T[..., None], torch.tensor(rewards).T[..., None]
    flags = torch.zeros(2, *obs.shape, dtype=torch.bool)
    for flag, ends in zip(flags, (terminated, truncated), strict=True):
        for seed, step in ends:
            flag[step, seed, 0] = True
    return Transitions(obs, obs % 4, rewards, (obs + 1) % 100, *flags)


def sil(num_seeds=1, num_envs=1, **changes):
    config = SelfImitationConfig(**{"memory_size": 100, **changes})
    return SelfImitation(OBS, ACTIONS, config, num_seeds=num_seeds, num_envs=num_envs, gamma=0.5)


def worth(*values):
    """A critic: state i is worth values[i], or the last of them."""
    table = torch.tensor(values)
    return lambda obs: table[obs.clamp(max=len(values) - 1)]


def drawn(imitation, value, count=20_000, seed=0):
    """How often each state was drawn with a weight, and the weights."""
    traces = imitation.sample(count, value)
    assert traces.mask.shape == traces.weights.shape == (imitation.priorities.shape[0], count)
    assert torch.equal(traces.mask, traces.weights > 0)
    assert torch.equal(traces.actions, traces.obs % 4)
    states, weights, mask = traces.obs[seed], traces.weights[seed], traces.mask[seed]
    return Counter(states[mask].tolist()), {int(s): float(w) for s, w in zip(states[mask], weights[mask], strict=True)}


def test_steps_that_beat_the_critic_are_drawn_by_how_much_they_do():
    # Returns by hand: 1/16, 1/8, 1/4, 1/2, 1. The critic says 0.2: the last three steps beat it.
    imitation, value = sil(), worth(0.2)
    imitation.observe(rollout([[0, 1, 2, 3, 4]], [[0.0, 0.0, 0.0, 0.0, 1.0]], terminated=[(0, 4)]))
    metrics = imitation.update(value)
    counts, weights = drawn(imitation, value)
    assert weights == pytest.approx({2: 0.05, 3: 0.3, 4: 0.8})
    shares = {2: 0.05**0.6, 3: 0.3**0.6, 4: 0.8**0.6}
    total = sum(shares.values())
    assert {s: n / 20_000 for s, n in counts.items()} == pytest.approx({s: x / total for s, x in shares.items()}, abs=0.015)
    assert metrics["sil/share_above_value"].tolist() == pytest.approx([3 / 5])


def test_how_much_a_step_beats_the_critic_is_clipped():
    imitation, value = sil(largest_advantage=1.0), worth(-7.0)
    imitation.observe(rollout([[0, 1]], [[0.0, 1.0]], truncated=[(0, 1)]))
    imitation.update(value)
    assert drawn(imitation, value)[1] == {0: 1.0, 1: 1.0}


@pytest.mark.parametrize("end", ["terminated", "truncated"])
def test_steps_wait_for_the_end_of_their_episode(end):
    imitation, value = sil(), worth(0.0)
    imitation.observe(rollout([[0, 1, 2]], [[0.0, 1.0, 0.0]]))
    imitation.update(value)
    counts, _ = drawn(imitation, value)
    assert not counts
    imitation.observe(rollout([[3, 4, 5]], [[0.0, 2.0, 8.0]], **{end: [(0, 1)]}))
    imitation.update(value)
    _, weights = drawn(imitation, value)
    # Returns over the border of the rollouts: 4: 2, 3: 1, 2: 0.5, 1: 1 + 0.25, 0: 0.625; state 5 is of an open episode.
    assert weights == pytest.approx({0: 0.625, 1: 1.0, 2: 0.5, 3: 1.0, 4: 1.0})


def test_priorities_follow_the_critic_once_drawn():
    imitation, value = sil(), worth(0.0)
    imitation.observe(rollout([[0, 1, 2]], [[0.5, 0.5, 0.5]], terminated=[(0, 2)]))
    imitation.update(value)
    assert set(drawn(imitation, value)[0]) == {0, 1, 2}
    learned = worth(0.0, 0.7, 0.9)  # the returns are 0.875, 0.75 and 0.5: state 2 no longer beats it, state 1 hardly
    first, weights = drawn(imitation, learned)
    assert set(first) == {0, 1}  # state 2 was drawn, with weight 0
    assert weights == pytest.approx({0: 0.875, 1: 0.05})
    imitation.update(learned)
    traces = imitation.sample(20_000, learned)
    assert set(traces.obs[0].tolist()) == {0, 1}  # and is not drawn any more
    share = (traces.obs[0] == 1).float().mean().item()
    assert share == pytest.approx(0.05**0.6 / (0.05**0.6 + 0.875**0.6), abs=0.015)


def test_nothing_beats_the_critic():
    imitation, value = sil(), worth(5.0)
    imitation.observe(rollout([[0, 1]], [[0.0, 1.0]], terminated=[(0, 1)]))
    imitation.update(value)
    traces = imitation.sample(8, value)
    assert not traces.mask.any()
    assert not traces.weights.any()


def test_seeds_are_apart():
    one, other = sil(2), sil(2)
    first = [[0, 1, 2, 3], [10, 11, 12, 13]]
    one.observe(rollout(first, [[0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 0.0, 1.0]], terminated=[(0, 2)]))
    other.observe(rollout([first[0], [50, 51, 52, 53]], [[0.0, 0.0, 1.0, 1.0], [3.0] * 4], terminated=[(0, 2), (1, 1)]))
    samples = []
    for imitation in (one, other):
        imitation.update(worth(0.0))
        samples.append(imitation.sample(64, worth(0.0)))
    assert set(samples[0].obs[0].tolist()) == {0, 1, 2}
    for field in ("obs", "actions", "mask", "weights"):
        assert torch.equal(getattr(samples[0], field)[0], getattr(samples[1], field)[0])
    assert not samples[0].mask[1].any()  # seed 1 has not finished an episode
    assert set(samples[1].obs[1].tolist()) == {50, 51}


def test_what_the_memory_overwrote_is_forgotten():
    imitation, value = sil(memory_size=4), worth(0.0)
    imitation.observe(rollout([[0, 1, 2]], [[1.0, 1.0, 1.0]], terminated=[(0, 2)]))
    imitation.update(value)
    imitation.observe(rollout([[3, 4, 5]], [[1.0, 1.0, 1.0]], terminated=[(0, 1)]))
    imitation.update(value)
    assert set(drawn(imitation, value)[0]) == {2, 3, 4}  # 5 took the place of 1, and its episode is open
    imitation.observe(rollout([[6, 7, 8]], [[0.0, 0.0, 1.0]]))
    imitation.update(value)
    assert not drawn(imitation, value)[0]


def test_several_rollouts_before_an_update():
    imitation, value = sil(memory_size=4), worth(0.0)
    for obs in ([0, 1, 2], [3, 4, 5]):
        imitation.observe(rollout([obs], [[1.0, 1.0, 1.0]], terminated=[(0, 1)]))
    imitation.update(value)
    # The memory holds 2 to 5; 5's episode is open.
    assert set(drawn(imitation, value)[0]) == {2, 3, 4}


def test_environments_of_a_seed_are_put_together():
    obs = torch.tensor([[[0, 10]], [[1, 11]]])
    never, end = torch.zeros(2, 1, 2, dtype=torch.bool), torch.tensor([[[False, False]], [[False, True]]])
    imitation = sil(num_envs=2)
    imitation.observe(Transitions(obs, obs % 4, torch.ones(2, 1, 2), obs, end, never))
    imitation.update(worth(0.0))
    assert set(drawn(imitation, worth(0.0))[0]) == {10, 11}


@pytest.mark.parametrize(
    "change",
    [{"imitation_batch_size": 0}, {"memory_size": 0}, {"imitation_coefficient": -1.0}, {"imitation_ratio": -1.0}],
)
def test_numbers_out_of_range_are_refused(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        SelfImitationConfig(**change)


@pytest.mark.parametrize("change", [{"priority_exponent": -0.5}, {"largest_advantage": 0.0}, {"imitation_coefficient": math.nan}])
def test_other_numbers_out_of_range_are_refused(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        SelfImitationConfig(**change)


class Lock:
    """Eight right choices of two in a row pay 1; a wrong one ends the episode. Chance finds it once in 256 episodes."""

    device, success_return = torch.device("cpu"), 1.0
    observation_space, action_space, length = spaces.Discrete(9), spaces.Discrete(2), 8

    def __init__(self, num_envs):
        self.num_envs = num_envs

    def reset(self):
        self.place = torch.zeros(self.num_envs, dtype=torch.int64)
        return self.place

    def step(self, actions):
        right = actions == self.place % 2
        final_obs = torch.where(right, self.place + 1, self.place)
        opened = final_obs == self.length
        done = opened | ~right
        self.place = torch.where(done, 0, final_obs)
        return Step(self.place, opened.float(), done, torch.zeros_like(done), final_obs)


def test_it_opens_a_lock_that_chance_seldom_opens():
    config = PPOConfig(learning_rate=2e-3, n_steps=64, batch_size=128, n_epochs=2, net_arch=(32,))
    sil_config = SelfImitationConfig(memory_size=10_000, imitation_ratio=1.0)
    chances, places = {}, torch.arange(8).expand(16, 8)
    for arm in ("none", "sil"):
        imitation = SelfImitation(Lock.observation_space, Lock.action_space, sil_config, num_seeds=16, num_envs=4)
        ppo = PPO(Lock(64), config, recall=imitation if arm == "sil" else None, num_seeds=16).learn(4096)
        with torch.no_grad():
            chances[arm] = ppo.log_prob(places, places % 2).sum(1).exp()  # of opening it in one episode
    assert chances["sil"].median() > 0.5
    assert (chances["sil"][:, None] > chances["none"]).float().mean() > 0.9


def test_returns_count_the_bonus_that_the_critic_has_learnt():
    imitation = sil()
    steps = rollout([[0, 1, 2]], [[0.0, 0.0, 1.0]], terminated=[(0, 2)])
    imitation.observe(steps, torch.tensor([0.0, 0.4, 0.2])[:, None, None])
    assert imitation.memory.returns[0, 0, :3].tolist() == pytest.approx([0.5, 1.0, 1.2])  # a discount of 0.5
