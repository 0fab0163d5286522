"""A MuJoCo task as a batched environment, on whichever engine."""

from __future__ import annotations

import logging
from typing import Any

import gymnasium
import mujoco
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recall_traces.envs.interface import Step, check_actions
from recall_traces.envs.mujoco.engine import Engine
from recall_traces.envs.mujoco.payout import Payout
from recall_traces.envs.mujoco.picture import Painter
from recall_traces.envs.mujoco.task import Task
from recall_traces.seeding import restore_generator, seeded_generator

PHYSICS, AGE = "physics", "age"
LOOK_EVERY = 64
"""Steps of a GPU between two looks at how many worlds broke."""
_LOG = logging.getLogger(__name__)


class MujocoEnv:
    """Worlds that step together, with Gymnasium's observations, rewards, ends and starts, and same-step autoreset.

    Actions are passed on as they are, `Box` of the actuators' range: MuJoCo clips them, their cost does not. NaN is 0.

    `Step.info` holds what Gymnasium's info holds, by its names, in the engine's dtype, and `broken`: worlds that turned NaN or
    flew off. Such an episode is truncated, with reward 0 and the last good observation as its final one. `num_broken` counts
    them.

    Tensors that `reset` and `step` return are never written to afterwards. `recall_traces.envs.mujoco.build` makes one.

    Args:
        name: of the environment, for messages.
        model: what the engine simulates.
        task: what is observed and rewarded.
        payout: when it is rewarded.
        engine: what simulates.
        seed: of the first states.
        dtype: of observations and rewards.
    """

    def __init__(
        self,
        name: str,
        model: mujoco.MjModel,
        task: Task,
        payout: Payout,
        engine: Engine,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.name, self.model, self.task, self.payout, self.engine, self.dtype = name, model, task, payout, engine, dtype
        self.num_envs, self.device, self.horizon = engine.num_worlds, engine.device, task.horizon
        self.success_return: float | None = payout.success_return(task.success_return)
        self.state_columns = slice(0, task.shown)
        """Columns of the observation that positions and velocities alone decide."""
        self.num_broken: Tensor = torch.zeros((), dtype=torch.int64, device=self.device)
        """Worlds that broke so far."""
        self._generator = seeded_generator(seed, "environment", self.device)
        self._everywhere = torch.ones(self.num_envs, dtype=torch.bool, device=self.device)
        self._age = torch.zeros(self.num_envs, dtype=torch.int64, device=self.device)
        self._asking_is_free = self.device.type == "cpu"
        self._num_seen = torch.zeros_like(self.num_broken, device="cpu", pin_memory=not self._asking_is_free)
        self._steps, self._told = 0, False
        self._painter: Painter | None = None
        self._obs = self.reset()

        size, kind = self._obs.shape[1], np.dtype(str(dtype).removeprefix("torch."))
        self.observation_space: gymnasium.Space[Any] = gymnasium.spaces.Box(-np.inf, np.inf, (size,), kind.type)
        low, high = model.actuator_ctrlrange.astype(np.float32).T
        self.action_space: gymnasium.Space[Any] = gymnasium.spaces.Box(low, high, dtype=np.float32)

    def reset(self) -> Tensor:
        """Start a new episode in every world and return the first observations, `(num_envs, observation)`."""
        self._begin(self._everywhere)
        self._obs, self._place = self._observe(), self.task.place(self.engine.fields)
        return self._obs

    def step(self, actions: Tensor) -> Step:
        """Take one step of `frame_skip` substeps in every world; `actions` is `(num_envs, action)`."""
        check_actions(self, actions)
        engine, task = self.engine, self.task
        controls = actions.to(engine.dtype).nan_to_num(nan=0.0)
        engine.step(controls)
        broken = engine.broken.clone()
        place = task.place(engine.fields)
        outcome = task.judge(engine.fields, place, self._place, controls)
        rewards, terminated, final_obs = outcome.rewards, outcome.terminated, self._observe()
        info: dict[str, Any] = dict(outcome.info)
        done = (self._age.add_(1) >= self.horizon).logical_or_(broken).logical_or_(terminated)
        some_done = self._any(done)
        if some_done and self._any(broken):
            rewards, terminated = rewards.masked_fill(broken, 0), terminated & ~broken
            final_obs = torch.where(broken.unsqueeze(1), self._obs, final_obs)
            for key, value in info.items():
                info[key] = value.masked_fill(broken.view(-1, *[1] * (value.ndim - 1)), 0)
            self._count(broken)
        info["broken"] = broken
        truncated = done > terminated
        paid = self.payout.pay(rewards, engine.fields, self._age, done).to(self.dtype)
        if some_done:
            self._begin(done)
            where = done.unsqueeze(1)
            self._obs = torch.where(where, self._observe(), final_obs)
            self._place = torch.where(where, task.place(engine.fields), place)
        else:
            self._obs, self._place = final_obs, place
        return Step(self._obs, paid, terminated, truncated, final_obs, info)

    def get_state(self) -> dict[str, Tensor]:
        """All that the following steps depend on but the generator: physics, ages of the episodes, counters of the payout.

        Returns:
            Tensors of their own, `(num_envs, ...)`; any rows of them make a state again.
        """
        counters = {name: values.clone() for name, values in self.payout.counters.items()}
        return {PHYSICS: self.engine.get_state(), AGE: self._age.clone(), **counters}

    def set_state(self, state: dict[str, Tensor], worlds: Tensor | None = None) -> Tensor:
        """Go back to a state that `get_state` gave.

        Args:
            state: by name, `(num_envs, ...)`; rows of other worlds are not used.
            worlds: which, bool, `(num_envs,)`; None for all.

        Returns:
            The observations there, `(num_envs, observation)`, of the other worlds where they are.

        Raises:
            ValueError: it is not a state of this environment, or `worlds` are no mask.
        """
        expected = {name: tuple(values.shape) for name, values in self.get_state().items()}
        if {name: tuple(values.shape) for name, values in state.items()} != expected:
            described = ", ".join(f"{name} {shape}" for name, shape in expected.items())
            raise ValueError(f"this is not a state of {self.name} with {self.num_envs} environments; it must have {described}")
        chosen = self._chosen(worlds)
        self.engine.set_state(chosen, state[PHYSICS])
        for name, values in ((AGE, self._age), *self.payout.counters.items()):
            values.copy_(torch.where(chosen, state[name].to(values), values))
        return self._look(chosen)

    def state_dict(self) -> dict[str, Any]:
        """All that the following steps depend on, the generator of first states included."""
        return {**self.get_state(), "num_broken": self.num_broken, "generator": self._generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to what `state_dict` gave.

        Raises:
            ValueError: it is not a state of this environment.
        """
        rest = dict(state)
        num_broken, generator = rest.pop("num_broken"), rest.pop("generator")
        self.set_state(rest)
        self.num_broken = num_broken.to(self.device, copy=True)
        restore_generator(self._generator, generator)

    def set_obs(self, obs: Tensor, worlds: Tensor | None = None) -> Tensor:
        """Put worlds into the states that observations show, at the start of an episode.

        What an observation does not show is x and y, which become 0, velocities of Hopper and Walker2d beyond ±10, and the
        solver's warm start. Derived fields are computed anew, but for contact forces, which are 0 as after a reset.

        Args:
            obs: `(num_envs, observation)`; rows of other worlds are not used.
            worlds: which, bool, `(num_envs,)`; None for all.

        Returns:
            The observations there, `(num_envs, observation)`.

        Raises:
            ValueError: of another shape, or `worlds` are no mask.
        """
        if obs.shape != self._obs.shape:
            raise ValueError(f"observations have the shape {tuple(obs.shape)}; it must be {tuple(self._obs.shape)}")
        chosen = self._chosen(worlds)
        qpos, qvel = self.task.locate(obs.to(self.device, self.engine.dtype))
        self.engine.reset(chosen, qpos, qvel)
        self._age.masked_fill_(chosen, 0)
        self.payout.begin(chosen, self.engine.fields)
        return self._look(chosen)

    def render(self, world: int = 0, width: int = 480, height: int = 480) -> NDArray[np.uint8]:
        """A picture of a world, RGB, uint8, `(height, width, 3)`.

        Raises:
            IndexError: there is no such world.
            ValueError: a picture without pixels.
            RuntimeError: there is no OpenGL library; the message says how to get one.
        """
        if not 0 <= world < self.num_envs:
            raise IndexError(f"world is {world}; worlds are counted from 0, and there are {self.num_envs}")
        qpos, qvel = (self.engine.fields[name][world].cpu().numpy() for name in ("qpos", "qvel"))
        return self._paint(width, height).draw(qpos, qvel)

    def pose(self, obs: Tensor, width: int = 480, height: int = 480) -> NDArray[np.uint8]:
        """Pictures of the states that observations show, whatever the worlds are doing, RGB, uint8, `(B, height, width, 3)`.

        What an observation does not show is as in `set_obs`: x and y are 0.

        Args:
            obs: `(B, observation)`.
            width: pixels.
            height: pixels.

        Raises:
            ValueError: observations of another shape, or pictures without pixels.
            RuntimeError: there is no OpenGL library; the message says how to get one.
        """
        size = self._obs.shape[1]
        if obs.ndim != 2 or obs.shape[1] != size:
            raise ValueError(f"observations have the shape {tuple(obs.shape)}; it must be (B, {size})")
        painter = self._paint(width, height)
        states = (field.double().cpu().numpy() for field in self.task.locate(obs))
        return np.stack([painter.draw(qpos, qvel) for qpos, qvel in zip(*states, strict=True)])

    def close(self) -> None:
        """End the engine's threads and free its memory; the environment cannot be used afterwards."""
        self.engine.close()
        if self._painter:
            self._painter.close()

    def _paint(self, width: int, height: int) -> Painter:
        """Whoever draws pictures of this size."""
        if self._painter is None or self._painter.size != (width, height):
            if self._painter:
                self._painter.close()
            self._painter = Painter(self.model, self.task.camera, width, height)
        return self._painter

    def _observe(self) -> Tensor:
        return self.task.observe(self.engine.fields).to(self.dtype)

    def _chosen(self, worlds: Tensor | None) -> Tensor:
        """Which worlds are meant, bool, `(num_envs,)`."""
        if worlds is None:
            return self._everywhere
        if not isinstance(worlds, Tensor) or worlds.dtype != torch.bool or worlds.shape != self._everywhere.shape:
            raise ValueError(f"worlds must be a tensor of {self.num_envs} bools, or None for all")
        return worlds.to(self.device)

    def _look(self, chosen: Tensor) -> Tensor:
        """Take up the worlds that were put somewhere else."""
        where = chosen.unsqueeze(1)
        obs = self._observe()
        # Of a world that is put into no state at all the last good observation stays, as where one breaks in a step.
        self._obs = torch.where(where & obs.isfinite().all(1, keepdim=True), obs, self._obs)
        self._place = torch.where(where, self.task.place(self.engine.fields), self._place)
        return torch.where(where, obs, self._obs)

    def _begin(self, worlds: Tensor) -> None:
        """Start an episode in some worlds."""
        qpos, qvel = self.task.start(self.num_envs, self._generator, self.engine.dtype)
        self.engine.reset(worlds, qpos, qvel)
        self._age.masked_fill_(worlds, 0)
        self.payout.begin(worlds, self.engine.fields)

    def _any(self, worlds: Tensor) -> bool:
        """Whether there may be such worlds: on a GPU, where asking would wait for it, always."""
        return not self._asking_is_free or bool(worlds.any())

    def _count(self, broken: Tensor) -> None:
        """Count worlds that broke, and log the first ones: on a GPU later, when the number has come without waiting for it."""
        if self._asking_is_free and not self.num_broken:
            which = torch.nonzero(broken).flatten().tolist()
            _LOG.warning("%s: environments %s turned NaN or flew off; their episodes are truncated", self.name, which)
        self.num_broken += broken.sum()
        self._steps += 1
        if not self._asking_is_free and self._steps % LOOK_EVERY == 0:
            if self._num_seen and not self._told:
                _LOG.warning("%s: environments turned NaN or flew off; their episodes are truncated", self.name)
                self._told = True
            self._num_seen.copy_(self.num_broken, non_blocking=True)
