"""Batched environments for Stable-Baselines3: many copies that step together, behind its `VecEnv` interface."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import gymnasium
import numpy as np
import torch
from gymnasium.envs.registration import EnvSpec
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv, VecMonitor
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvStepReturn
from torch import Tensor

from recall_traces.envs.interface import Step, VectorEnv, check_choices
from recall_traces.envs.registry import make


def make_vec_env(
    env_id: str,
    n_envs: int = 1,
    seed: int | None = None,
    device: str | torch.device = "cpu",
    monitor: bool | str | Path = True,
    **options: Any,
) -> VecEnv:
    """Build `n_envs` copies of an environment for a Stable-Baselines3 algorithm.

    Args:
        env_id: as for `recall_traces.envs.make`.
        n_envs: copies.
        seed: of all copies together, at least 0; None draws one by NumPy's global generator.
        device: where the environment computes; what the algorithm sees is NumPy in any case.
        monitor: put a `VecMonitor` around it, so that the algorithm logs the mean return and length of episodes; "logs/run"
            has it also write every episode to `logs/run.monitor.csv`, "logs/run/" to `logs/run/monitor.csv`, which
            `recall-traces plot` reads.
        options: of the environment, by name.

    Raises:
        ValueError: unknown name or option, or a value out of range; of the seed, when `reset` uses it.
    """
    env = BatchedVecEnv(lambda seed: make(env_id, n_envs, device, seed, **options))
    env.spec = EnvSpec(env_id.rpartition(":")[2])
    env.seed(seed)
    if not monitor:
        return env
    if monitor is True:
        return VecMonitor(env)
    if str(monitor).endswith("/"):
        Path(monitor).mkdir(parents=True, exist_ok=True)  # or the file would be hidden: .monitor.csv
    return VecMonitor(env, str(monitor))


class BatchedVecEnv(VecEnv):
    """A batched environment as a Stable-Baselines3 `VecEnv`.

    Observations, float32 rewards and bool dones are NumPy arrays that belong to the caller. An info holds what the environment
    tells of the step (`Step.info`, such as MuJoCo's terms of the reward) and what `DummyVecEnv` puts there: `TimeLimit.truncated`
    at every step, and `terminal_observation`, the true successor, where the episode ended. There is then `is_success` too,
    whether its undiscounted return reached `success_return`, if the environment has one.

    All copies are one object: the value of an attribute and the result of a method are the whole batch's, the same for each copy
    that is asked for. Attributes are set and methods called for all copies or not at all.

    Args:
        env: the batched environment, or what builds it from a seed; only then can it be seeded. The first one gets seed 0.
    """

    metadata: dict[str, Any]
    spec: EnvSpec | None = None
    """Its `id` is the environment's name; `VecMonitor` writes that into its file."""

    def __init__(self, env: VectorEnv | Callable[[int], VectorEnv]) -> None:
        self._factory: Callable[[int], VectorEnv] | None = env if callable(env) else None
        self.batched_env: VectorEnv = self._factory(0) if self._factory else cast("VectorEnv", env)
        """What steps all copies; the first `reset` after `seed` replaces it."""
        self._attributes: dict[str, Any] = {}
        super().__init__(self.batched_env.num_envs, self.batched_env.observation_space, self.batched_env.action_space)
        self.metadata["render_fps"] = 10  # as of `SingleEnv`
        self._returns = np.zeros(self.num_envs)

    def reset(self) -> NDArray[Any]:
        """Start a new episode in every copy and return the first observations, `(num_envs, *observation)`."""
        seed = self._seeds[0]
        if self._factory and seed is not None:
            self.close()
            del self.batched_env  # a GPU may have no room for two
            self.batched_env = self._factory(int(seed))
            for name, value in self._attributes.items():
                setattr(self.batched_env, name, value)
            self._reset_seeds()
        self._returns[:] = 0
        return _own(self.batched_env.reset())

    def step_async(self, actions: NDArray[Any]) -> None:
        """Start a step of every copy; `actions` is `(num_envs,)` or `(num_envs, action)`.

        Raises:
            ValueError: another shape, which a batched environment might broadcast without a word, or no action of the space.
        """
        space, actions = self.action_space, np.asarray(actions)
        shape = (self.num_envs, *(space.shape or ()))
        if actions.shape != shape:
            raise ValueError(f"actions have the shape {actions.shape}; it must be {shape}")
        check_choices(space, actions)
        dtype = torch.float32 if isinstance(space, gymnasium.spaces.Box) else torch.int64
        # A copy, since an environment may keep its actions and the caller may write to them.
        self._step: Step = self.batched_env.step(torch.tensor(actions, dtype=dtype, device=self.batched_env.device))

    def step_wait(self) -> VecEnvStepReturn:
        """The step's observations, rewards, dones and infos; where an episode ended, the observation is the next one's first."""
        step = self._step
        rewards, terminated = _own(step.rewards.float()), _own(step.terminated)
        dones = terminated | _own(step.truncated)
        self._returns += rewards
        columns = {name: _own(values) for name, values in step.info.items()}
        columns["TimeLimit.truncated"] = np.zeros(self.num_envs, bool)
        rows = zip(*(values.tolist() if values.ndim == 1 else values for values in columns.values()), strict=True)
        infos: list[dict[str, Any]] = [dict(zip(columns, row, strict=True)) for row in rows]
        ended = np.flatnonzero(dones)
        if len(ended):
            success_return = self.batched_env.success_return
            final_obs = _own(step.final_obs[torch.from_numpy(ended)])
            for copy, terminal_obs in zip(ended, final_obs, strict=True):
                info = infos[copy]
                info["TimeLimit.truncated"] = not terminated[copy]
                info["terminal_observation"] = terminal_obs
                if success_return is not None:
                    info["is_success"] = bool(self._returns[copy] >= success_return)
            self._returns[ended] = 0
        return _own(step.obs), rewards, dones, infos

    def close(self) -> None:
        """Close the environment, if it has anything to close."""
        if hasattr(self.batched_env, "close"):
            self.batched_env.close()

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """Have the next `reset` build the environment anew by this seed, at least 0; None draws one by NumPy's global generator.

        Returns:
            `seed`, `seed + 1` and so on, one for each copy as everywhere in Stable-Baselines3; the first decides for all.

        Raises:
            ValueError: the environment came ready made.
        """
        if self._factory is None:
            raise ValueError("a ready-made environment cannot be seeded; give BatchedVecEnv what builds it from a seed")
        return super().seed(seed)

    def set_options(self, options: list[dict[str, Any]] | dict[str, Any] | None = None) -> None:
        """Refuse options with a ValueError: a batched environment gets them when it is built."""
        if any(options or ()):
            raise ValueError("a batched environment takes no options at reset; give them when it is built")

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """The environment's attribute, once for each copy asked for; an AttributeError where it has none of this name."""
        if attr_name == "render_mode":
            value: Any = "rgb_array" if hasattr(self.batched_env, "render") else None
        else:
            value = getattr(self.batched_env, attr_name)
        return [value for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Set an attribute of the environment, which keeps it when it is seeded; errors are those of `env_method`."""
        self._require_all(f"set {attr_name!r}", indices)
        getattr(self.batched_env, attr_name)  # a new name is most likely a slip
        setattr(self.batched_env, attr_name, value)
        self._attributes[attr_name] = value

    def env_method(self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any) -> list[Any]:
        """Call a method of the environment once; the result stands for each copy.

        Raises:
            AttributeError: the environment has none of this name.
            ValueError: not all copies are meant.
        """
        self._require_all(f"call {method_name!r}", indices)
        return [getattr(self.batched_env, method_name)(*method_args, **method_kwargs)] * self.num_envs

    def env_is_wrapped(self, wrapper_class: type[Any], indices: VecEnvIndices = None) -> list[bool]:
        """False for each copy asked for: Gymnasium's wrappers hold single environments."""
        return [False for _ in self._get_indices(indices)]

    def get_images(self) -> Sequence[NDArray[np.uint8] | None]:
        """A picture of the first copy, RGB, uint8, `(height, width, 3)`; None for each where the environment cannot be drawn."""
        return [cast(Any, self.batched_env).render()] if self.render_mode else [None] * self.num_envs

    def _require_all(self, deed: str, indices: VecEnvIndices) -> None:
        if set(self._get_indices(indices)) != set(range(self.num_envs)):
            raise ValueError(f"cannot {deed} for some copies only: all {self.num_envs} are one object; leave indices out")

    def _get_indices(self, indices: VecEnvIndices) -> list[int]:
        """The copies that are meant, counted from 0; an IndexError where there is no such copy."""
        return [range(self.num_envs)[index] for index in super()._get_indices(indices)]


def _own(tensor: Tensor) -> NDArray[Any]:
    """The values in an array that shares no memory with the tensor: Stable-Baselines3, and wrappers of it, write in place."""
    array: NDArray[Any] = tensor.to("cpu", copy=True).numpy()
    return array
