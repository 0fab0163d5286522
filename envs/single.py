"""The other way round: one copy of a batched environment as a Gymnasium environment."""

from __future__ import annotations

import inspect
from typing import Any, cast

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recall_traces.envs.interface import check_choices
from recall_traces.envs.registry import make

_METADATA: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 10}


class SingleEnv(gymnasium.Env[Any, Any]):
    """One copy of a batched environment behind Gymnasium's interface; every id of ours in Gymnasium's registry is one.

    Args:
        env_id: as for `recall_traces.envs.make`.
        render_mode: `rgb_array` where the batched environment has a `render` method, or None.
        options: of the environment, by name.

    Raises:
        ValueError: unknown environment, option or render mode.
    """

    metadata = _METADATA

    def __init__(self, env_id: str, render_mode: str | None = None, **options: Any) -> None:
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"{env_id} has no render mode {render_mode!r}; it must be 'rgb_array' or None")
        self.render_mode = render_mode
        self._env_id, self._options = env_id, options
        self._env: Any = make(env_id, **options)
        self._seeded = False
        self._shown: Tensor | None = None
        """The last observation of the episode, its final one included: the batched environment goes on to the next by itself."""
        if render_mode is not None and not hasattr(self._env, "render"):
            raise ValueError(f"{env_id} cannot be drawn; its render mode must be None")
        # MuJoCo draws its own state, which an observation does not hold.
        self._draws_obs = render_mode is not None and "obs" in inspect.signature(cast(Any, self._env).render).parameters
        self.observation_space, self.action_space = self._env.observation_space, self._env.action_space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode; a seed, also that of the first call without one, decides all episodes up to the next seed."""
        super().reset(seed=seed)
        if seed is not None or not self._seeded:
            self.close()
            self._env = make(self._env_id, seed=int(self.np_random.integers(2**31)), **self._options)
            self._seeded = True
        self._shown = self._env.reset()[0]
        return _single(self._shown), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Take one step; after the end of an episode call `reset`."""
        action = np.asarray(action)
        check_choices(self.action_space, action)
        step = self._env.step(torch.as_tensor(action).unsqueeze(0))
        self._shown = step.final_obs[0]
        info = {name: _single(values[0]) if values.ndim > 1 else values.item() for name, values in step.info.items()}
        return _single(self._shown), float(step.rewards), bool(step.terminated), bool(step.truncated), info

    def render(self) -> NDArray[np.uint8] | None:
        """RGB, uint8, `(height, width, 3)`, or None where no render mode was asked for."""
        if self.render_mode is None:
            return None
        return self._env.render(obs=self._shown) if self._draws_obs else self._env.render()

    def close(self) -> None:
        """Close the environment, if it has anything to close."""
        if hasattr(self._env, "close"):
            self._env.close()


def _single(row: Tensor) -> Any:
    """A row as numpy has it: an `np.int64` or an array of its own."""
    return row.cpu().numpy().copy()[()]
