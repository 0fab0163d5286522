import math

import pytest
import torch
from gymnasium import spaces

from recall_traces.agents.evaluation import evaluate
from recall_traces.envs.interface import Step


class Countdown:
    """Copy `i` ends after `lengths[i]` steps, then starts again; each step pays the action, and 100 in any later episode."""

    device = torch.device("cpu")
    observation_space, action_space = spaces.MultiDiscrete([1000, 1000]), spaces.Discrete(1000)

    def __init__(self, lengths, success_return=None, terminates=True, later=100.0):
        self.lengths, self.success_return, self.terminates, self.later = torch.tensor(lengths), success_return, terminates, later
        self.num_envs = len(lengths)

    def reset(self):
        self.age, self.episode = torch.zeros_like(self.lengths), torch.zeros_like(self.lengths)
        return self.observe()

    def observe(self):
        return torch.stack([torch.arange(self.num_envs), self.age], -1)

    def step(self, actions):
        self.age = self.age + 1
        done, final_obs = self.age == self.lengths, self.observe()
        rewards = torch.where(self.episode == 0, actions.float(), self.later)
        self.episode, self.age = self.episode + done, torch.where(done, 0, self.age)
        never = torch.zeros_like(done)
        flags = (done, never) if self.terminates else (never, done)
        return Step(self.observe(), rewards, *flags, final_obs)


def pay(obs, greedy):
    return torch.full(obs.shape[:2], 10 if greedy else 1)


@pytest.mark.parametrize("terminates", [True, False])
def test_each_copy_counts_its_first_episode_and_nothing_after(terminates):
    # Two seeds, two episodes each: lengths 1, 3 sampled and 2, 4 greedy for seed 0; 5, 40 and 1, 1 for seed 1.
    result = evaluate(pay, Countdown([1, 3, 2, 4, 5, 40, 1, 1], terminates=terminates), num_seeds=2)
    assert result.episode_return.tolist() == [2.0, 22.5]
    assert result.greedy_episode_return.tolist() == [30.0, 10.0]
    assert result.success.isnan().all()
    assert result.greedy_success.isnan().all()


def test_success_is_the_share_of_returns_at_or_above_the_threshold():
    result = evaluate(pay, Countdown([1, 2, 3, 9, 1, 2, 3, 9], success_return=3.0), num_seeds=1)
    assert result.success.tolist() == [0.5]
    assert result.greedy_success.tolist() == [1.0]


def test_rows_go_to_their_seed_and_mode():
    asked = []

    def act(obs, greedy):
        asked.append((obs[..., 0].tolist(), greedy))
        return obs[..., 0]  # pays the number of the copy

    result = evaluate(act, Countdown([1] * 12), num_seeds=3)
    assert asked[:2] == [([[0, 1], [4, 5], [8, 9]], False), ([[2, 3], [6, 7], [10, 11]], True)]
    assert result.episode_return.tolist() == [0.5, 4.5, 8.5]
    assert result.greedy_episode_return.tolist() == [2.5, 6.5, 10.5]


def test_an_episode_without_end_counts_as_it_stands():
    result = evaluate(pay, Countdown([10_000, 2]), num_seeds=1, max_steps=50)
    assert result.episode_return.tolist() == [50.0]
    assert result.greedy_episode_return.tolist() == [20.0]


def test_it_stops_soon_after_the_last_episode():
    calls = []

    def act(obs, greedy):
        calls.append(greedy)
        return torch.zeros(obs.shape[:2], dtype=torch.int64)

    evaluate(act, Countdown([3, 20]), num_seeds=1)
    assert 20 <= calls.count(False) < 50


def test_what_comes_after_the_episode_cannot_spoil_it():
    result = evaluate(pay, Countdown([1, 30], later=math.nan), num_seeds=1)
    assert result.episode_return.tolist() == [1.0]


class Breaking(Countdown):
    """The copy `breaks` gives a value that is not finite at its step `when`: in its observation or in its reward."""

    def __init__(self, lengths, breaks, when, where, **options):
        super().__init__(lengths, **options)
        self.breaks, self.when, self.where, self.steps = breaks, when, where, 0

    def reset(self):
        return self.spoilt(super().reset(), 0)

    def observe(self):
        return super().observe().float()

    def spoilt(self, values, step):
        values = values.clone()
        if step == self.when:
            values[self.breaks] = math.nan
        return values

    def step(self, actions):
        step = super().step(actions)
        self.steps += 1

        def spoil(name):
            return self.spoilt(getattr(step, name), self.steps if name == self.where else -1)

        return Step(spoil("obs"), spoil("rewards"), step.terminated, step.truncated, spoil("final_obs"))


@pytest.mark.parametrize(
    ("breaks", "when", "where", "lost"),
    [
        (5, 3, "rewards", "sampled"),
        (5, 3, "final_obs", "sampled"),
        (5, 0, "obs", "sampled"),  # the first observation
        (5, 4, "rewards", "sampled"),  # the last step of its episode
        (6, 3, "rewards", "greedy"),
        (5, 5, "rewards", None),  # its next episode
        (5, 5, "final_obs", None),
    ],
)
def test_an_episode_with_a_value_that_is_not_finite_has_no_return(breaks, when, where, lost):
    lengths = [4] * 8
    result = evaluate(pay, Breaking(lengths, breaks, when, where, success_return=4.0), num_seeds=2)
    for name, mode in (("episode_return", "sampled"), ("success", "sampled"), ("greedy_episode_return", "greedy")):
        assert getattr(result, name).isnan().tolist() == [False, mode == lost], name
    assert result.broken.tolist() == [-1, -1 if lost is None else breaks - 4]
