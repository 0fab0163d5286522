"""Any Gymnasium environment as a batched one."""

from __future__ import annotations

import inspect
import itertools
import os
import pickle
import subprocess
import sys
import time
import weakref
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any, Protocol

import gymnasium
import numpy as np
import torch
from gymnasium.envs.registration import EnvSpec, load_env_creator
from gymnasium.spaces import Box, Discrete, MultiDiscrete
from numpy.typing import NDArray
from torch import Tensor

from recall_traces.envs import gymnasium_worker
from recall_traces.envs.gymnasium_worker import Share, ShareStep
from recall_traces.envs.interface import Step, check_actions
from recall_traces.spaces import observation_wrapper

WORTH_WORKERS = 2e-3
"""Seconds that a step of all copies must take in one process before workers pay for their messages (0.3 ms to 0.6 ms)."""
PROBE_STEPS, PROBE_SECONDS = 20, 0.1


class GymnasiumVectorEnv:
    """Copies of a Gymnasium environment, stepped by as many processes as pay, at most one per core.

    A copy whose episode ends is reset in the same step, and `final_obs` keeps its true final observation. Each copy has a seed of
    its own, so the results do not depend on the number of workers.

    Observations: `Box` of any rank becomes flat float32, `Discrete` and `MultiDiscrete` int64, counted from 0. Actions:
    `Discrete` int64, counted from 0; `Box` float32 and flat, passed on as they are (not clipped to the bounds).

    Args:
        env_id: Gymnasium's id.
        num_envs: copies.
        device: where the tensors go.
        seed: of all copies.
        options: keywords of the environment's constructor.
        num_workers: processes that step, this one included. By default what pays: few or cheap copies all stay here.

    Raises:
        ValueError: the environment cannot be built with these options, or has a space that is not supported.
        RuntimeError: a copy or a worker failed; the message names it.
    """

    def __init__(
        self,
        env_id: str,
        num_envs: int,
        device: str | torch.device = "cpu",
        seed: int = 0,
        options: dict[str, Any] | None = None,
        num_workers: int | None = None,
    ) -> None:
        options = options or {}
        self._name, self.num_envs, self.device = env_id, num_envs, torch.device(device)
        spec, step_seconds = self._probe(env_id, options, seed)
        self.success_return: float | None = spec.reward_threshold
        if num_workers is None:
            num_workers = _num_cores() if step_seconds * num_envs > WORTH_WORKERS else 1
        num_workers = min(num_workers, num_envs) if _can_travel(spec, options) else 1
        seeds = [int(child.generate_state(1)[0]) for child in np.random.SeedSequence(seed).spawn(num_envs)]
        bounds = [num_envs * worker // num_workers for worker in range(num_workers + 1)]
        self._ranges = list(itertools.pairwise(bounds))
        self._shares: list[_Stepper] = []
        self._finalizer = weakref.finalize(self, _close_all, self._shares)
        # This process steps the first share itself, while the workers step theirs, instead of waiting for them.
        for first, end in self._ranges[1:]:
            self._shares.append(_Worker(spec, options, seeds[first:end], first))
        self._first = Share(spec, options, seeds[: bounds[1]], 0)
        self._shares.insert(0, _Here(self._first))
        for share in self._shares[1:]:
            share.finish()  # building

    def reset(self) -> Tensor:
        """Start a new episode in every copy and return the first observations, `(num_envs, *observation)`."""
        return self._tensor(self._call("reset", [()] * len(self._shares)))

    def step(self, actions: Tensor) -> Step:
        """Take one step in every copy; `actions` is `(num_envs,)` or `(num_envs, action)`."""
        check_actions(self, actions)
        all_actions = actions.detach().cpu().numpy()
        steps: list[ShareStep] = self._call("step", [(all_actions[first:end],) for first, end in self._ranges])
        obs, rewards, terminated, truncated, final_obs = (self._tensor(list(rows)) for rows in zip(*steps, strict=True))
        return Step(obs, rewards, terminated, truncated, final_obs)

    @property
    def draws_pictures(self) -> bool:
        """Whether the environment knows the render mode that `picture` needs."""
        return "rgb_array" in (self._first.envs[0].metadata.get("render_modes") or ())

    def picture(self) -> NDArray[np.uint8]:
        """What the first copy draws, RGB, uint8, `(height, width, 3)`; `render_mode` must be 'rgb_array' among the options.

        Raises:
            ValueError: it draws nothing.
        """
        if self._first.envs[0].render_mode != "rgb_array":
            raise ValueError(f"{self._name} draws no pictures: it needs the option render_mode='rgb_array'")
        picture: NDArray[np.uint8] = self._first.picture()
        return picture

    def close(self) -> None:
        """Close every copy and end the workers; the environment cannot be used afterwards."""
        self._finalizer()

    def _probe(self, env_id: str, options: dict[str, Any], seed: int) -> tuple[EnvSpec, float]:
        """Build one copy, read its spaces, and time its steps (seconds)."""
        try:
            probe = gymnasium.make(env_id, **options)
            spec = gymnasium.spec(env_id)
        except Exception as error:  # an environment's constructor raises whatever it likes
            given = f" with {', '.join(f'{name}={value!r}' for name, value in options.items())}" if options else ""
            message = " ".join(str(error).split())
            valid = _keywords(env_id)
            unknown = [name for name in options if valid and name not in valid]
            if unknown:
                raise ValueError(f"{env_id} has no option {unknown[0]!r}; valid options: {', '.join(valid)}") from error
            raise ValueError(f"{env_id} cannot be built{given}: {type(error).__name__}: {message}") from error
        self.observation_space: gymnasium.Space[Any] = _observed_space(env_id, probe.observation_space)
        self.action_space: gymnasium.Space[Any] = _acted_space(env_id, probe.action_space)
        try:
            probe.reset(seed=seed)
            probe.action_space.seed(seed)
            steps, began = 0, time.perf_counter()
            while steps < PROBE_STEPS and time.perf_counter() - began < PROBE_SECONDS:
                steps += 1
                _, _, terminated, truncated, _ = probe.step(probe.action_space.sample())
                if terminated or truncated:
                    probe.reset()
            return spec, (time.perf_counter() - began) / steps
        except Exception as error:
            raise RuntimeError(f"{env_id} failed in its first steps: {type(error).__name__}: {error}") from error
        finally:
            probe.close()

    def _call(self, method: str, arguments: list[tuple[Any, ...]]) -> list[Any]:
        """Call a method of all shares at once; after a failure the shares no longer agree, so all are closed."""
        if not self._shares:
            raise RuntimeError(f"{self._name} was closed; make a new one")
        try:
            for share, share_arguments in zip(self._shares, arguments, strict=True):
                share.start(method, *share_arguments)
            return [share.finish() for share in self._shares]
        except RuntimeError:
            self.close()
            raise

    def _tensor(self, rows: list[NDArray[Any]]) -> Tensor:
        return torch.from_numpy(rows[0] if len(rows) == 1 else np.concatenate(rows)).to(self.device)


class _Stepper(Protocol):
    """A share of the copies, wherever it lives: first all are started, then all are waited for."""

    def start(self, method: str, *arguments: Any) -> None: ...
    def finish(self) -> Any: ...
    def close(self) -> None: ...


class _Here:
    """A share in this process."""

    def __init__(self, share: Share) -> None:
        self._share = share

    def start(self, method: str, *arguments: Any) -> None:
        self._call = (method, arguments)

    def finish(self) -> Any:
        method, arguments = self._call
        return getattr(self._share, method)(*arguments)

    def close(self) -> None:
        self._share.close()


class _Worker:
    """A share in a process of its own.

    The process is started by its file instead of through `multiprocessing`, which would run the user's script once more in each
    worker. It ends when this end of the connection closes, so also when this process is killed.
    """

    def __init__(self, spec: EnvSpec, options: dict[str, Any], seeds: list[int], first: int) -> None:
        self._name = spec.id
        self._connection: Connection[Any, Any]
        self._connection, far_end = Pipe()
        command = [sys.executable, "-P", gymnasium_worker.__file__, str(far_end.fileno())]
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=[far_end.fileno()])
        far_end.close()
        self._connection.send(sys.path)
        self.start("build", spec, options, seeds, first)

    def start(self, method: str, *arguments: Any) -> None:
        try:
            self._connection.send((method, *arguments))
        except OSError as error:
            raise self._death() from error

    def finish(self) -> Any:
        try:
            reply, error = self._connection.recv()
        except (EOFError, OSError) as broken:
            raise self._death() from broken
        if error is not None:
            raise RuntimeError(error)
        return reply

    def close(self) -> None:
        self._connection.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _death(self) -> RuntimeError:
        return RuntimeError(f"a worker process of {self._name} died with exit code {self._process.wait()}")


def _close_all(shares: list[_Stepper]) -> None:
    for share in shares:
        share.close()
    shares.clear()


def _num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _can_travel(spec: EnvSpec, options: dict[str, Any]) -> bool:
    """Whether another process can build the environment: it must be importable there, and the system have file descriptors."""
    if os.name != "posix" or getattr(spec.entry_point, "__module__", None) == "__main__":
        return False
    try:
        pickle.dumps((spec, options))
    except Exception:  # pickle raises whatever the object at hand raises
        return False
    return True


def _keywords(env_id: str) -> list[str]:
    """What the constructor of an environment takes; nothing where it takes anything or cannot be asked."""
    try:
        entry_point = gymnasium.spec(env_id).entry_point
        creator = load_env_creator(entry_point) if isinstance(entry_point, str) else entry_point
        parameters = inspect.signature(creator).parameters.values() if creator is not None else ()
    except Exception:  # an entry point runs whatever it likes
        return []
    return [] if any(p.kind is p.VAR_KEYWORD for p in parameters) else [p.name for p in parameters]


def _observed_space(env_id: str, space: gymnasium.Space[Any]) -> gymnasium.Space[Any]:
    """The space of one copy's observations as learners see them."""
    if isinstance(space, Box):
        if space.dtype == np.uint8 and len(space.shape) == 3:
            raise ValueError(
                f"{env_id} observes images, {space}, which are not supported; wrap it in gymnasium.wrappers.FlattenObservation"
            )
        return _flat(space)
    if isinstance(space, Discrete):
        return Discrete(int(space.n))
    if isinstance(space, MultiDiscrete):
        return MultiDiscrete(space.nvec.flatten())
    raise ValueError(
        f"{env_id} observes {space}, which is not supported; it must be Box, Discrete or MultiDiscrete: "
        f"{observation_wrapper(space)}"
    )


def _acted_space(env_id: str, space: gymnasium.Space[Any]) -> gymnasium.Space[Any]:
    """The space of one copy's actions as learners see them."""
    if isinstance(space, Box) and np.issubdtype(space.dtype, np.floating):
        return _flat(space)
    if isinstance(space, Discrete):
        return Discrete(int(space.n))
    raise ValueError(
        f"{env_id} acts in {space}, which is not supported; it must be Discrete or Box of floats: "
        "wrap it in gymnasium.wrappers.TransformAction"
    )


def _flat(space: Box) -> Box:
    with np.errstate(over="ignore"):  # the largest float64 becomes infinity, which is what was meant
        low, high = (bound.reshape(-1).astype(np.float32) for bound in (space.low, space.high))
    return Box(low, high, dtype=np.float32)
