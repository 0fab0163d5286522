"""Gymnasium environments for the tests of the adapter; a module of its own, so that worker processes can import it."""

import os
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces


class Counter(gymnasium.Env[np.ndarray, int]):
    """Counts its steps up to `length` in an array that it uses again, and carries a random number of its own.

    Observes `[[steps, noise]]`, of rank 2 and float64. The reward is the action.
    """

    observation_space = spaces.Box(-np.finfo(np.float64).max, np.finfo(np.float64).max, (1, 2), np.float64)
    action_space = spaces.Discrete(3, start=5)

    def __init__(self, length: int = 4, terminates: bool = True, fails_at: int | None = None, dies_at: int | None = None) -> None:
        self.length, self.terminates, self.fails_at, self.dies_at = length, terminates, fails_at, dies_at
        self.obs = np.zeros((1, 2))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.obs[:] = 0, self.np_random.random()
        return self.obs, {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action)
        self.obs += [1, self.np_random.random()]
        count = self.obs[0, 0]
        if count == self.fails_at:
            raise KeyError("lost count")
        if count == self.dies_at:
            os._exit(7)
        return self.obs, float(action), count >= self.length and self.terminates, count >= self.length, {}


class Spaces(gymnasium.Env[Any, Any]):
    """Has the spaces it is given; observations and actions are checked against them."""

    def __init__(self, observation_space: spaces.Space[Any], action_space: spaces.Space[Any]) -> None:
        self.observation_space, self.action_space = observation_space, action_space
        observation_space.seed(0)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action), action
        return self.observation_space.sample(), float(np.sum(action)), False, False, {}


gymnasium.register("tests/Counter-v0", "tiny_envs:Counter", reward_threshold=3.0, disable_env_checker=True)
gymnasium.register("tests/Spaces-v0", "tiny_envs:Spaces", disable_env_checker=True)
