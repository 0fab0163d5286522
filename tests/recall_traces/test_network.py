import itertools
import math

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from recall_traces import Transitions
from recall_traces.network import NetworkModel

BOX1, BOX3 = spaces.Box(-10, 10, (1,)), spaces.Box(-10, 10, (3,))
ACTION1, ACTION2 = spaces.Box(-1, 3, (1,)), spaces.Box(np.float32([-1, 0]), np.float32([3, 1]))
DISCRETE, MULTI, THREE = spaces.Discrete(5), spaces.MultiDiscrete([3, 2, 4]), spaces.Discrete(3)
PAIRS = [(BOX1, THREE), (BOX3, ACTION2), (DISCRETE, THREE), (MULTI, THREE), (MULTI, ACTION1)]


def make_model(
    observation_space: spaces.Space,
    action_space: spaces.Space,
    seeds: int = 1,
    hidden: tuple[int, ...] = (16,),
    batch_size: int = 32,
    components: int = 2,
    seed: int = 0,
    predict_rewards: bool = False,
) -> NetworkModel:
    generator = torch.Generator().manual_seed(seed)
    return NetworkModel(
        observation_space, action_space, seeds, hidden, 3e-3, batch_size, components, predict_rewards, generator, seed
    )


def values(space: spaces.Space, shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    if isinstance(space, spaces.Box):
        low, high = torch.as_tensor(space.low), torch.as_tensor(space.high)
        return low + (high - low) * torch.rand(*shape, *space.shape, generator=generator)
    sizes = torch.tensor(space.nvec if isinstance(space, spaces.MultiDiscrete) else [space.n])
    drawn = (torch.rand(*shape, len(sizes), generator=generator) * sizes).long()
    return drawn if isinstance(space, spaces.MultiDiscrete) else drawn[..., 0]


def random_batch(
    observation_space: spaces.Space, action_space: spaces.Space, seeds: int, rows: int, seed: int = 0
) -> Transitions:
    generator = torch.Generator().manual_seed(seed)
    shape, flags = (seeds, rows), torch.zeros(seeds, rows, dtype=torch.bool)
    obs, next_obs = (values(observation_space, shape, generator) for _ in range(2))
    return Transitions(obs, values(action_space, shape, generator), torch.zeros(shape), next_obs, flags, flags)


def fitted(observation_space: spaces.Space, action_space: spaces.Space, updates: int = 30) -> NetworkModel:
    model = make_model(observation_space, action_space)
    model.fit(random_batch(observation_space, action_space, 1, 200), updates, None)
    return model


@torch.no_grad()
def densities(model: NetworkModel, next_obs: float, actions: Tensor, obs: Tensor) -> Tensor:
    """q(a, s | s') on a grid of actions `(A, ...)` and one-dimensional states `(B,)`, `(A, B)`."""
    pairs = len(actions) * len(obs)
    grid_actions = actions.repeat_interleave(len(obs), 0)[None]
    log_probs = model.log_prob(obs.repeat(len(actions)).view(1, -1, 1), grid_actions, torch.full((1, pairs, 1), next_obs))
    return log_probs.double().exp().view(len(actions), len(obs))


def middles(low: float, high: float, count: int) -> tuple[Tensor, float]:
    width = (high - low) / count
    return low + width * (torch.arange(count) + 0.5), width


@pytest.mark.parametrize("next_obs", [-3.0, 0.5, 8.0])
def test_a_density_over_continuous_actions_and_states_integrates_to_one(next_obs: float) -> None:
    model = fitted(BOX1, ACTION1)
    actions, action_width = middles(-1, 3, 1000)
    obs, obs_width = middles(-80, 80, 400)
    total = densities(model, next_obs, actions[:, None], obs).sum() * action_width * obs_width
    assert float(total) == pytest.approx(1, abs=2e-3)


def test_a_density_over_states_and_discrete_actions_integrates_to_one() -> None:
    obs, width = middles(-80, 80, 4000)
    total = densities(fitted(BOX1, THREE), 2.0, torch.arange(3), obs).sum() * width
    assert float(total) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(("observation_space", "sizes"), [(DISCRETE, [5]), (MULTI, [3, 2, 4])])
def test_finite_probabilities_sum_to_one(observation_space: spaces.Space, sizes: list[int]) -> None:
    model = fitted(observation_space, THREE)
    states = torch.tensor(list(itertools.product(*(range(n) for n in sizes))))
    states = states[:, 0] if observation_space is DISCRETE else states
    everything = states.repeat_interleave(3, 0)[None], torch.arange(3).repeat(len(states))[None]
    for successor in states[::3]:
        with torch.no_grad():
            log_probs = model.log_prob(*everything, successor.expand(everything[0].shape))
        assert float(log_probs.exp().sum()) == pytest.approx(1, abs=1e-5)


def test_draws_of_continuous_actions_and_states_follow_the_density() -> None:
    model = fitted(BOX1, ACTION1)
    draws = 20_000
    actions, obs, known = model.sample(torch.full((1, draws, 1), 2.0))
    assert known.all()
    assert ((actions >= -1) & (actions <= 3)).all()
    action_grid, action_width = middles(-1, 3, 1000)
    obs_grid, obs_width = middles(-80, 80, 400)
    density = densities(model, 2.0, action_grid[:, None], obs_grid)
    for drawn, marginal, grid, width in (
        (actions, density.sum(1) * obs_width, action_grid, action_width),
        (obs, density.sum(0) * action_width, obs_grid, obs_width),
    ):
        empirical = torch.searchsorted(drawn.flatten().sort().values, grid + width / 2) / draws
        # Kolmogorov's statistic: 1.95 / sqrt(draws) is exceeded once in a thousand.
        assert float((empirical - (marginal * width).cumsum(0)).abs().max()) < 0.02


@pytest.mark.parametrize("observation_space", [DISCRETE, MULTI])
def test_draws_of_finite_states_follow_the_probabilities(observation_space: spaces.Space) -> None:
    model = make_model(observation_space, THREE)
    few = random_batch(observation_space, THREE, 1, 5)  # so that what is learned is far from uniform
    model.fit(few, 200, None)
    successor = values(observation_space, (1, 1), torch.Generator().manual_seed(0))
    batch = successor.expand(1, 30_000, *successor.shape[2:])
    actions, obs, _ = model.sample(batch)
    with torch.no_grad():
        prob = model.log_prob(obs, actions, batch).exp()[0]
    _, which, count = torch.cat([obs[0].view(len(prob), -1), actions[0, :, None]], 1).unique(
        dim=0, return_inverse=True, return_counts=True
    )
    share = count[which] / len(prob)
    assert ((share - prob).abs() < 6 * (prob / len(prob)).sqrt() + 1e-4).all()


def test_recorded_actions_at_a_bound_have_a_finite_density() -> None:
    model = make_model(BOX1, ACTION1)
    obs = torch.zeros(1, 2, 1)
    log_probs = model.log_prob(obs, torch.tensor([-1.0, 3.0]).view(1, 2, 1), obs)
    log_probs.sum().backward()
    assert log_probs.isfinite().all()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_fitting_reaches_the_entropy_of_a_linear_gaussian_world() -> None:
    """s ~ N(0, 1), a fair coin, s' = s ± 0.5 + N(0, 0.3²): p(a | s') is logistic and p(s | a, s') Gaussian."""
    generator = torch.Generator().manual_seed(0)
    rows, step, noise = 10_000, 0.5, 0.3
    actions = torch.randint(2, (1, rows), generator=generator)
    obs = torch.randn(1, rows, 1, generator=generator)
    shift = step * (2 * actions - 1)
    next_obs = obs + shift[..., None] + noise * torch.randn(1, rows, 1, generator=generator)
    flags = torch.zeros(1, rows, dtype=torch.bool)
    marginal = torch.distributions.Normal(0, math.sqrt(1 + noise**2))
    forward = torch.stack([marginal.log_prob(next_obs[..., 0] - step * sign) for sign in (-1, 1)], -1)
    log_policy = forward.log_softmax(-1).gather(-1, actions[..., None])[..., 0]
    gain = 1 / (1 + noise**2)
    posterior = torch.distributions.Normal(gain * (next_obs[..., 0] - shift), noise * math.sqrt(gain))
    truth = log_policy + posterior.log_prob(obs[..., 0])

    model = make_model(BOX1, spaces.Discrete(2), hidden=(16,), batch_size=256)
    batch = Transitions(obs, actions, torch.zeros(1, rows), next_obs, flags, flags)
    with torch.no_grad():
        before = -model.log_prob(obs, actions, next_obs).mean()
    model.fit(batch, 400, None)
    with torch.no_grad():
        after = -model.log_prob(obs, actions, next_obs).mean()
    assert float(before + truth.mean()) > 0.3
    assert abs(float(after + truth.mean())) < 0.04


@pytest.mark.parametrize(("observation_space", "action_space"), PAIRS)
def test_the_loss_falls_for_every_pair_of_spaces(observation_space: spaces.Space, action_space: spaces.Space) -> None:
    batch = random_batch(observation_space, action_space, 2, 40)
    model = make_model(observation_space, action_space, seeds=2)
    first = model.fit(batch, 20, None)["loss"]
    model.fit(batch, 150, None)
    assert (model.fit(batch, 20, None)["loss"] < first - 0.05).all()
    actions, obs, known = model.sample(batch.next_obs)
    assert (actions.shape, obs.shape, known.shape) == (batch.actions.shape, batch.obs.shape, (2, 40))
    assert (actions.dtype, obs.dtype) == (batch.actions.dtype, batch.obs.dtype)


@pytest.mark.parametrize(("observation_space", "action_space"), PAIRS)
def test_a_fleet_is_its_members_alone_also_when_only_some_learn(
    observation_space: spaces.Space, action_space: spaces.Space, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds, rows, updates = 3, 40, 6
    generator = torch.Generator().manual_seed(7)
    minibatches = torch.randint(rows, (2 * updates, seeds, 32), generator=generator)
    fleet = make_model(observation_space, action_space, seeds)
    singles = [make_model(observation_space, action_space, 1, seed=5 + s) for s in range(seeds)]
    for s, single in enumerate(singles):
        for mine, theirs in zip(single.parameters(), fleet.parameters(), strict=True):
            mine.data.copy_(theirs[s : s + 1])
    data = random_batch(observation_space, action_space, seeds, rows)
    for step, active in enumerate(([True, False, True], None)):
        chosen = minibatches[step * updates : (step + 1) * updates]
        with monkeypatch.context() as patch:
            draws = iter(chosen)
            patch.setattr(torch, "randint", lambda *_, draws=draws, **__: next(draws))
            fleet.fit(data, updates, active)
        for s, single in enumerate(singles):
            with monkeypatch.context() as patch:
                draws = iter(chosen[:, s : s + 1])
                patch.setattr(torch, "randint", lambda *_, draws=draws, **__: next(draws))
                single.fit(data.map(lambda x, s=s: x[s : s + 1]), updates, None if active is None else active[s : s + 1])
    with torch.no_grad():
        together = fleet.log_prob(data.obs, data.actions, data.next_obs)
        for s, single in enumerate(singles):
            alone = single.log_prob(*(x[s : s + 1] for x in (data.obs, data.actions, data.next_obs)))
            torch.testing.assert_close(together[s : s + 1], alone, rtol=1e-4, atol=1e-4)


def test_what_does_not_learn_keeps_its_weights() -> None:
    model = make_model(DISCRETE, THREE, seeds=2)
    batch = random_batch(DISCRETE, THREE, 2, 40)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    model.fit(batch, 3, [True, False])
    for name, p in model.named_parameters():
        assert torch.equal(p[1], before[name][1])
    assert any(not torch.equal(p[0], before[name][0]) for name, p in model.named_parameters())


def test_no_updates_change_nothing() -> None:
    model = fitted(BOX3, ACTION2)
    before = [value.clone() for value in (*model.parameters(), *model.buffers())]
    empty = random_batch(BOX3, ACTION2, 1, 10).map(lambda x: x[:, :0])
    model.fit(empty, 0, None)
    for value, old in zip((*model.parameters(), *model.buffers()), before, strict=True):
        assert torch.equal(value, old)


def test_two_ways_into_a_state_stay_apart() -> None:
    """From the left or from the right, never from the middle: the average of the two, which one Gaussian favours."""
    generator = torch.Generator().manual_seed(0)
    next_obs = torch.zeros(1, 2000, 1)
    side = torch.randint(2, next_obs.shape, generator=generator).float() * 2 - 1
    obs, actions = (centre + 0.05 * torch.randn(next_obs.shape, generator=generator) for centre in (side, 1 - 1.5 * side))
    flags = torch.zeros(1, 2000, dtype=torch.bool)
    middle = {}
    for components in (1, 4):
        model = make_model(BOX1, ACTION1, components=components)
        model.fit(Transitions(obs, actions, torch.zeros(1, 2000), next_obs, flags, flags), 500, None)
        drawn, states, _ = model.sample(next_obs)
        middle[components] = [float(x.float().mean()) for x in ((drawn - 1).abs() < 0.9, states.abs() < 0.5)]
    assert max(middle[4]) < 0.05
    assert min(middle[1]) > 0.15


def test_rewards_are_predicted_in_their_own_units() -> None:
    model = make_model(BOX1, ACTION1, seeds=2, hidden=(32,), batch_size=128, predict_rewards=True)
    generator = torch.Generator().manual_seed(3)
    next_obs = values(BOX1, (2, 4000), generator)
    actions = values(ACTION1, (2, 4000), generator)
    obs = next_obs - actions
    flags = torch.zeros(2, 4000, dtype=torch.bool)
    scale = torch.tensor([[1.0], [100.0]])
    rewards = scale * (3 + 0.5 * next_obs - actions)[..., 0]
    metrics = model.fit(Transitions(obs, actions, rewards, next_obs, flags, flags), 1500, None)
    error = (model.reward(obs, actions, next_obs) - rewards).abs().mean(1) / scale[:, 0]
    assert error.tolist() == pytest.approx([0, 0], abs=0.3)
    # Nothing is cut off, however rare: at first, when it predicts hardly anything, half the mean square in its own units is lost.
    rare = (torch.arange(4000) < 4).float().expand(2, -1)
    first = make_model(BOX1, ACTION1, seeds=2, hidden=(32,), batch_size=4000, predict_rewards=True)
    found = first.fit(Transitions(obs, actions, rare, next_obs, flags, flags), 1, None)
    assert found["reward_loss"].tolist() == pytest.approx([0.5, 0.5], rel=0.6)
    always = torch.full_like(rewards, 5.0)
    model = make_model(BOX1, ACTION1, seeds=2, hidden=(32,), batch_size=128, predict_rewards=True)
    model.fit(Transitions(obs, actions, always, next_obs, flags, flags), 300, None)
    assert model.reward(obs, actions, next_obs).mean(1).tolist() == pytest.approx([5, 5], abs=0.3)
    assert metrics["reward_loss"].shape == (2,)
    assert "reward_loss" not in fitted(BOX1, ACTION1).fit(random_batch(BOX1, ACTION1, 1, 50), 1, None)
