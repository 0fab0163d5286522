"""How much is imitated: the less, the less rare reward is, and the fewer ways are known into the states to recall."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class ImitationShare:
    """In which share of a learner's minibatches each seed imitates.

    The share of the minibatches, and not the weight of each: a weight is undone by optimisers that rescale the gradient, as Adam
    does, and by clipping its norm.

    Args:
        num_seeds: `S`.
        rare_reward: Reward is rare while at most this share of the steps pay; from twice the share on it is not at all.
        updates: Over how many updates' sureness is averaged: as many as the traces to imitate come from.
        device: Where everything is kept.
    """

    def __init__(self, num_seeds: int, rare_reward: float, updates: int, device: torch.device) -> None:
        self.rare_reward, self.updates = rare_reward, updates
        self.rarity = torch.ones(num_seeds, device=device)
        """How rare reward was at the last update, from 0 to 1, `(S,)`."""
        self.sureness: list[Tensor] = []
        """How sure it was in recent updates that ways lead into the targets, `(S,)` each; nan where there were none."""
        self.of_minibatches = self.rarity
        """The share, `(S,)`."""
        self.nothing = False
        """Whether it is 0 for every seed; known on the host, since learners ask in every gradient step."""
        self.due = torch.zeros(num_seeds, device=device)
        """Part of a minibatch that the share has left over, `(S,)`."""

    def observe_rewards(self, paid: Tensor) -> Tensor:
        """Take in which share of the remembered steps paid, `(S,)`; gives for which seeds that is rare, bool `(S,)`."""
        self.rarity = (2 - paid / self.rare_reward).clamp(0, 1)
        return self.rarity > 0

    def observe_ways(self, sure: Tensor) -> None:
        """Choose by how sure it is that an update's ways lead into its targets, from 0 to 1, `(S,)`; nan where there are none."""
        self.sureness = [*self.sureness, sure][-self.updates :]
        self.choose()

    def choose(self) -> None:
        """Set the share by rarity and sureness."""
        self.of_minibatches = self.rarity
        if self.sureness:
            self.of_minibatches = self.rarity * torch.stack(self.sureness).nanmean(0).nan_to_num(0.0)
        self.nothing = not bool(self.of_minibatches.any())

    def take(self) -> Tensor:
        """Which seeds imitate in the next minibatch, bool `(S,)`: evenly spread, so that each has its share."""
        self.due = self.due + self.of_minibatches
        imitates = self.due >= 1
        self.due = self.due - imitates.float()
        return imitates

    def describe(self) -> dict[str, Tensor]:
        """What to log of the last update, each `(S,)`."""
        return {"recall/rarity": self.rarity, "recall/sureness": self.sureness[-1], "recall/share": self.of_minibatches}

    def state_dict(self) -> dict[str, Any]:
        """Everything that a run needs to go on exactly."""
        return {"rarity": self.rarity, "due": self.due, "sureness": {str(k): sure for k, sure in enumerate(self.sureness)}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Copy what `state_dict` gave."""
        self.rarity, self.due = state["rarity"].clone(), state["due"].clone()
        self.sureness = [state["sureness"][str(k)].clone() for k in range(len(state["sureness"]))]
        self.choose()
