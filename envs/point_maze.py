"""A point in a maze, in torch: the layouts of D4RL and gymnasium-robotics, with walls that are exact."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recall_traces.envs.colours import AGENT, AT_GOAL, GOAL, START, WALL
from recall_traces.envs.floor_plan import FloorPlan
from recall_traces.envs.goals import SPARE, first_fine, proposed_goals
from recall_traces.envs.interface import Step, check_actions
from recall_traces.envs.noise import Blocks
from recall_traces.seeding import restore_generator, seeded_generator

MAX_MOVE = 0.25
"""Metres per step and axis. Less than a cell, so that a move only needs to look at the next one."""
ACCELERATION = 0.05
"""Metres per step², at full action."""
GOAL_RADIUS = 0.45
MARGIN = 1e-3
"""A blocked point stops this far from the wall."""
START_NOISE = 0.1

MAPS = {
    "U": (
        "#####",
        "#G..#",
        "###.#",
        "#...#",
        "#####",
    ),
    "Medium": (
        "########",
        "#..##..#",
        "#..#...#",
        "##...###",
        "#..#...#",
        "#.#..#.#",
        "#...#.G#",
        "########",
    ),
    "Large": (
        "############",
        "#....#.....#",
        "#.##.#.#.#.#",
        "#......#...#",
        "#.####.###.#",
        "#..#.#.....#",
        "##.#.#.#.###",
        "#..#...#.G.#",
        "############",
    ),
}
"""Walls and the goal as D4RL has them; walls all around."""
HORIZONS = {"U": 100, "Medium": 200, "Large": 300}


@dataclass(frozen=True)
class PointMazeConfig:
    """What can vary in a point maze.

    Raises:
        ValueError: there is no such start.
    """

    start: Literal["far", "uniform"] = "far"
    """`far`: the cell that is the longest way from the map's goal, ±0.1 m; `uniform`: anywhere but at the goal."""
    random_goal: bool = False
    """Draw a new goal in every episode and show it: the observation ends in the goal's x and y."""
    inertia: bool = False
    """Actions accelerate instead of moving, and the observation has the velocity too."""

    def __post_init__(self) -> None:
        if self.start not in ("far", "uniform"):
            raise ValueError(f"start is {self.start!r}; it must be 'far' or 'uniform'")


class PointMaze:
    """A point in a maze of cells of 1 m; x points right, y up, and (0, 0) is the map's lower left corner.

    The observation is the position (x, y), with inertia followed by the velocity, with a random goal by the goal. The
    action, `Box(-1, 1)` for each axis, moves by up to 0.25 m; with inertia it accelerates by up to 0.05 m per step², and the
    velocity stays within ±0.25 m per step. Actions beyond are clamped, NaN is 0. The axes move one after the other, x
    first; an axis that a wall blocks stops 1 mm before it and loses its velocity. A cell holds its left and lower edge.

    Reward 1 within 0.45 m of the goal, which terminates; after 100, 200 or 300 steps the episode is truncated. A goal is not
    reached through a wall: those are 1 m thick, and where two touch at a corner only, the goal counts if a way along the
    axes is free. Goals inside a wall are never reached.

    Tensors that `reset` and `step` return are never written to afterwards, and must not be written to.

    Args:
        layout: `U`, `Medium` or `Large`.
        num_envs: copies.
        device: where everything lives.
        seed: of starts and goals.
        options: what varies.

    Raises:
        ValueError: there is no such layout.
    """

    success_return: float | None = 1.0
    goal_radius: float = GOAL_RADIUS

    def __init__(
        self,
        layout: str,
        num_envs: int,
        device: str | torch.device = "cpu",
        seed: int = 0,
        options: PointMazeConfig | None = None,
    ) -> None:
        if layout not in MAPS:
            raise ValueError(f"PointMaze-{layout}: the layout must be one of {', '.join(MAPS)}")
        self.layout, self.num_envs, self.device = layout, num_envs, torch.device(device)
        self.options = options or PointMazeConfig()
        self.horizon = HORIZONS[layout]
        """Steps after which an episode is truncated."""
        rows = MAPS[layout][::-1]
        walls = torch.tensor([[mark == "#" for mark in row] for row in rows])
        self.walls: Tensor = walls.to(self.device)
        """Which cells are walls, from the lowest row up, bool, `(height, width)`."""
        (goal,) = [(row.index("G"), y) for y, row in enumerate(rows) if "G" in row]
        start = _furthest(walls, goal)
        self.start: tuple[float, float] | None = None if self.options.start == "uniform" else (start[0] + 0.5, start[1] + 0.5)
        """The centre around which episodes start; None where they start anywhere."""
        self.goal: tuple[float, float] | None = None if self.options.random_goal else (goal[0] + 0.5, goal[1] + 0.5)
        """Where the reward is; None where each episode draws its own."""

        height, width = walls.shape
        positions = 2 + 2 * self.options.inertia
        self.position_columns = slice(0, 2)
        self.goal_columns = slice(positions, positions + 2 * self.options.random_goal)
        self.goal_low: Tensor = torch.ones(2, device=self.device)
        self.goal_high: Tensor = torch.tensor([width - 1.0, height - 1.0], device=self.device)
        self.propose: Callable[[int], Tensor] | None = None

        low, high = np.ones(2, np.float32), np.array([width - 1, height - 1], np.float32)
        speed = np.full(2 * self.options.inertia, MAX_MOVE, np.float32)
        goals = slice(2 * self.options.random_goal)
        self.observation_space: gymnasium.Space[Any] = gymnasium.spaces.Box(
            np.concatenate((low, -speed, low[goals])), np.concatenate((high, speed, high[goals])), dtype=np.float32
        )
        self.action_space: gymnasium.Space[Any] = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)

        self._width, self._flat_walls = width, self.walls.flatten()
        self._least, self._most = (bounds.to(self.device) for bounds in _bounds(walls))
        free = (~walls).nonzero().flip(1)
        self._free_corners = free.float().to(self.device)
        self._start_centre = torch.tensor([start[0] + 0.5, start[1] + 0.5], device=self.device)
        self._fixed_goal = torch.tensor([goal[0] + 0.5, goal[1] + 0.5], device=self.device)
        self._generator = seeded_generator(seed, "environment", self.device)
        self._first_obs = Blocks(self._draw_first_obs, num_envs, self._generator)
        self._start_candidates = Blocks(self._draw_start_candidates, num_envs * (1 + SPARE), self._generator)
        self._age = torch.zeros(num_envs, dtype=torch.int64, device=self.device)
        self._obs = self.reset()

    def reset(self) -> Tensor:
        """Start a new episode in every copy.

        Returns:
            The first observations, float32, `(num_envs, 2)`, and 2 columns more for each of velocity and goal.
        """
        self._age.zero_()
        self._obs = self._next_first_obs().clone()
        return self._obs

    def step(self, actions: Tensor) -> Step:
        """Move every point; `actions` is `(num_envs, 2)`, clamped to ±1."""
        check_actions(self, actions)
        position = self._obs[:, :2]
        goal = self._obs[:, self.goal_columns] if self.options.random_goal else self._fixed_goal
        pushes = actions.float().nan_to_num(nan=0.0).clamp(-1.0, 1.0)
        if self.options.inertia:
            moves = torch.add(self._obs[:, 2:4], pushes, alpha=ACCELERATION).clamp(-MAX_MOVE, MAX_MOVE)
        else:
            moves = pushes * MAX_MOVE
        moved = self.move(position, moves)
        terminated = self._reached(moved, goal)
        timed_out = self._age.add_(1) >= self.horizon
        truncated = timed_out > terminated
        done = timed_out | terminated
        self._age.masked_fill_(done, 0)
        velocity = moves.masked_fill(moved != position + moves, 0.0) if self.options.inertia else None
        final_obs = self._observe(moved, velocity, goal)
        self._obs = torch.where(done.unsqueeze(1), self._next_first_obs(), final_obs)
        return Step(self._obs, terminated.float(), terminated, truncated, final_obs)

    def state_dict(self) -> dict[str, Any]:
        """All that the following steps depend on but `propose`."""
        blocks = {"first_obs": self._first_obs.state_dict(), "start_candidates": self._start_candidates.state_dict()}
        return {"obs": self._obs, "age": self._age, "generator": self._generator.get_state(), "blocks": blocks}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Copy what `state_dict` gave, of as many copies."""
        self._obs = state["obs"].clone()
        self._age.copy_(state["age"])
        restore_generator(self._generator, state["generator"])
        self._first_obs.load_state_dict(state["blocks"]["first_obs"])
        self._start_candidates.load_state_dict(state["blocks"]["start_candidates"])

    def move(self, positions: Tensor, moves: Tensor) -> Tensor:
        """Where points get to that move along x, then along y, until a wall stops them.

        Args:
            positions: in free space, `(B, 2)`, metres.
            moves: along each axis, `(B, 2)`, metres.

        Returns:
            `(B, 2)`.
        """
        (x, y), (move_x, move_y) = positions.unbind(1), moves.unbind(1)
        x = self._slide(0, x, x, y, move_x)
        return torch.stack((x, self._slide(1, y, x, y, move_y)), 1)

    def valid(self, positions: Tensor) -> Tensor:
        """Which positions are in free space, bool, `(...)`; `positions` is `(..., 2)`, anything at all."""
        columns, rows = self._cells(positions).unbind(-1)
        return ~self._wall(columns, rows)

    def crosses_wall(self, start: Tensor, end: Tensor) -> Tensor:
        """Which straight ways from `start` to `end` pass through a wall, or begin or end in one.

        A way through the corner at which two walls touch crosses; one that only touches a wall's corner does not.
        A point moves along x, then y: around a corner a true step may cross by the straight way and not by its two legs.

        Args:
            start: positions, `(..., 2)`.
            end: positions, `(..., 2)`; at most 1 m away along each axis.

        Returns:
            bool, `(...)`.
        """
        first, last = self._cells(start), self._cells(end)
        # Between two cells that touch at a corner the way goes through whichever neighbour it enters first. Times to the two
        # edges are compared without a division, in float64, where products of float32 are exact.
        begin = start.double()
        way = (end.double() - begin).abs()
        to_edge = (torch.maximum(first, last) - begin).abs()
        time_x, time_y = to_edge[..., 0] * way[..., 1], to_edge[..., 1] * way[..., 0]
        (first_x, first_y), (last_x, last_y) = first.unbind(-1), last.unbind(-1)
        by_x, by_y = self._wall(last_x, first_y), self._wall(first_x, last_y)
        between = torch.where(time_x < time_y, by_x, torch.where(time_x > time_y, by_y, by_x & by_y))
        return self._wall(first_x, first_y) | self._wall(last_x, last_y) | between

    def render(self, cell_pixels: int = 48, obs: Tensor | None = None) -> NDArray[np.uint8]:
        """A picture of the first copy: walls dark, goal green, start (where it is always the same) blue, point orange.

        Args:
            cell_pixels: width of a cell.
            obs: what to show instead, one observation; a copy whose episode ended is in its next one already.

        Returns:
            RGB, uint8, `(height * cell_pixels, width * cell_pixels, 3)`.
        """
        walls = self.walls.cpu().numpy()[::-1].repeat(cell_pixels, 0).repeat(cell_pixels, 1)
        height, width = walls.shape
        rows, columns = np.mgrid[:height, :width]
        right, up = (columns + 0.5) / cell_pixels, (height - rows - 0.5) / cell_pixels
        first = (self._obs[0] if obs is None else obs).tolist()
        goal_x, goal_y = self.goal or first[self.goal_columns]
        to_goal = np.hypot(right - goal_x, up - goal_y)
        picture = np.full((height, width, 3), 255, np.uint8)
        if self.start is not None:
            picture[np.maximum(np.abs(right - self.start[0]), np.abs(up - self.start[1])) < 0.2] = START
        picture[to_goal < GOAL_RADIUS] = AT_GOAL
        picture[walls] = WALL
        picture[to_goal < 0.1] = GOAL
        picture[np.hypot(right - first[0], up - first[1]) < 0.12] = AGENT
        return picture

    def floor_plan(self) -> FloorPlan:
        """Where states are: x and y, in metres."""
        height, width = self.walls.shape

        def observations(positions: Tensor, like: Tensor) -> Tensor:
            obs = torch.zeros_like(like).expand(len(positions), -1).clone()
            obs[:, :2], obs[:, self.goal_columns] = positions, like[self.goal_columns]
            return obs

        def goal(obs: Tensor) -> tuple[float, float]:
            x, y = self.goal or obs[self.goal_columns].tolist()
            return x, y

        return FloorPlan(
            np.arange(width + 1.0),
            np.arange(height + 1.0),
            self.walls.cpu().numpy(),
            ("x (m)", "y (m)"),
            False,
            1 / 8,
            lambda obs: obs[..., :2],
            observations,
            goal,
            self.options.random_goal,
            GOAL_RADIUS,
        )

    def _cells(self, positions: Tensor) -> Tensor:
        """Column and row of the cell, int64, `(..., 2)`; what lies beyond the map, or is NaN, is in its outer wall."""
        return positions.nan_to_num(nan=0.0).clamp(min=0.0).minimum(self.goal_high).long()

    def _wall(self, columns: Tensor, rows: Tensor) -> Tensor:
        return self._flat_walls.take(torch.add(columns, rows, alpha=self._width))

    def _slide(self, axis: int, along: Tensor, x: Tensor, y: Tensor, move: Tensor) -> Tensor:
        """The coordinate `along` the axis after a move from (x, y)."""
        cell = torch.add(x.long(), y.long(), alpha=self._width)
        # Who is closer to a wall than the margin already (a step along the other axis can lead there) stays where it is.
        least = torch.minimum(self._least[axis].take(cell), along)
        most = torch.maximum(self._most[axis].take(cell), along)
        return (along + move).clamp(least, most)

    def _reached(self, positions: Tensor, goals: Tensor) -> Tensor:
        """Which positions are at the goal, bool, `(...)`."""
        near = (positions - goals).square().sum(-1) <= GOAL_RADIUS**2
        if not self.options.random_goal:
            return near  # around a cell's centre nothing behind a wall is near
        (x, y), (goal_x, goal_y) = positions.long().unbind(-1), goals.long().unbind(-1)
        shut = self._wall(goal_x, goal_y) | (self._wall(goal_x, y) & self._wall(x, goal_y))
        return near > shut

    def _observe(self, positions: Tensor, velocities: Tensor | None, goals: Tensor) -> Tensor:
        """A fresh tensor of what is observed, `(..., observation)`."""
        parts = [positions, velocities if self.options.inertia else None, goals if self.options.random_goal else None]
        return torch.cat([part for part in parts if part is not None], -1)

    def _next_first_obs(self) -> Tensor:
        """First observations of an episode in every copy."""
        if self.propose is None:
            return next(self._first_obs)
        if not self.options.random_goal:
            raise ValueError(f"PointMaze-{self.layout} has a fixed goal; proposing goals needs random_goal")
        return self._first_of(next(self._start_candidates), proposed_goals(self)).squeeze(0)

    def _first_of(self, starts: Tensor, goals: Tensor) -> Tensor:
        """First observations, `(steps, num_envs, observation)`, from `steps + SPARE` draws; goals are `(..., 2)`."""
        goals = goals.expand_as(starts)
        pairs = first_fine(torch.cat((starts, goals), -1), ~self._reached(starts, goals), self._generator)
        start, goal = pairs.split(2, -1)
        return self._observe(start, torch.zeros_like(start), goal)

    def _draw_first_obs(self, steps: int) -> Tensor:
        starts = self._draw_starts(steps + SPARE)
        return self._first_of(starts, self._draw_free(len(starts)) if self.options.random_goal else self._fixed_goal)

    def _draw_start_candidates(self, steps: int) -> Tensor:
        """Starts to choose from once the goal is known, `(steps, 1 + SPARE, num_envs, 2)`."""
        return self._draw_starts(steps * (1 + SPARE)).unflatten(0, (steps, 1 + SPARE))

    def _draw_starts(self, steps: int) -> Tensor:
        """Where episodes may start, `(steps, num_envs, 2)`."""
        if self.options.start == "uniform":
            return self._draw_free(steps)
        noise = torch.rand((steps, self.num_envs, 2), generator=self._generator, device=self.device)
        return noise.mul_(2 * START_NOISE).sub_(START_NOISE).add_(self._start_centre)

    def _draw_free(self, steps: int) -> Tensor:
        """Positions, uniform over the free cells up to the margin, `(steps, num_envs, 2)`."""
        shape = (steps, self.num_envs)
        cells = torch.randint(len(self._free_corners), shape, generator=self._generator, device=self.device)
        within = torch.rand((*shape, 2), generator=self._generator, device=self.device)
        return within.mul_(1 - 2 * MARGIN).add_(MARGIN).add_(self._free_corners[cells])


def _furthest(walls: Tensor, goal: tuple[int, int]) -> tuple[int, int]:
    """Column and row of the free cell with the longest way to the goal; of several the leftmost, then the uppermost."""
    distance, queue = {goal: 0}, deque([goal])
    while queue:
        x, y = queue.popleft()
        for cell in ((x - 1, y), (x + 1, y), (x, y - 1), (x, y + 1)):
            if cell not in distance and not walls[cell[1], cell[0]]:
                distance[cell] = distance[x, y] + 1
                queue.append(cell)
    return min(distance, key=lambda cell: (-distance[cell], cell[0], -cell[1]))


def _bounds(walls: Tensor) -> tuple[Tensor, Tensor]:
    """The least and the most that each coordinate may become in a step from each cell, `(2, height * width)`."""
    height, width = walls.shape
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    corner = torch.stack((columns, rows)).float()
    # Of the outer wall, where nothing ever is, rolling makes nonsense.
    before, after = (torch.stack((walls.roll(shift, 1), walls.roll(shift, 0))) for shift in (1, -1))
    least = torch.where(before, corner + MARGIN, -torch.inf)
    most = torch.where(after, corner + 1 - MARGIN, torch.inf)
    return least.flatten(1), most.flatten(1)
