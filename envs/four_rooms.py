"""Four rooms, a grid world in torch: all copies move with a handful of tensor operations."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recall_traces.envs.colours import AGENT, GOAL, WALL
from recall_traces.envs.floor_plan import FloorPlan
from recall_traces.envs.interface import Step, check_actions
from recall_traces.envs.noise import Blocks
from recall_traces.seeding import restore_generator, seeded_generator

NUM_ACTIONS = 4
"""Up, down, left, right."""
MIN_SIZE, MAX_SIZE = 7, 1001


@dataclass(frozen=True)
class FourRoomsConfig:
    """What can vary in four rooms.

    Raises:
        ValueError: a number is out of range.
    """

    slip: float = 0.0
    """Probability that a uniformly random action is played instead of the chosen one, 0 to 1."""
    random_start: bool = False
    """Draw a new start cell in every episode."""
    random_goal: bool = False
    """Draw a new goal cell in every episode and show it: the observation is then (cell, goal)."""
    layout_seed: int | None = None
    """Draw the four doors, the start and the goal once, by this seed; by default they are where they always are."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.slip <= 1.0:
            raise ValueError(f"slip is {self.slip}; it must lie between 0 and 1")
        if self.layout_seed is not None and self.layout_seed < 0:
            raise ValueError(f"layout_seed is {self.layout_seed}; it must be at least 0")


class FourRooms:
    """`size` × `size` cells, walled around, with walls through the middle and a door in each of the four half walls.

    A cell is the index `row * size + column`. The observation is the agent's cell, `Discrete(size²)` (walls are indices that
    never occur), or `MultiDiscrete([size², size²])` for (cell, goal) with a random goal. Actions are up, down, left,
    right; a move into a wall stays put. Reward 1 at the goal, which terminates; after `10 * size` steps the episode is truncated.
    By default the start is the bottom-right free cell and the goal the top-left one.

    Tensors that `reset` and `step` return are never written to afterwards, and must not be written to.

    Args:
        size: cells along one side, walls included; odd, 7 to 1001.
        num_envs: copies.
        device: where everything lives.
        seed: of starts, goals and slips.
        options: what varies.

    Raises:
        ValueError: the size is even or out of range.
    """

    success_return: float | None = 1.0

    def __init__(
        self,
        size: int,
        num_envs: int,
        device: str | torch.device = "cpu",
        seed: int = 0,
        options: FourRoomsConfig | None = None,
    ) -> None:
        if size % 2 == 0 or not MIN_SIZE <= size <= MAX_SIZE:
            nearest = sorted({min(max(size + shift, MIN_SIZE), MAX_SIZE) for shift in (-1, 1)})
            names = " and ".join(f"FourRooms-{valid}" for valid in nearest)
            raise ValueError(f"FourRooms-{size}: the size must be odd, {MIN_SIZE} to {MAX_SIZE}; the nearest valid: {names}")
        self.size, self.num_envs, self.device = size, num_envs, torch.device(device)
        self.options = options or FourRoomsConfig()
        self.horizon = 10 * size
        """Steps after which an episode is truncated."""
        walls, start, goal = _layout(size, self.options.layout_seed)
        self.walls: Tensor = walls.to(self.device)
        """Which cells are walls, bool, `(size²,)`."""
        self.start: int | None = None if self.options.random_start else start
        """Where episodes start; None where each draws its own."""
        self.goal: int | None = None if self.options.random_goal else goal
        """Where the reward is; None where each episode draws its own."""
        self.next_cell: Tensor = _next_cell(walls, size).to(self.device)
        """Where a move leads when nothing slips, int64, `(size², 4)`."""

        cells = size * size
        self.observation_space: gymnasium.Space[Any] = (
            gymnasium.spaces.MultiDiscrete([cells, cells]) if self.options.random_goal else gymnasium.spaces.Discrete(cells)
        )
        self.action_space: gymnasium.Space[Any] = gymnasium.spaces.Discrete(NUM_ACTIONS)
        self._generator = seeded_generator(seed, "environment", self.device)
        self._free = (~self.walls).nonzero()[:, 0]
        self._fixed_start = torch.tensor(start, device=self.device)
        self._fixed_goal = torch.tensor(goal, device=self.device)
        self._around = torch.tensor([0, -size, size, -1, 1], device=self.device)
        self._first_obs = self._first_observations()
        self._slips = Blocks(self._draw_slips, num_envs, self._generator) if self.options.slip > 0 else None
        self._age = torch.zeros(num_envs, dtype=torch.int64, device=self.device)
        self._obs = self.reset()

    def reset(self) -> Tensor:
        """Start a new episode in every copy.

        Returns:
            The first observations, int64, `(num_envs,)` or `(num_envs, 2)`.
        """
        self._age.zero_()
        self._obs = next(self._first_obs).clone()
        return self._obs

    def step(self, actions: Tensor) -> Step:
        """Move every copy by one cell; `actions` is int64, `(num_envs,)`, 0 to 3.

        Raises:
            IndexError: an action is larger (on a GPU the device stops with a message of its own).
            ValueError: actions have another shape.
        """
        check_actions(self, actions)
        if self._slips is not None:
            slips = next(self._slips)
            actions = torch.where(slips < 0, actions, slips)
        if self.options.random_goal:
            cell, goal = self._obs.unbind(1)
        else:
            cell, goal = self._obs, self._fixed_goal
        cell = self.next_cell[cell, actions]
        terminated = cell == goal
        timed_out = self._age.add_(1) >= self.horizon
        truncated = timed_out > terminated
        done = timed_out | terminated
        self._age.masked_fill_(done, 0)
        if self.options.random_goal:
            final_obs = torch.stack((cell, goal), 1)
            self._obs = torch.where(done.unsqueeze(1), next(self._first_obs), final_obs)
        else:
            final_obs = cell
            self._obs = torch.where(done, next(self._first_obs), final_obs)
        return Step(self._obs, terminated.float(), terminated, truncated, final_obs)

    def state_dict(self) -> dict[str, Any]:
        """All that the following steps depend on."""
        blocks = {name: block.state_dict() for name, block in self._blocks().items()}
        return {"obs": self._obs, "age": self._age, "generator": self._generator.get_state(), "blocks": blocks}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Copy what `state_dict` gave, of as many copies."""
        self._obs = state["obs"].clone()
        self._age.copy_(state["age"])
        restore_generator(self._generator, state["generator"])
        for name, block in self._blocks().items():
            block.load_state_dict(state["blocks"][name])

    def predecessors(self, states: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Every (state, action) that can lead to a state in one step, with its probability under the uniform policy.

        The probability is the posterior of (state, action) given the successor, where the states before it are
        visited uniformly, slips included. Bumping into a wall leads to the same cell. The goal ends the episode, so it
        precedes nothing.

        Args:
            states: observations, int64, `(...)`, or `(..., 2)` with a random goal.

        Returns:
            `(obs, actions, prob, mask)`, each `(..., 20)`: observations before (`(..., 20, 2)` with a random goal), int64;
            actions, int64; probabilities, float32, which sum to 1; which entries are possible, bool. A state
            without predecessors (a wall) has an empty mask and probabilities of 0.
        """
        cells, goals = states.unbind(-1) if self.options.random_goal else (states, self._fixed_goal.expand_as(states))
        sources = (cells.unsqueeze(-1) + self._around).clamp(0, self.size**2 - 1)  # (..., 5); only walls are clamped
        possible = ~self.walls[sources] & (sources != goals.unsqueeze(-1))
        leads = (self.next_cell[sources] == cells[..., None, None]).float()  # (..., 5, 4)
        slip = self.options.slip
        likelihood = ((1 - slip) * leads + slip * leads.mean(-1, keepdim=True)) * possible.unsqueeze(-1)
        prob = likelihood.flatten(-2)
        prob = prob / prob.sum(-1, keepdim=True).clamp(min=torch.finfo(prob.dtype).tiny)
        obs = sources.repeat_interleave(NUM_ACTIONS, dim=-1)
        actions = torch.arange(NUM_ACTIONS, device=self.device).repeat(len(self._around)).expand_as(obs)
        if self.options.random_goal:
            obs = torch.stack((obs, goals.unsqueeze(-1).expand_as(obs)), -1)
        return obs, actions, prob, prob > 0

    def render(self, cell_pixels: int = 16, obs: Tensor | None = None) -> NDArray[np.uint8]:
        """A picture of the first copy: walls dark, goal green, agent orange.

        Args:
            cell_pixels: width of a cell.
            obs: what to show instead, one observation; a copy whose episode ended is in its next one already.

        Returns:
            RGB, uint8, `(size * cell_pixels, size * cell_pixels, 3)`.
        """
        first = (self._obs[0] if obs is None else obs).tolist()
        agent, goal = first if self.options.random_goal else (first, self.goal)
        picture = np.full((self.size**2, 3), 255, np.uint8)
        picture[self.walls.cpu().numpy()] = WALL
        picture[goal] = GOAL
        picture[agent] = AGENT
        return picture.reshape(self.size, self.size, 3).repeat(cell_pixels, 0).repeat(cell_pixels, 1)

    def floor_plan(self) -> FloorPlan:
        """Where states are: column and row of the cell, row 0 on top."""
        size, shows_goal = self.size, self.options.random_goal
        edges = np.arange(size + 1, dtype=np.float64) - 0.5

        def positions(obs: Tensor) -> Tensor:
            cell = obs[..., 0] if shows_goal else obs
            return torch.stack((cell % size, cell // size), -1).float()

        def observations(positions: Tensor, like: Tensor) -> Tensor:
            column, row = positions.round().long().unbind(-1)
            cell = row * size + column
            return torch.stack((cell, like[1].expand_as(cell)), -1) if shows_goal else cell

        def goal(obs: Tensor) -> tuple[float, float]:
            cell = int(obs[1]) if self.goal is None else self.goal
            return cell % size, cell // size

        walls = self.walls.view(size, size).cpu().numpy()
        return FloorPlan(edges, edges, walls, ("column", "row"), True, 1.0, positions, observations, goal, shows_goal, 0.5)

    def _blocks(self) -> dict[str, Blocks]:
        """What draws ahead, by name."""
        drawn = {"first_obs": self._first_obs, "slips": self._slips}
        return {name: block for name, block in drawn.items() if isinstance(block, Blocks)}

    def _first_observations(self) -> Iterator[Tensor]:
        """First observations of an episode in every copy, one row for each time they are asked for."""
        if self.options.random_start or self.options.random_goal:
            return Blocks(self._draw_first_obs, self.num_envs, self._generator)
        return itertools.repeat(self._fixed_start.expand(self.num_envs))

    def _draw_first_obs(self, steps: int) -> Tensor:
        """Starts and goals, uniform over the free cells and never equal, `(steps, num_envs)` or `(steps, num_envs, 2)`."""
        if not self.options.random_goal:
            return self._draw_among(self._free[self._free != self._fixed_goal], steps)
        if not self.options.random_start:
            goals = self._draw_among(self._free[self._free != self._fixed_start], steps)
            return torch.stack((self._fixed_start.expand_as(goals), goals), -1)
        ranks = torch.arange(len(self._free), device=self.device)
        goal_ranks = self._draw_among(ranks, steps)
        start_ranks = (goal_ranks + self._draw_among(ranks[1:], steps)) % len(ranks)
        return torch.stack((self._free[start_ranks], self._free[goal_ranks]), -1)

    def _draw_among(self, values: Tensor, steps: int) -> Tensor:
        shape = (steps, self.num_envs)
        return values[torch.randint(len(values), shape, generator=self._generator, device=self.device)]

    def _draw_slips(self, steps: int) -> Tensor:
        """The action that is played instead, or -1 where the chosen one is played, `(steps, num_envs)`."""
        shape = (steps, self.num_envs)
        slips = torch.rand(shape, generator=self._generator, device=self.device) < self.options.slip
        played = torch.randint(NUM_ACTIONS, shape, generator=self._generator, device=self.device)
        return torch.where(slips, played, -1)


def _layout(size: int, layout_seed: int | None) -> tuple[Tensor, int, int]:
    """Walls, bool, `(size²,)`, start and goal."""
    middle, last = size // 2, size - 1
    walls = torch.zeros(size, size, dtype=torch.bool)
    walls[[0, middle, last]] = True
    walls[:, [0, middle, last]] = True
    halves = ((1, middle), (middle + 1, last))  # first cell and end of each half of a middle wall
    if layout_seed is None:
        doors = [middle // 2, middle + middle // 2] * 2
    else:
        # On the CPU whatever the device, so that a seed means one layout.
        generator = torch.Generator().manual_seed(layout_seed)
        doors = [int(torch.randint(first, end, (), generator=generator)) for first, end in halves * 2]
    for door in doors[:2]:
        walls[middle, door] = False
    for door in doors[2:]:
        walls[door, middle] = False
    walls = walls.flatten()
    if layout_seed is None:
        return walls, (size - 2) * size + size - 2, size + 1
    free = (~walls).nonzero()[:, 0]
    start, goal = free[torch.randperm(len(free), generator=generator)[:2]].tolist()
    return walls, start, goal


def _next_cell(walls: Tensor, size: int) -> Tensor:
    """Where each action leads from each cell, int64, `(size², 4)`; a wall leads to itself."""
    cells = torch.arange(size * size).unsqueeze(1)
    ahead = (cells + torch.tensor([-size, size, -1, 1])).clamp(0, size * size - 1)
    return torch.where(walls[ahead] | walls[cells], cells, ahead)
