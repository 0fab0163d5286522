"""Walks through numbered states, and the high-value states among them."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from recall_traces import Transitions
from recall_traces.cells import Cells
from recall_traces.memory import Memory
from recall_traces.targets import HighValueStates

GAMMA = 0.9
SPACE = spaces.Discrete(30)


def make_states(
    source: str,
    space: spaces.Space = SPACE,
    action_space: spaces.Space | None = None,
    seeds: int = 1,
    envs: int = 1,
    memory_size: int = 1000,
    given: Tensor | None = None,
    generated: Callable[[int], Tensor] | None = None,
    **options: Any,
) -> HighValueStates:
    cells = Cells(space, seeds, 12, 0, "cpu")
    memory = Memory(space, action_space or spaces.Discrete(3), cells, seeds, envs, memory_size, GAMMA, "cpu")
    defaults = {"top_states": 16, "trace_length": 60, "recent_episodes": 4}
    defaults |= {"novelty_power": 1.0, "novelty_floor": 0.05, "novelty_ceiling": 1.0}
    generator = torch.Generator().manual_seed(0)
    return HighValueStates(source, memory, cells, given=given, generated=generated, generator=generator, **(defaults | options))


def observe(states: HighValueStates, rollout: Transitions) -> None:
    states.cells.calibrate(rollout.next_obs.transpose(0, 1).flatten(1, 2))
    states.observe(*states.memory.observe(rollout))


def walk(*cells: Any, reward: float = 0.0, end: str = "terminated", rewards: list[float] | None = None) -> Transitions:
    """One environment's way through the given states, `(T, 1, 1)`; the last step pays and, as it may be, ends the episode."""
    obs = torch.as_tensor(np.asarray(cells))
    obs = obs.float() if obs.is_floating_point() else obs
    steps = len(obs) - 1
    flags = {name: torch.zeros(steps, 1, 1, dtype=torch.bool) for name in ("terminated", "truncated")}
    if end:
        flags[end][-1] = True
    paid = torch.tensor(rewards) if rewards else torch.cat([torch.zeros(steps - 1), torch.tensor([reward])])
    states = obs.view(steps + 1, 1, 1, *obs.shape[1:])
    return Transitions(
        states[:-1], torch.zeros(steps, 1, 1).long(), paid.view(-1, 1, 1), states[1:], flags["terminated"], flags["truncated"]
    )


def side_by_side(*rollouts: Transitions, axis: int = 2) -> Transitions:
    """As environments of one seed (axis 2) or as seeds (axis 1)."""
    return Transitions(*(torch.cat(column, axis) for column in zip(*(vars(r).values() for r in rollouts), strict=True)))


def chosen(states: HighValueStates, count: int = 2000, value: Callable[[Tensor], Tensor] | None = None) -> list[set[int]]:
    """Which states are chosen, per seed."""
    targets = states.choose(count, value)
    return [set(obs[active].tolist()) for obs, active in zip(targets.obs, targets.active, strict=True)]


COST = -1.0


def costly(*cells: int, end: str = "terminated") -> Transitions:
    """A walk of which every step costs 1."""
    return walk(*cells, rewards=[COST] * (len(cells) - 1), end=end)
