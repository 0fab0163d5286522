"""Ways into high-value states: sampled and chosen among, recorded, true, or the shortest from where the agent has just been."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from recall_traces.cells import Cells
from recall_traces.data import Traces
from recall_traces.draws import draw
from recall_traces.memory import Memory
from recall_traces.model import BacktrackingModel, roll_back
from recall_traces.selection import Selection
from recall_traces.spaces import ObservationSpace
from recall_traces.targets import ARRIVALS, HighValueStates, Targets

SEARCHES = 16
"""States of a seed from which shortest ways are looked for at each update."""
TOO_FEW = 0.15
"""Where the model knows ways into at most this share of the targets, nothing is imitated; from twice the share on all is."""
Predecessors = Callable[[Tensor], tuple[Tensor, Tensor, Tensor, Tensor]]
"""Of states `(B, *observation)`: (obs, actions, prob, mask), each `(B, K, ...)`, the true backtracking model."""


class Ways:
    """Finds one way into each target.

    Args:
        observation_space: Of one environment.
        model: Knows what led where.
        memory: Recorded steps.
        cells: Tells states apart.
        states: Knows starts, and what arrived where.
        selection: Chooses what was tried.
        traces_from: `model`, `record` or `oracle`.
        searches: Whether the model is searched for the shortest ways.
        candidates: Ways among which one is chosen, where it is not searched, and for targets without a shortest way.
        trace_length: Longest way.
        search_length: How far back a start is looked for; the most steps of a shortest way, of which the last are kept.
        support: How many of the steps that were tried the shortest ways are held against.
        predecessors: The truth, for the oracle.
        generator: Draws.
    """

    def __init__(
        self,
        observation_space: ObservationSpace,
        model: BacktrackingModel,
        memory: Memory,
        cells: Cells,
        states: HighValueStates,
        selection: Selection,
        *,
        traces_from: str,
        searches: bool,
        candidates: int,
        trace_length: int,
        search_length: int,
        support: int,
        predecessors: Predecessors | None,
        generator: torch.Generator,
    ) -> None:
        self.observation_space, self.model, self.memory, self.cells = observation_space, model, memory, cells
        self.states, self.selection = states, selection
        self.traces_from, self.searches, self.candidates = traces_from, searches, candidates
        self.trace_length, self.search_length, self.support = trace_length, search_length, support
        self.predecessors, self.generator = predecessors, generator

    def into(self, targets: Targets, newest: int) -> tuple[Tensor, ...]:
        """Find a way into each target.

        Args:
            targets: `(S, B, ...)`.
            newest: Steps of each environment in which the agent has just been; 0 for all that are remembered.

        Returns:
            obs, actions and mask `(S, B, L, ...)`, aligned at the end; and how sure it is that ways lead there at all, `(S,)`.
        """
        if not bool(targets.active.any()):
            return self.none(targets)
        if not self.searches:
            return *self.best_of_candidates(targets), torch.ones(len(targets.active), device=targets.obs.device)
        shortest, others = self.shortest(targets, newest), self.best_of_candidates(targets)
        # Where the model knows of no way from there, one that begins anywhere will do.
        found = shortest[2].any(2)
        pairs = zip(shortest, others, strict=True)
        ways = (torch.where(found.view(*found.shape, *[1] * (x.dim() - 2)), x, y) for x, y in pairs)
        return *ways, (found.sum(1) / targets.active.sum(1).clamp(min=1) / TOO_FEW - 1).clamp(0, 1)

    def none(self, targets: Targets) -> tuple[Tensor, ...]:
        """The same where there are no targets."""
        actions, device = self.memory.steps.actions, targets.obs.device
        shape = (*targets.active.shape, self.trace_length)
        obs = targets.obs.new_zeros(*shape, *targets.obs.shape[2:])
        mask = torch.zeros(shape, dtype=torch.bool, device=device)
        return obs, actions.new_zeros(*shape, *actions.shape[3:]), mask, torch.zeros(len(mask), device=device)

    def best_of_candidates(self, targets: Targets) -> tuple[Tensor, ...]:
        """Of several ways into each target the one with the fewest steps from a start: obs, actions, mask, `(S, B, L, ...)`."""
        length = self.trace_length if self.candidates == 1 else max(self.search_length, self.trace_length)
        traces = self.several(targets, length)
        reached, steps = self.from_start(traces)
        num_seeds, num_targets = targets.active.shape
        best = steps.unflatten(1, (num_targets, self.candidates)).argmin(2)
        best = best + torch.arange(num_targets, device=best.device) * self.candidates
        seeds = torch.arange(num_seeds, device=best.device)[:, None]
        obs, actions, mask = (x[seeds, best][:, :, -self.trace_length :] for x in (traces.obs, traces.actions, reached))
        cells = self.cells(obs.flatten(1, 2)).unflatten(1, mask.shape[1:])
        from_somewhere = (steps.gather(1, best) > length)[..., None]
        kept = (last_visits(cells, mask) | ~from_somewhere) & ~leaves_target(cells, mask, targets.cells)
        return obs, actions, mask & kept & targets.active[..., None]

    def shortest(self, targets: Targets, newest: int) -> tuple[Tensor, ...]:
        """The shortest way from where the agent has just been into each target: obs, actions, mask, `(S, B, L, ...)`.

        Not from where episodes began: there imitation would teach what to do on the way alone, and nothing where the agent
        strays from it (Ross et al. 2011) or got stuck, which is where it spends most of its steps.
        """
        places = self.memory.gather(self.memory.steps.obs, self.memory.sample(SEARCHES, self.generator, newest))
        length, tried = max(self.search_length, self.trace_length), self.selection.tried(self.support)
        traces = self.model.shortest_traces(places, targets.obs, length, tried)
        mask = traces.mask & targets.active[..., None]
        return tuple(x[:, :, -self.trace_length :] for x in (traces.obs, traces.actions, mask))

    def several(self, targets: Targets, length: int) -> Traces:
        """`candidates` traces into each target, `(S, B * candidates, length, ...)`, those of one target side by side."""
        states = targets.obs.repeat_interleave(self.candidates, 1)
        if self.traces_from == "model":
            return self.model.sample_traces(states, length)
        if self.traces_from == "oracle":
            return roll_back(self.sample_truth, states, length, self.observation_space)
        picks = torch.arange(self.candidates, device=states.device) % (ARRIVALS + 1)
        positions, held = self.memory.find(self.states.recorded(targets)[:, :, picks].flatten(1))
        way, mask = self.memory.way_into(positions, length)
        flat = way.flatten(1)
        obs, actions, next_obs = (
            self.memory.gather(x, flat).unflatten(1, way.shape[1:])
            for x in (self.memory.steps.obs, self.memory.steps.actions, self.memory.steps.next_obs)
        )
        moved = obs != next_obs
        mask = mask & held[..., None] & (moved.flatten(3).any(-1) if moved.dim() > 3 else moved)
        return Traces(obs, actions, mask, mask.float())

    def from_start(self, traces: Traces) -> tuple[Tensor, Tensor]:
        """Cut traces before the last time they leave a start.

        Returns:
            The mask that is left, and how many steps it has; more than any trace where no start is on the way.
        """
        length = traces.mask.shape[2]
        cells = self.cells(traces.obs.flatten(1, 2)).unflatten(1, traces.mask.shape[1:])
        at_start = self.states.is_start(cells) & traces.mask
        index = torch.arange(length, device=cells.device)
        start = torch.where(at_start, index, -1).amax(2)
        mask = traces.mask & (index >= start[..., None])
        return mask, torch.where(start >= 0, mask.sum(2), length + 1 + (mask.sum(2) == 0))

    def sample_truth(self, states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Draw from the true backtracking model, leaving out what stands still."""
        assert self.predecessors is not None
        obs, actions, prob, mask = self.predecessors(states.flatten(0, 1))
        stays = obs == states.flatten(0, 1)[:, None]
        prob = torch.where(mask & ~(stays.flatten(2).all(-1) if stays.dim() > 2 else stays), prob, 0.0)
        which, known = draw(prob, 1, self.generator)
        rows = torch.arange(len(which), device=which.device)
        shape = states.shape[:2]
        return (
            actions[rows, which[:, 0]].unflatten(0, shape),
            obs[rows, which[:, 0]].unflatten(0, shape),
            known.unflatten(0, shape),
        )


def last_visits(cells: Tensor, mask: Tensor) -> Tensor:
    """Which steps of traces no later one leaves the same cell as, bool `(S, B, L)`: loops on the way are cut out.

    For traces that do not come from a start, which no count of steps could choose among.
    """
    again = (cells[..., :, None] == cells[..., None, :]) & mask[..., None, :]
    return ~again.triu(1).any(-1)


def leaves_target(cells: Tensor, mask: Tensor, targets: Tensor) -> Tensor:
    """Which steps of traces, in `cells` `(S, B, L)`, are in the target's cell and go elsewhere, bool `(S, B, L)`.

    They lead away from what is to be reached, and out of a goal, where an episode ends, nothing leads.
    """
    here = cells == targets[..., None]
    return here & (~here & mask).flip(2).cummax(2).values.flip(2)
