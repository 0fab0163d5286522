import copy

import pytest
import torch
from gymnasium import spaces
from targets_helpers import GAMMA, chosen, costly, make_states, observe, side_by_side, walk

from recall_traces import Transitions
from recall_traces.envs.registry import make

# Return


def test_of_equal_returns_all_take_turns_and_a_better_one_stays() -> None:
    states = make_states("return", top_states=2)
    for goal in (5, 6, 7, 8):
        observe(states, walk(0, goal, reward=1.0))
    observe(states, walk(0, 9, reward=1.1))
    seen = [chosen(states)[0] for _ in range(50)]
    assert all(len(pair) == 2 and 9 in pair for pair in seen)
    assert set.union(*seen) == {5, 6, 7, 8, 9}


def test_equal_returns_of_many_states_take_turns_whatever_their_numbers() -> None:
    states = make_states("return", space=spaces.Discrete(2000), top_states=16, memory_size=10_000)
    for goal in range(1, 2000):
        observe(states, walk(0, goal, reward=1.0))
    drawn = torch.cat([states.choose(64, None).obs[0].unique() for _ in range(60)])
    shares = torch.bincount(drawn // 500, minlength=4) / len(drawn)
    torch.testing.assert_close(shares, torch.full((4,), 0.25), atol=0.06, rtol=0)


def test_return_holds_the_goal_itself_and_what_has_enough_past() -> None:
    states = make_states("return")
    observe(states, walk(*range(11), reward=1.0))
    # 10 steps: a state needs at least 5 recorded steps before it.
    assert chosen(states) == [set(range(5, 11))]
    targets = states.choose(100, None)
    assert not targets.novel.any()
    assert torch.equal(targets.cells, targets.obs)
    torch.testing.assert_close(states.best_returns[0, 5:11], GAMMA ** torch.arange(5, -1, -1.0))


def test_past_counts_up_to_half_a_trace() -> None:
    states = make_states("return", trace_length=4)
    observe(states, walk(*range(11), reward=1.0))
    assert chosen(states) == [set(range(2, 11))]


def test_the_goal_reached_many_times_takes_one_place() -> None:
    states = make_states("return", top_states=2)
    for _ in range(10):
        observe(states, walk(*range(11), reward=1.0))
    assert chosen(states) == [{9, 10}]


def test_nothing_is_chosen_by_return_before_an_episode_pays() -> None:
    states = make_states("return")
    observe(states, walk(*range(11), reward=0.0))
    observe(states, walk(*range(11), reward=-1.0))
    observe(states, walk(*range(11), rewards=[1.0] * 10, end=""))  # not over yet
    assert chosen(states) == [set()]
    observe(states, walk(10, 11, end="truncated"))
    assert chosen(states) == [set(range(6, 11))]


def test_an_episode_that_goes_on_through_many_rollouts_counts_when_it_ends() -> None:
    states = make_states("return")
    for first in range(0, 10, 2):
        observe(states, walk(first, first + 1, first + 2, reward=float(first == 8), end="terminated" if first == 8 else ""))
    assert chosen(states) == [set(range(5, 11))]


def test_the_arrival_that_earned_the_best_return_is_the_one_recalled() -> None:
    """Of two states in one cell: the later was left for little in an episode that ended earlier."""
    states = make_states("return", spaces.Box(0.0, 12.0, (1,)), envs=2)
    good = [[0.1], [0.1], [0.1], [0.1], [0.1], [6.2], [2.1], [2.1], [2.1], [2.1], [3.1]]
    poor = [[1.1], [1.1], [1.1], [1.1], [1.1], [1.1], [1.1], [6.8], [9.1]]
    observe(states, side_by_side(walk(*good[:9], end=""), walk(*poor, reward=0.01)))
    observe(states, side_by_side(walk(*good[8:], reward=10.0), walk([1.1], [1.1], [1.1], end="")))
    targets = states.choose(2000, None)
    there = targets.obs[(targets.obs > 6) & (targets.obs < 7)]
    assert len(there) > 0
    torch.testing.assert_close(there, torch.full_like(there, 6.2))


def test_what_the_ring_has_overwritten_makes_way_for_what_is_remembered() -> None:
    """Else one lucky return would take a state off the list for good."""
    states = make_states("return", memory_size=30)
    observe(states, walk(*range(11), reward=1.0))
    for _ in range(4):
        observe(states, walk(*range(11), reward=0.9))
    assert chosen(states) == [set(range(5, 11))]


def test_states_just_after_a_reset_are_not_chosen_in_cart_pole() -> None:
    env = make("CartPole-v1", num_envs=8)
    states = make_states("return", env.observation_space, spaces.Discrete(2), envs=8, memory_size=8 * 300)
    generator = torch.Generator().manual_seed(0)
    obs, rows = env.reset(), []
    for _ in range(200):
        actions = torch.randint(2, (8,), generator=generator)
        step = env.step(actions)
        rows.append([x[None] for x in (obs, actions, step.rewards, step.final_obs, step.terminated, step.truncated)])
        obs = step.obs
    observe(states, Transitions(*(torch.stack(column) for column in zip(*rows, strict=True))))
    stamps, some = states.best_return_arrivals(500)
    positions, held = states.memory.find(stamps)
    assert some.all()
    assert held.all()
    age, length = (
        states.memory.gather(states.memory.age, positions),
        states.memory.gather(states.memory.episode_lengths, positions),
    )
    assert (2 * (age + 1) >= length.clamp(max=60)).all()


# Novelty


@pytest.mark.parametrize("power", [1.0, 2.0, 0.0])
def test_novelty_is_in_proportion_to_visits_to_the_minus_power(power: float) -> None:
    states = make_states("novelty", novelty_power=power)
    observe(states, walk(0, 1, 1, 2, 1, 3, 2, 1, end=""))  # visits: four of 1, two of 2, one of 3, none of 0
    draws = 20_000
    targets = states.choose(draws, None)
    assert targets.active.all()
    assert targets.novel.all()
    share = targets.obs[0].bincount(minlength=4) / draws
    expected = torch.tensor([0.0, 4**-power, 2**-power, 1.0])
    torch.testing.assert_close(share, expected / expected.sum(), rtol=0, atol=0.02)


def test_novelty_forgets_what_the_ring_no_longer_holds() -> None:
    states = make_states("novelty", memory_size=4)
    observe(states, walk(0, 1, 2, 3, end=""))
    observe(states, walk(3, 4, 5, 6, end=""))
    assert chosen(states) == [{3, 4, 5, 6}]


def test_there_is_nothing_to_choose_before_the_first_step() -> None:
    for source in ("novelty", "return", "auto"):
        assert chosen(make_states(source, seeds=2)) == [set(), set()]


def test_the_latest_arrivals_in_a_cell_are_remembered_whoever_made_them_and_when() -> None:
    """One environment alone, that arrives again and again after the same number of steps."""
    states = make_states("novelty", envs=2)
    for length in (8, 8, 24):
        observe(states, side_by_side(walk(*[0, 1, 2, 3] * (length // 4), 0, end=""), walk(*[9] * (length + 1), end="")))
    stamps = states.arrivals[0, 3].sort().values
    assert stamps.tolist() == [2 * t for t in range(2 + 4 * 2, 40, 4)]


# Critic, given and generated


def test_the_critic_is_asked_anew_at_every_use() -> None:
    states = make_states("critic", top_states=8)
    observe(states, walk(*range(21), end=""))
    assert chosen(states, value=lambda obs: obs.float()) == [set(range(13, 21))]
    assert chosen(states, value=lambda obs: -(obs - 7.2).abs()) == [set(range(4, 12))]


def test_a_state_in_which_the_episode_ended_is_worth_nothing_to_the_critic() -> None:
    states = make_states("critic", top_states=1)
    observe(states, walk(*range(21), reward=1.0))
    assert chosen(states, value=lambda obs: obs.float()) == [{19}]
    states = make_states("critic", top_states=1)
    observe(states, walk(*range(21), end="truncated"))
    assert chosen(states, value=lambda obs: obs.float()) == [{20}]


def test_the_critic_ranks_for_every_seed() -> None:
    states = make_states("critic", seeds=2, top_states=1)
    observe(states, side_by_side(walk(*range(21), end=""), walk(*range(5, 26), end=""), axis=1))
    assert chosen(states, value=lambda obs: obs.float()) == [{20}, {25}]


def test_given_states_are_drawn_evenly() -> None:
    states = make_states("given", given=torch.tensor([3, 17]), seeds=2)
    observe(states, side_by_side(walk(0, 1, end=""), walk(0, 1, end=""), axis=1))
    targets = states.choose(4000, None)
    assert targets.active.all()
    assert not targets.novel.any()
    assert chosen(states) == [{3, 17}] * 2
    assert float((targets.obs == 3).float().mean()) == pytest.approx(0.5, abs=0.04)


def test_generated_states_are_each_seeds_own_and_those_that_are_not_finite_are_none() -> None:
    states = make_states("generated", space=spaces.Box(-1, 1, (2,)), seeds=3, generated=lambda count: made[:, :count])
    made = torch.rand(3, 10, 2, generator=torch.Generator().manual_seed(0))
    made[1, 4, 1], made[2] = torch.inf, torch.nan
    targets = states.choose(6, None)
    assert targets.active.tolist() == [[True] * 6, [True] * 4 + [False, True], [False] * 6]
    assert torch.equal(targets.obs[targets.active], made[:, :6][targets.active])
    assert targets.obs.isfinite().all()
    assert torch.equal(targets.cells, states.cells(targets.obs))
    assert (targets.stamps == -1).all()
    assert not targets.novel.any()
    made = torch.zeros(3, 10, 3)
    with pytest.raises(ValueError, match=r"must have the shape \(3, 6, 2\), not \(3, 6, 3\)"):
        states.choose(6, None)


def test_generated_states_may_be_finite() -> None:
    states = make_states("generated", seeds=2, generated=lambda count: torch.full((2, count), 7))
    assert chosen(states) == [{7}, {7}]
    nothing = make_states("generated", seeds=2, generated=lambda count: torch.full((2, count), torch.nan))
    assert not nothing.choose(5, None).active.any()


def test_what_a_source_needs_is_asked_for() -> None:
    with pytest.raises(ValueError, match="value function"):
        make_states("critic").choose(4, None)
    with pytest.raises(ValueError, match="needs states"):
        make_states("given").choose(4, None)
    with pytest.raises(ValueError, match="pass generated to RecallTraces"):
        make_states("generated").choose(4, None)


# Starts and bookkeeping


def test_a_start_is_where_a_good_share_of_episodes_began() -> None:
    states = make_states("auto", seeds=2)
    narrow = [walk(4, 5)] * 97 + [walk(6, 5)] * 3
    wide = [walk(k % 25, 27) for k in range(100)]
    for one, other in zip(narrow, wide, strict=True):
        observe(states, side_by_side(one, other, axis=1))
    everywhere = torch.arange(30).expand(2, -1)
    assert states.is_start(everywhere)[0].nonzero().flatten().tolist() == [4]
    assert not states.is_start(everywhere)[1].any()
    assert states.is_start(everywhere.view(2, 5, 6)).shape == (2, 5, 6)


@pytest.mark.parametrize("costs", [False, True])
def test_saved_targets_come_back(costs: bool) -> None:
    first, second = make_states("auto", seeds=2), make_states("auto", seeds=2)
    if costs:  # other ones for each seed
        late = [walk(*range(11), rewards=[cost] * 10, end="truncated") for cost in (-1.0, -3.0)]
        observe(first, side_by_side(*late, axis=1))
    else:
        observe(first, side_by_side(walk(*range(11), reward=1.0), walk(*range(11), reward=0.5), axis=1))
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    second.memory.load_state_dict(copy.deepcopy(first.memory.state_dict()))
    for states in (first, second):
        observe(states, side_by_side(*[costly(*range(5, 9)) if costs else walk(*range(5, 9), reward=2.0)] * 2, axis=1))
    if costs:
        assert first.progress.best.tolist() == [10 - 3, 30 - 3]
    torch.testing.assert_close(first.state_dict(), second.state_dict(), rtol=0, atol=0)
    assert torch.equal(first.choose(50, None).obs, second.choose(50, None).obs)
