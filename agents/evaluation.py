"""How good a policy is, measured in environments of its own, so that measuring never touches training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from recall_traces.envs.interface import VectorEnv

CHECK_EVERY = 16
"""Steps between looks at whether all episodes have ended: each look waits for the device."""


@dataclass(frozen=True)
class Evaluation:
    """Means over the episodes of each seed, `(S,)`; success is NaN where the task has no such notion.

    An episode with an observation or reward that is not finite has no return, and makes its seed's means in its mode NaN.
    """

    episode_return: Tensor
    """With sampled actions."""
    success: Tensor
    """Share of episodes with a return of at least `success_return`, with sampled actions."""
    greedy_episode_return: Tensor
    """With the most likely actions."""
    greedy_success: Tensor
    """The same for success."""
    broken: Tensor
    """Of each seed the first copy with such an episode, counted from its own first one, or -1; int64."""


def evaluate(act: Callable[[Tensor, bool], Tensor], env: VectorEnv, num_seeds: int, max_steps: int = 100_000) -> Evaluation:
    """Run one episode in every copy of `env`: of each seed's copies the first half with sampled actions, the rest greedily.

    Args:
        act: Actions `(S, E, ...)` for observations `(S, E, ...)`, greedy or not.
        env: `2 * E` copies per seed, seed by seed.
        num_seeds: `S`.
        max_steps: An episode that is longer counts as it stands by then.
    """
    obs = env.reset()
    returns = torch.zeros(env.num_envs, device=env.device)
    running = torch.ones(env.num_envs, dtype=torch.bool, device=env.device)
    finite = _finite(obs)
    for t in range(max_steps):
        if t % CHECK_EVERY == 0 and not bool(running.any()):
            break
        sampled, greedy = obs.unflatten(0, (num_seeds, 2, -1)).unbind(1)
        actions = torch.stack([act(sampled, False), act(greedy, True)], 1).flatten(0, 2)
        step = env.step(actions)
        returns += torch.where(running, step.rewards, 0.0)  # a product would let NaN of a later episode through
        finite = finite & (~running | (step.rewards.isfinite() & _finite(step.final_obs)))
        running = running & ~(step.terminated | step.truncated)
        obs = step.obs
    per_mode, fine = (x.unflatten(0, (num_seeds, 2, -1)) for x in (returns, finite))
    unknown = ~fine.all(2)
    means = per_mode.mean(2).masked_fill(unknown, torch.nan)
    if env.success_return is None:
        success = torch.full_like(means, torch.nan)
    else:
        success = (per_mode >= env.success_return).float().mean(2).masked_fill(unknown, torch.nan)
    lost = ~fine.flatten(1)
    broken = torch.where(lost.any(1), lost.long().argmax(1), -1)
    return Evaluation(means[:, 0], success[:, 0], means[:, 1], success[:, 1], broken)


def _finite(obs: Tensor) -> Tensor:
    """Which rows `(B, *observation)` hold finite numbers alone, bool `(B,)`."""
    return obs.isfinite().view(len(obs), -1).all(1)
