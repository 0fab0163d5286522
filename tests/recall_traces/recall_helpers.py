"""Small worlds to recall from."""

from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor

from recall_traces import BacktrackingConfig, RecallConfig, RecallTraces, Traces, Transitions
from recall_traces.envs.four_rooms import FourRooms

SPACE, ACTIONS = spaces.Discrete(20), spaces.Discrete(3)
NEIGHBOURS = BacktrackingConfig(kind="neighbours", bandwidth=1.0)
SMALL = BacktrackingConfig(kind="network", hidden=(8,), batch_size=32)


def make_recall(
    num_envs: int = 1, num_seeds: int = 1, seed: int = 0, space: spaces.Space = SPACE, given: Tensor | None = None, **options: Any
) -> RecallTraces:
    defaults = {"traces_per_update": 16, "trace_length": 12, "search_length": 20, "memory_size": 4000, "rare_reward": 1.0}
    config = RecallConfig(**(defaults | options))
    return RecallTraces(space, ACTIONS, config, num_seeds=num_seeds, num_envs=num_envs, seed=seed, given=given)


def walk(*states: int, reward: float = 0.0, action: int = 0, end: bool = True) -> Transitions:
    """One environment's way through states, `(T, 1, 1)`."""
    obs = torch.tensor(states).view(-1, 1, 1)
    steps = len(obs) - 1
    done, rewards = torch.zeros(steps, 1, 1, dtype=torch.bool), torch.zeros(steps, 1, 1)
    done[-1], rewards[-1] = end, reward
    return Transitions(obs[:-1], torch.full((steps, 1, 1), action), rewards, obs[1:], done, torch.zeros_like(done))


def random_rollout(generator: torch.Generator, steps: int, seeds: int, envs: int, space: spaces.Space = SPACE) -> Transitions:
    shape = (steps, seeds, envs)
    done = torch.rand(shape, generator=generator) < 0.1
    if isinstance(space, spaces.Box):
        obs, next_obs = (torch.randn(*shape, *space.shape, generator=generator) for _ in range(2))
    else:
        obs, next_obs = (torch.randint(int(space.n), shape, generator=generator) for _ in range(2))
    actions = torch.randint(3, shape, generator=generator)
    return Transitions(obs, actions, torch.rand(shape, generator=generator), next_obs, done, torch.zeros_like(done))


def explore(env: FourRooms, seeds: int, steps: int, generator: torch.Generator) -> Transitions:
    """A uniform policy's steps, `(T, S, N, ...)`."""
    obs, rows = env.reset(), []
    for _ in range(steps):
        actions = torch.randint(4, (env.num_envs,), generator=generator)
        step = env.step(actions)
        rows.append((obs, actions, step.rewards, step.final_obs, step.terminated, step.truncated))
        obs = step.obs
    return Transitions(*(torch.stack(column).unflatten(1, (seeds, -1)) for column in zip(*rows, strict=True)))


def recalled(recall: RecallTraces) -> tuple[Tensor, Traces]:
    """Targets and the traces into them."""
    recall.update()
    targets = recall.states.choose(recall.config.traces_per_update, None)
    return targets.obs, recall.recall(targets)[0]


def successors(targets: Tensor, traces: Traces) -> Tensor:
    """Where each recalled step must lead: the next state of its trace, and the target at last."""
    return torch.cat([traces.obs[:, :, 1:], targets[:, :, None]], 2)
