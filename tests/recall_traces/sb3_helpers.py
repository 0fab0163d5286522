"""What tests of the callback for Stable-Baselines3 use: small settings, an environment that keeps a log, what was remembered."""

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3 import A2C, DDPG, PPO, SAC, TD3
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from recall_traces import BacktrackingConfig, RecallConfig
from recall_traces.data import Traces

SMALL = RecallConfig(
    traces_per_update=8,
    trace_length=10,
    search_length=10,
    imitation_batch_size=32,
    rare_reward=1.0,  # lines pay at every step
    model=BacktrackingConfig(kind="network", hidden=(16,)),
)
ON, OFF = {"n_steps": 16}, {"learning_starts": 20, "buffer_size": 1000, "batch_size": 8}
SERVED = [(PPO, ON | {"batch_size": 16}), (A2C, {}), (SAC, OFF), (TD3, OFF), (DDPG, OFF)]


def net():
    """A small one; anew each time, since Stable-Baselines3 writes into it."""
    return {"policy_kwargs": {"net_arch": [16]}}


class Line(gymnasium.Env):
    """A point moves by its action. Even episodes end by themselves after 7 steps, odd ones run out of time after 5."""

    def __init__(self, discrete=False, number=0):
        self.observation_space = spaces.Box(-1000, 1000, (2,), np.float32)
        self.action_space = spaces.Discrete(3) if discrete else spaces.Box(-2, 2, (1,), np.float32)
        self.discrete, self.number, self.episode, self.log = discrete, number, -1, []

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self.episode += 1
        self.age, self.place = 0, 2.0 * self.number + 0.25 * self.episode
        return self.observe(), {}

    def observe(self):
        return np.array([self.place, self.age], np.float32)

    def step(self, action):
        before = self.observe()
        self.place += float(action - 1 if self.discrete else action[0])
        self.age += 1
        odd = self.episode % 2
        terminated, truncated = not odd and self.age == 7, bool(odd) and self.age == 5
        reward = 1.0 + self.place
        self.log.append((before, np.array(action), np.float32(reward), self.observe(), terminated, truncated))
        return self.observe(), reward, terminated, truncated, {}


def lines(count=2, discrete=False, normalized=False):
    env = DummyVecEnv([lambda n=n: Line(discrete, n) for n in range(count)])
    return VecNormalize(env, clip_obs=1e6) if normalized else env


def remembered(callback, n):
    """What the callback's memory holds of one environment, in time order: every field `(T, ...)`."""
    memory = callback.recall.memory
    return {name: value[0, n, : memory.time].numpy() for name, value in vars(memory.steps).items()}


def lived_through(env, n):
    """The same as the environment itself wrote it down."""
    columns = zip(*env.unwrapped.envs[n].log if not isinstance(env, VecNormalize) else env.venv.envs[n].log, strict=True)
    names = ("obs", "actions", "rewards", "next_obs", "terminated", "truncated")
    return {name: np.array(column) for name, column in zip(names, columns, strict=True)}


def parameters(module):
    return torch.cat([p.detach().flatten().clone() for p in module.parameters()])


class Walk(gymnasium.Env):
    """A point in an unbounded plane drifts away by its action, and begins anew after 50 steps."""

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self.age = 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.age += 1
        place = np.array([self.age, np.sin(self.age) + float(action[0])], np.float32)
        return place, 0.0, False, self.age == 50, {}


def steer(model, callback, actions, updates=200):
    """Let the model imitate one action in all states that were seen."""
    memory = callback.recall.memory
    obs = memory.steps.obs[:, :, : memory.time]  # (1, N, T, 2): every environment's steps as one trace
    mask = torch.ones(obs.shape[:3], dtype=torch.bool)
    callback.recall.buffer = [Traces(obs, torch.full((*obs.shape[:3], 1), actions), mask, mask.float())]
    callback._imitate(updates)
    obs = obs[0].flatten(0, 1).numpy()
    normalize = model.get_vec_normalize_env()
    return model.predict(obs if normalize is None else normalize.normalize_obs(obs), deterministic=True)[0]
