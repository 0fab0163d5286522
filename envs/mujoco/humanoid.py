"""Humanoid-v5: a person that walks forward without falling."""

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

FREE_JOINT = 6
"""Velocities of the torso in space, which no actuator drives."""


@dataclass(frozen=True, kw_only=True)
class HumanoidConfig(MujocoConfig):
    """Gymnasium's options of Humanoid-v5."""

    xml_file: str = "humanoid.xml"
    """The model: one of Gymnasium's, or a path that starts with '/', '.' or '~'."""
    frame_skip: int = 5
    """Simulated steps for each step of the environment, with the action held."""
    forward_reward_weight: float = 1.25
    """Reward per m/s forward."""
    ctrl_cost_weight: float = 0.1
    """Cost of the squared actions."""
    contact_cost_weight: float = 5e-7
    """Cost of the squared contact forces."""
    contact_cost_range: tuple[float, float] = (float("-inf"), 10.0)
    """To which the cost of the contact forces is clipped."""
    healthy_reward: float = 5.0
    """Reward of a step that ends healthy."""
    terminate_when_unhealthy: bool = True
    """End the episode where it is no longer healthy."""
    healthy_z_range: tuple[float, float] = (1.0, 2.0)
    """Of the torso's height, m."""
    reset_noise_scale: float = 1e-2
    """First positions and velocities are uniform within this of the model's."""
    exclude_current_positions_from_observation: bool = True
    """Leave x and y out of the observation."""
    include_cinert_in_observation: bool = True
    """Observe masses and inertias of the bodies about the centre of mass."""
    include_cvel_in_observation: bool = True
    """Observe velocities of the bodies about the centre of mass."""
    include_qfrc_actuator_in_observation: bool = True
    """Observe the actuators' forces."""
    include_cfrc_ext_in_observation: bool = True
    """Observe the contact forces."""


class Humanoid:
    """Gymnasium's Humanoid-v5."""

    horizon: int = 1000
    success_return: float | None = None
    camera: Camera = Camera(trackbodyid=1, distance=4.0, lookat=(0.0, 0.0, 2.0), elevation=-20.0)

    def __init__(self, options: HumanoidConfig, model: mujoco.MjModel) -> None:
        self._options, self._starts = options, Starts(model)
        self._seconds = model.opt.timestep * options.frame_skip
        self._num_positions, self._num_velocities = int(model.nq), int(model.nv)
        self._hidden = 2 * options.exclude_current_positions_from_observation
        self.shown = self._num_positions - self._hidden + self._num_velocities
        self._healthy = Within(options.healthy_z_range)
        self._mass_shares = torch.from_numpy(model.body_mass / model.body_mass.sum())
        # Of each field what comes first belongs to the world or to the torso in space, and says nothing.
        observed = {
            "cinert": (options.include_cinert_in_observation, 1),
            "cvel": (options.include_cvel_in_observation, 1),
            "qfrc_actuator": (options.include_qfrc_actuator_in_observation, FREE_JOINT),
            "cfrc_ext": (options.include_cfrc_ext_in_observation, 1),
        }
        self._observed = [(name, first) for name, (included, first) in observed.items() if included]
        needed = ("xipos", "cfrc_ext", "ten_length", "ten_velocity")
        self.fields: tuple[str, ...] = tuple(dict.fromkeys((*(name for name, _ in self._observed), *needed)))

    def place(self, fields: Fields) -> Tensor:
        """The centre of mass, x and y."""
        centres = fields["xipos"]
        if self._mass_shares.device != centres.device or self._mass_shares.dtype != centres.dtype:
            self._mass_shares = self._mass_shares.to(centres)
        return torch.einsum("b,nba->na", self._mass_shares, centres[:, :, :2])

    def observe(self, fields: Fields) -> Tensor:
        parts = [fields["qpos"][:, self._hidden :], fields["qvel"]]
        return torch.cat(parts + [fields[name][:, first:].flatten(1) for name, first in self._observed], 1)

    def judge(self, fields: Fields, place: Tensor, before: Tensor, actions: Tensor) -> Outcome:
        options, qpos = self._options, fields["qpos"]
        velocity = (place - before) / self._seconds
        healthy = self._healthy(qpos[:, 2:3])
        forward = velocity[:, 0] * options.forward_reward_weight
        survive = healthy_reward(healthy, options.healthy_reward, qpos.dtype)
        control = control_reward(actions, options.ctrl_cost_weight)
        contact_cost = fields["cfrc_ext"].square().sum((1, 2)).mul_(options.contact_cost_weight)
        contact = contact_cost.clamp_(*options.contact_cost_range).neg_()
        return Outcome(
            forward + survive + control + contact,
            ~healthy if options.terminate_when_unhealthy else torch.zeros_like(healthy),
            {
                "x_position": qpos[:, 0].clone(),
                "y_position": qpos[:, 1].clone(),
                "tendon_length": fields["ten_length"].clone(),
                "tendon_velocity": fields["ten_velocity"].clone(),
                "distance_from_origin": qpos[:, :2].norm(dim=1),
                "x_velocity": velocity[:, 0],
                "y_velocity": velocity[:, 1],
                "reward_survive": survive,
                "reward_forward": forward,
                "reward_ctrl": control,
                "reward_contact": contact,
            },
        )

    def start(self, num_worlds: int, generator: torch.Generator, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        scale = self._options.reset_noise_scale
        qpos = self._starts.uniform_qpos(num_worlds, scale, generator, dtype)
        return qpos, self._starts.uniform_qvel(num_worlds, scale, generator, dtype)

    def locate(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        return locate_after(obs, self._hidden, self._num_positions, self._num_velocities)
