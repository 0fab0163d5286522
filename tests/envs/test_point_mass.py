import math
from typing import Any

import gymnasium
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from recall_traces.envs import make
from recall_traces.envs.goals import SPARE, first_fine
from recall_traces.envs.point_mass import PointMass, PointMassConfig

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]
PUSH = st.one_of(
    st.sampled_from([-1.0, 0.0, 1.0, -1e9, math.inf, math.nan]), st.floats(-1.5, 1.5, width=32, allow_subnormal=False)
)
SHARE = st.floats(-1, 1, width=32, allow_subnormal=False)


def put(env: PointMass, *rows: list[float]) -> None:
    """Move the points, so that a test can ask about one place."""
    env._obs = torch.tensor(rows)
    assert env._obs.shape == (env.num_envs, 2 * env.dimensions)


def test_moves_and_edges_by_hand() -> None:
    env = PointMass(3, 1)
    assert env.reset()[0, :3].tolist() == [0.0, 0.0, 0.0]
    put(env, [4.6, 0.9, -0.2, -5.0, -5.0, -5.0])
    walk = [
        ([1.0, 0.2, 0.0], (4.85, 0.95, -0.2)),
        ([1.0, 7.0, -1.0], (5.0, 1.0, -0.3)),
        ([1.0, math.nan, -math.inf], (5.0, 1.0, -0.3)),
        ([-1.0, -1.0, 1.0], (4.75, 0.75, -0.05)),
    ]
    for action, position in walk:
        step = env.step(torch.tensor([action]))
        assert step.obs[0].tolist() == pytest.approx([*position, -5.0, -5.0, -5.0], abs=1e-6)
        assert not torch.stack((step.rewards.bool(), step.terminated, step.truncated)).any()
    assert (step.obs.dtype, step.rewards.dtype) == (torch.float32, torch.float32)


@pytest.mark.parametrize("dimensions", [2, 3, 8])
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_points_move_straight_and_never_leave(dimensions: int, data: Any) -> None:
    env = PointMass(dimensions, 4)
    reach = [5.0, 1.0] + [0.3] * (dimensions - 2)
    shares = data.draw(st.lists(SHARE, min_size=4 * dimensions, max_size=4 * dimensions))
    actions = torch.tensor(data.draw(st.lists(PUSH, min_size=4 * dimensions, max_size=4 * dimensions))).view(4, dimensions)
    start = (torch.tensor(shares).view(4, dimensions) * torch.tensor(reach)).clamp(-env.reach, env.reach)
    env._obs = torch.cat((start, torch.full_like(start, 5.0)), 1)
    end = env.step(actions).final_obs[:, :dimensions]
    assert (end.abs() <= torch.tensor(reach)).all()
    moves = 0.25 * actions.nan_to_num(nan=0.0).clamp(-1, 1)
    free = (start + moves).abs() <= torch.tensor(reach)
    assert torch.allclose(end[free], (start + moves)[free], atol=1e-6)
    assert torch.equal(end[~free].abs(), torch.tensor(reach).expand(4, dimensions)[~free])


@pytest.mark.parametrize("dimensions", range(2, 9))
def test_goal_terminates_rewards_and_starts_again(dimensions: int) -> None:
    env = PointMass(dimensions, 3)
    assert env.goal_radius == pytest.approx(0.3 * math.sqrt(dimensions) / math.sqrt(2))
    goal = [3.0] + [0.0] * (dimensions - 1)
    rows = [[3.0 - 0.25 - 0.999 * env.goal_radius], [3.0 - 0.25 - 1.001 * env.goal_radius], [0.0]]
    put(env, *[row + [0.0] * (dimensions - 1) + goal for row in rows])
    actions = torch.zeros(3, dimensions)
    actions[:, 0] = 1.0
    step = env.step(actions)
    assert step.rewards.tolist() == [1.0, 0.0, 0.0]
    assert step.terminated.tolist() == [True, False, False]
    assert not step.truncated.any()
    assert step.final_obs[0].tolist() == pytest.approx(
        [3.0 - 0.999 * env.goal_radius] + [0.0] * (dimensions - 1) + goal, abs=1e-5
    )
    assert step.obs[0, :dimensions].tolist() == [0.0] * dimensions
    assert step.obs[0, dimensions:].tolist() != goal
    assert torch.equal(step.obs[1:], step.final_obs[1:])
    assert env.success_return == 1.0


def test_horizon_truncates_each_copy_at_its_own_age() -> None:
    env = PointMass(2, 2, options=PointMassConfig(goals="all"))
    env.reset()
    put(env, [1.0, 0.0, 1.0, 0.0], [1.0, 0.0, 1.0, 5.0])
    assert env.step(torch.zeros(2, 2)).terminated.tolist() == [True, False]  # so it is one step younger
    for age in range(2, 100):
        assert not env.step(torch.zeros(2, 2)).truncated.any(), age
    step = env.step(torch.zeros(2, 2))
    assert step.truncated.tolist() == [False, True]
    assert step.final_obs[1].tolist() == [1.0, 0.0, 1.0, 5.0]
    assert step.obs[1, :2].tolist() == [0.0, 0.0]
    assert step.obs[1, 2:].tolist() != [1.0, 5.0]
    put(env, [1.0, 0.0, 1.0, 0.0], [1.0, 0.0, 1.0, 5.0])
    step = env.step(torch.zeros(2, 2))  # the goal in the last step terminates and does not truncate
    assert (step.terminated.tolist(), step.truncated.tolist()) == ([True, False], [False, False])


@pytest.mark.parametrize("goals", ["feasible", "all"])
@pytest.mark.parametrize("dimensions", [2, 5, 8])
def test_goals_fill_their_box_but_for_the_start(dimensions: int, goals: Any) -> None:
    env = PointMass(dimensions, 20_000, options=PointMassConfig(goals=goals))
    obs = env.reset()
    drawn = obs[:, env.goal_columns]
    side = torch.tensor([5.0, 1.0] + [0.3] * (dimensions - 2)) if goals == "feasible" else torch.full((dimensions,), 5.0)
    assert (drawn.abs() <= side).all()
    assert (drawn.norm(dim=1) > env.goal_radius).all()
    # A uniform coordinate; without what is near the start, the first one is a little wider.
    assert drawn.std(0) / side == pytest.approx(torch.full((dimensions,), 3**-0.5), rel=0.08)
    assert (drawn.mean(0) / side).abs().max() < 0.03
    assert not obs[:, env.position_columns].any()
    assert all(env.observation_space.contains(row.numpy()) for row in obs[:50])


def test_what_a_goal_generator_is_told() -> None:
    env = PointMass(4, 3)
    assert (env.position_columns, env.goal_columns) == (slice(0, 4), slice(4, 8))
    assert (env.goal_low.tolist(), env.goal_high.tolist()) == ([-5.0] * 4, [5.0] * 4)
    assert env.reach.tolist() == pytest.approx([5.0, 1.0, 0.3, 0.3])


def test_new_episodes_take_proposed_goals() -> None:
    env = PointMass(2, 3)
    asked: list[int] = []
    offers = torch.tensor([[4.0, 0.5], [-99.0, 2.0], [math.nan, 0.1]], dtype=torch.float64, requires_grad=True)

    def propose(count: int) -> Tensor:
        asked.append(count)
        return offers * 1.0

    before = env.reset()
    env.propose = propose
    assert torch.equal(env.step(torch.zeros(3, 2)).obs, before)  # episodes that go on keep their goals
    first = env.reset()
    assert torch.equal(first, torch.tensor([[0.0, 0.0, 4.0, 0.5], [0.0, 0.0, -5.0, 2.0], [0.0, 0.0, 5.0, 0.1]]))
    assert not first.requires_grad
    put(env, [4.0, 0.5, 4.0, 0.5], [0.0, 0.0, 1.0, 0.0], [1.0, 0.0, 1.0, 0.0])
    step = env.step(torch.zeros(3, 2))
    assert step.terminated.tolist() == [True, False, True]
    assert step.obs[:, 2:].tolist() == pytest.approx(torch.tensor([[4.0, 0.5], [1.0, 0.0], [5.0, 0.1]]))
    assert asked == [3, 3, 3]
    env.propose = lambda count: torch.zeros(2)
    with pytest.raises(ValueError, match=r"propose returned goals of shape \(2,\); it must be \(3, 2\)"):
        env.reset()


def test_the_first_fine_draws_are_taken() -> None:
    steps, generator = 3, torch.Generator().manual_seed(0)
    last = steps + SPARE - 1
    draws = torch.arange(2.0 * (last + 1)).view(last + 1, 2, 1)  # 2 t + copy
    fine = torch.zeros(last + 1, 2, dtype=torch.bool)
    fine[1, 0] = fine[5, 0] = fine[0, 1] = True
    rows = [first_fine(draws, fine, generator)[..., 0].tolist() for _ in range(30)]
    expected = [[2.0 * 1, 1.0], [2.0 * 1, 2.0 * last + 1], [2.0 * 5, 2.0 * last + 1]]
    assert all(sorted(row) == expected for row in rows)
    assert len({str(row) for row in rows}) == 6  # every order


def test_seeds_decide_everything() -> None:
    def play(seed: int) -> Tensor:
        env = make("PointMass-3", 8, seed=seed)
        actions = 2 * torch.rand((250, 8, 3), generator=torch.Generator().manual_seed(0)) - 1
        return torch.cat((env.reset().unsqueeze(0), torch.stack([env.step(action).obs for action in actions])))

    assert torch.equal(play(1), play(1))
    assert not torch.equal(play(1), play(2))


def test_later_steps_leave_returned_tensors_alone() -> None:
    env = PointMass(2, 4)
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
    env = PointMass(3, 5, device)
    obs = env.reset()
    step = env.step(torch.ones(5, 3, device=device))
    tensors = [obs, *(getattr(step, name) for name in ("obs", "rewards", "terminated", "truncated", "final_obs"))]
    tensors += [env.goal_low, env.goal_high, env.reach]
    assert {tensor.device.type for tensor in tensors} == {torch.device(device).type} == {env.device.type}


@pytest.mark.parametrize("dimensions", range(2, 9))
def test_gymnasium_accepts_them(dimensions: int) -> None:
    env = gymnasium.make(f"recall_traces/PointMass-{dimensions}-v0", render_mode="rgb_array", goals="all").unwrapped
    check_env(env)
    assert gymnasium.spec(f"recall_traces/PointMass-{dimensions}-v0").reward_threshold == 1.0


def test_render_shows_the_first_two_axes() -> None:
    env = PointMass(3, 1)
    put(env, [-2.0, 0.5, 0.1, 3.0, -3.0, 2.0])
    picture = env.render(metre_pixels=20)
    assert picture.shape == (200, 200, 3)
    assert picture.dtype == "uint8"
    point, goal, beyond, floor = (
        tuple(picture[row, column].tolist()) for row, column in ((90, 60), (160, 160), (20, 20), (100, 140))
    )
    assert len({point, goal, beyond, floor}) == 4
    assert point[0] > point[1]
    assert goal[1] > goal[0]


@pytest.mark.parametrize(("dimensions", "nearest"), [(0, 2), (1, 2), (9, 8)])
def test_dimensions_and_goals_that_do_not_exist(dimensions: int, nearest: int) -> None:
    with pytest.raises(ValueError, match=f"PointMass-{dimensions}: .* 2 to 8; the nearest valid: PointMass-{nearest}$"):
        make(f"PointMass-{dimensions}")
    with pytest.raises(ValueError, match="goals is 'some'; it must be 'feasible' or 'all'"):
        PointMassConfig(goals="some")  # type: ignore[arg-type]
