import math
from collections import Counter

import pytest
import torch
from gymnasium import spaces
from scipy import stats
from torch import Tensor

from recall_traces import BacktrackingConfig, BacktrackingModel, Transitions
from recall_traces.table import TableModel

STATES, ACTIONS = 5, 3


def make_table(seeds: int = 2, space: spaces.Space | None = None, share: bool = True) -> TableModel:
    generator = torch.Generator().manual_seed(0)
    return TableModel(space or spaces.Discrete(STATES), spaces.Discrete(ACTIONS), seeds, share, generator, "cpu")


def batch(count: int, seed: int, seeds: int = 2) -> Transitions:
    generator = torch.Generator().manual_seed(seed)
    obs, actions, next_obs = (torch.randint(n, (seeds, count), generator=generator) for n in (STATES, ACTIONS, STATES - 1))
    flags = torch.zeros(seeds, count, dtype=torch.bool)
    return Transitions(obs, actions, torch.zeros(seeds, count), next_obs, flags, flags)


def triples() -> tuple[Tensor, Tensor, Tensor]:
    obs, actions, next_obs = torch.meshgrid(torch.arange(STATES), torch.arange(ACTIONS), torch.arange(STATES), indexing="ij")
    return tuple(x.flatten().expand(2, -1) for x in (obs, actions, next_obs))


def test_probabilities_are_ratios_of_counts() -> None:
    table, data = make_table(), batch(200, 0)
    table.fit(data, 0, None)
    log_probs = table.log_prob(*triples())
    for s in range(2):
        seen = list(zip(data.obs[s].tolist(), data.actions[s].tolist(), data.next_obs[s].tolist(), strict=True))
        count, into = Counter(seen), Counter(triple[2] for triple in seen)
        for k, triple in enumerate(zip(*(x[s].tolist() for x in triples()), strict=True)):
            expected = count[triple] / into[triple[2]] if into[triple[2]] else 0.0
            assert math.exp(log_probs[s, k]) == pytest.approx(expected, rel=1e-6)


def test_the_loss_is_that_of_the_batch_under_all_counts() -> None:
    table, first, second = make_table(), batch(50, 0), batch(60, 1)
    table.fit(first, 0, None)
    loss = table.fit(second, 0, None)["loss"]
    torch.testing.assert_close(loss, -table.log_prob(second.obs, second.actions, second.next_obs).mean(1))


def test_counting_bit_by_bit_is_counting_at_once() -> None:
    data, whole, parts = batch(300, 0), make_table(), make_table()
    whole.fit(data, 0, None)
    for chunk in range(0, 300, 50):
        parts.fit(data.map(lambda x, chunk=chunk: x[:, chunk : chunk + 50]), 0, None)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, parts.state_dict()[name]), name
    assert whole.counts.sum() == 600


def test_a_seed_that_does_not_learn_keeps_its_counts_and_the_others_do_not_notice() -> None:
    first, second, table = batch(100, 0), batch(100, 1), make_table()
    alone = [make_table(1), make_table(1)]
    table.fit(first, 0, None)
    table.fit(second, 0, [False, True])
    for s in range(2):
        for data in [first, second][: s + 1]:
            alone[s].fit(data.map(lambda x, s=s: x[s : s + 1]), 0, None)
        torch.testing.assert_close(table.log_prob(*triples())[s], alone[s].log_prob(*(x[:1] for x in triples()))[0])


@pytest.mark.parametrize("moving", [False, True])
def test_draws_follow_the_probabilities(moving: bool) -> None:
    table = make_table()
    table.fit(batch(300, 0), 0, None)
    obs, actions, next_obs = triples()
    prob = table.log_prob(obs, actions, next_obs).exp().double()
    draws = 20_000
    for target in range(STATES - 1):
        drawn_actions, drawn_obs, known = table.sample(torch.full((2, draws), target), moving)
        assert known.all()
        for s in range(2):
            here = next_obs[s] == target
            expected = torch.where((obs[s] == target) & moving, 0.0, prob[s])[here]
            expected = expected / expected.sum() * draws
            counts = (drawn_obs[s] * ACTIONS + drawn_actions[s]).bincount(minlength=STATES * ACTIONS)
            assert (counts[expected == 0] == 0).all()
            some = expected > 0
            result = stats.chisquare(counts[some].double().numpy(), expected[some].numpy())
            assert result.pvalue > 1e-5


@pytest.mark.parametrize("fitted", [False, True])
def test_where_nothing_is_known_the_state_stays_and_says_so(fitted: bool) -> None:
    table = make_table()
    if fitted:
        table.fit(batch(50, 0), 0, None)
    unseen = torch.full((2, 7), STATES - 1)
    actions, obs, known = table.sample(unseen)
    assert not known.any()
    assert torch.equal(obs, unseen)
    assert ((actions >= 0) & (actions < ACTIONS)).all()
    assert (table.log_prob(unseen, actions, unseen) == -torch.inf).all()


def test_a_state_that_is_only_reached_by_standing_still_has_no_moving_way_in() -> None:
    table = make_table(1)
    flags = torch.zeros(1, 3, dtype=torch.bool)
    obs, next_obs = torch.tensor([[2, 2, 1]]), torch.tensor([[2, 2, 3]])
    table.fit(Transitions(obs, torch.tensor([[0, 1, 2]]), torch.zeros(1, 3), next_obs, flags, flags), 0, None)
    actions, states, known = table.sample(torch.tensor([[2, 3]]).repeat(1, 50), moving=True)
    assert known.view(50, 2).tolist() == [[False, True]] * 50
    assert states.view(50, 2).tolist() == [[2, 1]] * 50
    assert (actions.view(50, 2)[:, 1] == 2).all()
    assert table.sample(torch.tensor([[2]]))[2].all()


def test_factors_of_a_multi_discrete_state_come_back_in_their_places() -> None:
    space = spaces.MultiDiscrete([3, 2, 4])
    table = make_table(1, space)
    obs, next_obs = torch.tensor([[[2, 1, 3], [0, 0, 1]]]), torch.tensor([[[1, 0, 2], [2, 1, 0]]])
    flags = torch.zeros(1, 2, dtype=torch.bool)
    table.fit(Transitions(obs, torch.tensor([[1, 2]]), torch.zeros(1, 2), next_obs, flags, flags), 0, None)
    actions, states, known = table.sample(next_obs)
    assert known.all()
    assert torch.equal(states, obs)
    assert actions.tolist() == [[1, 2]]


def test_saved_counts_come_back_and_forgetting_forgets() -> None:
    table, other = make_table(), make_table()
    table.fit(batch(100, 0), 0, None)
    other.load_state_dict(table.state_dict())
    assert torch.equal(table.log_prob(*triples()), other.log_prob(*triples()))
    table.reset()
    assert (table.log_prob(*triples()) == -torch.inf).all()
    assert (other.log_prob(*triples()) > -torch.inf).any()


def test_too_many_states_for_a_key_are_refused() -> None:
    with pytest.raises(ValueError, match="'network'"):
        BacktrackingModel(spaces.Discrete(2**31), spaces.Discrete(3), config=BacktrackingConfig(kind="table"))


# Contexts

PLACE_AND_GOAL = spaces.MultiDiscrete([STATES, 4])


def steps(*rows: tuple[int, int, int, int], seeds: int = 2) -> Transitions:
    """Each row is (place, action, next place, goal)."""
    place, actions, next_place, goal = (torch.tensor(column).expand(seeds, -1) for column in zip(*rows, strict=True))
    flags = torch.zeros(seeds, len(rows), dtype=torch.bool)
    obs, next_obs = torch.stack((place, goal), -1), torch.stack((next_place, goal), -1)
    return Transitions(obs, actions, torch.zeros(seeds, len(rows)), next_obs, flags, flags)


def test_what_was_learnt_under_one_goal_serves_under_another_and_the_goal_stays() -> None:
    table = make_table(space=PLACE_AND_GOAL)
    data = steps((0, 1, 2, 3), (4, 0, 3, 0), (3, 2, 2, 1))
    table.fit(data, 0, None)
    actions, obs, known = table.sample(torch.tensor([2, 2]).expand(2, 500, -1), moving=True)  # no step went there with goal 2
    assert known.all()
    found = Counter(zip(actions.flatten().tolist(), map(tuple, obs.flatten(0, 1).tolist()), strict=True))
    assert set(found) == {(1, (0, 2)), (2, (3, 2))}
    assert 400 < found[1, (0, 2)] < 600
    asked = steps((0, 1, 2, 2), (4, 0, 3, 2), (4, 0, 2, 2))
    torch.testing.assert_close(
        table.log_prob(asked.obs, asked.actions, asked.next_obs).exp(), torch.tensor([[0.5, 1, 0]]).expand(2, -1)
    )


def test_without_sharing_every_goal_is_a_world_of_its_own() -> None:
    table = make_table(space=PLACE_AND_GOAL, share=False)
    table.fit(steps((0, 1, 2, 3), (4, 0, 3, 0), (3, 2, 2, 1)), 0, None)
    assert not table.sample(torch.tensor([2, 2]).expand(2, 5, -1))[2].any()
    assert table.sample(torch.tensor([2, 3]).expand(2, 5, -1))[2].all()


def test_a_factor_that_changes_within_an_episode_is_no_context() -> None:
    table = make_table(space=PLACE_AND_GOAL)
    data = steps((0, 1, 2, 3), (4, 0, 3, 0))
    data.next_obs[..., 0, 1] = 1  # as a key that is picked up
    table.fit(data, 0, None)
    assert table.sample(torch.tensor([2, 1]).expand(2, 5, -1))[1].tolist() == [[[0, 3]] * 5] * 2
    assert not table.sample(torch.tensor([2, 3]).expand(2, 5, -1))[2].any()


def test_a_seed_whose_contexts_change_counts_anew_and_the_others_go_on() -> None:
    table, goals = make_table(space=PLACE_AND_GOAL), steps((0, 1, 2, 3), (4, 0, 3, 0))
    table.fit(goals, 0, None)
    moved = steps((1, 1, 0, 2))
    moved.next_obs[1, 0, 1] = 0  # in the second seed alone the goal moves after all
    table.fit(moved, 0, None)
    known = table.sample(torch.tensor([[3, 0], [0, 2], [0, 0]]).expand(2, -1, -1))[2]
    assert known.tolist() == [[True, True, True], [False, False, True]]
    assert table.contexts().tolist() == [[False, True], [False, False]]
    both = Transitions(*(torch.cat(column, 1) for column in zip(vars(goals).values(), vars(moved).values(), strict=True)))
    first = {name: value.clone() for name, value in table.state_dict().items()}
    table.count_again(lambda: both)
    alone = make_table(space=PLACE_AND_GOAL)
    alone.fit(both, 0, None)
    assert torch.equal(table.keys, alone.keys)
    assert torch.equal(table.counts, alone.counts)
    assert len(first["keys"]) < len(table.keys)
    table.fit(moved, 0, None)  # changes no context
    table.count_again(lambda: pytest.fail("nothing is to be counted again"))


def test_seeds_of_a_fleet_find_contexts_as_if_alone_and_a_saved_table_goes_on() -> None:
    chunks = [steps((0, 1, 2, 3), (1, 0, 2, 3)), steps((4, 0, 3, 0)), steps((3, 1, 2, 1))]
    chunks[1].obs[1, 0, 1] = chunks[1].next_obs[1, 0, 1] = 3  # the second seed meets its second goal later
    fleet, alone = make_table(space=PLACE_AND_GOAL), [make_table(1, PLACE_AND_GOAL) for _ in range(2)]
    for number, chunk in enumerate(chunks):
        if number == 2:
            restored = make_table(space=PLACE_AND_GOAL)
            restored.load_state_dict(fleet.state_dict())
            fleet = restored
        fleet.fit(chunk, 0, None)
        for s in range(2):
            alone[s].fit(chunk.map(lambda x, s=s: x[s : s + 1]), 0, None)
    places = torch.cartesian_prod(torch.arange(STATES), torch.arange(ACTIONS), torch.arange(STATES), torch.arange(4))
    asked = steps(*map(tuple, places.tolist()))
    together = fleet.log_prob(asked.obs, asked.actions, asked.next_obs)
    for s in range(2):
        mine = asked.map(lambda x, s=s: x[s : s + 1])
        torch.testing.assert_close(together[s], alone[s].log_prob(mine.obs, mine.actions, mine.next_obs)[0])
    assert fleet.contexts().tolist() == [[False, True], [False, True]]
    # The first seed forgot what came before its second goal, the second what came before its third chunk.
    assert [(fleet.keys // (fleet.num_states**2 * ACTIONS) == s).sum().item() for s in range(2)] == [2, 1]
