from collections import Counter

import pytest
import torch
from gymnasium import spaces

from recall_traces.agents.bonus import BonusConfig, DistillationBonus, VisitBonus, make_bonus
from recall_traces.agents.ppo import PPO, PPOConfig
from recall_traces.data import Transitions

BOX = spaces.Box(-5, 5, (2,))


def arrive(next_obs, rewards=None):
    """Transitions `(T, S, N)` of which only the arrivals matter."""
    leading = next_obs.shape[:3]
    never = torch.zeros(leading, dtype=torch.bool)
    actions = torch.zeros(leading, dtype=torch.int64)
    return Transitions(next_obs, actions, torch.zeros(leading) if rewards is None else rewards, next_obs, never, never)


@pytest.mark.parametrize("space", [spaces.Discrete(6), spaces.MultiDiscrete([2, 3])], ids=["discrete", "multi-discrete"])
def test_visits_are_counted_exactly_and_per_seed(space):
    bonus = VisitBonus(space, BonusConfig(coefficient=0.3), num_seeds=2, seed=0, device="cpu")
    generator = torch.Generator().manual_seed(0)
    visits = [Counter(), Counter()]
    for _ in range(3):
        cells = torch.randint(6, (5, 2, 4), generator=generator)
        cells[:, 1] //= 3  # seed 1 sees other states
        obs = cells if isinstance(space, spaces.Discrete) else torch.stack([cells // 3, cells % 3], -1)
        rewards = bonus.rewards(arrive(obs))
        assert rewards.shape == (5, 2, 4)
        for s in range(2):
            visits[s].update(cells[:, s].flatten().tolist())
        for t in range(5):
            for s in range(2):
                for n in range(4):
                    assert rewards[t, s, n].item() == pytest.approx(0.3 / visits[s][int(cells[t, s, n])] ** 0.5, rel=1e-6)


def test_visits_of_a_box_are_counted_in_cells():
    bonus = VisitBonus(BOX, BonusConfig(coefficient=1.0, cell_bins=10), num_seeds=1, seed=0, device="cpu")
    # Cells are 1 × 1: the first three share one, the last is alone.
    obs = torch.tensor([[0.1, 0.1], [0.9, 0.2], [0.5, 0.7], [0.5, 1.1]])[:, None, None]
    assert bonus.rewards(arrive(obs)).flatten().tolist() == pytest.approx([3**-0.5] * 3 + [1.0])


def rnd(num_seeds=1, **changes):
    return DistillationBonus(BOX, BonusConfig(**{"coefficient": 1.0, **changes}), num_seeds, 0, "cpu")


def test_distillation_pays_less_and_less_for_the_same():
    bonus = rnd(4)
    generator = torch.Generator().manual_seed(0)
    # The same 64 states in every rollout, in every seed; from rollout 300 on one of them is another.
    states = torch.rand(8, 1, 8, 2, generator=generator).expand(8, 4, 8, 2).clone()
    paid = torch.stack([bonus.rewards(arrive(states)).mean((0, 2)) for _ in range(300)])  # (300, S)
    assert (paid[-20:].mean(0) < 0.2 * paid[:20].mean(0)).all()
    states[3, :, 5] = -4.0
    last = bonus.rewards(arrive(states))
    new = last[3, :, 5].clone()
    last[3, :, 5] = 0.0
    assert (new > 3 * last.amax((0, 2))).all()


def test_distillation_leaves_its_target_alone_and_does_not_mix_seeds():
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(20, 6, 2, 3, 2, generator=generator)
    others = states.clone()
    others[:, :, 1] = 4.0
    pays = []
    for data in (states, others):
        bonus = rnd(2)
        target = [p.detach().clone() for p in bonus.target.parameters()]
        pays.append(torch.stack([bonus.rewards(arrive(x)) for x in data]))
        assert all(torch.equal(a, b) for a, b in zip(target, bonus.target.parameters(), strict=True))
    assert torch.equal(pays[0][:, :, 0], pays[1][:, :, 0])
    assert not torch.equal(pays[0][:, :, 1], pays[1][:, :, 1])
    assert not torch.equal(pays[1][0, :, 0], pays[1][0, :, 1])


def test_distillation_pays_in_units_of_its_own_deviation():
    """However large the observations are, the first bonus has about the size of its coefficient; then the predictor learns."""
    generator = torch.Generator().manual_seed(0)
    for scale in (1e-3, 1.0, 1e3):
        bonus = rnd(1, coefficient=0.01)
        paid = [bonus.rewards(arrive(scale * torch.randn(8, 1, 8, 2, generator=generator))).mean() for _ in range(10)]
        assert 0.002 < paid[0] < 0.05
        assert paid[-1] < 0.5 * paid[0]


@pytest.mark.parametrize("space", [BOX, spaces.Discrete(6)])
def test_distillation_pays_a_replayed_arrival_what_it_pays_a_new_one(space):
    """With a predictor that hardly learns; later it pays less for the same."""
    bonus, lively = (DistillationBonus(space, BonusConfig(learning_rate=rate), 2, 0, "cpu") for rate in (1e-12, 1e-2))
    generator = torch.Generator().manual_seed(0)
    states = torch.randint(6, (8, 2, 4), generator=generator)
    if space is BOX:
        states = 100 * torch.rand(8, 2, 4, 2, generator=generator)
    replayed = states.transpose(0, 1).flatten(1, 2)

    def paid(one):
        return [one.rewards(arrive(states)) for _ in range(3)][-1].transpose(0, 1).flatten(1, 2)

    new = paid(bonus)
    torch.testing.assert_close(bonus.at(replayed), new)
    assert new.unique().numel() > 5
    assert (paid(lively) > lively.at(replayed)).float().mean() > 0.9


@pytest.mark.parametrize("space", [BOX, spaces.Discrete(6), spaces.MultiDiscrete([2, 3])])
@pytest.mark.parametrize("kind", ["auto", "visits", "rnd"])
def test_kinds(space, kind):
    bonus = make_bonus(space, BonusConfig(kind=kind), 2, 0, "cpu")
    counts = kind == "visits" or (kind == "auto" and space is not BOX)
    assert isinstance(bonus, VisitBonus if counts else DistillationBonus)
    obs = torch.zeros(3, 2, 4, *space.shape, dtype=torch.float32 if space is BOX else torch.int64)
    rewards = bonus.rewards(arrive(obs))
    assert rewards.shape == (3, 2, 4)
    assert bool((rewards >= 0).all())


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"hidden": (0,)}, "hidden must hold positive numbers of units"),
        ({"learning_rate": float("inf")}, "learning_rate must be positive and finite, not inf"),
        ({"coefficient": float("nan")}, "coefficient must not be negative"),
        ({"updates": 1.5}, "updates must be a whole number, not 1.5"),
        ({"kind": "icm"}, "kind must be one of auto, visits, rnd, not 'icm'"),
        ({"coefficient": -1.0}, "coefficient"),
        ({"features": 0}, "features"),
        ({"cell_bins": 0}, "cell_bins"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"updates": 0}, "updates"),
        ({"batch_size": 0}, "batch_size"),
    ],
)
def test_numbers_out_of_range_are_refused(change, word):
    with pytest.raises(ValueError, match=word):
        BonusConfig(**change)


class Fixed:
    """A bonus of 1, 2, 3, ..."""

    def rewards(self, transitions):
        return torch.arange(1.0, 1 + transitions.rewards.numel()).view(transitions.rewards.shape)


class Nothing:
    """Spaces of an environment that is never stepped."""

    device, num_envs, success_return = torch.device("cpu"), 4, None
    observation_space, action_space = spaces.Discrete(6), spaces.Discrete(2)


def test_the_learner_adds_the_bonus_to_what_it_learns_from_and_to_nothing_else():
    config = PPOConfig(n_steps=3, gamma=0.0, gae_lambda=0.0)
    transitions = arrive(torch.zeros(3, 2, 2, dtype=torch.int64), rewards=torch.full((3, 2, 2), 100.0))
    ppo = PPO(Nothing(), config, bonus=Fixed(), num_seeds=2)
    returns = ppo.estimate(transitions, ppo.bonus.rewards(transitions)).returns.unflatten(1, (3, 2)).transpose(0, 1)
    torch.testing.assert_close(returns, 100 + Fixed().rewards(transitions))
    assert bool((transitions.rewards == 100).all())  # what recall observes afterwards
