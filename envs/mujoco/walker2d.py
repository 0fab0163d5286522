"""Walker2d-v5: two legs in the plane that walk forward without falling."""

from __future__ import annotations

from dataclasses import dataclass

import mujoco
import torch
from torch import Tensor

from recall_traces.envs.mujoco.task import (
    Camera,
    Fields,
    MujocoConfig,
    Outcome,
    Starts,
    Within,
    control_reward,
    healthy_reward,
    locate_after,
)

MAX_SPEED = 10.0
"""Velocities are observed up to this, m/s and rad/s."""


@dataclass(frozen=True, kw_only=True)
class Walker2dConfig(MujocoConfig):
    """Gymnasium's options of Walker2d-v5."""

    xml_file: str = "walker2d_v5.xml"
    """The model: one of Gymnasium's, or a path that starts with '/', '.' or '~'."""
    frame_skip: int = 4
    """Simulated steps for each step of the environment, with the action held."""
    forward_reward_weight: float = 1.0
    """Reward per m/s forward."""
    ctrl_cost_weight: float = 1e-3
    """Cost of the squared actions."""
    healthy_reward: float = 1.0
    """Reward of a step that ends healthy."""
    terminate_when_unhealthy: bool = True
    """End the episode where it is no longer healthy."""
    healthy_z_range: tuple[float, float] = (0.8, 2.0)
    """Of the torso's height, m."""
    healthy_angle_range: tuple[float, float] = (-1.0, 1.0)
    """Of the torso's angle, rad."""
    reset_noise_scale: float = 5e-3
    """First positions and velocities are uniform within this of the model's."""
    exclude_current_positions_from_observation: bool = True
    """Leave x out of the observation."""


class Walker2d:
    """Gymnasium's Walker2d-v5."""

    horizon: int = 1000
    success_return: float | None = None
    fields: tuple[str, ...] = ()
    camera: Camera = Camera(trackbodyid=2, lookat=(0.0, 0.0, 1.15), elevation=-20.0)

    def __init__(self, options: Walker2dConfig, model: mujoco.MjModel) -> None:
        self._options, self._starts = options, Starts(model)
        self._seconds = model.opt.timestep * options.frame_skip
        self._num_positions, self._num_velocities, self._first_height = int(model.nq), int(model.nv), float(model.qpos0[1])
        self._hidden = int(options.exclude_current_positions_from_observation)
        self.shown = self._num_positions - self._hidden + self._num_velocities
        self._healthy = Within(options.healthy_z_range, options.healthy_angle_range)

    def place(self, fields: Fields) -> Tensor:
        return fields["qpos"][:, :1].clone()

    def observe(self, fields: Fields) -> Tensor:
        return torch.cat((fields["qpos"][:, self._hidden :], fields["qvel"].clamp(-MAX_SPEED, MAX_SPEED)), 1)

    def judge(self, fields: Fields, place: Tensor, before: Tensor, actions: Tensor) -> Outcome:
        options, qpos = self._options, fields["qpos"]
        velocity = ((place - before) / self._seconds).squeeze(1)
        healthy = self._healthy(qpos[:, 1:3])
        forward = velocity * options.forward_reward_weight
        control = control_reward(actions, options.ctrl_cost_weight)
        survive = healthy_reward(healthy, options.healthy_reward, qpos.dtype)
        return Outcome(
            forward + survive + control,
            ~healthy if options.terminate_when_unhealthy else torch.zeros_like(healthy),
            {
                "x_position": place.squeeze(1),
                "z_distance_from_origin": qpos[:, 1] - self._first_height,
                "x_velocity": velocity,
                "reward_forward": forward,
                "reward_ctrl": control,
                "reward_survive": survive,
            },
        )

    def start(self, num_worlds: int, generator: torch.Generator, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        scale = self._options.reset_noise_scale
        qpos = self._starts.uniform_qpos(num_worlds, scale, generator, dtype)
        return qpos, self._starts.uniform_qvel(num_worlds, scale, generator, dtype)

    def locate(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        return locate_after(obs, self._hidden, self._num_positions, self._num_velocities)
