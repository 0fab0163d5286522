"""Environments to play in, and whether two plays are the same."""

from typing import Any

import torch

from recall_traces import envs
from recall_traces.envs.interface import Step


def make(env_id: str, num_envs: int = 3, **options: Any) -> Any:
    return envs.make(env_id, num_envs, **options)


def actions_for(env: Any, steps: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    high = torch.from_numpy(env.action_space.high)
    return (torch.rand(steps, env.num_envs, len(high), generator=generator) * 2 - 1) * high


def play(env: Any, actions: torch.Tensor) -> list[Step]:
    return [env.step(one) for one in actions]


def same(first: list[Step], second: list[Step]) -> bool:
    names = ("obs", "rewards", "terminated", "truncated", "final_obs")
    pairs = list(zip(first, second, strict=True))
    fields = all(torch.equal(getattr(a, name), getattr(b, name)) for a, b in pairs for name in names)
    return fields and all(torch.equal(a.info[key], b.info[key]) for a, b in pairs for key in a.info)
