"""The backtracking model of a finite space: counts of what led where, the exact maximum-likelihood estimate."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from gymnasium import spaces
from torch import Tensor

from recall_traces.data import Transitions
from recall_traces.spaces import ObservationSpace, factor_sizes, num_states, state_at, state_index


class TableModel:
    """q(a, s | s') = count(s, a, s') / count(s'), kept as a sorted list of the triples that were seen.

    Where a `MultiDiscrete` state has contexts, factors that differ between episodes but never change within one (a goal), what
    leads where is counted without them, so that what was learnt under one context serves all: q(a, s | s') is then that of
    the other factors, and s has the context of s'. A factor that turns out to be one, or to be none, changes what is
    counted, and that seed starts counting anew; `count_again` gives it what is still remembered.

    A row is a pair (seed, s'). Sampling draws a number below the row's count and looks it up in the running sum of all
    counts, so that it costs the same however large the space is.

    Args:
        observation_space: Finite.
        action_space: `Discrete`.
        num_seeds: `S`.
        share_contexts: Look for contexts; else each is a state of its own.
        generator: Draws samples.
        device: Where everything is kept.
    """

    learns_once = True
    """Each transition is to be given once: counts keep it."""

    def __init__(
        self,
        observation_space: ObservationSpace,
        action_space: spaces.Discrete,
        num_seeds: int,
        share_contexts: bool,
        generator: torch.Generator,
        device: torch.device | str,
    ) -> None:
        self.space, self.num_seeds, self.generator = observation_space, num_seeds, generator
        self.num_actions = int(action_space.n)
        self.share_contexts = share_contexts and isinstance(observation_space, spaces.MultiDiscrete)
        self.num_states = num_states(observation_space)
        if num_seeds * self.num_states**2 * self.num_actions >= 2**62:
            raise ValueError(f"{observation_space} has too many states for a table: set kind to 'network'")
        self.device = torch.device(device)
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        factors = (self.num_seeds, len(factor_sizes(self.space)))
        self.lowest = torch.full(factors, torch.iinfo(torch.int64).max, device=self.device)
        self.highest = torch.full(factors, -1, device=self.device)
        self.moves = torch.zeros(factors, dtype=torch.bool, device=self.device)
        self.changed = torch.zeros(self.num_seeds, dtype=torch.bool, device=self.device)
        """Whose contexts the last `fit` changed, `(S,)`."""
        self.index(*torch.zeros(2, 0, dtype=torch.int64, device=self.device))

    def index(self, keys: Tensor, counts: Tensor) -> None:
        """Take sorted triples and their counts, each `(M,)`."""
        self.keys, self.counts = keys, counts
        previous, current = keys % self.num_states, keys // (self.num_states * self.num_actions) % self.num_states
        moving = torch.where(previous != current, counts, 0)
        self.cumulative, self.cumulative_moving = self.running_sum(counts), self.running_sum(moving)
        row_counts = torch.zeros(2, self.num_seeds * self.num_states, dtype=torch.int64, device=self.device)
        row_counts.index_add_(1, keys // (self.num_states * self.num_actions), torch.stack([counts, moving]))
        self.row_start, self.row_start_moving = (self.running_sum(x) for x in row_counts)

    def running_sum(self, counts: Tensor) -> Tensor:
        """Sums of what comes before each entry, and of all, `(M + 1,)`."""
        return torch.cat([counts.new_zeros(1), counts.cumsum(0)])

    def contexts(self) -> Tensor:
        """Which factors took several values and never changed in a step, bool `(S, factors)`."""
        return (self.lowest < self.highest) & ~self.moves

    def find_contexts(self, transitions: Transitions, learns: Tensor) -> None:
        """Look at new transitions of the seeds that learn `(S,)`; those whose contexts change forget what they counted."""
        before, learns = self.contexts(), learns[:, None]
        obs, next_obs = transitions.obs, transitions.next_obs
        self.lowest = torch.where(learns, torch.minimum(self.lowest, obs.amin(1)), self.lowest)
        self.highest = torch.where(learns, torch.maximum(self.highest, obs.amax(1)), self.highest)
        self.moves |= (obs != next_obs).any(1) & learns
        self.changed = (before != self.contexts()).any(1)
        self.forget(self.changed)

    def forget(self, seeds: Tensor) -> None:
        """Drop the counts of seeds, bool `(S,)`."""
        if bool(seeds.any()):
            kept = ~seeds[self.keys // (self.num_states**2 * self.num_actions)]
            self.index(self.keys[kept], self.counts[kept])

    def count_again(self, remembered: Callable[[], Transitions]) -> None:
        """Count all that is remembered, `(S, B, ...)`, for the seeds whose contexts the last `fit` changed."""
        changed = self.changed.tolist()
        if any(changed):
            self.forget(self.changed)
            self.fit(remembered(), 1, changed)

    def number(self, obs: Tensor) -> Tensor:
        """Number of each state, that of 0 in place of its contexts, `(S, B)`."""
        return state_index(obs * ~self.contexts()[:, None] if self.share_contexts else obs, self.space)

    def row(self, next_obs: Tensor) -> Tensor:
        """Row of each successor, `(S, B)`."""
        state = self.number(next_obs)
        return state + torch.arange(self.num_seeds, device=self.device)[:, None] * self.num_states

    def key(self, obs: Tensor, actions: Tensor, next_obs: Tensor) -> Tensor:
        """Number of each triple, `(S, B)`."""
        return (self.row(next_obs) * self.num_actions + actions) * self.num_states + self.number(obs)

    def fit(self, transitions: Transitions, updates: int, active: Sequence[bool] | None) -> dict[str, Tensor]:
        """Count the transitions of the active seeds, whatever `updates` is. The loss is that of this batch, after counting."""
        learns = torch.ones(self.num_seeds, dtype=torch.bool) if active is None else torch.tensor(active)
        learns = learns.to(self.device)
        if self.share_contexts:
            self.find_contexts(transitions, learns)
        keys = self.key(transitions.obs, transitions.actions, transitions.next_obs)
        keys = torch.where(learns[:, None], keys, -1)  # -1 sorts first and is cut off
        new = keys.flatten()
        merged, places = torch.cat([self.keys, new]).unique(return_inverse=True)
        counts = torch.zeros_like(merged).index_add_(0, places, torch.cat([self.counts, torch.ones_like(new)]))
        skip = int(len(merged) > 0 and bool(merged[0] < 0))
        self.index(merged[skip:], counts[skip:])
        log_probs = self.log_prob(transitions.obs, transitions.actions, transitions.next_obs)
        return {"loss": -log_probs.mean(1)}

    def log_prob(self, obs: Tensor, actions: Tensor, next_obs: Tensor) -> Tensor:
        """Give log q(a, s | s'), `(S, B)`; minus infinity for what was never seen."""
        keys, row = self.key(obs, actions, next_obs), self.row(next_obs)
        if len(self.keys) == 0:
            return torch.full(keys.shape, -torch.inf, device=self.device)
        place = torch.searchsorted(self.keys, keys).clamp(max=len(self.keys) - 1)
        count = torch.where(self.keys[place] == keys, self.counts[place], 0)
        return (count.double() / (self.row_start[row + 1] - self.row_start[row]).clamp(min=1)).log().float()

    def sample(self, next_obs: Tensor, moving: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Actions and states that may have led to `next_obs` `(S, B)`.

        Args:
            next_obs: Successors.
            moving: Leave out what stands still.

        Returns:
            Actions, states and whether any way into the successor is known, each `(S, B)`; where none is, the state is the
            successor itself.
        """
        row = self.row(next_obs)
        start, cumulative = (self.row_start_moving, self.cumulative_moving) if moving else (self.row_start, self.cumulative)
        low, high = start[row], start[row + 1]
        known = high > low
        if len(self.keys) == 0:
            return torch.zeros_like(row), next_obs, known
        uniform = torch.rand(row.shape, generator=self.generator, device=self.device, dtype=torch.float64)
        place = torch.searchsorted(cumulative, low + (uniform * (high - low)).long(), right=True) - 1
        key = self.keys[place.clamp(max=len(self.keys) - 1)]
        actions = torch.where(known, key // self.num_states % self.num_actions, 0)
        after = state_index(next_obs, self.space)
        contexts = after - self.number(next_obs)  # what they add to a state's number
        states = torch.where(known, key % self.num_states + contexts, after)
        return actions, state_at(states, self.space), known

    def state_dict(self) -> dict[str, Tensor]:
        """The triples, their counts, and what is known of contexts."""
        names = ("keys", "counts", "lowest", "highest", "moves")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take over what `state_dict` gave."""
        for name in ("lowest", "highest", "moves"):
            setattr(self, name, state[name].clone())
        self.index(state["keys"].clone(), state["counts"].clone())
