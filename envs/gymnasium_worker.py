"""Some copies of a Gymnasium environment, stepped one after the other: here, or in a process of their own.

As a process this file is run by its path and imports nothing of `recall_traces`, so that a worker never loads torch.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec
from numpy.typing import NDArray

ShareStep = tuple[NDArray[Any], NDArray[np.float32], NDArray[np.bool_], NDArray[np.bool_], NDArray[Any]]
"""Of a share of the copies: obs, rewards, terminated, truncated, final_obs; every array is new, a row for each copy."""


class Share:
    """Copies `first`, `first + 1`, ... of an environment.

    Args:
        spec: what to build.
        options: keywords of the environment's constructor.
        seeds: one for each copy, used at its first reset.
        first: index of the first copy, for messages.

    Raises:
        RuntimeError: a copy failed; the message names the copy, the call and the error.
    """

    def __init__(self, spec: EnvSpec, options: dict[str, Any], seeds: Sequence[int], first: int) -> None:
        self.name, self.first = spec.id, first
        # Whoever builds the copies has built one before, with Gymnasium's checks; once is enough.
        self.envs = [gymnasium.make(spec, disable_env_checker=True, **options) for _ in seeds]
        self.seeds: list[int | None] = list(seeds)
        self.observation_space = self.envs[0].observation_space
        self.action_space = self.envs[0].action_space

    def reset(self) -> NDArray[Any]:
        """Start a new episode in every copy and return the flat observations, `(copies, ...)`."""
        obs = self._empty()
        for copy in range(len(self.envs)):
            self._reset_copy(copy, obs)
        return obs

    def step(self, actions: NDArray[Any]) -> ShareStep:
        """Take one step in every copy; the next episode starts in the same step.

        Args:
            actions: `(copies,)`, counted from 0, for `Discrete`, else `(copies, action)`.
        """
        num_copies = len(self.envs)
        rewards = np.empty(num_copies, np.float32)
        terminated, truncated = np.empty(num_copies, np.bool_), np.empty(num_copies, np.bool_)
        final_obs = self._empty()
        shift = int(getattr(self.action_space, "start", 0))
        shape, dtype = self.action_space.shape, self.action_space.dtype
        for copy, env in enumerate(self.envs):
            action = actions[copy] + shift if shape == () else actions[copy].reshape(shape).astype(dtype, copy=False)
            try:
                raw, rewards[copy], terminated[copy], truncated[copy], _ = env.step(action)
            except Exception as error:
                raise self._failure(copy, "step", error) from error
            self._write(raw, final_obs, copy)
        truncated &= ~terminated
        obs = final_obs.copy()
        for copy in np.flatnonzero(terminated | truncated).tolist():
            self._reset_copy(copy, obs)
        return obs, rewards, terminated, truncated, final_obs

    def picture(self) -> Any:
        """What the first copy draws.

        Raises:
            RuntimeError: it fails to; the message names the copy and the error.
        """
        try:
            return self.envs[0].render()
        except Exception as error:
            raise self._failure(0, "render", error) from error

    def close(self) -> None:
        """Close every copy."""
        for env in self.envs:
            env.close()

    def _reset_copy(self, copy: int, obs: NDArray[Any]) -> None:
        seed, self.seeds[copy] = self.seeds[copy], None
        try:
            raw, _ = self.envs[copy].reset(seed=seed)
        except Exception as error:
            raise self._failure(copy, "reset", error) from error
        self._write(raw, obs, copy)

    def _empty(self) -> NDArray[Any]:
        if isinstance(self.observation_space, gymnasium.spaces.Box):
            size = max(1, int(np.prod(self.observation_space.shape)))
            return np.empty((len(self.envs), size), np.float32)
        shape = self.observation_space.shape or ()
        return np.empty((len(self.envs), *([int(np.prod(shape))] if shape else [])), np.int64)

    def _write(self, raw: Any, obs: NDArray[Any], copy: int) -> None:
        """Write one observation, flat and counted from 0, into its row: environments may use their own array again."""
        flat = np.asarray(raw) - getattr(self.observation_space, "start", 0)
        obs[copy] = flat.reshape(-1) if obs.ndim > 1 else flat

    def _failure(self, copy: int, call: str, error: Exception) -> RuntimeError:
        return RuntimeError(f"copy {self.first + copy} of {self.name} failed in {call}: {type(error).__name__}: {error}")


def main() -> None:
    """Serve one share over the connection whose file descriptor is the first argument, until it closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's; when it ends the connection does too
    connection = Connection(int(sys.argv[1]))
    try:
        sys.path[:] = connection.recv()
        share: Share | None = None
        while True:
            method, *arguments = connection.recv()
            try:
                if share is None:
                    share, reply = Share(*arguments), None
                else:
                    reply = getattr(share, method)(*arguments)
                connection.send((reply, None))
            except Exception as error:
                connection.send((None, f"{error}" if isinstance(error, RuntimeError) else f"{type(error).__name__}: {error}"))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass


if __name__ == "__main__":
    main()
