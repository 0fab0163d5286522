"""What a MuJoCo task is: pure functions of positions, velocities and the derived fields that it reads, for all worlds at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Literal, Protocol

import mujoco
import torch
from torch import Tensor

from recall_traces.checks import check_finite, check_flag, check_not_negative, check_range, check_whole

ENGINES = ("auto", "cpu", "warp")
Fields = Mapping[str, Tensor]
"""MuJoCo's fields by name, `(num_worlds, ...)`; they may be overwritten by the next step."""


@dataclass(frozen=True, kw_only=True)
class MujocoConfig:
    """What the batch as a whole can vary in; a task's own options are those of Gymnasium.

    Raises:
        ValueError: there is no such engine or precision, a number is too small, or an option is of another kind.
    """

    xml_file: str = ""
    """The model: one of Gymnasium's, or a path that starts with '/', '.' or '~'."""
    engine: Literal["auto", "cpu", "warp"] = "auto"
    """What simulates: cpu, MuJoCo's C library on threads; warp, MuJoCo Warp; auto is warp on a cuda device, else cpu.
    On the command line --engine does too."""
    num_threads: int | None = None
    """Threads of the cpu engine; by default as many as pay, at most one per core."""
    contacts_per_world: int | None = None
    """Room for contacts of the warp engine, on average over all worlds; by default enough for the model, at most 32."""
    constraints_per_world: int | None = None
    """Room for rows of constraints in any one world of the warp engine; by default enough for the model, at most 96."""
    dtype: Literal["float32", "float64"] = "float32"
    """Of observations and rewards."""
    frame_skip: int = 1
    """Simulated steps for each step of the environment, with the action held."""

    def __post_init__(self) -> None:
        if self.engine not in ENGINES:
            raise ValueError(f"engine is {self.engine!r}; it must be one of {', '.join(ENGINES)}")
        if self.dtype not in ("float32", "float64"):
            raise ValueError(f"dtype is {self.dtype!r}; it must be 'float32' or 'float64'")
        counts = ("num_threads", "contacts_per_world", "constraints_per_world")
        check_whole(self, "frame_skip", *(name for name in counts if getattr(self, name) is not None))
        # A task's own options are of the kind of their defaults.
        for kind, check in ((bool, check_flag), (float, check_finite), (tuple, check_range)):
            check(self, *(field.name for field in fields(self) if isinstance(field.default, kind)))
        check_not_negative(self, *(field.name for field in fields(self) if field.name == "reset_noise_scale"))


@dataclass(frozen=True)
class Camera:
    """From where a task is drawn."""

    trackbodyid: int = -1
    """The body that it follows; -1 for none: it looks at the middle of the model."""
    distance: float = 4.0
    """Metres."""
    lookat: tuple[float, float, float] | None = None
    """What it looks at at first, m; None for the middle of the model."""
    elevation: float = -45.0
    """Degrees."""


@dataclass(frozen=True)
class Outcome:
    """What a task says of a step, for every world; all tensors are fresh."""

    rewards: Tensor
    """`(num_worlds,)`."""
    terminated: Tensor
    """bool, `(num_worlds,)`."""
    info: dict[str, Tensor]
    """Terms of the reward and the rest that Gymnasium tells, by its names, `(num_worlds, ...)`."""


class Task(Protocol):
    """Observations, rewards, ends and starts of one task, in the dtype and on the device of the fields.

    Built with its options and the model. To write one, see `reacher`; `recall_traces.envs.mujoco.build` makes it an environment.
    """

    horizon: int
    """Steps after which an episode is truncated."""
    success_return: float | None
    """What Gymnasium takes for solved."""
    fields: tuple[str, ...]
    """Derived fields that it reads, besides `qpos` and `qvel`."""
    camera: Camera
    """From where it is drawn."""
    shown: int
    """Columns at the beginning of an observation that positions and velocities alone decide; what follows are derived fields."""

    def place(self, fields: Fields) -> Tensor:
        """What velocities are differences of, metres, a fresh `(num_worlds, axes)`; no axes where none are needed."""
        ...

    def observe(self, fields: Fields) -> Tensor:
        """A fresh `(num_worlds, observation)`."""
        ...

    def judge(self, fields: Fields, place: Tensor, before: Tensor, actions: Tensor) -> Outcome:
        """Judge the step that led to `fields` and from place `before` to `place`; `actions` is `(num_worlds, nu)`."""
        ...

    def start(self, num_worlds: int, generator: torch.Generator, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Draw first `qpos` and `qvel`, on the generator's device."""
        ...

    def locate(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """`qpos` and `qvel` behind observations, `(B, observation)`; what they do not show, x and y, is 0."""
        ...


class Starts:
    """First positions and velocities: the model's own, and noise."""

    def __init__(self, model: mujoco.MjModel) -> None:
        self._qpos = torch.from_numpy(model.qpos0.copy())
        self._num_velocities = int(model.nv)

    def uniform_qpos(self, num_worlds: int, scale: float, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
        """Within ±`scale` of the model's positions, `(num_worlds, nq)`."""
        noise = uniform((num_worlds, len(self._qpos)), scale, generator, dtype)
        return noise.add_(self._qpos.to(noise))

    def uniform_qvel(self, num_worlds: int, scale: float, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
        """Within ±`scale`, `(num_worlds, nv)`."""
        return uniform((num_worlds, self._num_velocities), scale, generator, dtype)

    def normal_qvel(self, num_worlds: int, scale: float, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
        """Normal, of this deviation, `(num_worlds, nv)`."""
        shape = (num_worlds, self._num_velocities)
        return torch.randn(shape, generator=generator, device=generator.device, dtype=dtype).mul_(scale)


def uniform(shape: tuple[int, ...], scale: float, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
    """Uniform within ±`scale`."""
    return torch.rand(shape, generator=generator, device=generator.device, dtype=dtype).mul_(2 * scale).sub_(scale)


class Within:
    """Whether every column of a row lies strictly between its bounds; NaN does not."""

    def __init__(self, *ranges: tuple[float, float]) -> None:
        self._low, self._high = torch.tensor(ranges, dtype=torch.float64).unbind(1)

    def __call__(self, values: Tensor) -> Tensor:
        """`(B, columns)` to bool, `(B,)`."""
        if self._low.device != values.device or self._low.dtype != values.dtype:
            self._low, self._high = self._low.to(values), self._high.to(values)
        return (values > self._low).logical_and_(values < self._high).all(1)


def control_reward(actions: Tensor, weight: float) -> Tensor:
    """What actions cost, as a reward, `(num_worlds,)`."""
    return actions.square().sum(1).mul_(-weight)


def healthy_reward(healthy: Tensor, weight: float, dtype: torch.dtype) -> Tensor:
    """What being healthy is worth, `(num_worlds,)`."""
    return healthy.to(dtype).mul_(weight)


def locate_after(obs: Tensor, hidden: int, num_positions: int, num_velocities: int) -> tuple[Tensor, Tensor]:
    """`qpos` and `qvel` that an observation begins with, the first `hidden` positions, which it lacks, being 0."""
    shown = num_positions - hidden
    qpos = torch.cat((obs.new_zeros(len(obs), hidden), obs[:, :shown]), 1)
    return qpos, obs[:, shown : shown + num_velocities].clone()
