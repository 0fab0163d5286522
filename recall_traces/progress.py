"""What episodes were worth, and by that how a policy gets on."""

from __future__ import annotations

import torch
from torch import Tensor


class Progress:
    """Scores the episodes of each seed, and keeps the best score, the recent ones' average, and since when it has not risen.

    A score is an episode's return. But where no return was ever positive, because every step costs something until a goal ends
    the episode, it is by how much the return beats the mean of the episodes that ran out of time, if the episode ended by itself,
    and otherwise 0.

    Args:
        num_seeds: `S`.
        recent_episodes: Over how many episodes the recent score is averaged.
        device: Where everything is kept.
    """

    def __init__(self, num_seeds: int, recent_episodes: int, device: torch.device) -> None:
        self.recent_episodes = recent_episodes
        self.paid = torch.zeros(num_seeds, dtype=torch.bool, device=device)
        """Whether any episode ever had a positive return, `(S,)`."""
        self.timeouts = torch.zeros(num_seeds, device=device)
        """Episodes that ran out of time, `(S,)`."""
        self.time_limit = torch.zeros(num_seeds, dtype=torch.int64, device=device)
        """Steps of the longest of them, `(S,)`; shorter ones were broken off."""
        self.timeout_return = torch.zeros(num_seeds, device=device)
        """Sum of their returns, `(S,)`."""
        self.recent = torch.zeros(num_seeds, device=device)
        """Average score of recent episodes, `(S,)`."""
        self.best = torch.full((num_seeds,), -torch.inf, device=device)
        """Highest score of an episode, `(S,)`."""
        self.best_recent = torch.zeros(num_seeds, device=device)
        """Largest `recent` so far, at least 0, `(S,)`."""
        self.stalled = torch.zeros(num_seeds, device=device)
        """Episodes since then, `(S,)`."""

    def observe(self, ended: Tensor, terminated: Tensor, returns: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Score episodes.

        Args:
            ended: Which entries are the end of an episode, bool `(S, K)`; the rest are not looked at.
            terminated: Which of them ended by themselves, bool `(S, K)`.
            returns: Undiscounted returns, `(S, K)`.
            lengths: Steps, `(S, K)`.

        Returns:
            Their scores, `(S, K)`; which of them reached a goal that paid nothing, bool `(S, K)`; and which seeds had goals only
            by time until now and have been paid, bool `(S,)`: their earlier scores are no returns and are to be forgotten.
        """
        self.observe_timeouts(ended & ~terminated, returns, lengths)
        paid = self.paid | (ended & (returns > 0)).any(1)
        changed = paid & ~self.paid & (self.best > 0)
        self.paid = paid
        self.best.masked_fill_(changed, -torch.inf)
        for values in (self.recent, self.best_recent, self.stalled):
            values.masked_fill_(changed, 0.0)
        better = returns - (self.timeout_return / self.timeouts)[:, None]  # nan before any ran out of time
        success = ended & terminated & (better > 0) & ~paid[:, None]
        score = torch.where(paid[:, None], returns, torch.where(success, better, 0.0))

        count = ended.sum(1)
        mean = torch.where(ended, score, 0.0).sum(1) / count.clamp(min=1)
        self.recent.lerp_(mean, (count / self.recent_episodes).clamp(max=1.0))
        self.best = torch.maximum(self.best, torch.where(ended, score, -torch.inf).amax(1))
        self.stalled = torch.where(self.recent > self.best_recent, 0.0, self.stalled + count)
        self.best_recent = torch.maximum(self.best_recent, self.recent)
        return score, success, changed

    def observe_timeouts(self, cut_off: Tensor, returns: Tensor, lengths: Tensor) -> None:
        """Count those episodes of the cut off ones, bool `(S, K)`, that ran out of time: as long as the longest so far."""
        longest = torch.where(cut_off, lengths, 0).amax(1)
        for values in (self.timeouts, self.timeout_return):
            values.masked_fill_(longest > self.time_limit, 0.0)
        self.time_limit = torch.maximum(self.time_limit, longest)
        timed_out = cut_off & (lengths == self.time_limit[:, None])
        self.timeouts += timed_out.sum(1)
        self.timeout_return += torch.where(timed_out, returns, 0.0).sum(1)

    @property
    def rewarded(self) -> Tensor:
        """Whether any episode had a positive score, bool `(S,)`.

        Only that counts as reward: where doing nothing gives 0 and trying costs, the best return is that of idling.
        """
        return self.best > 0

    @property
    def lacking(self) -> Tensor:
        """What the recent score lacks of the best one, as a share of it, `(S,)`; of no meaning before any reward.

        Scaled up from 0 while for `recent_episodes` episodes the recent score has not been higher than ever.
        """
        return (1 - self.recent / self.best) * (self.stalled / self.recent_episodes).clamp(max=1.0)

    def state_dict(self) -> dict[str, Tensor]:
        """All counts and scores."""
        return {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Copy what `state_dict` gave."""
        for name, value in self.state_dict().items():
            value.copy_(state[name])
