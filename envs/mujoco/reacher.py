"""Reacher-v5: an arm of two links in the plane whose tip goes to a target."""

from __future__ import annotations

import math
from dataclasses import dataclass

import mujoco
import torch
from torch import Tensor

from recall_traces.envs.mujoco.task import Camera, Fields, MujocoConfig, Outcome, Starts, control_reward

TARGET_RADIUS = 0.2
"""Targets are uniform over this disc, m."""


@dataclass(frozen=True, kw_only=True)
class ReacherConfig(MujocoConfig):
    """Gymnasium's options of Reacher-v5."""

    xml_file: str = "reacher.xml"
    """The model: one of Gymnasium's, or a path that starts with '/', '.' or '~'."""
    frame_skip: int = 2
    """Simulated steps for each step of the environment, with the action held."""
    reward_dist_weight: float = 1.0
    """Cost of the distance from the target."""
    reward_control_weight: float = 1.0
    """Cost of the squared actions."""


class Reacher:
    """Gymnasium's Reacher-v5."""

    horizon: int = 50
    success_return: float | None = -3.75
    fields: tuple[str, ...] = ("xpos",)
    shown: int = 8
    camera: Camera = Camera(trackbodyid=0)

    def __init__(self, options: ReacherConfig, model: mujoco.MjModel) -> None:
        self._options, self._starts = options, Starts(model)
        self._fingertip, self._target = (int(model.body(name).id) for name in ("fingertip", "target"))

    def place(self, fields: Fields) -> Tensor:
        return fields["qpos"][:, :0].clone()  # no velocity is rewarded

    def observe(self, fields: Fields) -> Tensor:
        angles, to_tip = fields["qpos"][:, :2], self._from_target(fields)
        return torch.cat((angles.cos(), angles.sin(), fields["qpos"][:, 2:], fields["qvel"][:, :2], to_tip[:, :2]), 1)

    def judge(self, fields: Fields, place: Tensor, before: Tensor, actions: Tensor) -> Outcome:
        distance = self._from_target(fields).norm(dim=1).mul_(-self._options.reward_dist_weight)
        control = control_reward(actions, self._options.reward_control_weight)
        info = {"reward_dist": distance, "reward_ctrl": control}
        return Outcome(distance + control, torch.zeros_like(distance, dtype=torch.bool), info)

    def start(self, num_worlds: int, generator: torch.Generator, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        qpos = self._starts.uniform_qpos(num_worlds, 0.1, generator, dtype)
        qvel = self._starts.uniform_qvel(num_worlds, 0.005, generator, dtype)
        share, turn = torch.rand((2, num_worlds), generator=generator, device=generator.device, dtype=dtype)
        radius, angle = share.sqrt_().mul_(TARGET_RADIUS), turn.mul_(2 * math.pi)
        qpos[:, -2], qpos[:, -1] = radius * angle.cos(), radius * angle.sin()
        qvel[:, -2:] = 0
        return qpos, qvel

    def locate(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        angles = torch.atan2(obs[:, 2:4], obs[:, :2])
        return torch.cat((angles, obs[:, 4:6]), 1), torch.cat((obs[:, 6:8], torch.zeros_like(obs[:, :2])), 1)

    def _from_target(self, fields: Fields) -> Tensor:
        return fields["xpos"][:, self._fingertip] - fields["xpos"][:, self._target]
