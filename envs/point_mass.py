"""A point in a long, thin box of many dimensions, in torch: how goals scale when most of them are out of reach."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recall_traces.envs.colours import AGENT, AT_GOAL, GOAL, WALL
from recall_traces.envs.floor_plan import FloorPlan
from recall_traces.envs.goals import SPARE, first_fine, proposed_goals
from recall_traces.envs.interface import Step, check_actions
from recall_traces.envs.noise import Blocks
from recall_traces.seeding import restore_generator, seeded_generator

MIN_DIMENSIONS, MAX_DIMENSIONS = 2, 8
SIDE = 5.0
"""Goals lie within ±5 m along every axis."""
REACH = (5.0, 1.0, 0.3)
"""So far the point can move from the origin along the first, the second and every further axis, in metres."""
MAX_MOVE = 0.25
"""Metres per step and axis."""
HORIZON = 100


@dataclass(frozen=True)
class PointMassConfig:
    """What can vary in the point mass.

    Raises:
        ValueError: there are no such goals.
    """

    goals: Literal["feasible", "all"] = "feasible"
    """Where goals are drawn: `feasible`, where the point can be; `all`, the whole cube, most of which is out of reach."""

    def __post_init__(self) -> None:
        if self.goals not in ("feasible", "all"):
            raise ValueError(f"goals is {self.goals!r}; it must be 'feasible' or 'all'")


class PointMass:
    """A point that starts at the origin and is to reach a goal, new in every episode, in 2 to 8 dimensions.

    Goals lie in the cube `[-5, 5]^d`, but the point stays within `[-5, 5] × [-1, 1] × [-0.3, 0.3]^(d-2)`. This is the scaling
    test of Florensa et al., "Automatic Goal Generation for Reinforcement Learning Agents" (2018). The observation is the
    position, then the goal, both in metres. The action, `Box(-1, 1)` for each axis, moves by up to 0.25 m; actions beyond
    are clamped, NaN is 0. Reward 1 within `0.3 √(d / 2)` m of the goal, which terminates; after 100 steps the episode is
    truncated.

    Tensors that `reset` and `step` return are never written to afterwards, and must not be written to.

    Args:
        dimensions: 2 to 8.
        num_envs: copies.
        device: where everything lives.
        seed: of the goals.
        options: what varies.

    Raises:
        ValueError: the number of dimensions is out of range.
    """

    success_return: float | None = 1.0

    def __init__(
        self,
        dimensions: int,
        num_envs: int,
        device: str | torch.device = "cpu",
        seed: int = 0,
        options: PointMassConfig | None = None,
    ) -> None:
        if not MIN_DIMENSIONS <= dimensions <= MAX_DIMENSIONS:
            nearest = min(max(dimensions, MIN_DIMENSIONS), MAX_DIMENSIONS)
            raise ValueError(
                f"PointMass-{dimensions}: the dimensions must be {MIN_DIMENSIONS} to {MAX_DIMENSIONS}; "
                f"the nearest valid: PointMass-{nearest}"
            )
        self.dimensions, self.num_envs, self.device = dimensions, num_envs, torch.device(device)
        self.options = options or PointMassConfig()
        self.horizon = HORIZON
        """Steps after which an episode is truncated."""
        self.goal_radius: float = 0.3 * math.sqrt(dimensions / 2)
        self.reach: Tensor = torch.tensor([*REACH[:2], *[REACH[2]] * (dimensions - 2)], device=self.device)
        """How far the point can move from the origin along each axis, in metres, `(d,)`."""
        self.position_columns = slice(0, dimensions)
        self.goal_columns = slice(dimensions, 2 * dimensions)
        self.goal_low: Tensor = torch.full((dimensions,), -SIDE, device=self.device)
        self.goal_high: Tensor = -self.goal_low
        self.propose: Callable[[int], Tensor] | None = None

        high = torch.cat((self.reach, self.goal_high)).cpu().numpy()
        self.observation_space: gymnasium.Space[Any] = gymnasium.spaces.Box(-high, high, dtype=np.float32)
        self.action_space: gymnasium.Space[Any] = gymnasium.spaces.Box(-1.0, 1.0, (dimensions,), np.float32)
        self._drawn_reach = self.reach if self.options.goals == "feasible" else self.goal_high
        self._starts = torch.zeros(num_envs, dimensions, device=self.device)
        self._generator = seeded_generator(seed, "environment", self.device)
        self._goals = Blocks(self._draw_goals, num_envs, self._generator)
        self._age = torch.zeros(num_envs, dtype=torch.int64, device=self.device)
        self._obs = self.reset()

    def reset(self) -> Tensor:
        """Start a new episode in every copy.

        Returns:
            The first observations, float32, `(num_envs, 2 * dimensions)`.
        """
        self._age.zero_()
        self._obs = self._next_first_obs()
        return self._obs

    def step(self, actions: Tensor) -> Step:
        """Move every point; `actions` is `(num_envs, dimensions)`, clamped to ±1."""
        check_actions(self, actions)
        position, goal = self._obs.split(self.dimensions, 1)
        moves = actions.float().nan_to_num(nan=0.0).clamp(-1.0, 1.0)
        position = torch.add(position, moves, alpha=MAX_MOVE).clamp(-self.reach, self.reach)
        terminated = self._reached(position, goal)
        timed_out = self._age.add_(1) >= self.horizon
        truncated = timed_out > terminated
        done = timed_out | terminated
        self._age.masked_fill_(done, 0)
        final_obs = torch.cat((position, goal), 1)
        self._obs = torch.where(done.unsqueeze(1), self._next_first_obs(), final_obs)
        return Step(self._obs, terminated.float(), terminated, truncated, final_obs)

    def state_dict(self) -> dict[str, Any]:
        """All that the following steps depend on but `propose`."""
        return {
            "obs": self._obs,
            "age": self._age,
            "generator": self._generator.get_state(),
            "goals": self._goals.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Copy what `state_dict` gave, of as many copies."""
        self._obs = state["obs"].clone()
        self._age.copy_(state["age"])
        restore_generator(self._generator, state["generator"])
        self._goals.load_state_dict(state["goals"])

    def render(self, metre_pixels: int = 40, obs: Tensor | None = None) -> NDArray[np.uint8]:
        """A picture of the first copy along the first two axes: what is out of reach dark, goal green, point orange.

        Args:
            metre_pixels: width of a metre.
            obs: what to show instead, one observation; a copy whose episode ended is in its next one already.

        Returns:
            RGB, uint8, `(10 * metre_pixels, 10 * metre_pixels, 3)`.
        """
        first = (self._obs[0] if obs is None else obs).tolist()
        position, goal = first[self.position_columns], first[self.goal_columns]
        rows, columns = np.mgrid[: 10 * metre_pixels, : 10 * metre_pixels]
        right, up = (columns + 0.5) / metre_pixels - SIDE, SIDE - (rows + 0.5) / metre_pixels
        to_goal = np.hypot(right - goal[0], up - goal[1])
        picture = np.full((*right.shape, 3), 255, np.uint8)
        picture[np.abs(up) > REACH[1]] = WALL
        picture[to_goal < self.goal_radius] = AT_GOAL
        picture[to_goal < 0.1] = GOAL
        picture[np.hypot(right - position[0], up - position[1]) < 0.12] = AGENT
        return picture

    def floor_plan(self) -> FloorPlan | None:
        """Where states are, in metres; None where there are more dimensions than a plane has."""
        if self.dimensions > 2:
            return None
        # Goals that are out of reach lie where the point cannot be.
        far = [-SIDE] if self.options.goals == "all" else []
        y_edges = np.array([*far, -REACH[1], REACH[1], *(-edge for edge in far)])
        walls = np.abs(y_edges[:-1] + y_edges[1:])[:, None] > REACH[1]

        def observations(positions: Tensor, like: Tensor) -> Tensor:
            return torch.cat((positions, like[self.goal_columns].expand_as(positions)), -1)

        def goal(obs: Tensor) -> tuple[float, float]:
            x, y = obs[self.goal_columns].tolist()
            return x, y

        return FloorPlan(
            np.array([-SIDE, SIDE]),
            y_edges,
            walls,
            ("x (m)", "y (m)"),
            False,
            0.1,
            lambda obs: obs[..., self.position_columns],
            observations,
            goal,
            True,
            self.goal_radius,
        )

    def _reached(self, positions: Tensor, goals: Tensor) -> Tensor:
        """Which positions are at the goal, bool, `(...)`."""
        return (positions - goals).square().sum(-1) <= self.goal_radius**2

    def _next_first_obs(self) -> Tensor:
        """First observations of an episode in every copy, a fresh tensor."""
        goals = next(self._goals) if self.propose is None else proposed_goals(self)
        return torch.cat((self._starts, goals), 1)

    def _draw_goals(self, steps: int) -> Tensor:
        """Goals away from the start, `(steps, num_envs, dimensions)`."""
        shape = (steps + SPARE, self.num_envs, self.dimensions)
        goals = torch.rand(shape, generator=self._generator, device=self.device).mul_(2).sub_(1).mul_(self._drawn_reach)
        return first_fine(goals, ~self._reached(self._starts, goals), self._generator)
