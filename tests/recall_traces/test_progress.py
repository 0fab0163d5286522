from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from targets_helpers import COST, costly, make_states, observe, side_by_side, walk

from recall_traces import Transitions
from recall_traces.targets import HighValueStates

# The share of novelty


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


# What counts as reward


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
    assert states.progress.best.tolist() == [8, 0.5]
    assert states.progress.recent.tolist() == [8, 0.5]
    observe(states, side_by_side(still, in_time, axis=1))  # with a return of -2
    assert states.progress.recent.tolist() == [8, -2]
