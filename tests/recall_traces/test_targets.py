from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from recall_traces import Transitions
from recall_traces.cells import Cells
from recall_traces.envs.registry import make
from recall_traces.memory import Memory
from recall_traces.targets import HighValueStates

GAMMA = 0.9
SPACE = spaces.Discrete(30)


def make_states(
    source: str,
    space: spaces.Space = SPACE,
    action_space: spaces.Space | None = None,
    seeds: int = 1,
    envs: int = 1,
    memory_size: int = 1000,
    given: Tensor | None = None,
    generated: Callable[[int], Tensor] | None = None,
    **options: Any,
) -> HighValueStates:
    cells = Cells(space, seeds, 12, 0, "cpu")
    memory = Memory(space, action_space or spaces.Discrete(3), cells, seeds, envs, memory_size, GAMMA, "cpu")
    defaults = {"top_states": 16, "trace_length": 60, "recent_episodes": 4}
    defaults |= {"novelty_power": 1.0, "novelty_floor": 0.05, "novelty_ceiling": 1.0}
    generator = torch.Generator().manual_seed(0)
    return HighValueStates(source, memory, cells, given=given, generated=generated, generator=generator, **(defaults | options))


def observe(states: HighValueStates, rollout: Transitions) -> None:
    states.cells.calibrate(rollout.next_obs.transpose(0, 1).flatten(1, 2))
    states.observe(*states.memory.observe(rollout))


def walk(*cells: Any, reward: float = 0.0, end: str = "terminated", rewards: list[float] | None = None) -> Transitions:
    """One environment's way through the given states, `(T, 1, 1)`; the last step pays and, as it may be, ends the episode."""
    obs = torch.as_tensor(np.asarray(cells))
    obs = obs.float() if obs.is_floating_point() else obs
    steps = len(obs) - 1
    flags = {name: torch.zeros(steps, 1, 1, dtype=torch.bool) for name in ("terminated", "truncated")}
    if end:
        flags[end][-1] = True
    paid = torch.tensor(rewards) if rewards else torch.cat([torch.zeros(steps - 1), torch.tensor([reward])])
    states = obs.view(steps + 1, 1, 1, *obs.shape[1:])
    return Transitions(
        states[:-1], torch.zeros(steps, 1, 1).long(), paid.view(-1, 1, 1), states[1:], flags["terminated"], flags["truncated"]
    )


def side_by_side(*rollouts: Transitions, axis: int = 2) -> Transitions:
    """As environments of one seed (axis 2) or as seeds (axis 1)."""
    return Transitions(*(torch.cat(column, axis) for column in zip(*(vars(r).values() for r in rollouts), strict=True)))


def chosen(states: HighValueStates, count: int = 2000, value: Callable[[Tensor], Tensor] | None = None) -> list[set[int]]:
    """Which states are chosen, per seed."""
    targets = states.choose(count, value)
    return [set(obs[active].tolist()) for obs, active in zip(targets.obs, targets.active, strict=True)]


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


# Auto


def test_before_reward_everything_is_novelty() -> None:
    states = make_states("auto")
    for reward in (0.0, -1.0, 0.0):
        observe(states, walk(*range(11), reward=reward))
        assert states.novelty_share().tolist() == [1.0]
        assert states.choose(500, None).novel.all()


def test_the_share_of_novelty_is_what_the_recent_return_lacks_of_the_best() -> None:
    states = make_states("auto")
    shares = []
    for rewards in ([0.0], [2.0, 2.0], [2.0] * 8, [2.0] * 8, [0.0, 0.0], [0.0] * 2, [0.0] * 4):
        observe(
            states,
            Transitions(*(torch.cat(c) for c in zip(*(vars(walk(*range(11), reward=r)).values() for r in rewards), strict=True))),
        )
        shares.append(float(states.novelty_share()))
    # recent_episodes is 4: the average moves by a quarter per episode, in one step per rollout: 0, 1, 2, 2, 1, 0.5, 0. While it
    # rises the share is at its floor; when it has not for 2 episodes half of what is lacking, after 4 all of it. (Of the eight
    # episodes that equal the best nothing is lacking.)
    assert shares == pytest.approx([1.0, 0.05, 0.05, 0.05, 0.5, 0.75, 1.0])
    observe(states, walk(*range(11), reward=1.0))
    novel = states.choose(20_000, None).novel.float().mean()
    assert float(novel) == pytest.approx(1 - 0.25 / 2, abs=0.02)


def test_a_policy_that_gets_better_is_not_drawn_away_by_novelty_and_one_that_stalls_is() -> None:
    states = make_states("auto")
    observe(states, walk(*range(11), reward=4.0))  # the recent return is 1
    assert states.novelty_share().tolist() == pytest.approx([0.05])
    observe(states, walk(*range(11), reward=1.0))  # 1 still
    assert states.novelty_share().tolist() == pytest.approx([0.75 * 1 / 4])
    observe(states, walk(*range(11), reward=1.0))
    assert states.novelty_share().tolist() == pytest.approx([0.75 * 2 / 4])
    observe(states, walk(*range(11), reward=1.4))  # 1.1
    assert states.novelty_share().tolist() == pytest.approx([0.05])


def test_novelty_never_takes_everything_once_there_was_reward() -> None:
    """Or a policy that chases what is novel would never come back to what is good."""
    states = make_states("auto", novelty_ceiling=0.4)
    observe(states, walk(*range(11), reward=0.0))
    assert states.novelty_share().tolist() == [1.0]
    observe(states, walk(*range(11), reward=1.0))
    for _ in range(20):
        observe(states, walk(*range(11), reward=0.0))
    torch.testing.assert_close(states.novelty_share(), torch.tensor([0.4]))
    assert float(states.choose(20_000, None).novel.float().mean()) == pytest.approx(0.4, abs=0.02)


def test_seeds_have_shares_of_their_own() -> None:
    states = make_states("auto", seeds=2, recent_episodes=1)
    observe(states, side_by_side(walk(*range(11), reward=1.0), walk(*range(11), reward=0.0), axis=1))
    torch.testing.assert_close(states.novelty_share(), torch.tensor([0.05, 1.0]))
    targets = states.choose(5000, None)
    assert targets.active.all()
    assert float(targets.novel[0].float().mean()) == pytest.approx(0.05, abs=0.02)
    assert targets.novel[1].all()


def drive_mountain_car(policy: Callable[[int, np.ndarray], float], episodes: int, seed: int) -> tuple[Transitions, list[float]]:
    """Episodes of MountainCarContinuous-v0 on end, `(T, 1, 1)`, and their returns."""
    env = gymnasium.make("MountainCarContinuous-v0")
    rows, returns = [], []
    for episode in range(episodes):
        obs, _ = env.reset(seed=seed + episode)
        returns.append(0.0)
        for t in range(1000):
            action = np.float32([policy(t, obs)])
            next_obs, reward, terminated, truncated, _ = env.step(action)
            rows.append((obs, action, np.float32(reward), next_obs, terminated, truncated))
            returns[-1] += float(reward)
            obs = next_obs
            if terminated or truncated:
                break
    env.close()
    columns = [torch.as_tensor(np.stack(column))[:, None, None] for column in zip(*rows, strict=True)]
    return Transitions(*columns), returns


@pytest.fixture(scope="module")
def idling() -> Transitions:
    """Jitters for a while, then does nothing: returns a little below 0 and, from then on, exactly 0."""
    rng = np.random.default_rng(0)
    rollout, returns = drive_mountain_car(lambda t, _: rng.uniform(-1, 1) if t < 150 else 0.0, episodes=3, seed=0)
    assert max(returns) < 0
    return rollout


@pytest.fixture(scope="module")
def climbing() -> Transitions:
    """Pushes the way it moves: reaches the goal."""
    rollout, returns = drive_mountain_car(lambda _, obs: 1.0 if obs[1] >= 0 else -1.0, episodes=2, seed=10)
    assert min(returns) > 50
    return rollout


def mountain_car_states(source: str, **options: Any) -> HighValueStates:
    env = gymnasium.make("MountainCarContinuous-v0")
    return make_states(source, env.observation_space, env.action_space, memory_size=10_000, **options)


def test_idling_on_the_mountain_car_is_never_recalled_for_its_return(idling: Transitions) -> None:
    states = mountain_car_states("return")
    observe(states, idling)
    assert not states.choose(500, None).active.any()
    states = mountain_car_states("auto")
    observe(states, idling)
    targets = states.choose(500, None)
    assert targets.active.all()
    assert targets.novel.all()


def test_once_the_goal_is_reached_on_the_mountain_car_only_the_way_there_is_recalled(
    idling: Transitions, climbing: Transitions
) -> None:
    states = mountain_car_states("auto", recent_episodes=2)
    observe(states, idling)
    observe(states, climbing)
    observe(states, idling)
    assert float(states.novelty_share()) == 1.0
    observe(states, climbing)
    targets = states.choose(2000, None)
    assert float(targets.novel.float().mean()) == pytest.approx(float(states.novelty_share()), abs=0.05)
    assert (~targets.novel).any()
    recalled = {tuple(obs) for obs in targets.obs[0][~targets.novel[0]].tolist()}
    on_the_way = {tuple(obs) for obs in climbing.next_obs[:, 0, 0].tolist()}
    assert recalled <= on_the_way


COST = -1.0


def costly(*cells: int, end: str = "terminated") -> Transitions:
    """A walk of which every step costs 1."""
    return walk(*cells, rewards=[COST] * (len(cells) - 1), end=end)


def recalled_for_return(states: HighValueStates) -> set[int]:
    """Which states are."""
    targets = states.choose(500, None)
    return set(targets.obs[targets.active & ~targets.novel].tolist())


@pytest.mark.parametrize("source", ["return", "auto"])
def test_where_every_step_costs_a_goal_that_ends_the_episode_in_time_is_recalled(source: str) -> None:
    """And not the end of an episode whose time ran out, though the return-to-go is as high there."""
    states = make_states(source, top_states=2)
    observe(states, costly(*range(21), end="truncated"))
    assert recalled_for_return(states) == set()
    for goal, others in ((25, set()), (27, {25}), (29, {25})):  # after 6, 8 and 7 steps: of three goals the best two are kept
        observe(states, costly(*range(goal - 10, goal - (10 - {25: 6, 27: 8, 29: 7}[goal])), goal))
        assert recalled_for_return(states) == {goal} | others
    assert states.best_returns.topk(3).values.tolist() == [[20 - 6, 20 - 7, 20 - 8]]


def test_an_end_that_costs_more_than_time_is_no_goal() -> None:
    """A fall ends the episode, too: with less than the mean of those that go on; and before one did, nothing can be said."""
    states = make_states("auto")
    observe(states, costly(0, 1, 2, 3))
    assert recalled_for_return(states) == set()
    observe(states, costly(*range(5), end="truncated"))  # broken off, as is seen when others last longer
    observe(states, costly(*range(11), end="truncated"))
    observe(states, walk(*range(11), rewards=[COST / 5] * 10, end="truncated"))
    observe(states, costly(*range(3), end="truncated"))  # broken off
    observe(states, walk(10, 11, 12, rewards=[COST, -5.5]))  # the mean is -6
    assert recalled_for_return(states) == set()
    assert states.novelty_share().tolist() == [1.0]
    observe(states, walk(10, 11, 13, rewards=[COST, -4.5]))
    assert recalled_for_return(states) == {13}
    assert float(states.novelty_share()) < 1


def test_the_first_positive_return_makes_goals_that_were_only_in_time_forgotten() -> None:
    states = make_states("auto", seeds=2, recent_episodes=1)
    late, in_time, paid = costly(*range(11), end="truncated"), costly(20, 21, 22), walk(12, 13, 14, reward=0.5)
    still = walk(14, 14, 14, rewards=[COST, COST], end="")
    for both in ((late, late), (in_time, in_time)):
        observe(states, side_by_side(*both, axis=1))
    observe(states, side_by_side(still, paid, axis=1))
    targets = states.choose(500, None)
    assert [set(obs[~novel].tolist()) for obs, novel in zip(targets.obs, targets.novel, strict=True)] == [{22}, {13, 14}]
    assert states.best_episode.tolist() == [8, 0.5]
    assert states.recent_return.tolist() == [8, 0.5]
    observe(states, side_by_side(still, in_time, axis=1))  # with a return of -2
    assert states.recent_return.tolist() == [8, -2]


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
    second.load_state_dict({name: value.clone() for name, value in first.state_dict().items()})
    second.memory.load_state_dict({name: value.clone() for name, value in first.memory.state_dict().items()})
    for states in (first, second):
        observe(states, side_by_side(*[costly(*range(5, 9)) if costs else walk(*range(5, 9), reward=2.0)] * 2, axis=1))
    if costs:
        assert first.best_episode.tolist() == [10 - 3, 30 - 3]
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name
    assert torch.equal(first.choose(50, None).obs, second.choose(50, None).obs)
