import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete

from recall_traces import RecallTraces, Transitions, envs
from recall_traces.recall import RecallConfig, Recalled
from recall_traces.scene import APART, Components, longest_trace, make_scene, recalled_steps
from recall_traces.trace_picture import trace_figure


def remembering(env, obs, next_obs):
    """One seed that lived through one episode `obs -> next_obs`, `(T, *observation)`."""
    recall = RecallTraces(env.observation_space, env.action_space, RecallConfig(memory_size=64, search_length=64), num_envs=1)
    length = len(obs)
    shape = (length, 1, 1)
    space = env.action_space
    actions = torch.zeros(shape, dtype=torch.int64) if isinstance(space, Discrete) else torch.zeros(*shape, *space.shape)
    never = torch.zeros(shape, dtype=torch.bool)
    obs, next_obs = (x.view(*shape, *x.shape[1:]) for x in (obs, next_obs))
    recall.observe(Transitions(obs, actions, torch.zeros(shape), next_obs, never, never))
    return recall


def holding(recall, *ways):
    """The same with traces of one seed through the given states, `(steps + 1, *observation)` each, in its buffer."""
    length = max(len(way) for way in ways) - 1
    obs = torch.zeros(1, len(ways), length, *ways[0].shape[1:], dtype=ways[0].dtype)
    next_obs, mask = obs.clone(), torch.zeros(1, len(ways), length, dtype=torch.bool)
    for k, way in enumerate(ways):
        obs[0, k, length + 1 - len(way) :], next_obs[0, k, length + 1 - len(way) :] = way[:-1], way[1:]
        mask[0, k, length + 1 - len(way) :] = True
    recall.buffer = [Recalled(obs, torch.zeros(mask.shape), mask, mask.float(), next_obs, ~mask, mask)]
    return recall


def first_coordinate(obs):
    return obs[..., 0].float()


def test_a_trace_through_a_maze_lies_where_it_went():
    env = envs.make("PointMaze-U")
    lived = torch.tensor([[1.5, 1.5], [1.6, 1.5], [1.7, 1.5], [3.5, 2.5]])
    way = torch.tensor([[1.5, 1.5], [3.5, 1.6], [3.5, 2.5]])
    scene = make_scene(holding(remembering(env, lived[:-1], lived[1:]), way), first_coordinate, 0, env.floor_plan())
    np.testing.assert_allclose(scene.segments, torch.stack((way[:-1], way[1:]), 1), atol=1e-6)
    assert scene.togo.tolist() == [2, 1]
    np.testing.assert_allclose(scene.targets, [[3.5, 2.5]])
    np.testing.assert_allclose(scene.starts, [[1.5, 1.5]])
    assert scene.goal == (1.5, 3.5)
    # Squares are 1/8 m wide: (3.5, 2.5) begins the 29th along x and the 21st along y.
    assert scene.visits[20, 28] == 1
    assert scene.visits.sum() == scene.remembered == 3
    assert scene.value[20, 28] == pytest.approx(3.5 + 1 / 16)
    assert np.isnan(scene.value[28, 12]), "at the goal episodes are over"
    assert np.isnan(scene.value[20, 12]), "there is a wall"


def test_a_trace_through_four_rooms_lies_on_its_cells():
    env = envs.make("FourRooms-7")
    way = torch.tensor([5 * 7 + 5, 5 * 7 + 4, 4 * 7 + 4])  # row 5, columns 5 and 4, then up
    recall = holding(remembering(env, way[:-1], way[1:]), way)
    scene = make_scene(recall, lambda obs: obs.float(), 0, env.floor_plan())
    assert scene.segments.tolist() == [[[5, 5], [4, 5]], [[4, 5], [4, 4]]]
    assert scene.visits[5, 4] == scene.visits[4, 4] == 1
    assert scene.value[4, 2] == 4 * 7 + 2
    assert np.isnan(scene.value[[1, 0], [1, 3]]).all(), "the goal, and a wall"
    assert scene.goal == (1, 1)


def test_traces_along_the_same_cells_are_drawn_beside_each_other():
    env = envs.make("FourRooms-7")
    way = torch.tensor([5 * 7 + 5, 5 * 7 + 4])
    recall = holding(remembering(env, way[:-1], way[1:]), way, way, way)
    scene = make_scene(recall, lambda obs: obs.float(), 0, env.floor_plan())
    away = (scene.segments - [[5, 5], [4, 5]])[:, 0, 0]
    np.testing.assert_allclose(away, [-2 / 3 * APART, 0, 2 / 3 * APART])


def test_with_a_goal_in_the_observation_the_value_is_that_of_one_goal():
    env = envs.make("FourRooms-7", random_goal=True)
    way = torch.tensor([[5 * 7 + 5, 12], [5 * 7 + 4, 12]])  # goal in row 1, column 5
    recall = holding(remembering(env, way[:-1], way[1:]), way)
    scene = make_scene(recall, lambda obs: obs[..., 1] + obs[..., 0] / 100, 0, env.floor_plan())
    assert scene.goal == (5, 1)
    assert scene.value[4, 2] == pytest.approx(12 + (4 * 7 + 2) / 100)
    maze = envs.make("PointMaze-U", random_goal=True, inertia=True)
    way = torch.tensor([[1.5, 1.5, 0.1, 0.2, 3.5, 2.5], [1.6, 1.7, 0.1, 0.2, 3.5, 2.5]])
    recall = holding(remembering(maze, way[:-1], way[1:]), way)
    scene = make_scene(recall, lambda obs: obs.sum(-1), 0, maze.floor_plan())
    assert scene.goal == (3.5, 2.5)
    assert scene.value[9, 9] == pytest.approx(2 * (9.5 / 8) + 6.0), "at rest"


def test_the_plan_of_a_point_mass():
    env = envs.make("PointMass-2", goals="all")
    way = torch.tensor([[0.0, 0.0, 4.0, -3.0], [0.2, -0.1, 4.0, -3.0]])
    scene = make_scene(holding(remembering(env, way[:-1], way[1:]), way), first_coordinate, 0, env.floor_plan())
    assert scene.goal == (4.0, -3.0)
    assert scene.plan.walls.ravel().tolist() == [True, False, True]
    assert np.isnan(scene.value[[0, -1]]).all()
    assert scene.value[50, 50] == pytest.approx(0.05)
    assert envs.make("PointMass-3").floor_plan() is None
    assert not envs.make("PointMass-2").floor_plan().walls.any()


def test_only_the_seed_that_was_asked_for_is_shown():
    env = envs.make("PointMaze-U")
    recall = RecallTraces(
        env.observation_space, env.action_space, RecallConfig(memory_size=64, search_length=64), num_seeds=2, num_envs=1
    )
    obs = torch.tensor([[[1.5, 1.5]], [[3.5, 3.5]]])[None]  # (T, S, N, 2)
    never = torch.zeros(1, 2, 1, dtype=torch.bool)
    recall.observe(Transitions(obs, torch.zeros(1, 2, 1, 2), torch.zeros(1, 2, 1), obs + 0.1, never, never))
    steps = obs[0].unsqueeze(2)  # (S, B, L, 2)
    mask = torch.ones(2, 1, 1, dtype=torch.bool)
    recall.buffer = [Recalled(steps, torch.zeros(2, 1, 1, 2), mask, mask.float(), steps + 0.1, ~mask, mask)]
    scene = make_scene(recall, lambda obs: torch.tensor([1.0, 2.0])[:, None].expand(obs.shape[:2]), 1, env.floor_plan())
    np.testing.assert_allclose(scene.starts, [[3.5, 3.5]])
    np.testing.assert_allclose(scene.targets, [[3.6, 3.6]])
    assert np.nanmin(scene.value) == np.nanmax(scene.value) == 2


class Box3:
    observation_space = Box(-np.inf, np.inf, (3,), np.float32)
    action_space = Discrete(2)


def test_components_of_states_along_a_line():
    along = np.linspace(-1, 1, 101)
    states = np.stack((5 + 2 * along, 100 - 30 * along, np.full(101, 7.0)), 1)
    components = Components(states)
    # Standardised, both dimensions that vary are ± the same thing, so that their sum is √2 times as long.
    expected = np.sqrt(2) * along / along.std()
    places = components(states)
    np.testing.assert_allclose(np.abs(places[:, 0]), np.abs(expected), atol=1e-9)
    np.testing.assert_allclose(places[:, 1], 0, atol=1e-9)
    assert components.labels[0] == "first principal component\n(100% of the variance)"
    assert components.labels[1] == "second principal component\n(0% of the variance)"
    np.testing.assert_array_equal(Components(states[::-1].copy()).directions[:, 0], components.directions[:, 0])


def test_without_a_plan_values_are_means_over_squares():
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(33, 3, generator=generator)
    recall = holding(remembering(Box3, states[:-1], states[1:]), states[:5], states[10:12])
    scene = make_scene(recall, lambda obs: torch.full(obs.shape[:2], 2.5), 0)
    assert scene.visits.sum() == 32
    assert np.isnan(scene.value).sum() == (scene.visits == 0).sum()
    assert np.nanmin(scene.value) == np.nanmax(scene.value) == 2.5
    assert len(scene.targets) == 2
    assert scene.plan is None
    assert scene.goal is None
    places = Components(states[1:].double().numpy())(states.double().numpy())
    np.testing.assert_allclose(scene.segments[:4, 0], places[:4], atol=1e-6)
    assert sorted(scene.togo.tolist()) == [1, 1, 2, 3, 4]


def test_the_longest_trace():
    states = torch.arange(36.0).view(12, 3)
    recall = holding(remembering(Box3, states[:-1], states[1:]), states[:3], states[2:12])
    shown, togo = longest_trace(recalled_steps(recall, 0), 4)
    assert togo == [9, 6, 3, 0]
    assert shown.tolist() == states[[2, 5, 8, 11]].tolist()
    assert longest_trace(recalled_steps(recall, 0), 100)[1] == list(range(9, -1, -1))


def test_what_cannot_be_drawn_is_said_in_one_sentence():
    env = envs.make("PointMaze-U")
    states = torch.tensor([[1.5, 1.5], [1.6, 1.5]])
    recall = remembering(env, states[:-1], states[1:])
    with pytest.raises(ValueError, match="nothing has been recalled yet"):
        make_scene(recall, first_coordinate, 0, env.floor_plan())
    holding(recall, states).buffer[0].mask[:] = False
    with pytest.raises(ValueError, match="seed 0 has recalled no traces yet"):
        make_scene(recall, first_coordinate, 0, env.floor_plan())
    recall.share.rarity[:] = 0
    with pytest.raises(ValueError, match="no traces: reward is not rare there"):
        make_scene(recall, first_coordinate, 0, env.floor_plan())
    rooms = envs.make("FourRooms-7")
    cells = torch.tensor([40, 39])
    with pytest.raises(ValueError, match="single numbers"):
        make_scene(holding(remembering(rooms, cells[:-1], cells[1:]), cells), lambda obs: obs.float(), 0)


def test_lines_are_drawn_in_the_coordinates_of_the_plan():
    env = envs.make("FourRooms-7")
    way = torch.tensor([5 * 7 + 5, 5 * 7 + 4, 4 * 7 + 4])
    scene = make_scene(holding(remembering(env, way[:-1], way[1:]), way), lambda obs: obs.float(), 0, env.floor_plan())
    axes = trace_figure(scene, "title").axes[0]
    (lines,) = [drawn for drawn in axes.collections if hasattr(drawn, "get_segments")]
    assert [line.tolist() for line in lines.get_segments()] == [[[5, 5], [4, 5]], [[4, 5], [4, 4]]]
    assert lines.get_array().tolist() == [2, 1]
    assert axes.get_ylim()[0] > axes.get_ylim()[1], "row 0 is on top"
