import itertools
import json
import math

import numpy as np
import pytest
import torch
from gymnasium import spaces

from recall_traces.agents import replay as replay_module
from recall_traces.agents.replay import (
    BRANCHES,
    PrioritizedConfig,
    PrioritizedSampling,
    Replay,
    UniformSampling,
    available_bytes,
    in_words,
    replay_bytes,
)
from recall_traces.data import Transitions

BOX, ACTION = spaces.Box(-1, 1, (3,)), spaces.Box(-1, 1, (2,))
CPU = torch.device("cpu")


def numbered(time, num_seeds=2, num_envs=3):
    """Steps whose every field says when, in which seed and in which environment."""
    number = time * 100 + torch.arange(num_seeds)[:, None] * 10 + torch.arange(num_envs).float()
    flags = number % 2 == 0
    obs, action = number[..., None].expand(-1, -1, 3), -number[..., None].expand(-1, -1, 2)
    return Transitions(obs, action, number, obs + 0.5, flags, ~flags)


def test_a_full_replay_holds_the_last_steps_of_each_seed():
    replay = Replay(BOX, ACTION, 2, 3, 10, CPU)
    assert replay.capacity == 9  # whole steps of three environments
    lengths, places = [], []
    for time in range(5):
        places.append(replay.add(numbered(time)))
        lengths.append(len(replay))
    assert lengths == [3, 6, 9, 9, 9]
    assert places == [(0, 3), (3, 6), (6, 9), (0, 3), (3, 6)]
    columns = torch.arange(9).expand(2, -1)
    held = replay.at(columns)
    expected = torch.cat([numbered(time).rewards for time in (3, 4, 2)], 1)
    assert torch.equal(held.rewards, expected)
    assert torch.equal(held.obs[..., 2], expected)
    assert torch.equal(held.actions[..., 1], -expected)
    assert torch.equal(held.next_obs[..., 0], expected + 0.5)
    assert torch.equal(held.terminated, expected % 2 == 0)
    assert torch.equal(held.truncated, expected % 2 == 1)


def test_memory_is_what_was_said():
    replay = Replay(BOX, ACTION, 2, 3, 300, CPU)
    replay.allocate()
    assert sum(x.numel() * x.element_size() for x in vars(replay.steps).values()) == replay_bytes(BOX, ACTION, 2, 300)
    finite = Replay(spaces.Discrete(5), spaces.Discrete(2), 1, 1, 7, CPU)
    finite.allocate()
    assert sum(x.numel() * x.element_size() for x in vars(finite.steps).values()) == 7 * (3 * 8 + 4 + 2)


def test_a_replay_that_does_not_fit_is_refused(monkeypatch):
    monkeypatch.setattr(replay_module, "available_bytes", lambda device: replay_bytes(BOX, ACTION, 2, 300) - 1)
    Replay(BOX, ACTION, 2, 3, 297, CPU).allocate()
    for take in (Replay.allocate, lambda large: large.add(numbered(0))):
        with pytest.raises(ValueError, match=r"2 seeds of 300 steps need .* MiB, .* MiB are free on cpu; lower buffer_size"):
            take(Replay(BOX, ACTION, 2, 3, 300, CPU))
    with pytest.raises(ValueError, match="at least one step of each of the 3 environments: raise buffer_size"):
        Replay(BOX, ACTION, 2, 3, 2, CPU).allocate()


def test_what_torch_keeps_on_a_gpu_for_later_is_free(monkeypatch):
    """As the replay of the arm before is, in a comparison."""
    told = {"mem_get_info": (100, 1000), "memory_reserved": 700, "memory_allocated": 50}
    for name, value in told.items():
        monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value)
    assert available_bytes(torch.device("cuda")) == 100 + 650


def test_sizes_are_told_in_what_they_are_large_in():
    assert [in_words(x) for x in (3 * 2**19, 2**30 - 2**20, 2**30, 5 * 2**39)] == [
        "1.5 MiB",
        "1,023.0 MiB",
        "1.0 GiB",
        "2,560.0 GiB",
    ]


def test_uniform_draws_are_uniform():
    columns, weights = UniformSampling(2).draw(10, 20_000, torch.Generator().manual_seed(0))
    assert weights.shape == columns.shape == (2, 20_000)
    assert bool((weights == 1).all())
    for row in columns:
        assert (row.bincount(minlength=10) / 2000 - 1).abs().max() < 0.1


@pytest.mark.parametrize("capacity", [5, BRANCHES, BRANCHES + 1, 40 * BRANCHES, BRANCHES**2 + 7])
def test_prioritized_draws_have_exactly_the_right_probabilities(capacity):
    """A grid of evenly spaced numbers instead of random ones draws each column as often as its share says, to one."""
    held = capacity - 2
    sampling = PrioritizedSampling(PrioritizedConfig(alpha=0.7, beta=0.5, epsilon=0.01), 2, capacity, CPU)
    for first, end in itertools.pairwise([0, held // 2, held]):
        sampling.added(first, end)
    generator = torch.Generator().manual_seed(1)
    chosen = torch.stack([torch.randperm(held, generator=generator)[: held // 2] for _ in range(2)])
    errors = torch.rand(chosen.shape, generator=generator) * 3
    sampling.learned(chosen, errors)
    priorities = torch.ones(2, held).scatter(1, chosen, (errors + 0.01) ** 0.7)
    share = priorities.double() / priorities.double().sum(1, keepdim=True)

    draws = 200_000
    grid = ((torch.arange(draws, dtype=torch.float64) + 0.5) / draws).expand(2, -1)
    original = torch.rand
    try:
        torch.rand = lambda *_, **__: grid
        columns, weights = sampling.draw(held, draws, generator)
    finally:
        torch.rand = original
    assert int(columns.max()) < held
    for row in range(2):
        count = columns[row].bincount(minlength=held)
        assert (count - share[row] * draws).abs().max() < 2
    expected = (held * share.gather(1, columns)) ** -0.5
    torch.testing.assert_close(weights, (expected / expected.amax(1, keepdim=True)).float(), rtol=1e-4, atol=0)


def test_new_steps_have_the_largest_priority_so_far():
    sampling = PrioritizedSampling(PrioritizedConfig(alpha=1.0, epsilon=1e-6), 1, 100, CPU)
    sampling.added(0, 2)
    sampling.learned(torch.tensor([[0, 1]]), torch.tensor([[4.0, 0.5]]))
    sampling.added(2, 3)
    assert sampling.levels[0][0, :4].tolist() == pytest.approx([4, 0.5, 4, 0], rel=1e-5)
    assert sampling.levels[-1].sum().item() == pytest.approx(8.5, rel=1e-5)


def test_the_largest_priority_so_far_is_a_seeds_own_and_stays():
    sampling = PrioritizedSampling(PrioritizedConfig(alpha=1.0, epsilon=1e-6), 2, 100, CPU)
    sampling.added(0, 2)
    for errors in ([[4.0, 0.5], [2.0, 0.5]], [[1.0, 0.5], [3.0, 0.5]], [[0.1, 0.1], [0.1, 0.1]]):
        sampling.learned(torch.arange(2).expand(2, -1), torch.tensor(errors))
    sampling.added(2, 3)
    assert sampling.levels[0][:, 2].tolist() == pytest.approx([4, 3], rel=1e-5)


def test_seeds_draw_by_their_own_priorities():
    sampling = PrioritizedSampling(PrioritizedConfig(alpha=1.0, epsilon=1e-9), 2, 4, CPU)
    sampling.added(0, 4)
    sampling.learned(torch.arange(4).expand(2, -1), torch.tensor([[1.0, 0, 0, 0], [0, 0, 0, 1.0]]))
    columns, _ = sampling.draw(4, 100, torch.Generator().manual_seed(0))
    assert columns[0].unique().tolist() == [0]
    assert columns[1].unique().tolist() == [3]


@pytest.mark.parametrize("wrong", [{"alpha": 1.5}, {"beta": -0.1}, {"epsilon": 0.0}, {"epsilon": math.inf}])
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        PrioritizedConfig(**wrong)


def test_numbers_of_numpy_become_pythons():
    config = PrioritizedConfig(alpha=np.float32(0.5), beta=np.float32(1.0), epsilon=np.float32(0.25))
    assert json.loads(json.dumps(vars(config))) == {"alpha": 0.5, "beta": 1.0, "epsilon": 0.25}
