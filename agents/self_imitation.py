"""Self-imitation (Oh et al. 2018): repeat one's own steps whose return beat what the critic expected."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from recall_traces.agents.seams import Value
from recall_traces.checks import check_not_negative, check_positive, check_whole
from recall_traces.data import Traces, Transitions
from recall_traces.draws import draw_cumulative
from recall_traces.memory import Memory
from recall_traces.seeding import restore_generator, seeded_generator
from recall_traces.spaces import ActionSpace, ObservationSpace


@dataclass(frozen=True)
class SelfImitationConfig:
    """Names and defaults follow the paper where PPO's update does not dictate another."""

    imitation_coefficient: float = 1.0
    """Weight of the imitation loss."""
    imitation_ratio: float = 0.5
    """Minibatches per gradient step of the learner. Our SAC takes one in each, unless it is 0."""
    imitation_batch_size: int | None = None
    """Steps of one seed in such a minibatch; None for as many as the learner's own minibatches have."""
    priority_exponent: float = 0.6
    """Steps are drawn in proportion to (R - V)+ to this power."""
    largest_advantage: float = 1.0
    """R - V is clipped here."""
    memory_size: int = 200_000
    """Steps of one seed that are remembered."""

    def __post_init__(self) -> None:
        check_whole(self, "memory_size")
        if self.imitation_batch_size is not None:
            check_whole(self, "imitation_batch_size")
        check_not_negative(self, "imitation_ratio", "imitation_coefficient", "priority_exponent")
        check_positive(self, "largest_advantage")


class SelfImitation:
    """Remembers steps of finished episodes and draws those with R > V, weighted by R - V.

    Steps are drawn by a priority that was set when their episode ended or when they were last drawn, as in the paper; here
    all draws between two updates see the priorities of the first. The weight is always by the critic of now. The paper's value
    loss is left to the learner's own.

    Args:
        observation_space: Of one environment.
        action_space: Of one environment.
        config: See `SelfImitationConfig`.
        num_seeds: `S`.
        num_envs: `N`.
        gamma: Discount of the return R; the learner's.
        seed: Seeds every draw.
        device: Where everything is kept.
    """

    def __init__(
        self,
        observation_space: ObservationSpace,
        action_space: ActionSpace,
        config: SelfImitationConfig | None = None,
        *,
        num_seeds: int = 1,
        num_envs: int,
        gamma: float = 0.99,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        self.config = c = config or SelfImitationConfig()
        self.imitation_ratio, self.imitation_coefficient = c.imitation_ratio, c.imitation_coefficient
        self.imitation_batch_size = c.imitation_batch_size
        self.memory = Memory(observation_space, action_space, None, num_seeds, num_envs, c.memory_size, gamma, device)
        self.priorities = torch.zeros_like(self.memory.returns)
        self.generator = seeded_generator(seed, "self-imitation", device)
        self.cumulative = torch.zeros_like(self.priorities.flatten(1), dtype=torch.float64)
        self.fresh: list[tuple[Tensor, Tensor, int]] = []

    def observe(self, transitions: Transitions, bonus: Tensor | None = None) -> None:
        """Remember a rollout `(T, S, N, ...)`; R counts the bonus `(T, S, N)` too, as the critic does."""
        if bonus is not None:
            transitions = replace(transitions, rewards=transitions.rewards + bonus)
        written, positions, just_closed = self.memory.observe(transitions)
        self.set_priorities(written, torch.zeros_like(written, dtype=torch.float32))
        rollout, num_envs = written.shape[1], self.priorities.shape[1]
        # Of the steps before the rollout the latest of all environments come first: other seeds' longer episodes add to the end.
        earlier = torch.arange(rollout, positions.shape[1], device=written.device)
        earlier = earlier.view(num_envs, len(earlier) // num_envs).T.flatten()
        positions, just_closed = (torch.cat([x[:, :rollout], x[:, earlier]], 1) for x in (positions, just_closed))
        self.fresh.append((positions, just_closed, rollout))

    def update(self, value: Value | None = None) -> dict[str, Any]:
        """Give the steps of episodes that have just ended their first priority."""
        assert value is not None
        for positions, just_closed, rollout in self.fresh:
            # In blocks of one size: how many steps there are depends on the longest episode of all seeds, and a seed's values
            # must not, neither by the noise in them nor by rounding.
            padded = nn.functional.pad(positions, (0, -positions.shape[1] % rollout))
            advantage = torch.cat([self.advantage(block, value) for block in padded.split(rollout, 1)], 1)
            advantage = advantage[:, : positions.shape[1]]
            old = self.memory.gather(self.priorities, positions)
            # A later rollout may have written over what an earlier one closed.
            just_closed = just_closed & self.memory.gather(self.memory.closed, positions)
            self.set_priorities(positions, torch.where(just_closed, advantage**self.config.priority_exponent, old))
        self.fresh = []
        self.cumulative = self.priorities.flatten(1).double().cumsum(1)
        held = len(self.memory) * self.priorities.shape[1]
        return {"sil/share_above_value": (self.priorities > 0).sum((1, 2)) / held}

    def sample(self, batch_size: int, value: Value | None = None) -> Traces:
        """Draw steps `(S, B, ...)` by priority; the weights are (R - V)+, and 0 where nothing beats the critic."""
        assert value is not None
        positions, some = draw_cumulative(self.cumulative, batch_size, self.generator)
        weights = self.advantage(positions, value) * some[:, None]
        self.set_priorities(positions, torch.where(some[:, None], weights**self.config.priority_exponent, 0.0))
        steps = self.memory.at(positions)
        return Traces(steps.obs, steps.actions, weights > 0, weights)

    def imagine(self, batch_size: int) -> None:
        """Make nothing up: these steps were taken."""

    def advantage(self, positions: Tensor, value: Value) -> Tensor:
        """(R - V)+ of steps `(S, B)`."""
        returns = self.memory.gather(self.memory.returns, positions)
        return (returns - value(self.memory.gather(self.memory.steps.obs, positions))).clamp(0.0, self.config.largest_advantage)

    def set_priorities(self, positions: Tensor, priorities: Tensor) -> None:
        """Write priorities at positions `(S, B)`."""
        self.priorities.flatten(1).scatter_(1, positions, priorities)

    def break_off(self) -> None:
        """All environments were put elsewhere: what comes next continues no episode."""
        self.memory.break_off()

    def state_dict(self) -> dict[str, Any]:
        """Everything that a run needs to go on exactly."""
        fresh = {
            str(k): {"positions": positions, "just_closed": just_closed, "rollout": rollout}
            for k, (positions, just_closed, rollout) in enumerate(self.fresh)
        }
        return {
            "memory": self.memory.state_dict(),
            "priorities": self.priorities[:, :, : len(self.memory)],
            "cumulative": self.cumulative,
            "fresh": fresh,
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Copy what `state_dict` gave."""
        self.memory.load_state_dict(state["memory"])
        self.priorities.zero_()
        self.priorities[:, :, : len(self.memory)].copy_(state["priorities"])
        self.cumulative = state["cumulative"].clone()
        rows = [state["fresh"][str(k)] for k in range(len(state["fresh"]))]
        self.fresh = [(row["positions"].clone(), row["just_closed"].clone(), int(row["rollout"])) for row in rows]
        restore_generator(self.generator, state["generator"])
