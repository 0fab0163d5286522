from collections import deque
from itertools import product

import pytest
import torch
from torch import Tensor

from recall_traces.envs.four_rooms import FourRooms, FourRoomsConfig

UP, DOWN, LEFT, RIGHT = range(4)


def at(env: FourRooms, row: int, column: int) -> int:
    return row * env.size + column


def put(env: FourRooms, obs: Tensor) -> None:
    """Move the agents, so that a test can ask about one cell."""
    env._obs = obs


def actions(env: FourRooms, action: int) -> Tensor:
    return torch.full((env.num_envs,), action)


def test_default_layout_is_the_drawn_one() -> None:
    env = FourRooms(7, num_envs=1)
    picture = "".join("#" if wall else "." for wall in env.walls.tolist())
    assert [picture[row * 7 : row * 7 + 7] for row in range(7)] == [
        "#######",
        "#.....#",
        "#..#..#",
        "#.##.##",
        "#.....#",
        "#..#..#",
        "#######",
    ]
    assert (env.start, env.goal, env.horizon) == (at(env, 5, 5), at(env, 1, 1), 70)


def test_moves_and_walls_by_hand() -> None:
    env = FourRooms(7, num_envs=1)
    assert env.reset().tolist() == [at(env, 5, 5)]
    walk = [
        (DOWN, (5, 5)),  # outer wall
        (RIGHT, (5, 5)),
        (LEFT, (5, 4)),
        (LEFT, (5, 4)),  # the wall in the middle
        (UP, (4, 4)),
        (LEFT, (4, 3)),  # into the door
        (UP, (4, 3)),  # the crossing of the walls
        (LEFT, (4, 2)),
        (RIGHT, (4, 3)),
        (RIGHT, (4, 4)),
        (UP, (3, 4)),  # the other door
        (UP, (2, 4)),
        (DOWN, (3, 4)),
    ]
    for action, (row, column) in walk:
        step = env.step(actions(env, action))
        assert step.obs.tolist() == step.final_obs.tolist() == [at(env, row, column)]
        assert step.rewards.tolist() == [0.0]
        assert not step.terminated.any()
        assert not step.truncated.any()
    assert step.obs.dtype == torch.int64
    assert step.rewards.dtype == torch.float32


def test_goal_terminates_rewards_and_starts_again() -> None:
    env = FourRooms(7, num_envs=3)
    before = torch.tensor([at(env, 1, 2), at(env, 2, 1), at(env, 1, 4)])
    put(env, before)
    step = env.step(torch.tensor([LEFT, UP, LEFT]))
    assert step.rewards.tolist() == [1.0, 1.0, 0.0]
    assert step.terminated.tolist() == [True, True, False]
    assert step.truncated.tolist() == [False] * 3
    assert step.final_obs.tolist() == [env.goal, env.goal, at(env, 1, 3)]
    assert step.obs.tolist() == [env.start, env.start, at(env, 1, 3)]
    assert env.success_return == 1.0


def test_horizon_truncates_each_copy_at_its_own_age() -> None:
    env = FourRooms(7, num_envs=2)
    env.reset()
    put(env, torch.tensor([at(env, 1, 2), at(env, 5, 5)]))
    env.step(torch.tensor([LEFT, DOWN]))  # the first copy starts again, so it is one step younger
    for age in range(2, 70):
        assert not env.step(actions(env, DOWN)).truncated.any(), age
    step = env.step(actions(env, DOWN))
    assert step.truncated.tolist() == [False, True]
    step = env.step(actions(env, DOWN))
    assert step.truncated.tolist() == [True, False]
    assert not step.terminated.any()
    assert step.final_obs.tolist() == [env.start] * 2


def test_the_goal_in_the_last_step_terminates_and_does_not_truncate() -> None:
    env = FourRooms(7, num_envs=1)
    env.reset()
    for _ in range(69):
        env.step(actions(env, DOWN))
    put(env, torch.tensor([at(env, 1, 2)]))
    step = env.step(actions(env, LEFT))
    assert step.terminated.item()
    assert not step.truncated.item()


def test_later_steps_leave_returned_tensors_alone() -> None:
    env = FourRooms(7, num_envs=4, options=FourRoomsConfig(random_start=True, random_goal=True, slip=0.5))
    first = env.reset()
    steps = [env.step(actions(env, UP)) for _ in range(3)]
    kept = [first.clone()] + [step.obs.clone() for step in steps]
    for _ in range(300):
        env.step(actions(env, LEFT))
    env.reset()
    for tensor, copy in zip([first, *(step.obs for step in steps)], kept, strict=True):
        assert torch.equal(tensor, copy)


def test_slip_plays_random_actions_as_often_as_asked() -> None:
    env = FourRooms(19, num_envs=20_000, seed=3, options=FourRoomsConfig(slip=0.4))
    middle = at(env, 4, 4)
    landed = torch.zeros(4)
    for _ in range(5):
        put(env, torch.full((env.num_envs,), middle))
        obs = env.step(actions(env, RIGHT)).final_obs
        landed += torch.stack([(obs == env.next_cell[middle, action]).float().mean() for action in range(4)]) / 5
    assert landed[[UP, DOWN, LEFT]] == pytest.approx(torch.full((3,), 0.1), abs=0.01)
    assert landed[RIGHT] == pytest.approx(0.7, abs=0.01)


def test_seeds_decide_everything() -> None:
    def play(seed: int) -> Tensor:
        env = FourRooms(9, 8, seed=seed, options=FourRoomsConfig(slip=0.3, random_start=True, random_goal=True))
        env.reset()
        return torch.stack([env.step(actions(env, k % 4)).obs for k in range(200)])

    assert torch.equal(play(1), play(1))
    assert not torch.equal(play(1), play(2))


@pytest.mark.parametrize(("random_start", "random_goal"), [(True, False), (False, True), (True, True)])
def test_random_starts_and_goals_are_free_distinct_and_everywhere(random_start: bool, random_goal: bool) -> None:
    env = FourRooms(7, num_envs=4000, options=FourRoomsConfig(random_start=random_start, random_goal=random_goal))
    obs = env.reset()
    fixed = FourRooms(7, 1)
    starts = obs[:, 0] if random_goal else obs
    goals = obs[:, 1] if random_goal else torch.full_like(starts, fixed.goal)
    assert not env.walls[starts].any()
    assert not env.walls[goals].any()
    assert (starts != goals).all()
    free = int((~env.walls).sum())
    assert len(starts.unique()) == (1 if not random_start else free - (not random_goal))
    assert len(goals.unique()) == (1 if not random_goal else free - (not random_start))
    if random_start:
        counts = starts.bincount(minlength=49)[~env.walls]
        assert counts[counts > 0].min() > 0.6 * 4000 / free
    assert (env.start is None, env.goal is None) == (random_start, random_goal)


def test_random_goal_is_shown_kept_and_drawn_again_in_the_next_episode() -> None:
    env = FourRooms(7, num_envs=500, options=FourRoomsConfig(random_goal=True))
    obs = env.reset()
    assert obs.shape == (500, 2)
    goals = obs[:, 1].clone()
    put(env, torch.stack((torch.full((500,), at(env, 4, 2)), goals), 1))
    step = env.step(actions(env, UP))  # into a wall
    assert step.final_obs[:, 0].eq(at(env, 4, 2)).all()
    assert torch.equal(step.final_obs[:, 1], goals)
    put(env, torch.stack((torch.full((500,), at(env, 1, 2)), torch.full((500,), at(env, 1, 1))), 1))
    step = env.step(actions(env, LEFT))
    assert step.terminated.all()
    assert step.final_obs.tolist() == [[at(env, 1, 1)] * 2] * 500
    assert step.obs[:, 0].eq(env.start).all()
    assert len(step.obs[:, 1].unique()) > 5
    assert all(env.observation_space.contains(row.numpy()) for row in step.obs)


def reachable(env: FourRooms, start: int) -> set[int]:
    seen, queue = {start}, deque([start])
    while queue:
        for cell in env.next_cell[queue.popleft()].tolist():
            if cell not in seen:
                seen.add(cell)
                queue.append(cell)
    return seen


def test_drawn_layouts_are_solvable_reproducible_and_different() -> None:
    layouts = set()
    for size, seed in product((7, 11, 19), range(60)):
        env, again = (FourRooms(size, 1, seed=k, options=FourRoomsConfig(layout_seed=seed)) for k in (0, 1))
        assert torch.equal(env.walls, again.walls)
        assert (env.start, env.goal) == (again.start, again.goal)
        assert env.start is not None
        assert env.start != env.goal
        free = set((~env.walls).nonzero()[:, 0].tolist())
        assert reachable(env, env.start) == free
        grid, middle = env.walls.view(size, size), size // 2
        for half in (
            grid[middle, 1:middle],
            grid[middle, middle + 1 : -1],
            grid[1:middle, middle],
            grid[middle + 1 : -1, middle],
        ):
            assert int((~half).sum()) == 1
        assert grid[middle, middle]
        layouts.add((size, tuple(env.walls.tolist()), env.start, env.goal))
    assert len(layouts) > 170


def brute_force(env: FourRooms, state: int, goal: int) -> dict[tuple[int, int], float]:
    """Posterior of (state, action) by enumeration, with moves of its own."""
    walls, size = env.walls.view(env.size, env.size).tolist(), env.size

    def move(cell: int, action: int) -> int:
        row, column = divmod(cell, size)
        row, column = row + (-1, 1, 0, 0)[action], column + (0, 0, -1, 1)[action]
        return cell if walls[row][column] else row * size + column

    joint = {}
    for cell, action in product(range(size * size), range(4)):
        if walls[cell // size][cell % size] or cell == goal:
            continue
        chance = (1 - env.options.slip) * (move(cell, action) == state)
        chance += env.options.slip * sum(move(cell, played) == state for played in range(4)) / 4
        if chance > 0:
            joint[cell, action] = chance
    total = sum(joint.values())
    return {pair: chance / total for pair, chance in joint.items()}


@pytest.mark.parametrize("slip", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("layout_seed", [None, 5])
def test_predecessors_are_those_of_enumeration(slip: float, layout_seed: int | None) -> None:
    env = FourRooms(9, 1, options=FourRoomsConfig(slip=slip, layout_seed=layout_seed))
    states = (~env.walls).nonzero()[:, 0]
    obs, played, prob, mask = env.predecessors(states)
    assert obs.shape == played.shape == prob.shape == mask.shape == (len(states), 20)
    assert prob.sum(1) == pytest.approx(torch.ones(len(states)), abs=1e-6)
    assert env.goal is not None
    for row, state in enumerate(states.tolist()):
        expected = brute_force(env, state, env.goal)
        kept = mask[row].nonzero()[:, 0].tolist()
        found = {(int(obs[row, k]), int(played[row, k])): float(prob[row, k]) for k in kept}
        assert len(found) == len(kept)
        assert found == pytest.approx(expected, abs=1e-6)
        assert not prob[row][~mask[row]].any()


def test_predecessors_with_a_random_goal_keep_the_goal() -> None:
    env = FourRooms(7, 1, options=FourRoomsConfig(slip=0.1, random_goal=True))
    states = torch.tensor([[[at(env, 1, 1), at(env, 1, 2)], [at(env, 4, 3), at(env, 5, 5)]]])
    obs, played, prob, mask = env.predecessors(states)
    assert obs.shape == (1, 2, 20, 2)
    assert torch.equal(obs[..., 1], states[..., 1:].expand(1, 2, 20))
    for row in range(2):
        expected = brute_force(env, *states[0, row].tolist())
        kept = mask[0, row].nonzero()[:, 0].tolist()
        found = {(int(obs[0, row, k, 0]), int(played[0, row, k])): float(prob[0, row, k]) for k in kept}
        assert found == pytest.approx(expected, abs=1e-6)


def test_predecessors_of_a_wall_are_none() -> None:
    _, _, prob, mask = FourRooms(7, 1).predecessors(torch.tensor([0, 48, 24]))
    assert not mask.any()
    assert not prob.any()


def test_predecessors_are_what_a_uniform_policy_records() -> None:
    env = FourRooms(7, 200_000, seed=1, options=FourRoomsConfig(slip=0.3, random_start=True))
    before = env.reset()
    played = torch.randint(4, before.shape, generator=torch.Generator().manual_seed(0))
    after = env.step(played).final_obs
    state = at(env, 2, 1)
    joint = (before * 4 + played)[after == state].bincount(minlength=49 * 4).float()
    obs, candidates, prob, _ = env.predecessors(torch.tensor(state))
    expected = torch.zeros(49 * 4).index_add_(0, obs * 4 + candidates, prob)
    assert joint / joint.sum() == pytest.approx(expected, abs=0.015)


def test_render_shows_walls_goal_and_agent() -> None:
    env = FourRooms(7, 2)
    picture = env.render(cell_pixels=4)
    assert picture.shape == (28, 28, 3)
    assert picture.dtype == "uint8"
    cells = picture[::4, ::4].reshape(49, 3)
    agent, goal, wall, floor = (tuple(cells[cell].tolist()) for cell in (env.start, env.goal, 0, at(env, 1, 2)))
    assert len({agent, goal, wall, floor}) == 4
    assert [tuple(cell.tolist()) == wall for cell in cells] == env.walls.tolist()


@pytest.mark.parametrize(
    ("size", "nearest"), [(0, "FourRooms-7"), (5, "FourRooms-7"), (8, "FourRooms-7 and FourRooms-9"), (5000, "FourRooms-1001")]
)
def test_sizes_out_of_range_name_the_nearest(size: int, nearest: str) -> None:
    with pytest.raises(ValueError, match=f"FourRooms-{size}: .*{nearest}$"):
        FourRooms(size, 1)


def test_options_out_of_range() -> None:
    for slip in (-0.1, 1.5, float("nan")):
        with pytest.raises(ValueError, match="slip"):
            FourRoomsConfig(slip=slip)
    with pytest.raises(ValueError, match="layout_seed"):
        FourRoomsConfig(layout_seed=-1)


def test_an_action_that_there_is_none_of_is_refused():
    env = FourRooms(7, num_envs=2)
    with pytest.raises(IndexError, match="out of bounds"):
        env.step(torch.tensor([0, 7]))
