"""The shortest traces in a model of neighbours, and the support that it is given."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from recall_traces import BacktrackingConfig, BacktrackingModel, RecallConfig, RecallTraces, Transitions, shortest
from recall_traces.selection import HELD_OUT
from recall_traces.shortest import LINK

PLANE, PUSH = spaces.Box(-20, 20, (2,)), spaces.Box(-1, 1, (2,))
NEIGHBOURS = BacktrackingConfig(kind="neighbours", neighbours=8)


def way(*points: tuple[float, float]) -> tuple[Tensor, Tensor]:
    """States along a way and what follows each, `(1, L, 2)`."""
    along = torch.tensor([points], dtype=torch.float32)
    return along[:, :-1], along[:, 1:]


def steps(*ways: tuple[Tensor, Tensor]) -> Transitions:
    obs, next_obs = (torch.cat(column, 1) for column in zip(*ways, strict=True))
    flags = torch.zeros(obs.shape[:2], dtype=torch.bool)
    return Transitions(obs, (next_obs - obs).clamp(-1, 1), flags.float(), next_obs, flags, flags)


def fitted(transitions: Transitions, bandwidth: float = 0.25) -> BacktrackingModel:
    config = BacktrackingConfig(kind="neighbours", neighbours=8, bandwidth=bandwidth)
    model = BacktrackingModel(PLANE, PUSH, len(transitions.rewards), config=config)
    model.fit(transitions)
    return model


AROUND = way((0, 0), (0, 1), (0, 2), (1, 2), (2, 2), (2, 1), (2, 0))
ACROSS = way((-1, 1), (0, 1), (1, 1), (2, 1), (3, 1))
"""Leads through the middle of what `AROUND` goes around, but neither from its start nor to its end."""


def test_the_shortest_way_joins_two_episodes() -> None:
    model = fitted(steps(AROUND, ACROSS))
    found = model.shortest_traces(torch.tensor([[[0.0, 0.0]]]), torch.tensor([[[2.0, 0.0]]]), 8)
    assert found.mask[0, 0].tolist() == [False] * 4 + [True] * 4
    assert found.obs[0, 0, 4:].tolist() == [[0, 0], [0, 1], [1, 1], [2, 1]]
    assert found.actions[0, 0, 4:].tolist() == [[0, 1], [1, 0], [1, 0], [0, -1]]
    assert torch.equal(found.weights, found.mask.float())


def test_a_way_that_is_too_long_or_does_not_exist_is_not_found() -> None:
    model = fitted(steps(AROUND, ACROSS))
    start, end = torch.tensor([[[0.0, 0.0]]]), torch.tensor([[[2.0, 0.0]]])
    assert not model.shortest_traces(start, end, 3).mask.any()
    assert not model.shortest_traces(end, start, 20).mask.any()  # nothing leads back
    assert not model.shortest_traces(torch.tensor([[[-9.0, 0.0]]]), end, 20).mask.any()
    assert not model.shortest_traces(start, torch.tensor([[[-9.0, 0.0]]]), 20).mask.any()


def test_states_belong_to_starts_in_turn() -> None:
    model = fitted(steps(AROUND, ACROSS))
    starts = torch.tensor([[[0.0, 0.0], [1.0, 2.0]]])
    found = model.shortest_traces(starts, torch.tensor([[2.0, 0.0], [2.0, 0.0], [2.0, 1.0], [0.0, 1.0]])[None], 8)
    assert found.mask.sum(2).tolist() == [[4, 3, 3, 0]]


@pytest.mark.parametrize(("widths", "length"), [(1.0, 8), (2.5, 10)])
def test_a_link_costs_half_its_square(widths: float, length: int) -> None:
    """A jump saves two of ten steps, but begins aside of where one arrives: half a step's worth at one width, three at 2.5."""
    straight = steps(way(*((float(x), 0.0) for x in range(11))))
    aside = widths * LINK  # before the jump is known, a step is one long
    jump = steps(way((4.0 - aside, 0.0), (7.0, 0.0)))
    model = fitted(straight)
    density: Any = model.density
    assert density.scale.tolist() == [[[1.0, 0.0]]]
    density.obs, density.actions, density.next_obs = (
        torch.cat([getattr(straight, name), getattr(jump, name)], 1) for name in ("obs", "actions", "next_obs")
    )
    density.trees = []  # of the support before
    density.before, density.weights = density.nearest(density.obs)
    found = model.shortest_traces(torch.tensor([[[0.0, 0.0]]]), torch.tensor([[[10.0, 0.0]]]), 12)
    assert int(found.mask.sum()) == length


def wander(rows: int, seeds: int, seed: int) -> Transitions:
    """Moves of up to one along each axis from anywhere in a square."""
    generator = torch.Generator().manual_seed(seed)
    obs = torch.rand(seeds, rows, 2, generator=generator) * 8 - 4
    moves = torch.rand(seeds, rows, 2, generator=generator) * 2 - 1
    flags = torch.zeros(seeds, rows, dtype=torch.bool)
    return Transitions(obs, moves, flags.float(), obs + moves, flags, flags)


def test_a_fleet_finds_what_its_members_find_alone_and_no_sampled_trace_is_shorter() -> None:
    data, ends = wander(1500, 2, 0), torch.tensor([[3.0, 3.0], [-3.0, 3.0], [3.0, -1.0]]).expand(2, -1, -1)
    starts = torch.full((2, 1, 2), -3.0)
    model = fitted(data)
    found = model.shortest_traces(starts, ends, 40)
    assert found.mask.any(2).all()
    for seed in range(2):
        alone = fitted(data.map(lambda x, seed=seed: x[seed : seed + 1])).shortest_traces(starts[:1], ends[:1], 40)
        assert torch.equal(alone.obs[0], found.obs[seed])
        assert torch.equal(alone.mask[0], found.mask[seed])
    # Each step leads to where the next one begins, within three widths of a quarter of a step.
    after = torch.cat([found.obs[:, :, 1:], ends[:, :, None]], 2)[found.mask]
    led_to = (found.obs + found.actions)[found.mask]
    assert float((after - led_to).norm(dim=1).max()) < 3 * 0.25 * 0.6
    sampled = model.sample_traces(ends.repeat_interleave(200, 1), 40)
    near = (sampled.obs - starts[:, :, None]).norm(dim=3) < 0.2
    first = torch.where(near & sampled.mask, torch.arange(40), -1).amax(2).view(2, 3, 200)
    fewest = torch.where(first >= 0, 40 - first, 99).amin(2)
    assert (found.mask.sum(2) <= fewest).all()


def test_seeds_measure_in_steps_of_their_own() -> None:
    """The second seed's steps are a hundred times as long."""
    data = wander(1500, 2, 0).map(lambda x: x * torch.tensor([1.0, 100.0])[:, None, None] if x.dim() == 3 else x)
    ends = torch.tensor([[[3.0, 3.0], [-3.0, 3.0]], [[300.0, 300.0], [-300.0, 300.0]]])
    found = fitted(data).shortest_traces(torch.tensor([[[-3.0, -3.0]], [[-300.0, -300.0]]]), ends, 40)
    assert found.mask.any(2).all()
    alone = fitted(data.map(lambda x: x[1:])).shortest_traces(torch.full((1, 1, 2), -300.0), ends[1:], 40)
    assert torch.equal(alone.obs[0], found.obs[1])


BEYOND = way((0.2, 0), (1.2, 0), (2, 0))
"""Begins next to where `AROUND` does; a wall may be between."""


def tried_at(*actions: tuple[float, float]) -> Transitions:
    """Steps from (0, 0) that moved nothing."""
    still = torch.zeros(1, len(actions), 2)
    flags = torch.zeros(1, len(actions), dtype=torch.bool)
    return Transitions(still, torch.tensor([actions], dtype=torch.float32), flags.float(), still, flags, flags)


@pytest.mark.parametrize(
    ("tried", "length"),
    [
        (None, 2),
        (tried_at((1, 0)), 6),
        (tried_at((1, 0.1), (1, -0.1)), 6),
        (tried_at(*[(0, 1)] * 9, *[(1, 0)] * 9), 6),  # the way around was recorded just so
        (tried_at((0, 1)), 2),  # the way around
        (tried_at((-1, 0)), 2),
        (steps(BEYOND), 2),
        (steps(AROUND), 2),
    ],
)
def test_steps_that_were_tried_in_vain_are_left_out(tried: Transitions | None, length: int) -> None:
    model = fitted(steps(AROUND, BEYOND))
    found = model.shortest_traces(torch.tensor([[[0.0, 0.0]]]), torch.tensor([[[2.0, 0.0]]]), 8, tried)
    assert int(found.mask.sum()) == length
    assert found.actions[0, 0, 8 - length].tolist() == ([0, 1] if length == 6 else [1, 0])


def test_links_on_the_way_are_left_out_too() -> None:
    model = fitted(steps(way((-1, 0), (0, 0)), AROUND, BEYOND))
    start, end = torch.tensor([[[-1.0, 0.0]]]), torch.tensor([[[2.0, 0.0]]])
    assert int(model.shortest_traces(start, end, 8).mask.sum()) == 3
    assert int(model.shortest_traces(start, end, 8, tried_at((1, 0))).mask.sum()) == 7


def test_ways_from_other_starts_are_not_looked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second of two ways has a step that was tried in vain, and so has the next best: both are held against its own start."""
    further = way((0.25, 0), (1.25, 0), (2, 0))
    model, ends = fitted(steps(AROUND, BEYOND, further)), torch.tensor([[[2.0, 0.0], [2.0, 0.0]]])
    starts = torch.tensor([[[1.0, 2.0], [0.0, 0.0]]])
    assert model.shortest_traces(starts, ends, 8).mask.sum(2).tolist() == [[3, 2]]
    assert model.shortest_traces(starts, ends, 8, tried_at((1, 0))).mask.sum(2).tolist() == [[3, 6]]
    monkeypatch.setattr(shortest, "ROUNDS", 1)  # too few to find another
    assert model.shortest_traces(starts, ends, 8, tried_at((1, 0))).mask.sum(2).tolist() == [[3, 0]]


@pytest.mark.parametrize(("action", "length"), [(0, 6), (1, 2)])
def test_only_the_same_discrete_action_refutes_a_step(action: int, length: int) -> None:
    data = steps(AROUND, BEYOND)
    data = replace(data, actions=torch.tensor([[1, 1, 0, 0, 2, 2, 0, 0]]))  # right, up, down
    config = BacktrackingConfig(kind="neighbours", neighbours=8, bandwidth=0.25)
    model = BacktrackingModel(PLANE, spaces.Discrete(3), config=config)
    model.fit(data)
    tried = replace(tried_at((0, 0)), actions=torch.tensor([[action]]))
    found = model.shortest_traces(torch.tensor([[[0.0, 0.0]]]), torch.tensor([[[2.0, 0.0]]]), 8, tried)
    assert int(found.mask.sum()) == length


def test_only_neighbours_can_be_searched() -> None:
    network = BacktrackingModel(PLANE, PUSH, config=BacktrackingConfig(kind="network", hidden=(8,)))
    with pytest.raises(ValueError, match="only a model of the kind 'neighbours'"):
        network.shortest_traces(torch.zeros(1, 1, 2), torch.zeros(1, 1, 2), 4)


# RecallTraces


def make_recall(*targets: tuple[float, float], **options: Any) -> RecallTraces:
    given = {"source": "given", "trace_length": 6, "traces_per_update": 3, "model": NEIGHBOURS, "search": "shortest"}
    config = RecallConfig(**(given | {"memory_size": 4000} | options))
    return RecallTraces(PLANE, PUSH, config, num_envs=1, given=torch.tensor(targets or [(2.0, 0.0)]))


def episode(transitions: Transitions) -> Transitions:
    """As one environment's episode of each seed, `(T, S, 1, ...)`."""
    done = torch.zeros_like(transitions.terminated)
    done[:, -1] = True
    one = Transitions(**(vars(transitions) | {"terminated": done}))
    return one.map(lambda x: x.transpose(0, 1)[:, :, None])


def ways(recall: RecallTraces) -> set[tuple[tuple[float, ...], ...]]:
    """The states of each of the newest traces."""
    traces = recall.buffer[-1]
    return {tuple(map(tuple, obs[mask].tolist())) for obs, mask in zip(traces.obs[0], traces.mask[0], strict=True)}


def test_recall_finds_the_way_from_where_the_agent_was_since_the_last_update() -> None:
    recall = make_recall(traces_per_update=64, memory_size=30, search_length=30)
    for one in (AROUND, ACROSS):
        recall.observe(episode(steps(one)))
    around = [(0, 0), (0, 1), (0, 2), (1, 2), (2, 2), (2, 1)]
    across = [(-1, 1), (0, 1), (1, 1), (2, 1)]
    shortest = {tuple(across[k:]) for k in range(4)} | {tuple(around[k:]) for k in range(2, 6)} | {((0, 0), *across[1:])}
    found = set()
    for _ in range(6):  # from the second on there is nothing new, and ways begin anywhere
        recall.update()
        found |= ways(recall)
    assert found == shortest
    traces = recall.buffer[0]
    assert bool(traces.next_obs[0, :, -1].eq(torch.tensor([2.0, 0.0])).all())
    assert not bool(traces.known_end[..., -1].any())  # the target was given, not recorded
    assert bool(traces.known_end[..., :-1].all())
    for _ in range(3):  # the ring turns over: what was written first is gone
        recall.observe(episode(steps(way((-1, 1), (0, 1)))))
        recall.update()
        assert ways(recall) == {tuple(across)}
        recall.observe(episode(steps(AROUND)))
        recall.observe(episode(steps(way((1, 2), (2, 2)))))
        recall.update()
        assert ways(recall) <= shortest
        assert tuple(across) not in ways(recall)
    resumed = make_recall(traces_per_update=64, memory_size=30, search_length=30)
    resumed.load_state_dict(recall.state_dict())
    for one in (recall, resumed):
        one.observe(episode(steps(way((1, 2), (2, 2)))))
        one.update()
        assert ways(one) == {((1, 2), (2, 2), (2, 1))}


def test_bumps_teach_recall_the_way_around_a_wall() -> None:
    """Until it bumps into the wall next to where it is, it believes in the way that an episode began beyond it."""
    recall = make_recall(trace_length=8)
    for one in (AROUND, BEYOND):
        recall.observe(episode(steps(one)))
    recall.update()
    for action, length in ((-1, 2), (1, 6)):
        recall.observe(episode(tried_at((action, 0), (action, 0))))
        recall.update()
        assert recall.buffer[-1].mask.sum(2)[0].tolist() == [length] * 3


def test_where_no_way_is_known_one_from_anywhere_is_sampled() -> None:
    recall = make_recall()
    recall.observe(episode(steps(AROUND)))
    elsewhere = way(*((9.0 + 0.5 * k, 9.0) for k in range(7)))
    recall.observe(episode(steps(elsewhere)))
    recall.update()
    recall.observe(episode(steps(elsewhere)))
    recall.update()
    assert ways(recall) == {((2, 1),)}  # no start leads here, so that loops are cut out, and of a cell the last step is kept


def test_the_share_of_targets_with_a_known_way_decides_how_much_is_imitated() -> None:
    """Nothing where there is a way into none, about half where there is one into two of nine, and all from three tenths on."""
    elsewhere = [(9.5 + 0.5 * k, 9.0) for k in range(7)]
    recall = make_recall(*[(2.0, 0.0)] * 2, *elsewhere, traces_per_update=800, buffer_updates=1)
    recall.observe(episode(steps(way((9.0, 9.0), *elsewhere))))
    recall.update()
    assert (recall.sample(50).weights == 1).all()
    recall.observe(episode(steps(AROUND)))
    metrics = recall.update()
    [traces] = recall.buffer
    assert bool(traces.mask.any(2).all())  # from anywhere, where no way is known
    known = float((traces.next_obs[:, :, -1] == torch.tensor([2.0, 0.0])).all(-1).float().mean())
    assert known == pytest.approx(2 / 9, abs=0.05)
    assert metrics["recall/sureness"].tolist() == pytest.approx([known / 0.15 - 1])
    imitated = [bool(recall.sample(5).weights.all()) for _ in range(1000)]
    assert sum(imitated) == pytest.approx(1000 * (known / 0.15 - 1), abs=1)
    assert recall.imitation_ratio == recall.config.imitation_ratio
    recall.observe(episode(steps(way((-9, -9), (-8, -9)))))  # no way leads from there
    assert recall.update()["recall/sureness"].tolist() == [0]
    assert not recall.sample(50).mask.any()
    assert recall.imitation_ratio == 0
    resumed = make_recall(traces_per_update=800, buffer_updates=1)
    resumed.load_state_dict(recall.state_dict())
    assert resumed.imitation_ratio == 0


def test_the_recorded_way_into_a_target_is_always_known() -> None:
    """However small the support: of 3,000 steps it has 64, and those 12 that led to the reward among them."""
    recall = make_recall(model=BacktrackingConfig(kind="neighbours", support=64), source="return", trace_length=12, top_states=1)
    there = way(*((float(k), float(k % 2)) for k in range(-12, 1)))
    paid = steps(there)
    paid.rewards[:, -1] = 1.0
    recall.observe(episode(paid))
    walk = wander(3000, 1, 3).obs.cumsum(1).remainder(30) - 15
    recall.observe(episode(steps((walk[:, :-1], walk[:, 1:]))))
    for _ in range(5):
        targets = recall.states.choose(3, None)
        recall.fit(targets)
        assert bool(targets.active.all())
        assert bool((targets.obs == there[1][:, -1]).all())
        rows = {tuple(row) for row in recall.model.density.obs[0].tolist()}
        assert {tuple(row) for row in there[0][0].tolist()} <= rows
        assert len(rows) == 64


def test_a_long_way_keeps_its_end() -> None:
    recall = make_recall(trace_length=2)
    recall.observe(episode(steps(AROUND)))
    recall.update()
    recall.observe(episode(steps(way((0, 0), (0, 1)))))
    recall.update()
    assert recall.buffer[1].obs[0, 0].tolist() == [[2, 2], [2, 1]]


def test_the_support_covers_rare_states_and_holds_each_moving_step_once() -> None:
    """2,000 steps to and fro and 300 against a wall hide the three that lead away, once."""
    recall = make_recall(model=BacktrackingConfig(kind="neighbours", support=64))
    back_and_forth = way(*[(0.0, 0.0), (0.5, 0.0)] * 1000)
    wall = way(*[(0.5, 0.0)] * 300)
    away = way((0.5, 0.0), (4.5, 0.0), (8.5, 0.0), (12.5, 0.0))
    recall.observe(episode(steps(back_and_forth, wall, away)))
    chosen = recall.selection.support(recall.memory.held(), 64)
    assert chosen.obs.shape == (1, 64 + HELD_OUT, 2)
    moved = (chosen.obs != chosen.next_obs).any(2)
    assert bool(moved.all())
    assert chosen.next_obs[0, :, 0].unique().tolist()[-3:] == [4.5, 8.5, 12.5]
    # More places than steps that may be taken: the rest stand still, which a model of neighbours leaves out.
    few = recall.memory.held() & (recall.memory.next_cells == recall.cells(torch.tensor([[[12.5, 0.0]]]))[0, 0])
    moves = (lambda t: (t.obs != t.next_obs).any(2))(recall.selection.support(few, 64))
    assert moves.nonzero().tolist() == [[0, 0]]  # what is there comes first


def test_the_support_is_even_over_what_is_still_remembered() -> None:
    """4,000 steps to and fro turn the ring over, and half of it is of two other places: those are not rare any more."""
    recall = make_recall(model=BacktrackingConfig(kind="neighbours", support=20), memory_size=800)
    to_and_fro, elsewhere = way(*[(0.0, 0.0), (0.5, 0.0)] * 200), way(*[(4.5, 0.0), (8.5, 0.0)] * 200)
    for _ in range(10):
        recall.observe(episode(steps(to_and_fro)))
    recall.observe(episode(steps(elsewhere)))
    chosen = recall.selection.evenly(recall.memory.held(), 120)[0].next_obs[0, :, 0]
    assert len(recall.memory.next_cells.unique()) == 3  # 0 and 0.5 are one place
    assert float((chosen < 1).float().mean()) == pytest.approx(1 / 3, abs=0.1)


def test_the_steps_on_ways_into_stamped_ones_are_those_of_their_column_and_episode() -> None:
    """Two seeds, two environments, a ring of 6 that has turned over; the second environment of seed 1 ends episodes after 2."""
    config = RecallConfig(memory_size=12, trace_length=3, search_length=3)
    recall = RecallTraces(PLANE, PUSH, config, num_seeds=2, num_envs=2)
    for first in (0, 4):
        time = torch.arange(first, first + 4).float()
        obs = torch.stack([time, time * 0], 1)[:, None, None].expand(4, 2, 2, 2)
        done = torch.zeros(4, 2, 2, dtype=torch.bool)
        done[1::2, 1, 1] = True
        flags = torch.zeros_like(done)
        recall.observe(Transitions(obs, obs * 0, flags.float(), obs + 1, done, flags))
    # Steps of times 2 to 7 are held, a step's stamp is 2 * time + environment.
    marks = recall.selection.ways_into(torch.tensor([[2 * 7, 2 * 2 + 1, -1], [2 * 7 + 1, 2 * 1, 2 * 4 + 1]]), 3)
    found = [sorted(recall.memory.steps.obs[s, n, marks[s, n], 0].tolist()) for s in range(2) for n in range(2)]
    assert found == [[5, 6, 7], [2], [], [4, 6, 7]]


def test_a_seed_recalls_the_same_whether_or_not_another_finds_its_way() -> None:
    """Candidates are sampled for those without a shortest way, from the generator that all seeds share."""
    config = RecallConfig(source="given", trace_length=6, traces_per_update=8, model=NEIGHBOURS, memory_size=4000)
    generator, walk = torch.Generator().manual_seed(0), wander(200, 1, 0)
    home, away = ((torch.randn(20, 2, generator=generator) * 0.3).cumsum(0) + place for place in (0.0, 15.0))
    found = []
    for other in (home, away):
        recall = RecallTraces(PLANE, PUSH, config, num_seeds=2, num_envs=1, given=torch.tensor([[2.0, 0.0]]))
        recall.observe(episode(walk.map(lambda x: x.expand(2, *x.shape[1:]))))
        recall.update()
        for path in (torch.stack([home, other]), torch.stack([away, home])):
            recall.observe(episode(steps((path[:, :-1], path[:, 1:]))))
            recall.update()
        found.append(recall.buffer[-1])
    assert torch.equal(found[0].obs[0], found[1].obs[0])
    assert torch.equal(found[0].mask[0], found[1].mask[0])
    assert found[0].mask[0].any()


UNSEARCHABLE: list[dict[str, Any]] = [
    {"traces_from": "record"},
    {"model": BacktrackingConfig(kind="network")},
    {"imagined_share": 0.5, "model": BacktrackingConfig()},
]


@pytest.mark.parametrize("options", UNSEARCHABLE)
def test_a_search_needs_a_model_that_can_be_searched(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="search='shortest' needs traces from a model of neighbours"):
        make_recall(**options)


def test_by_itself_the_shortest_way_is_looked_for_where_the_model_can_be_searched() -> None:
    recall = make_recall(model=BacktrackingConfig(), search="auto")
    assert recall.model.kind == "neighbours"
    assert recall.ways.searches
    assert not make_recall(search="sample").ways.searches
    assert not any(make_recall(**options, search="auto").ways.searches for options in UNSEARCHABLE)
    finite = RecallTraces(spaces.Discrete(5), spaces.Discrete(2), num_envs=1)
    assert finite.model.kind == "table"
    assert not finite.ways.searches
