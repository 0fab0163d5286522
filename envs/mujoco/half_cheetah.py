"""HalfCheetah-v5: two legs and a back in the plane that run forward; no episode terminates."""

from __future__ import annotations

from dataclasses import dataclass

import mujoco
import torch
from torch import Tensor

from recall_traces.envs.mujoco.task import Camera, Fields, MujocoConfig, Outcome, Starts, control_reward, locate_after


@dataclass(frozen=True, kw_only=True)
class HalfCheetahConfig(MujocoConfig):
    """Gymnasium's options of HalfCheetah-v5."""

    xml_file: str = "half_cheetah.xml"
    """The model: one of Gymnasium's, or a path that starts with '/', '.' or '~'."""
    frame_skip: int = 5
    """Simulated steps for each step of the environment, with the action held."""
    forward_reward_weight: float = 1.0
    """Reward per m/s forward."""
    ctrl_cost_weight: float = 0.1
    """Cost of the squared actions."""
    reset_noise_scale: float = 0.1
    """First positions are uniform within this of the model's, first velocities normal with this deviation."""
    exclude_current_positions_from_observation: bool = True
    """Leave x out of the observation."""


class HalfCheetah:
    """Gymnasium's HalfCheetah-v5."""

    horizon: int = 1000
    success_return: float | None = 4800.0
    fields: tuple[str, ...] = ()
    camera: Camera = Camera(distance=4.0)

    def __init__(self, options: HalfCheetahConfig, model: mujoco.MjModel) -> None:
        self._options, self._starts = options, Starts(model)
        self._seconds = model.opt.timestep * options.frame_skip
        self._num_positions, self._num_velocities = int(model.nq), int(model.nv)
        self._hidden = int(options.exclude_current_positions_from_observation)
        self.shown = self._num_positions - self._hidden + self._num_velocities

    def place(self, fields: Fields) -> Tensor:
        return fields["qpos"][:, :1].clone()

    def observe(self, fields: Fields) -> Tensor:
        return torch.cat((fields["qpos"][:, self._hidden :], fields["qvel"]), 1)

    def judge(self, fields: Fields, place: Tensor, before: Tensor, actions: Tensor) -> Outcome:
        velocity = ((place - before) / self._seconds).squeeze(1)
        forward = velocity * self._options.forward_reward_weight
        control = control_reward(actions, self._options.ctrl_cost_weight)
        info = {"x_position": place.squeeze(1), "x_velocity": velocity, "reward_forward": forward, "reward_ctrl": control}
        return Outcome(forward + control, torch.zeros_like(velocity, dtype=torch.bool), info)

    def start(self, num_worlds: int, generator: torch.Generator, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        scale = self._options.reset_noise_scale
        qpos = self._starts.uniform_qpos(num_worlds, scale, generator, dtype)
        return qpos, self._starts.normal_qvel(num_worlds, scale, generator, dtype)

    def locate(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        return locate_after(obs, self._hidden, self._num_positions, self._num_velocities)
