"""What every learner of a fleet shares around its algorithm: rows of environments, predicting, saving, seeds that broke."""

from __future__ import annotations

import contextlib
import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from recall_traces.agents.saving import describe_action_bounds, describe_spaces, restore_parts
from recall_traces.agents.seams import Bonus, Imitation
from recall_traces.data import Transitions
from recall_traces.envs.interface import VectorEnv, is_restorable
from recall_traces.fleet import FleetAdam
from recall_traces.saving import is_passing, load_tree, save_tree
from recall_traces.seeding import restore_generator, seeded_generator
from recall_traces.spaces import tensor_dtype, tensor_shape


class Learner(ABC):
    """A fleet of runs in one batched environment.

    Args:
        env: All copies of all seeds; row `s * N + n` belongs to seed `s`.
        config: Hyperparameters.
        num_seeds: `S`, runs in the fleet.
        seed: Seeds the actions of `act` and `predict`.

    Raises:
        ValueError: the number of environments is not a multiple of the number of seeds.
    """

    config_class: ClassVar[type[Any]]
    """Of the hyperparameters."""
    optimizers: tuple[FleetAdam, ...]
    """Hold all weights; a row of each belongs to one seed, and rows are `k * S + s` where a seed has several."""
    recall: Imitation
    """What is imitated besides learning from reward."""
    bonus: Bonus
    """Intrinsic reward."""
    generator: torch.Generator
    """Draws actions and minibatches of training."""

    def __init__(self, env: VectorEnv, config: Any, num_seeds: int, seed: int = 0) -> None:
        if not hasattr(env, "num_envs") or not hasattr(env, "device"):
            raise ValueError(f"{env!r} is not a batched environment: make one with recall_traces.envs.make")
        if num_seeds < 1 or env.num_envs % num_seeds:
            raise ValueError(f"{env.num_envs} environments cannot be shared equally by {num_seeds} seeds")
        self.env, self.config, self.num_seeds, self.device = env, config, num_seeds, env.device
        self.num_envs = env.num_envs // num_seeds
        self.alive = [True] * num_seeds
        self.failures: dict[int, str] = {}
        self.env_steps = 0
        self.asked_generator = seeded_generator(seed, "asked actions", self.device)
        """Draws actions that are asked for from outside; apart, so that asking changes nothing in training."""
        self.span = (0, 0)
        """Environment steps at which the present or last call of `learn` began, and how many it asked for."""
        self.last_obs: Tensor | None = None
        """What to act on next, `(S * N, *observation)`; None before the first step."""

    def learn(self, total_steps: int, callback: Callable[[Any, dict[str, Any]], None] | None = None) -> Self:
        """Train for `total_steps` more environment steps of each seed, in whole rollouts.

        Args:
            total_steps: Steps per seed.
            callback: Called before the very first step with no metrics, and after each rollout with what there is to log:
                tensors `(S,)` and, in seconds, floats under `seconds/`.

        Raises:
            ValueError: `total_steps` is less than 1.
        """
        if total_steps < 1:
            raise ValueError(f"total_steps must be at least 1, not {total_steps}")
        self.span = (self.env_steps, total_steps)
        if callback is not None and self.env_steps == 0:
            callback(self, {})
        return self.go_on(callback)

    @abstractmethod
    def go_on(self, callback: Callable[[Any, dict[str, Any]], None] | None = None) -> Self:
        """Train to the end of the call of `learn` that `load_training_state` brought back; nothing if it was at its end."""

    @abstractmethod
    def act(self, obs: Tensor, greedy: bool, generator: torch.Generator | None = None) -> Tensor:
        """Choose actions for raw observations `(S, B, *observation)`: the most likely, or drawn, apart from training."""

    @abstractmethod
    def value(self, obs: Tensor) -> Tensor:
        """V(s) of raw observations `(S, B, *observation)`, `(S, B)`, in the unit of raw rewards, without a gradient."""

    @abstractmethod
    def parts(self) -> dict[str, Any]:
        """What has a state to keep, by name."""

    def training_state(self) -> dict[str, Any]:
        """Everything that training needs to go on exactly, when `learn` calls back: also of what the learner holds, and of `env`.

        Tensors, numbers, lists and dictionaries of them. The tensors are those in use: write them down, or copy them, first.
        """
        return {
            "parts": {name: holder.state_dict() for name, holder in self.parts().items()},
            "generator": self.generator.get_state(),
            "last_obs": {} if self.last_obs is None else {"obs": self.last_obs},
            "env_steps": self.env_steps,
            "span": list(self.span),
            "alive": list(self.alive),
            "failures": {str(s): text for s, text in self.failures.items()},
            "recall": self.recall.state_dict(),
            "bonus": self.bonus.state_dict(),
            "env": self.env.state_dict() if hasattr(self.env, "state_dict") else {},
        }

    def load_training_state(self, state: Mapping[str, Any]) -> None:
        """Go back to where `training_state` was called, with a learner made in the same way.

        An environment that cannot be put back begins new episodes, and those that were under way are broken off. What the
        state lacks of `recall`, `replay` and `sampling` stays as it is.

        Raises:
            ValueError: a tensor is missing or has another shape; the learner is of no use then.
        """
        restore_parts("the state", self.parts(), state["parts"])
        restore_generator(self.generator, state["generator"])
        self.env_steps = int(state["env_steps"])
        first, total = state["span"]
        self.span = (int(first), int(total))
        self.alive = [bool(alive) for alive in state["alive"]]
        self.failures = {int(s): str(text) for s, text in state["failures"].items()}
        self.bonus.load_state_dict(state["bonus"])
        if "recall" in state:
            self.recall.load_state_dict(state["recall"])
        if state["env"] and hasattr(self.env, "load_state_dict"):
            self.env.load_state_dict(state["env"])
        if is_restorable(self.env):
            self.last_obs = state["last_obs"]["obs"].clone() if state["last_obs"] else None
        else:
            self.last_obs = None
            self.recall.break_off()

    def freeze_broken(self, transitions: Transitions) -> Transitions:
        """Stop seeds whose environments gave a value that is not finite, or whose weights are not; the others go on.

        Takes and returns the last steps taken, `(T, S, N, ...)`.
        """
        finite = transitions.rewards.isfinite()
        if transitions.obs.is_floating_point():
            finite = finite & transitions.obs.isfinite().all(-1) & transitions.next_obs.isfinite().all(-1)
        rows = [optimizer.values.isfinite().all(1) for optimizer in self.optimizers]
        weights = torch.stack([row.view(-1, self.num_seeds).all(0) for row in rows]).all(0)
        fine = (finite.all(2).all(0) & weights).tolist()
        broken = [s for s in range(self.num_seeds) if self.alive[s] and not fine[s]]
        if broken:
            self.alive = [a and b for a, b in zip(self.alive, fine, strict=True)]
            for optimizer in self.optimizers:
                # What is lost is set to 0, so that the batched operations of all seeds meet no NaN from here on.
                for moments in (optimizer.first, optimizer.second):
                    moments.nan_to_num_(0.0, 0.0, 0.0)
                optimizer.values.masked_fill_(~weights.repeat(len(optimizer.values) // self.num_seeds)[:, None], 0.0)
            for s in broken:
                where = (~finite[:, s]).nonzero()
                if len(where):
                    t, n = where[0].tolist()
                    step = self.env_steps - (len(finite) - t - 1) * self.num_envs
                    self.failures[s] = f"seed {s}: environment {n} gave a value that is not finite at step {step}"
                else:
                    self.failures[s] = f"seed {s}: the weights were no longer finite at step {self.env_steps}"
        if not self.failures:
            return transitions
        return transitions.map(lambda x: x.nan_to_num(0.0, 0.0, 0.0) if x.is_floating_point() else x)

    def predict(
        self, observation: Any, state: None = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[Any, None]:
        """Actions for observations, with Stable-Baselines3's signature, so that its `evaluate_policy` takes a fleet of one.

        Args:
            observation: One observation (a fleet of one only) or rows `(S * N, *observation)`, array or tensor; row
                `s * N + n` is acted on by seed `s`.
            state: Not used: the policy has no memory.
            episode_start: Not used.
            deterministic: The most likely action instead of a sampled one.

        Returns:
            Actions of the same kind, array or tensor, and `None`.

        Raises:
            ValueError: the rows are not a multiple of the number of seeds.
        """
        as_tensor, space = isinstance(observation, Tensor), self.env.observation_space
        rows = torch.as_tensor(observation if as_tensor else np.asarray(observation), device=self.device).to(tensor_dtype(space))
        single = rows.dim() == len(tensor_shape(space))
        rows = rows[None] if single else rows
        if len(rows) % self.num_seeds:
            raise ValueError(f"predict got {len(rows)} observations, which {self.num_seeds} seeds cannot share equally")
        actions = self.act(rows.unflatten(0, (self.num_seeds, -1)), deterministic).flatten(0, 1)
        actions = actions[0] if single else actions
        return (actions if as_tensor else actions.cpu().numpy()), None

    def save(self, path: str | Path) -> None:
        """Write weights, optimisers and normalisers as safetensors, the configuration in its header; no code is stored."""
        header = {name: getattr(self, name) for name in ("num_seeds", "env_steps", "failures")}
        header |= {"config": dataclasses.asdict(self.config), "spaces": describe_spaces(self.env)}
        header["action_bounds"] = describe_action_bounds(self.env)
        save_tree(path, {part: holder.state_dict() for part, holder in self.parts().items()}, header)

    @classmethod
    def load(cls, path: str | Path, env: VectorEnv, **kwargs: Any) -> Self:
        """Read what `save` wrote; `env` may hold any number of copies that the seeds divide.

        Raises:
            ValueError: it is not such a file, or the environment's spaces or action bounds are not the ones it was trained on.
        """
        with cls._reading(path):
            tree, header = load_tree(path, env.device)
            config = cls.config_class(**header["config"] | {"net_arch": tuple(header["config"]["net_arch"])})
            num_seeds = header["num_seeds"]
        # Every learner takes the environment, the configuration and the number of seeds like this.
        learner = cls(env, config, num_seeds=num_seeds, **kwargs)
        learner._take_over(path, tree, header)
        return learner

    def load_policy(self, path: str | Path) -> None:
        """Copy what `save` wrote, by a learner made in the same way: weights, optimisers, normalisers.

        Raises:
            ValueError: it is not such a file, or it is of another number of seeds or of another environment.
        """
        with self._reading(path):
            tree, header = load_tree(path, self.device)
            num_seeds = header["num_seeds"]
        if num_seeds != self.num_seeds:
            raise ValueError(f"{path} has {num_seeds} seeds, not {self.num_seeds}")
        self._take_over(path, tree, header)

    @classmethod
    @contextlib.contextmanager
    def _reading(cls, path: str | Path) -> Iterator[None]:
        """Whatever a file that is something else brings about is a `ValueError`; a disk or memory that fails is not."""
        try:
            yield
        except Exception as error:
            if is_passing(error):
                raise
            raise ValueError(f"{path} is not a saved {cls.__name__}: {error}") from error

    def _take_over(self, path: str | Path, tree: Mapping[str, Any], header: Mapping[str, Any]) -> None:
        trained_on, found = header["spaces"], describe_spaces(self.env)
        if found != trained_on:
            raise ValueError(f"{path} does not fit this environment: it was trained on {trained_on}, not {found}")
        bounds = describe_action_bounds(self.env)
        if header.get("action_bounds", bounds) != bounds:
            raise ValueError(
                f"{path} does not fit this environment: it was trained with actions in {header['action_bounds']}, not {bounds}"
            )
        restore_parts(path, self.parts(), tree)
        self.env_steps, self.failures = header["env_steps"], {int(s): text for s, text in header["failures"].items()}
        self.alive = [s not in self.failures for s in range(self.num_seeds)]
