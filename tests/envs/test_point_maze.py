import math
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from recall_traces.envs import make
from recall_traces.envs.point_maze import HORIZONS, MAPS, PointMaze, PointMazeConfig

LAYOUTS = list(MAPS)
MARGIN = 1e-3
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]


def put(env: PointMaze, *rows: list[float]) -> None:
    """Move the points, so that a test can ask about one place."""
    env._obs = torch.tensor(rows)
    assert env._obs.shape == (env.num_envs, *env.observation_space.shape)


def free_cells(layout: str) -> list[tuple[int, int]]:
    """Column and row, counted from the lowest; told from the map alone."""
    rows = MAPS[layout][::-1]
    return [(x, y) for y, row in enumerate(rows) for x, mark in enumerate(row) if mark != "#"]


def way_lengths(layout: str, goal: tuple[int, int]) -> dict[tuple[int, int], int]:
    """Steps on foot from every free cell to one of them, by relaxing until nothing changes."""
    lengths = dict.fromkeys(free_cells(layout), 10**6)
    lengths[goal] = 0
    for _ in lengths:
        for x, y in lengths:
            around = [(x - 1, y), (x + 1, y), (x, y - 1), (x, y + 1)]
            lengths[x, y] = min([lengths[x, y], *(lengths[cell] + 1 for cell in around if cell in lengths)])
    return lengths


def cell_of(position: Any) -> tuple[int, int]:
    return math.floor(position[0]), math.floor(position[1])


def play(env: PointMaze, actions: Tensor) -> Tensor:
    return torch.stack([env.step(action).final_obs for action in actions])


def test_the_maps_are_those_of_d4rl() -> None:
    """As D4RL writes them, read here a second time."""
    spec = {
        "U": r"#####\#GOO#\###O#\#OOO#\#####",
        "Medium": r"########\#OO##OO#\#OO#OOO#\##OOO###\#OO#OOO#\#O#OO#O#\#OOO#OG#\########",
        "Large": r"############\#OOOO#OOOOO#\#O##O#O#O#O#\#OOOOOO#OOO#\#O####O###O#"
        r"\#OO#O#OOOOO#\##O#O#O#O###\#OO#OOO#OGO#\############",
    }
    assert {layout: "\\".join(rows).replace(".", "O") for layout, rows in MAPS.items()} == spec
    for layout in LAYOUTS:
        env = PointMaze(layout, 1)
        assert {(x, y) for y, x in (~env.walls).nonzero().tolist()} == set(free_cells(layout))


@pytest.mark.parametrize(
    ("layout", "start", "goal", "length"),
    [("U", (1, 1), (1, 3), 6), ("Medium", (1, 6), (6, 1), 10), ("Large", (1, 1), (9, 1), 18)],
)
def test_far_starts_are_furthest_from_the_goal(layout: str, start: tuple[int, int], goal: tuple[int, int], length: int) -> None:
    env = PointMaze(layout, 5000)
    lengths = way_lengths(layout, goal)
    assert lengths[start] == max(lengths.values()) == length
    assert env.start == (start[0] + 0.5, start[1] + 0.5)
    assert env.goal == (goal[0] + 0.5, goal[1] + 0.5)
    away = env.reset() - torch.tensor(env.start)
    assert away.abs().max() <= 0.1 + 1e-6
    assert away.min(0).values.max() < -0.09
    assert away.max(0).values.min() > 0.09
    assert env.horizon == HORIZONS[layout] == {"U": 100, "Medium": 200, "Large": 300}[layout]


def test_moves_and_walls_by_hand() -> None:
    env = PointMaze("U", 1)
    put(env, [1.5, 1.5])
    walk = [
        ([1.0, 0.0], (1.75, 1.5)),
        ([0.4, -0.2], (1.85, 1.45)),
        ([9.0, -math.inf], (2.1, 1.2)),  # clamped
        ([math.nan, -1.0], (2.1, 1 + MARGIN)),  # NaN is 0; the lower wall
        ([0.0, -1.0], (2.1, 1 + MARGIN)),
        ([0.0, 1.0], (2.1, 1.25 + MARGIN)),
        ([0.0, 1.0], (2.1, 1.5 + MARGIN)),
        ([0.0, 1.0], (2.1, 1.75 + MARGIN)),
        ([1.0, 1.0], (2.35, 2 - MARGIN)),  # the wall in the middle; the other axis slides along
        ([1.0, 1.0], (2.6, 2 - MARGIN)),
        ([1.0, 1.0], (2.85, 2 - MARGIN)),
        ([1.0, 1.0], (3.1, 2.25 - MARGIN)),  # x first: the corner is passed
        ([-1.0, 1.0], (3 + MARGIN, 2.5 - MARGIN)),
    ]
    for action, position in walk:
        step = env.step(torch.tensor([action]))
        assert step.obs[0].tolist() == pytest.approx(position, abs=1e-6)
        assert torch.equal(step.obs, step.final_obs)
        assert not torch.stack((step.rewards.bool(), step.terminated, step.truncated)).any()
    assert (step.obs.dtype, step.rewards.dtype, step.terminated.dtype) == (torch.float32, torch.float32, torch.bool)


def test_inertia_by_hand() -> None:
    env = PointMaze("U", 1, options=PointMazeConfig(inertia=True))
    assert env.reset()[0, 2:].tolist() == [0.0, 0.0]
    put(env, [1.5, 1.5, 0.0, 0.0])
    walk = [
        ([1.0, -0.4], (1.55, 1.48, 0.05, -0.02)),
        ([5.0, 0.4], (1.65, 1.48, 0.1, 0.0)),
        ([0.0, 0.0], (1.75, 1.48, 0.1, 0.0)),
        ([-1.0, 1.0], (1.8, 1.53, 0.05, 0.05)),
    ]
    for action, expected in walk:
        assert env.step(torch.tensor([action])).obs[0].tolist() == pytest.approx(expected, abs=1e-6)
    put(env, [1.5, 1.9, 0.24, 0.24])  # as fast as can be, into the wall above
    assert env.step(torch.ones(1, 2)).obs[0].tolist() == pytest.approx([1.75, 2 - MARGIN, 0.25, 0.0], abs=1e-6)
    assert env.step(torch.tensor([[0.0, -1.0]])).obs[0].tolist() == pytest.approx([2.0, 1.95 - MARGIN, 0.25, -0.05], abs=1e-6)


def floats(low: float, high: float) -> st.SearchStrategy[float]:
    return st.floats(low, high, width=32, allow_subnormal=False)  # which torch is told to flush


INSIDE = st.one_of(st.sampled_from([0.0, 1e-7, MARGIN, 0.5, 1 - MARGIN, 1 - 1e-7]), floats(0, 1))
PUSH = st.one_of(st.sampled_from([-1.0, 0.0, 1.0, -1e9, 1e9, math.inf, -math.inf, math.nan, 1e-7]), floats(-1.5, 1.5))
POINTS = st.lists(st.tuples(st.integers(0, 45), INSIDE, INSIDE, PUSH, PUSH, PUSH, PUSH), min_size=8, max_size=8)


def slid(before: float, aim: float, ahead_is_free: bool) -> float:
    """Where a move along an axis ends: as far as it was to, or just before the wall, and never behind its start."""
    if ahead_is_free or aim == 0:
        return before + aim
    if aim > 0:
        return max(before, min(before + aim, math.floor(before) + 1 - MARGIN))
    return min(before, max(before + aim, math.floor(before) + MARGIN))


@pytest.mark.parametrize("inertia", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
@settings(max_examples=60, deadline=None)
@given(points=POINTS)
def test_no_step_enters_or_crosses_a_wall(layout: str, inertia: bool, points: list[tuple[Any, ...]]) -> None:
    env = PointMaze(layout, len(points), options=PointMazeConfig(inertia=inertia))
    cells, draws = free_cells(layout), torch.tensor([point[1:] for point in points])
    corners = torch.tensor([cells[point[0] % len(cells)] for point in points]).float()
    # A sum may be rounded up to the next cell.
    start = torch.minimum(corners + draws[:, :2], torch.nextafter(corners + 1, corners))
    pushes = draws[:, 2:4].nan_to_num(nan=0.0).clamp(-1, 1)
    speeds = draws[:, 4:].nan_to_num(nan=0.0).clamp(-0.25, 0.25)
    moves = (speeds + 0.05 * pushes).clamp(-0.25, 0.25) if inertia else 0.25 * pushes
    env._obs = torch.cat((start, speeds), 1) if inertia else start
    step = env.step(draws[:, 2:4])
    for (x, y), aim, (to_x, to_y, *velocity) in zip(start.tolist(), moves.tolist(), step.final_obs.tolist(), strict=True):
        column, row = cell_of((x, y))
        assert cell_of((to_x, y)) in cells
        assert cell_of((to_x, to_y)) in cells
        assert to_x == pytest.approx(slid(x, aim[0], (column + int(np.sign(aim[0])), row) in cells), abs=2e-6)
        column, _ = cell_of((to_x, y))
        assert to_y == pytest.approx(slid(y, aim[1], (column, row + int(np.sign(aim[1]))) in cells), abs=2e-6)
        for lost, speed, asked in zip((x + aim[0] - to_x, y + aim[1] - to_y), velocity, aim, strict=False):
            assert speed == 0 or (abs(lost) < 2e-6 and speed == pytest.approx(asked, abs=1e-6))
            assert speed != 0 or abs(lost) > 0 or abs(asked) < 1e-6


@pytest.mark.parametrize("options", [{}, {"inertia": True}, {"start": "uniform", "random_goal": True, "inertia": True}])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_long_rollouts_walk_from_cell_to_cell(layout: str, options: dict[str, Any]) -> None:
    env = PointMaze(layout, 400, seed=1, options=PointMazeConfig(**options))
    generator = torch.Generator().manual_seed(0)
    position = env.reset()[:, :2]
    visited = []
    for k in range(400):
        if k % 8 == 0:  # pushes that last lead far, and press against walls
            pushes = 4 * torch.rand((400, 2), generator=generator) - 2
        step = env.step(pushes)
        assert all(env.observation_space.contains(row) for row in step.final_obs[:20].numpy())
        end = step.final_obs[:, :2]
        bend = torch.stack((end[:, 0], position[:, 1]), 1)
        assert (end - position).abs().max() <= 0.25 + 1e-6
        assert env.valid(torch.stack((position, bend, end))).all()
        assert not env.crosses_wall(position, bend).any()
        assert not env.crosses_wall(bend, end).any()
        visited.append(end.floor())
        position = step.obs[:, :2]
    cells = {tuple(cell) for cell in torch.cat(visited).unique(dim=0).int().tolist()}
    assert cells <= set(free_cells(layout))
    assert len(cells) > (6 if options.get("start") != "uniform" else len(free_cells(layout)) - 1)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_goal_can_be_walked_to_well_before_the_horizon(layout: str) -> None:
    env = PointMaze(layout, 1)
    obs = env.reset()
    assert env.goal is not None
    lengths = way_lengths(layout, cell_of(env.goal))
    for _ in range(env.horizon // 2):
        x, y = cell_of(obs[0].tolist())
        nearest = min([(x, y), (x - 1, y), (x + 1, y), (x, y - 1), (x, y + 1)], key=lambda cell: lengths.get(cell, 10**6))
        step = env.step((torch.tensor(nearest) + 0.5 - obs) / 0.25)
        obs = step.obs
        if step.terminated.any():
            break
    assert step.rewards.item() == 1.0


def test_goal_terminates_rewards_and_starts_again() -> None:
    env = PointMaze("U", 4)
    put(env, [2.1, 3.5], [2.21, 3.5], [1.9, 3.9], [1.5, 1.9])
    step = env.step(torch.tensor([[-1.0, 0.0], [-1.0, 0.0], [0.0, 0.0], [0.0, 1.0]]))
    assert step.rewards.tolist() == [1.0, 0.0, 0.0, 0.0]
    assert step.terminated.tolist() == [True, False, False, False]
    assert not step.truncated.any()
    assert step.final_obs[0].tolist() == pytest.approx([1.85, 3.5])
    assert (step.obs[0] - torch.tensor(env.start)).abs().max() <= 0.1 + 1e-6
    assert torch.equal(step.obs[1:], step.final_obs[1:])
    assert env.success_return == 1.0
    put(env, *[[2.21, 3.5]] * 4)
    assert env.step(torch.tensor([[-1.0, 0.0]] * 2 + [[-1.1, -1.1], [-1.1, 0.0]])).terminated.tolist() == [False] * 4
    put(env, *[[2.19, 3.5]] * 4)
    assert env.step(torch.tensor([[-1.0, 0.0]] * 4)).terminated.tolist() == [True] * 4


def test_goals_are_not_reached_through_walls() -> None:
    """In Medium two walls touch at (3, 3) only, so that the cells between them have no way through."""
    env = PointMaze("Medium", 5, options=PointMazeConfig(random_goal=True))
    put(
        env,
        [2.95, 3.05, 3.05, 2.95],  # through the crack between two walls
        [2.95, 3.05, 2.9, 3.3],
        [2.5, 3.1, 2.5, 2.9],  # a goal in the wall
        [2.5, 3.1, 3.05, 3.1],  # in the wall too
        [1.9, 3.9, 2.1, 4.1],  # around a corner
    )
    step = env.step(torch.zeros(5, 2))
    assert step.terminated.tolist() == [False, True, False, False, True]
    assert step.rewards.tolist() == [0.0, 1.0, 0.0, 0.0, 1.0]


def test_horizon_truncates_each_copy_at_its_own_age() -> None:
    env = PointMaze("U", 2, options=PointMazeConfig(inertia=True))
    env.reset()
    put(env, [1.6, 3.5, 0.0, 0.0], [1.5, 1.5, 0.0, 0.0])
    stay = torch.zeros(2, 2)
    assert env.step(stay).terminated.tolist() == [True, False]  # the first copy starts again, so it is one step younger
    for age in range(2, 100):
        step = env.step(stay)
        assert not step.truncated.any(), age
        assert torch.equal(step.obs, step.final_obs)
    put(env, [3.5, 1.5, 0.2, 0.0], [3.5, 1.5, 0.1, 0.0])
    step = env.step(stay)
    assert step.truncated.tolist() == [False, True]
    assert step.final_obs[1].tolist() == pytest.approx([3.6, 1.5, 0.1, 0.0])
    assert step.obs[1, 2:].tolist() == [0.0, 0.0]
    assert torch.equal(step.obs[0], step.final_obs[0])
    put(env, [1.6, 3.5, 0.0, 0.0], [1.5, 1.5, 0.0, 0.0])
    step = env.step(stay)  # the goal in the last step terminates and does not truncate
    assert (step.terminated.tolist(), step.truncated.tolist()) == ([True, False], [False, False])


@pytest.mark.parametrize("random_goal", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_uniform_starts_are_everywhere_but_at_the_goal(layout: str, random_goal: bool) -> None:
    env = PointMaze(layout, 4000, options=PointMazeConfig(start="uniform", random_goal=random_goal))
    rows = torch.cat([env.reset() for _ in range(10)])
    starts, goals = rows[:, :2], rows[:, 2:] if random_goal else torch.tensor(env.goal).expand(len(rows), 2)
    assert env.valid(starts).all()
    cells = free_cells(layout)
    counts = {cell: 0 for cell in cells}
    for cell in starts.floor().int().tolist():
        counts[tuple(cell)] += 1
    share = len(rows) / len(cells)
    assert set(counts) == set(cells)
    for cell, count in counts.items():
        if env.goal is not None and cell == cell_of(env.goal):
            assert 0.2 * share < count < 0.6 * share  # 1 - 0.45² π of it is left
        else:
            assert 0.85 * share < count < 1.25 * share
    within = starts - starts.floor()
    assert within.min() >= MARGIN - 1e-6
    assert within.max() <= 1 - MARGIN + 1e-6
    # A goal nearby is one behind a wall.
    near = (starts - goals).norm(dim=1) <= 0.45
    assert env.crosses_wall(starts[near], goals[near]).all()
    assert not near.any() or (random_goal and layout == "Medium" and near.sum() < 40)
    assert (env.start, env.goal is None) == (None, random_goal)


def test_random_goals_are_shown_kept_and_everywhere() -> None:
    env = PointMaze("Medium", 4000, options=PointMazeConfig(random_goal=True))
    obs = env.reset()
    goals = obs[:, env.goal_columns]
    assert obs.shape == (4000, 4)
    assert {tuple(cell) for cell in goals.floor().int().tolist()} == set(free_cells("Medium"))
    assert ((obs[:, :2] - goals).norm(dim=1) > 0.45).all()
    assert len(goals.unique(dim=0)) == 4000
    step = env.step(torch.zeros(4000, 2))
    assert torch.equal(step.final_obs[:, env.goal_columns], goals)
    assert torch.equal(step.obs, step.final_obs)
    env._obs = torch.cat((goals, goals), 1)
    step = env.step(torch.zeros(4000, 2))
    assert step.terminated.all()
    assert torch.equal(step.final_obs[:, 2:], goals)
    assert (step.obs[:, 2:] == goals).float().mean() < 0.01
    assert (step.obs[:, :2] - torch.tensor(env.start)).abs().max() <= 0.1 + 1e-6
    assert env.step(torch.zeros(4000, 2)).terminated.sum() == 0


@pytest.mark.parametrize(("inertia", "columns"), [(False, slice(2, 4)), (True, slice(4, 6))])
def test_what_a_goal_generator_is_told(inertia: bool, columns: slice) -> None:
    env = PointMaze("Large", 3, options=PointMazeConfig(random_goal=True, inertia=inertia))
    assert (env.goal_columns, env.position_columns, env.goal_radius) == (columns, slice(0, 2), 0.45)
    assert (env.goal_low.tolist(), env.goal_high.tolist()) == ([1.0, 1.0], [11.0, 8.0])
    assert env.observation_space.shape == (columns.stop,)
    assert PointMaze("Large", 3).reset()[:, PointMaze("Large", 3).goal_columns].numel() == 0


@pytest.mark.parametrize("start", ["far", "uniform"])
def test_new_episodes_take_proposed_goals(start: Any) -> None:
    env = PointMaze("U", 6, options=PointMazeConfig(start=start, random_goal=True))
    asked: list[int] = []
    offers = torch.tensor([[1.5, 3.5], [3.5, 2.5], [-9.0, 99.0], [math.nan, 1.2], [2.5, 2.5], [1.2, 3.2]], dtype=torch.float64)

    def propose(count: int) -> Tensor:
        asked.append(count)
        return offers

    before = env.reset()
    env.propose = propose
    assert torch.equal(env.step(torch.zeros(6, 2)).obs, before)  # episodes that go on keep their goals
    first = env.reset()
    expected = torch.tensor([[1.5, 3.5], [3.5, 2.5], [1.0, 4.0], [4.0, 1.2], [2.5, 2.5], [1.2, 3.2]])
    assert torch.equal(first[:, 2:], expected)
    assert first.dtype == torch.float32
    assert asked == [6, 6]
    offers = offers.flip(0)
    ends = first.clone()
    ends[0, :2] = ends[0, 2:]
    env._obs = ends
    step = env.step(torch.zeros(6, 2))
    assert step.terminated.tolist() == [True] + [False] * 5
    assert step.obs[0, 2:].tolist() == pytest.approx([1.2, 3.2])
    assert torch.equal(step.obs[1:], first[1:])
    assert asked == [6] * 3


def test_uniform_starts_avoid_proposed_goals() -> None:
    env = PointMaze("U", 5000, options=PointMazeConfig(start="uniform", random_goal=True))
    goal = torch.tensor([3.5, 2.5])
    env.propose = lambda count: goal.expand(count, 2)
    for _ in range(3):
        starts = env.reset()[:, :2]
        assert ((starts - goal).norm(dim=1) > 0.45).all()
        assert {tuple(cell) for cell in starts.floor().int().tolist()} == set(free_cells("U"))


def test_proposals_that_do_not_fit() -> None:
    env = PointMaze("U", 2, options=PointMazeConfig(random_goal=True))
    env.propose = lambda count: torch.zeros(count, 3)
    with pytest.raises(ValueError, match=r"propose returned goals of shape \(2, 3\); it must be \(2, 2\)"):
        env.reset()
    fixed = PointMaze("U", 2)
    fixed.propose = lambda count: torch.zeros(count, 2)
    with pytest.raises(ValueError, match="PointMaze-U has a fixed goal"):
        fixed.reset()


def test_valid_positions() -> None:
    env = PointMaze("U", 1)
    inside = torch.tensor([[[1.5, 1.5], [3.5, 2.5]], [[1.0, 1.0], [3.999, 3.999]]])
    assert env.valid(inside).tolist() == [[True, True], [True, True]]
    nan, inf = math.nan, math.inf
    beyond = [[1.5, 2.5], [4.0, 1.5], [0.5, 0.5], [-1.0, 1.5], [1.5, 77.0], [nan, 1.5], [1.5, nan], [inf, 1.5], [1.5, -inf]]
    assert not env.valid(torch.tensor(beyond)).any()


@pytest.mark.parametrize(
    ("layout", "start", "end", "crosses"),
    [
        ("U", (1.5, 1.5), (2.5, 1.5), False),
        ("U", (1.5, 1.5), (1.5, 1.5), False),
        ("U", (1.5, 1.5), (1.5, 2.25), True),  # ends in the wall
        ("U", (1.5, 2.25), (1.5, 1.5), True),  # begins in it
        ("U", (1.5, 1.5), (1.5, 0.5), True),
        ("U", (2.875, 1.75), (3.125, 2.125), False),  # enters the corridor before it goes up
        ("U", (2.75, 1.875), (3.125, 2.125), True),  # cuts the wall's corner
        ("U", (3.125, 2.125), (2.75, 1.875), True),
        ("U", (2.75, 1.75), (3.25, 2.25), False),  # touches the corner
        ("Medium", (2.75, 3.25), (3.25, 2.75), True),  # two walls touch there
        ("Medium", (3.25, 2.75), (2.75, 3.25), True),
        ("U", (1.5, 1.5), (-7.0, 1.5), True),
        ("U", (1.5, 1.5), (math.nan, 1.5), True),
    ],
)
def test_crossings_by_hand(layout: str, start: tuple[float, ...], end: tuple[float, ...], crosses: bool) -> None:
    env = PointMaze(layout, 1)
    assert env.crosses_wall(torch.tensor(start), torch.tensor(end)).item() is crosses
    assert env.crosses_wall(torch.tensor([[start]]), torch.tensor([[end]])).tolist() == [[crosses]]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_crossings_are_those_of_many_points_on_the_way(layout: str) -> None:
    env = PointMaze(layout, 1)
    draws = np.random.default_rng(0)
    cells = np.array(free_cells(layout))
    start = (cells[draws.integers(len(cells), size=4000)] + draws.random((4000, 2))).astype(np.float32)
    end = (start + draws.uniform(-1, 1, (4000, 2)) * draws.choice([1, 0.25], (4000, 1))).astype(np.float32)
    found = env.crosses_wall(torch.from_numpy(start), torch.from_numpy(end)).numpy()
    steps = np.linspace(0, 1, 1001)[:, None, None]
    visited = np.floor(start + steps * (end.astype(np.float64) - start)).astype(int)
    walls = env.walls.numpy()
    seen = walls[visited[..., 1], visited[..., 0]].any(0)
    assert found[seen].all()
    assert 0 <= found.sum() - seen.sum() < 10  # so short a way through a corner is missed between two points
    assert 500 < found.sum() < 3500


def test_seeds_decide_everything() -> None:
    def observations(seed: int, **options: Any) -> Tensor:
        env = make("PointMaze-Medium", 8, seed=seed, **options)
        actions = 2 * torch.rand((300, 8, 2), generator=torch.Generator().manual_seed(0)) - 1
        return torch.cat((env.reset().unsqueeze(0), torch.stack([env.step(action).obs for action in actions])))

    for options in ({}, {"start": "uniform", "random_goal": True, "inertia": True}):
        assert torch.equal(observations(1, **options), observations(1, **options))
        assert not torch.equal(observations(1, **options), observations(2, **options))


def test_later_steps_leave_returned_tensors_alone() -> None:
    env = PointMaze("U", 4, options=PointMazeConfig(start="uniform", random_goal=True, inertia=True))
    first = env.reset()
    steps = [env.step(torch.ones(4, 2)) for _ in range(3)]
    tensors = [first] + [tensor for step in steps for tensor in (step.obs, step.final_obs, step.rewards)]
    copies = [tensor.clone() for tensor in tensors]
    for _ in range(300):
        env.step(-torch.ones(4, 2))
    env.reset()
    for tensor, copy in zip(tensors, copies, strict=True):
        assert torch.equal(tensor, copy)


@pytest.mark.parametrize("device", DEVICES)
def test_everything_is_on_the_device(device: str) -> None:
    env = PointMaze("Large", 5, device, options=PointMazeConfig(start="uniform", random_goal=True, inertia=True))
    env.propose = lambda count: torch.full((count, 2), 1.5)
    obs = env.reset()
    step = env.step(torch.ones(5, 2, device=device))
    position = obs[:, env.position_columns]
    tensors = [obs, *(getattr(step, name) for name in ("obs", "rewards", "terminated", "truncated", "final_obs"))]
    tensors += [env.goal_low, env.goal_high, env.walls, env.valid(position), env.crosses_wall(position, position)]
    assert {tensor.device.type for tensor in tensors} == {torch.device(device).type} == {env.device.type}


@pytest.mark.parametrize(
    ("env_id", "options"),
    [
        ("PointMaze-U-v0", {}),
        ("PointMaze-Medium-v0", {"start": "uniform", "random_goal": True}),
        ("PointMaze-Large-v0", {"inertia": True, "random_goal": True}),
    ],
)
def test_gymnasium_accepts_them(env_id: str, options: dict[str, Any]) -> None:
    env = gymnasium.make(f"recall_traces/{env_id}", render_mode="rgb_array", **options).unwrapped
    check_env(env)
    assert gymnasium.spec(f"recall_traces/{env_id}").reward_threshold == 1.0


def test_render_shows_walls_start_goal_and_point() -> None:
    env = PointMaze("Medium", 2)
    picture = env.render(cell_pixels=20)
    assert picture.shape == (160, 160, 3)
    assert picture.dtype == "uint8"
    put(env, [2.5, 4.5], [1.5, 1.5])
    picture = env.render(cell_pixels=20)
    centres = picture[10::20, 10::20]
    colours = [tuple(centres[row, column].tolist()) for row, column in ((3, 2), (6, 6), (1, 1), (0, 0), (1, 2))]
    assert len(set(colours)) == 5  # point, goal, start, wall, floor
    assert [[tuple(cell.tolist()) == colours[3] for cell in row] for row in centres] == [
        [mark == "#" for mark in row] for row in MAPS["Medium"]
    ]
    moving = PointMaze("Medium", 1, options=PointMazeConfig(start="uniform", random_goal=True))
    assert moving.render().shape == (384, 384, 3)


def test_layouts_and_options_that_do_not_exist() -> None:
    with pytest.raises(ValueError, match="PointMaze-Huge: the layout must be one of U, Medium, Large"):
        PointMaze("Huge", 1)
    with pytest.raises(ValueError, match="start is 'near'; it must be 'far' or 'uniform'"):
        PointMazeConfig(start="near")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="PointMaze-U has no option 'slip'; valid options: start, random_goal, inertia"):
        make("PointMaze-U", slip=0.1)
