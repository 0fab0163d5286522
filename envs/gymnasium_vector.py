"""Any batched environment behind Gymnasium's vector interface; `gymnasium.make_vec` gives ours this way."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray
from torch import Tensor

from recall_traces.envs.interface import check_choices
from recall_traces.envs.registry import make

_METADATA: dict[str, Any] = {"autoreset_mode": AutoresetMode.SAME_STEP, "render_modes": ["rgb_array"], "render_fps": 10}


class GymnasiumVector(gymnasium.vector.VectorEnv[Any, Any, Any]):
    """A batched environment as a Gymnasium `VectorEnv` that resets in the same step.

    As in Gymnasium's own, where episodes ended `infos` holds `final_obs` and `final_info` of the ended ones, with `_final_obs`
    and `_final_info` saying which those are; whatever else the batched environment tells is under its name, for each copy,
    with the mask under the name with `_` in front. All arrays belong to the caller.

    Args:
        env_id: as for `recall_traces.envs.make`.
        num_envs: copies.
        device: where the environment computes; what comes out is NumPy in any case.
        render_mode: `rgb_array` where the batched environment has a `render` method, or None.
        options: of the environment, by name.

    Raises:
        ValueError: unknown environment, option or render mode.
    """

    metadata = _METADATA

    def __init__(
        self,
        env_id: str,
        num_envs: int = 1,
        device: str | torch.device = "cpu",
        render_mode: str | None = None,
        **options: Any,
    ) -> None:
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"{env_id} has no render mode {render_mode!r}; it must be 'rgb_array' or None")
        self.num_envs, self.render_mode = num_envs, render_mode
        self._env_id, self._device, self._options = env_id, device, options
        self.batched_env: Any = make(env_id, num_envs, device, **options)
        """What steps all copies; a `reset` with a seed replaces it."""
        if render_mode is not None and not hasattr(self.batched_env, "render"):
            raise ValueError(f"{env_id} cannot be drawn; its render mode must be None")
        self._seeded = False
        self.single_observation_space = self.batched_env.observation_space
        self.single_action_space = self.batched_env.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[Any], dict[str, Any]]:
        """Start an episode in every copy; a seed, also that of the first call without one, decides all up to the next seed.

        Args:
            seed: one for all copies together.
            options: none are known.

        Raises:
            ValueError: a seed for each copy, or options.
        """
        if isinstance(seed, list | tuple | np.ndarray):
            raise ValueError("a batched environment takes one seed for all copies, not a list")
        if options:
            raise ValueError("a batched environment takes no options at reset; give them when it is built")
        super().reset(seed=seed)
        if seed is not None or not self._seeded:
            self.close_extras()
            del self.batched_env  # a GPU may have no room for two
            own_seed = int(self.np_random.integers(2**31))
            self.batched_env = make(self._env_id, self.num_envs, self._device, own_seed, **self._options)
            self._seeded = True
        return _own(self.batched_env.reset()), {}

    def step(
        self, actions: Any
    ) -> tuple[NDArray[Any], NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        """Take one step in every copy; `actions` is `(num_envs,)` or `(num_envs, action)`."""
        actions = np.asarray(actions)
        if actions.shape != self.action_space.shape:
            raise ValueError(f"actions have the shape {actions.shape}; it must be {self.action_space.shape}")
        check_choices(self.single_action_space, actions)
        dtype = torch.float32 if isinstance(self.single_action_space, gymnasium.spaces.Box) else torch.int64
        step = self.batched_env.step(torch.tensor(actions, dtype=dtype, device=self.batched_env.device))
        terminated, truncated = _own(step.terminated), _own(step.truncated)
        done, everyone = terminated | truncated, np.ones(self.num_envs, bool)
        told = {name: _own(values) for name, values in step.info.items()}
        infos: dict[str, Any] = {}
        for name, values in told.items():
            infos |= {name: values, f"_{name}": everyone.copy()}
        if done.any():
            final_obs = np.full(self.num_envs, None, dtype=object)
            for copy, obs in zip(np.flatnonzero(done), _own(step.final_obs)[done], strict=True):
                final_obs[copy] = obs
            final_info: dict[str, Any] = {}
            for name, values in told.items():
                shape = (-1, *[1] * (values.ndim - 1))
                final_info |= {name: np.where(done.reshape(shape), values, np.zeros_like(values)), f"_{name}": done.copy()}
            infos |= {"final_obs": final_obs, "_final_obs": done.copy(), "final_info": final_info, "_final_info": done.copy()}
        return _own(step.obs), _own(step.rewards.double()), terminated, truncated, infos

    def render(self) -> tuple[NDArray[np.uint8], ...] | None:
        """A picture of the first copy, RGB, uint8, `(height, width, 3)`; None where no render mode was asked for."""
        return (self.batched_env.render(),) if self.render_mode else None

    def close_extras(self, **kwargs: Any) -> None:
        """Close the environment, if it has anything to close."""
        if hasattr(self.batched_env, "close"):
            self.batched_env.close()


def _own(tensor: Tensor) -> NDArray[Any]:
    """The values in an array that shares no memory with the tensor."""
    array: NDArray[Any] = tensor.to("cpu", copy=True).numpy()
    return array
