"""Ant-v5: four legs that walk forward without turning over."""

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
    control_reward,
    healthy_reward,
    locate_after,
)


@dataclass(frozen=True, kw_only=True)
class AntConfig(MujocoConfig):
    """Gymnasium's options of Ant-v5.

    Raises:
        ValueError: the model has no such main body; as soon as the model is there.
    """

    xml_file: str = "ant.xml"
    """The model: one of Gymnasium's, or a path that starts with '/', '.' or '~'."""
    frame_skip: int = 5
    """Simulated steps for each step of the environment, with the action held."""
    forward_reward_weight: float = 1.0
    """Reward per m/s forward."""
    ctrl_cost_weight: float = 0.5
    """Cost of the squared actions."""
    contact_cost_weight: float = 5e-4
    """Cost of the squared contact forces."""
    healthy_reward: float = 1.0
    """Reward of a step that ends healthy."""
    main_body: int | str = 1
    """The body whose velocity is rewarded, its number or its name."""
    terminate_when_unhealthy: bool = True
    """End the episode where it is no longer healthy."""
    healthy_z_range: tuple[float, float] = (0.2, 1.0)
    """Of the torso's height, m, bounds included."""
    contact_force_range: tuple[float, float] = (-1.0, 1.0)
    """To which contact forces are clipped, in the cost and in the observation."""
    reset_noise_scale: float = 0.1
    """First positions are uniform within this of the model's, first velocities normal with this deviation."""
    exclude_current_positions_from_observation: bool = True
    """Leave x and y out of the observation."""
    include_cfrc_ext_in_observation: bool = True
    """Observe the contact forces."""


class Ant:
    """Gymnasium's Ant-v5."""

    horizon: int = 1000
    success_return: float | None = 6000.0
    fields: tuple[str, ...] = ("xpos", "cfrc_ext")
    camera: Camera = Camera(distance=4.0)

    def __init__(self, options: AntConfig, model: mujoco.MjModel) -> None:
        self._options, self._starts = options, Starts(model)
        self._seconds = model.opt.timestep * options.frame_skip
        self._num_positions, self._num_velocities = int(model.nq), int(model.nv)
        self._hidden = 2 * options.exclude_current_positions_from_observation
        self.shown = self._num_positions - self._hidden + self._num_velocities
        try:
            self._main_body = int(model.body(options.main_body).id)
        except (KeyError, IndexError, TypeError):
            names = ", ".join(repr(model.body(body).name) for body in range(model.nbody) if model.body(body).name)
            raise ValueError(
                f"main_body is {options.main_body!r}; it must be a number below {model.nbody} or one of {names}"
            ) from None

    def place(self, fields: Fields) -> Tensor:
        return fields["xpos"][:, self._main_body, :2].clone()

    def observe(self, fields: Fields) -> Tensor:
        parts = [fields["qpos"][:, self._hidden :], fields["qvel"]]
        if self._options.include_cfrc_ext_in_observation:
            parts.append(fields["cfrc_ext"][:, 1:].flatten(1).clamp(*self._options.contact_force_range))
        return torch.cat(parts, 1)

    def judge(self, fields: Fields, place: Tensor, before: Tensor, actions: Tensor) -> Outcome:
        options, qpos = self._options, fields["qpos"]
        velocity = (place - before) / self._seconds
        low, high = options.healthy_z_range
        height = qpos[:, 2]
        healthy = (height >= low).logical_and_(height <= high).logical_and_(qpos.isfinite().all(1))
        healthy = healthy.logical_and_(fields["qvel"].isfinite().all(1))
        forward = velocity[:, 0] * options.forward_reward_weight
        survive = healthy_reward(healthy, options.healthy_reward, qpos.dtype)
        control = control_reward(actions, options.ctrl_cost_weight)
        forces = fields["cfrc_ext"].clamp(*options.contact_force_range)
        contact = forces.square_().sum((1, 2)).mul_(-options.contact_cost_weight)
        return Outcome(
            forward + survive + control + contact,
            ~healthy if options.terminate_when_unhealthy else torch.zeros_like(healthy),
            {
                "x_position": qpos[:, 0].clone(),
                "y_position": qpos[:, 1].clone(),
                "distance_from_origin": qpos[:, :2].norm(dim=1),
                "x_velocity": velocity[:, 0],
                "y_velocity": velocity[:, 1],
                "reward_forward": forward,
                "reward_ctrl": control,
                "reward_contact": contact,
                "reward_survive": survive,
            },
        )

    def start(self, num_worlds: int, generator: torch.Generator, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        scale = self._options.reset_noise_scale
        qpos = self._starts.uniform_qpos(num_worlds, scale, generator, dtype)
        return qpos, self._starts.normal_qvel(num_worlds, scale, generator, dtype)

    def locate(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        return locate_after(obs, self._hidden, self._num_positions, self._num_velocities)
