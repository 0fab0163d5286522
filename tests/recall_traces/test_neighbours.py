"""The kernel density over recorded steps."""

from typing import Any

import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from recall_traces import BacktrackingConfig, BacktrackingModel, RecallConfig, Transitions
from recall_traces.neighbours import NeighbourModel

PLANE, ACTION = spaces.Box(-10, 10, (2,)), spaces.Box(-1, 1, (2,))


def make_model(
    space: spaces.Box = PLANE, action_space: spaces.Space = ACTION, seeds: int = 1, bandwidth: float = 0.25, **options: Any
) -> BacktrackingModel:
    config = BacktrackingConfig(kind="neighbours", bandwidth=bandwidth, **options)
    model = BacktrackingModel(space, action_space, seeds, config=config)
    assert isinstance(model.density, NeighbourModel)
    return model


def steps(obs: Tensor, actions: Tensor, next_obs: Tensor) -> Transitions:
    flags = torch.zeros(obs.shape[:2], dtype=torch.bool)
    return Transitions(obs, actions, flags.float(), next_obs, flags, flags)


def wander(rows: int, seeds: int = 1, seed: int = 0) -> Transitions:
    """Moves of up to one along each axis from anywhere in a square."""
    generator = torch.Generator().manual_seed(seed)
    obs = torch.rand(seeds, rows, 2, generator=generator) * 8 - 4
    actions = torch.rand(seeds, rows, 2, generator=generator) * 2 - 1
    return steps(obs, actions, obs + actions)


def test_density_integrates_to_one() -> None:
    model = make_model(spaces.Box(-10, 10, (1,)), spaces.Box(-1, 3, (1,)))
    data = wander(500)
    model.fit(steps(data.obs[..., :1], data.actions[..., :1] + 1, data.next_obs[..., :1]))
    points = torch.linspace(-1, 3, 401)[:-1] + 0.005
    states = torch.linspace(-4, 4, 401)[:-1] + 0.01
    grid = torch.cartesian_prod(points, states)[None, :, :, None]
    total = model.log_prob(grid[:, :, 1], grid[:, :, 0], torch.full((1, grid.shape[1], 1), 0.4)).exp().sum() * 0.01 * 0.02
    assert float(total) == pytest.approx(1.0, abs=0.01)


def test_draws_are_recorded_steps_that_arrived_near() -> None:
    model, data = make_model(bandwidth=0.1), wander(4000)
    model.fit(data)
    states = wander(200, seed=1).next_obs.clamp(-3, 3)
    actions, obs, known = model.density.sample(states)
    assert float(known.float().mean()) > 0.9
    states, actions, obs = states[known][None], actions[known][None], obs[known][None]
    recorded = torch.cat([data.obs, data.actions], 2)[0]
    found = torch.cat([obs, actions], 2)[0]
    distance, which = torch.cdist(found, recorded, compute_mode="donot_use_mm_for_euclid_dist").min(1)
    assert float(distance.max()) < 1e-4
    # A step is 0.58 along each axis at the root mean square, the kernel a tenth of that wide, and three widths are the most.
    assert float((data.next_obs[0, which] - states[0]).norm(dim=1).max()) < 0.19


def test_traces_go_on_where_two_episodes_meet_and_never_beyond_what_was_seen() -> None:
    """One way leads from the left to the middle, another from the middle to the right: only together they lead all the way."""
    left, right = (torch.arange(n, n + 6).float() for n in (0, 5))
    obs = torch.cat([left[:-1], right[:-1]])
    obs = torch.stack([obs, torch.zeros(10)], 1)[None]
    move = torch.tensor([1.0, 0.0]).expand_as(obs)
    model = make_model(neighbours=4)
    model.fit(steps(obs, move, obs + move))
    traces = model.sample_traces(torch.tensor([[[10.0, 0.0]]]), 12)
    assert traces.obs.shape == (1, 1, 12, 2)
    assert traces.mask[0, 0].tolist() == [False] * 2 + [True] * 10
    assert traces.obs[0, 0, 2:, 0].tolist() == [float(x) for x in range(10)]
    assert bool((traces.actions[0, 0, 2:] == move[0, 0]).all())
    assert not bool(model.sample_traces(torch.tensor([[[12.0, 0.0]]]), 3).mask.any())


def test_what_came_before_is_drawn_in_proportion_to_how_near_it_arrived() -> None:
    """Each seed has its own two last steps and three that arrived aside of where these began, by parts of the kernel's width."""
    aside = torch.tensor([[0.0, 1.0, 2.0], [2.5, 0.5, 1.5]])
    last = torch.tensor([[6.0, 5.0], [7.0, 8.0]])[:, :, None].expand(-1, -1, 2)
    before = last.amin(1, keepdim=True) - 1 + 0.25 * torch.stack([aside, torch.zeros(2, 3)], 2)
    obs = torch.cat([last, before], 1)
    model = make_model(seeds=2)
    model.fit(steps(obs, torch.ones_like(obs), obs + 1))
    draws = 20_000
    traces = model.sample_traces((last.amax(1, keepdim=True) + 1).expand(-1, draws, -1), 4)
    assert traces.mask.float().mean((0, 1)).tolist() == [0, 1, 1, 1]
    for seed in range(2):
        assert torch.equal(traces.obs[seed, :, 2:], last[seed].sort(0).values.expand(draws, -1, -1))
        shares = (traces.obs[seed, :, 1, None] == before[seed]).all(2).float().mean(0)
        torch.testing.assert_close(shares, torch.softmax(-aside[seed].square() / 2, 0), atol=0.015, rtol=0)


def test_steps_that_stand_still_are_never_drawn() -> None:
    data = wander(300)
    still = wander(300, seed=1).next_obs
    both = steps(
        *(torch.cat(x, 1) for x in ((data.obs, still), (data.actions, torch.full_like(still, 0.5)), (data.next_obs, still)))
    )
    model = make_model()
    model.fit(both)
    traces = model.sample_traces(still[:, :50], 20)
    assert not bool((traces.actions[traces.mask] == 0.5).all(1).any())


def test_steps_that_stand_still_do_not_make_others_shorter() -> None:
    """Those too many for a seed, which fill the support up, are such."""
    data, model = wander(2000), make_model()
    still = torch.zeros(1, 2000, 2)
    scales = []
    for given in (
        data,
        steps(*(torch.cat(pair, 1) for pair in ((data.obs, still), (data.actions, still), (data.next_obs, still)))),
    ):
        model.fit(given)
        scales.append(model.density.scale.clone())
    torch.testing.assert_close(*scales)


def test_contexts_stay_as_they_are_and_are_learned_across() -> None:
    """The third number is an episode's goal: a way seen under one goal serves under another."""
    space, data = spaces.Box(-10, 10, (3,)), wander(2000)
    goals = torch.randint(0, 3, (1, 2000, 1), generator=torch.Generator().manual_seed(2)).float()
    model = make_model(space)
    model.fit(steps(torch.cat([data.obs, goals], 2), data.actions, torch.cat([data.next_obs, goals], 2)))
    states = torch.tensor([[[0.0, 0.0, 7.5]]]).expand(1, 20, 3)
    traces = model.sample_traces(states, 15)
    assert bool(traces.mask.all())
    assert bool((traces.obs[..., 2] == 7.5).all())
    assert float(traces.obs[..., 0].std()) > 0.3
    assert bool((model.sample(states)[1][..., 2] == 7.5).all())
    found = model.shortest_traces(torch.tensor([[[1.0, 1.0, 2.0]]]), states[:, :1], 15)
    assert bool(found.mask.any())
    assert bool((found.obs[..., 2] == 7.5).all())


def test_held_out_steps_are_likelier_where_they_belong() -> None:
    model, data = make_model(support=4000), wander(3000)
    loss = model.fit(data.map(lambda x: torch.cat([x, x[:, :100]], 1)))
    assert loss == {}  # no more than the support
    right = model.log_prob(*(x[:, :200] for x in (data.obs, data.actions, data.next_obs)))
    wrong = model.log_prob(data.obs[:, :200], -data.actions[:, :200], data.next_obs[:, :200])
    assert float((right > wrong).float().mean()) > 0.9
    assert make_model(support=1000).fit(data)["loss"].shape == (1,)


def test_the_loss_is_of_held_out_steps_that_moved_and_of_which_something_is_known() -> None:
    model, data = make_model(support=1000), wander(1200)
    model.fit(data)
    known = -model.log_prob(*(x[:, 1000:] for x in (data.obs, data.actions, data.next_obs)))
    finite = known.isfinite()
    assert model.fit(data)["unknown"].tolist() == pytest.approx([float((~finite).sum()) / 200])
    far = data.map(lambda x: x.clone())
    far.obs[:, 1000:1050] += 1000
    far.next_obs[:, 1000:1050] += 1000
    stood = far.map(lambda x: x.clone())
    stood.next_obs[:, 1050:1100] = stood.obs[:, 1050:1100]
    found = model.fit(stood)
    assert found["unknown"].tolist() == pytest.approx([(50 + float((~finite[:, 100:]).sum())) / 150])
    torch.testing.assert_close(found["loss"], known[:, 100:][finite[:, 100:]].mean()[None], rtol=0.05, atol=0.05)
    still = stood.map(lambda x: x.clone())
    still.next_obs[:, 1000:] = still.obs[:, 1000:]
    assert model.fit(still) == {}


def test_a_fleet_is_its_members_alone_and_what_does_not_learn_stays() -> None:
    data = wander(300, seeds=2)
    fleet = make_model(seeds=2)
    fleet.fit(data)
    test = wander(50, seeds=2, seed=3)
    for seed in range(2):
        alone = make_model()
        alone.fit(data.map(lambda x, seed=seed: x[seed : seed + 1]))
        mine = (x[seed : seed + 1] for x in (test.obs, test.actions, test.next_obs))
        torch.testing.assert_close(alone.log_prob(*mine), fleet.log_prob(test.obs, test.actions, test.next_obs)[seed : seed + 1])
    fleet.fit(wander(300, seeds=2, seed=9), active=[False, True])
    assert isinstance(fleet.density, NeighbourModel)
    assert torch.equal(fleet.density.obs[0], data.obs[0])
    assert not torch.equal(fleet.density.obs[1], data.obs[1])


def test_what_was_saved_draws_the_same() -> None:
    model = make_model()
    model.fit(wander(300))
    other = make_model()
    other.load_state_dict({name: value.clone() for name, value in model.state_dict().items()})
    states = wander(20, seed=4).next_obs
    first, second = (m.sample_traces(states, 10) for m in (model, other))
    assert torch.equal(first.obs, second.obs)
    assert torch.equal(first.actions, second.actions)


def test_finite_observations_and_numbers_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="neighbours need Box observations"):
        make_model(spaces.Discrete(4))
    for name in ("support", "neighbours", "bandwidth"):
        with pytest.raises(ValueError, match=f"the model's {name} must be (positive|at least 1)"):
            RecallConfig(model=BacktrackingConfig(**{name: 0}))


def test_trees_find_what_all_distances_find() -> None:
    """The way of a CPU and that of a GPU: with steps that stand still, a dimension that never changes, and few near."""
    data = wander(400, seeds=2, seed=3).map(lambda x: x.clone())
    data.next_obs[:, ::7] = data.obs[:, ::7]
    context = torch.tensor([1.0, 2.0]).view(2, 1, 1).expand(2, 400, 1)
    data = steps(torch.cat([data.obs, context], 2), data.actions, torch.cat([data.next_obs, context], 2))
    density: Any = make_model(spaces.Box(-10, 10, (3,)), seeds=2, support=400).density
    density.fit(data, 0, None)
    asked = torch.cat([data.obs, data.next_obs, data.obs + 100], 1)
    (steps_found, weights), (steps_there, weights_there) = density.nearest(asked), density.nearest_of_all(asked)
    near = weights_there.isfinite()
    assert 0.05 < float(near.float().mean()) < 0.95
    assert torch.equal(weights.isfinite(), near)
    torch.testing.assert_close(weights[near], weights_there[near], rtol=1e-4, atol=1e-4)
    assert torch.equal(steps_found[near], steps_there[near])


def test_trees_are_built_where_denormal_numbers_count_as_zero() -> None:
    """scipy once split between 0 and the next number, without an end; tests run with the switch on, as the command line does."""
    generator = torch.Generator().manual_seed(0)
    still = (torch.rand(1, 300, 2, generator=generator) > 0.5) * torch.rand(1, 300, 2, generator=generator)
    data = steps(still, torch.zeros(1, 300, 2), still.flip(1))
    torch.set_flush_denormal(True)
    density: Any = make_model(support=300).density
    density.fit(data, 0, None)
    assert torch.equal(density.nearest(data.next_obs)[1].isfinite(), density.nearest_of_all(data.next_obs)[1].isfinite())
