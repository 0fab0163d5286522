"""What a learner needs of an environment: many copies that step together on one device."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol, TypeGuard

import gymnasium
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class Step:
    """One step of all copies. Every tensor lives on the environment's device and has `num_envs` rows.

    Copies whose episode ended are reset in the same step: `obs` is then the first observation of the next episode, while
    `final_obs` is always the true successor.
    """

    obs: Tensor
    """What to act on next, `(num_envs, *observation)`."""
    rewards: Tensor
    """float32, `(num_envs,)`."""
    terminated: Tensor
    """The task ended, bool, `(num_envs,)`."""
    truncated: Tensor
    """The episode was cut from outside, bool, `(num_envs,)`; False where `terminated`."""
    final_obs: Tensor
    """The true successor of every copy, before any reset, `(num_envs, *observation)`."""
    info: dict[str, Any] = field(default_factory=dict)
    """Further tensors, by name."""


class VectorEnv(Protocol):
    """Batched simulation on one device with same-step autoreset. Discrete values are int64, the rest float32."""

    num_envs: int
    """Copies, all seeds together; row `s * N + n` belongs to seed `s`."""
    device: torch.device
    observation_space: gymnasium.Space[Any]
    """Of one copy."""
    action_space: gymnasium.Space[Any]
    """Of one copy."""
    success_return: float | None
    """An episode with at least this return counts as a success; `None` where the task has no such notion."""

    def reset(self) -> Tensor:
        """Start a new episode in every copy and return the first observations, `(num_envs, *observation)`."""
        ...

    def step(self, actions: Tensor) -> Step:
        """Take one step in every copy; `actions` is `(num_envs,)` or `(num_envs, action)`, and refused in another shape."""
        ...


def check_device(device: str | torch.device) -> torch.device:
    """The device of this name.

    Raises:
        ValueError: torch knows none, or there is no GPU here.
    """
    try:
        found = torch.device(device)
    except RuntimeError:
        raise ValueError(f"device is {device!r}; it must be 'cpu' or 'cuda', or one of several GPUs, such as 'cuda:1'") from None
    if found.type not in ("cpu", "cuda"):
        raise ValueError(f"device is {str(found)!r}; it must be 'cpu' or 'cuda'")
    if found.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device is {str(found)!r}, but torch sees no GPU; use 'cpu'")
    return found


def check_actions(env: VectorEnv, actions: Tensor) -> None:
    """Refuse actions of another shape, which torch might spread over all copies without a word.

    Raises:
        ValueError: they have another shape than `(num_envs, *action)`.
    """
    expected = (env.num_envs, *(env.action_space.shape or ()))
    if actions.shape != expected:
        raise ValueError(f"actions must have the shape {expected}, not {tuple(actions.shape)}")


def check_choices(space: gymnasium.Space[Any], actions: NDArray[Any]) -> None:
    """Refuse numbers that are no actions of a `Discrete` space. Not asked in every step of a learner: on a GPU it would wait.

    Raises:
        ValueError: one is no whole number, or not one of the space.
    """
    if isinstance(space, gymnasium.spaces.Discrete):
        fit = (actions >= space.start) & (actions < space.start + space.n) & (actions % 1 == 0)
        if not fit.all():
            raise ValueError(f"{actions[~fit].flat[0]} is no action of {space}")


class RestorableEnv(VectorEnv, Protocol):
    """An environment that can be put back to where it was, so that a run goes on exactly. Ours in torch and MuJoCo can."""

    def state_dict(self) -> dict[str, Any]:
        """All that the following steps depend on: tensors, numbers and dictionaries of them, to be copied before the next step.

        The state of a generator is called `generator`: it stays on the CPU when the others move to a device.
        """
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to where `state_dict` was called, in an environment made in the same way."""
        ...


def is_restorable(env: VectorEnv) -> TypeGuard[RestorableEnv]:
    """Whether an environment, and the one inside it if it wraps one as `env`, can be put back to where it was."""
    inner = getattr(env, "env", None)
    return hasattr(env, "state_dict") and (inner is None or is_restorable(inner))
