"""CartPole-v1 in torch: Gymnasium's physics, all copies at once."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recall_traces.envs.interface import Step, check_actions
from recall_traces.envs.noise import Blocks
from recall_traces.seeding import restore_generator, seeded_generator

GRAVITY = 9.8
POLE_MASS = 0.1
TOTAL_MASS = 1.1
HALF_POLE = 0.5
FORCE = 10.0
SECONDS = 0.02
MAX_POSITION = 2.4
MAX_ANGLE = 12 * 2 * math.pi / 360
HORIZON = 500
START_RANGE = 0.05


@dataclass(frozen=True)
class CartPoleConfig:
    """CartPole-v1 has no options."""


class CartPole:
    """Push a cart left (0) or right (1) so that its pole stays up; reward 1 every step, at most 500 of them.

    The same task as Gymnasium's `CartPole-v1`, step by step: the state is kept in float64 as there, the observation (position,
    velocity, angle, angular velocity) is its float32. An episode terminates outside ±2.4 m or ±12° and is truncated after 500
    steps. The equations are Florian's "Correct equations for the dynamics of the cart-pole system" (2007).

    Tensors that `reset` and `step` return are never written to afterwards.

    Args:
        num_envs: copies.
        device: where everything lives.
        seed: of the first states.
        options: none yet.
    """

    success_return: float | None = 475.0

    def __init__(
        self,
        num_envs: int,
        device: str | torch.device = "cpu",
        seed: int = 0,
        options: CartPoleConfig | None = None,
    ) -> None:
        self.num_envs, self.device, self.options = num_envs, torch.device(device), options or CartPoleConfig()
        high = np.array([2 * MAX_POSITION, np.inf, 2 * MAX_ANGLE, np.inf], np.float32)
        self.observation_space: gymnasium.Space[Any] = gymnasium.spaces.Box(-high, high, dtype=np.float32)
        self.action_space: gymnasium.Space[Any] = gymnasium.spaces.Discrete(2)
        self._generator = seeded_generator(seed, "environment", self.device)
        self._first_states = Blocks(self._draw_first_states, num_envs, self._generator)
        # What the constants of the equations become when the constant factors are gathered.
        self._pushes = torch.tensor([-FORCE, FORCE], dtype=torch.float64, device=self.device) / TOTAL_MASS
        self._inertia = torch.tensor(-HALF_POLE * 4 / 3, dtype=torch.float64, device=self.device)
        self._limits = torch.tensor([[MAX_POSITION], [MAX_ANGLE]], dtype=torch.float64, device=self.device)
        self._age = torch.zeros(num_envs, dtype=torch.int64, device=self.device)
        self.state: Tensor = next(self._first_states).clone()
        """Position (m), angle (rad, 0 is up), and their velocities, float64, `(4, num_envs)`; every step writes into it."""
        # Views made once: making them costs as much as the arithmetic.
        self._places, self._speeds = self.state[:2], self.state[2:]
        _, self._angle, _, self._turn = self.state.unbind(0)
        self._speed_rates = torch.empty_like(self._speeds)
        self._acceleration, self._turn_rate = self._speed_rates.unbind(0)
        self._as_observed = self.state.view(2, 2, num_envs).permute(2, 1, 0)  # each velocity next to its place

    def reset(self) -> Tensor:
        """Start a new episode in every copy.

        Returns:
            The first observations, float32, `(num_envs, 4)`.
        """
        self._age.zero_()
        self.state.copy_(next(self._first_states))
        return self._observe()

    def step(self, actions: Tensor) -> Step:
        """Push every cart for 0.02 s; `actions` is int64, `(num_envs,)`, 0 or 1 (an index beyond is an error)."""
        check_actions(self, actions)
        cos, sin = self._angle.cos(), self._angle.sin()
        pole_share = POLE_MASS * HALF_POLE / TOTAL_MASS
        push = self._pushes.take(actions).add_((self._turn * self._turn).mul_(sin), alpha=pole_share)
        # Numerator and denominator both with the other sign, which saves two operations.
        denominator = torch.addcmul(self._inertia, cos, cos, value=HALF_POLE * POLE_MASS / TOTAL_MASS)
        torch.div((cos * push).sub_(sin, alpha=GRAVITY), denominator, out=self._turn_rate)
        torch.addcmul(push, self._turn_rate, cos, value=-pole_share, out=self._acceleration)
        self._places.add_(self._speeds, alpha=SECONDS)  # by the old velocities: explicit Euler
        self._speeds.add_(self._speed_rates, alpha=SECONDS)

        final_obs = self._observe()
        terminated = (self._places.abs() > self._limits).any(0)
        timed_out = self._age.add_(1) >= HORIZON
        truncated = timed_out > terminated
        done = timed_out | terminated
        self._age.masked_fill_(done, 0)
        torch.where(done, next(self._first_states), self.state, out=self.state)
        return Step(self._observe(), torch.ones(self.num_envs, device=self.device), terminated, truncated, final_obs)

    def state_dict(self) -> dict[str, Any]:
        """All that the following steps depend on."""
        return {
            "state": self.state,
            "age": self._age,
            "generator": self._generator.get_state(),
            "first_states": self._first_states.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Copy what `state_dict` gave, of as many copies."""
        self.state.copy_(state["state"])
        self._age.copy_(state["age"])
        restore_generator(self._generator, state["generator"])
        self._first_states.load_state_dict(state["first_states"])

    def _observe(self) -> Tensor:
        """A fresh tensor, so that later steps leave it alone."""
        observed = self._as_observed.to(torch.float32, memory_format=torch.contiguous_format)
        return observed.view(self.num_envs, 4)

    def render(self, obs: Tensor | None = None) -> NDArray[np.uint8]:
        """A picture of the first copy: RGB, uint8, `(200, 300, 3)`, 4.8 m wide.

        Args:
            obs: what to show instead, one observation; a copy whose episode ended is in its next one already.
        """
        height, width = 200, 300
        position, angle = (self.state[:2, 0] if obs is None else obs[::2]).tolist()
        metre = width / (2 * MAX_POSITION)
        rows, columns = np.mgrid[:height, :width]
        right, up = columns - width / 2 - position * metre, 0.75 * height - rows  # pixels from where the pole is fixed
        along = right * math.sin(angle) + up * math.cos(angle)
        across = right * math.cos(angle) - up * math.sin(angle)
        picture = np.full((height, width, 3), 255, np.uint8)
        picture[np.abs(up + 10) < 1] = (180, 180, 180)
        picture[(np.abs(right) < 15) & (np.abs(up + 5) < 8)] = (60, 60, 60)
        picture[(np.abs(across) < 3) & (along > 0) & (along < 2 * HALF_POLE * metre)] = (200, 150, 100)
        return picture

    def _draw_first_states(self, steps: int) -> Tensor:
        shape = (steps, 4, self.num_envs)
        uniform = torch.rand(shape, generator=self._generator, dtype=torch.float64, device=self.device)
        return uniform.mul_(2 * START_RANGE).sub_(START_RANGE)
