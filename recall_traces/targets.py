"""High-value states: where to recall from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from recall_traces.cells import Cells
from recall_traces.draws import draw
from recall_traces.memory import Memory
from recall_traces.progress import Progress

Value = Callable[[Tensor], Tensor]
Generated = Callable[[int], Tensor]
"""States for every seed, `(S, count, *observation)`, of a number; rows that are not finite are none."""
SOURCES = ("auto", "return", "critic", "novelty", "given", "generated")
ARRIVALS = 8
"""Latest arrivals remembered per cell."""
SCORED = 1024
"""Remembered states per seed that the critic is asked about at each update."""
START_SHARE = 0.05
"""A cell is a start if at least this share of episodes began in it; with starts spread wide, none is."""

PER_CELL = ("visits", "arrivals", "best_returns", "best_arrivals", "starts")
"""What is kept for each cell."""


@dataclass(frozen=True)
class Targets:
    """States chosen to recall from."""

    obs: Tensor
    """`(S, B, *observation)`."""
    cells: Tensor
    """Their cells, `(S, B)`."""
    stamps: Tensor
    """The recorded steps that arrived in them, `(S, B)`; -1 where none did."""
    active: Tensor
    """Which are real, bool `(S, B)`: a seed may have none."""
    novel: Tensor
    """Which were chosen for novelty, bool `(S, B)`."""


class HighValueStates:
    """Keeps, per seed and cell, how often it was visited, by which steps, and with what best return; chooses targets.

    Args:
        source: One of `SOURCES`.
        memory: Where the steps are.
        cells: Tells states apart.
        top_states: How many states, or cells, count as high in value.
        trace_length: A state needs recorded steps before it: at least half of this, or of its episode if that is shorter.
        novelty_power: Novelty targets are drawn in proportion to visits to the minus this.
        novelty_floor: Least share of novelty in `auto`.
        novelty_ceiling: Largest share of it once there was some reward.
        recent_episodes: Over how many episodes the policy's return is averaged in `auto`, and after how many without progress
            it has stalled.
        given: States to recall from with `given`, `(G, *observation)`.
        generated: Makes states to recall from with `generated`.
        generator: Draws targets.
    """

    def __init__(
        self,
        source: str,
        memory: Memory,
        cells: Cells,
        *,
        top_states: int,
        trace_length: int,
        novelty_power: float,
        novelty_floor: float,
        novelty_ceiling: float,
        recent_episodes: int,
        given: Tensor | None,
        generated: Generated | None = None,
        generator: torch.Generator,
    ) -> None:
        self.source, self.memory, self.cells, self.generator = source, memory, cells, generator
        self.top_states, self.trace_length = top_states, trace_length
        self.given, self.generated = given, generated
        self.novelty_power = novelty_power
        self.novelty_floor, self.novelty_ceiling = novelty_floor, novelty_ceiling
        num_seeds, device = len(memory.age), memory.age.device
        per_cell = (num_seeds, cells.num_cells)
        self.visits = torch.zeros(per_cell, dtype=torch.int64, device=device)
        self.arrivals = torch.full((*per_cell, ARRIVALS), -1, dtype=torch.int64, device=device)
        self.best_returns = torch.full(per_cell, -torch.inf, device=device)
        self.best_arrivals = torch.full(per_cell, -1, dtype=torch.int64, device=device)
        self.starts = torch.zeros(per_cell, dtype=torch.int64, device=device)
        self.progress = Progress(num_seeds, recent_episodes, device)

    def observe(self, written: Tensor, positions: Tensor, just_closed: Tensor) -> None:
        """Take in what `Memory.observe` returned."""
        memory = self.memory
        cells = memory.gather(memory.next_cells, written)
        stamps = memory.stamps(written)
        # Arrivals in a cell take its places in turn. By the largest stamp and not by the last write, which would depend on the
        # order of a parallel scatter.
        place = (self.visits.gather(1, cells) + ranks(cells)) % ARRIVALS
        self.arrivals.flatten(1).scatter_reduce_(1, cells * ARRIVALS + place, stamps, "amax")
        self.visits.scatter_add_(1, cells, torch.ones_like(cells))
        first = memory.gather(memory.age, written) == 0
        self.starts.scatter_add_(1, self.cells(memory.gather(memory.steps.obs, written)), first.long())

        age, length = memory.gather(memory.age, positions), memory.gather(memory.episode_lengths, positions)
        ended = just_closed & (age + 1 == length)
        terminated = memory.gather(memory.steps.terminated, positions)
        score, success, changed = self.progress.observe(
            ended, terminated, memory.gather(memory.episode_returns, positions), length
        )
        self.best_returns.masked_fill_(changed[:, None], -torch.inf)
        enough_past = (age + 1) * 2 >= length.clamp(max=self.trace_length)
        returns = torch.where(success, score, memory.gather(memory.returns, positions))
        returns = torch.where(just_closed & enough_past, returns, -torch.inf)
        cells = memory.gather(memory.next_cells, positions)
        # What the ring has overwritten, or a better return outdoes, makes way.
        before = torch.where(memory.find(self.best_arrivals)[1], self.best_returns, -torch.inf)
        self.best_returns = before.scatter_reduce(1, cells, returns, "amax")
        self.best_arrivals.masked_fill_(self.best_returns > before, -1)
        is_best = (returns >= self.best_returns.gather(1, cells)) & returns.isfinite()
        self.best_arrivals.scatter_reduce_(1, cells, torch.where(is_best, memory.stamps(positions), -1), "amax")

    def novelty_share(self) -> Tensor:
        """Share of novelty in `auto`, `(S,)`: 1 before any reward, then what the policy lacks of the best episode's score.

        A policy that learns needs no novelty to be drawn away by; one that stalls does.
        """
        share = self.progress.lacking.clamp(self.novelty_floor, self.novelty_ceiling)
        return torch.where(self.progress.rewarded, share, 1.0)

    def choose(self, count: int, value: Value | None) -> Targets:
        """Draw `count` targets per seed, independently."""
        if self.source == "given":
            return self.from_given(count)
        if self.source == "generated":
            return self.from_generated(count)
        if self.source == "critic":
            return self.from_critic(count, value)
        if self.source == "novelty":
            return self.from_arrivals(*self.novel_arrivals(count), novel=True)
        if self.source == "return":
            return self.from_arrivals(*self.best_return_arrivals(count), novel=False)
        novel = self.from_arrivals(*self.novel_arrivals(count), novel=True)
        high = self.from_arrivals(*self.best_return_arrivals(count), novel=False)
        draws = torch.rand(novel.active.shape, generator=self.generator, device=novel.active.device)
        use_novel = (draws < self.novelty_share()[:, None]) | ~high.active
        wide = use_novel.view(*use_novel.shape, *[1] * (novel.obs.dim() - 2))
        return Targets(
            torch.where(wide, novel.obs, high.obs),
            torch.where(use_novel, novel.cells, high.cells),
            torch.where(use_novel, novel.stamps, high.stamps),
            novel.active | high.active,
            use_novel,
        )

    def novel_arrivals(self, count: int) -> tuple[Tensor, Tensor]:
        """Stamps of arrivals in seldom visited cells, `(S, count)`, and whether there are any."""
        newest = self.arrivals.amax(2)
        _, held = self.memory.find(newest)
        weights = torch.where(held, self.visits.clamp(min=1).float() ** -self.novelty_power, 0.0)
        cells, some = draw(weights, count, self.generator)
        return newest.gather(1, cells), some[:, None].expand(-1, count)

    def best_return_arrivals(self, count: int) -> tuple[Tensor, Tensor]:
        """Stamps of the best arrivals in the cells with the highest positive return, `(S, count)`, and whether there are any."""
        _, held = self.memory.find(self.best_arrivals)
        returns = torch.where(held, self.best_returns, -torch.inf)
        # Equals, such as many goals of the same reward, take turns. In double precision: the next smaller float32 is 6e-8 off, so
        # that nothing else changes places.
        draws = torch.rand(returns.shape, generator=self.generator, device=returns.device, dtype=torch.float64)
        shuffled = returns * (1 - 1e-9 * draws)
        best, cells = shuffled.topk(min(self.top_states, returns.shape[1]), 1)
        which, some = draw((best > 0).float(), count, self.generator)
        return self.best_arrivals.gather(1, cells.gather(1, which)), some[:, None].expand(-1, count)

    def from_critic(self, count: int, value: Value | None) -> Targets:
        """Those of some remembered states that the critic values most, scored anew, one per cell.

        States that ended an episode are left out: the critic has learnt nothing about what follows them.
        """
        if value is None:
            raise ValueError("the source 'critic' needs a value function: pass value to update")
        positions = self.memory.sample(max(SCORED, 4 * self.top_states), self.generator)
        scores = value(self.memory.gather(self.memory.steps.next_obs, positions))
        scores = scores.masked_fill(self.memory.gather(self.memory.steps.terminated, positions), -torch.inf)
        cells = self.memory.gather(self.memory.next_cells, positions)
        best = torch.full_like(self.best_returns, -torch.inf).scatter_reduce(1, cells, scores, "amax").gather(1, cells)
        number = torch.arange(positions.shape[1], device=positions.device).expand_as(positions)
        kept = torch.full_like(self.best_arrivals, -1)
        kept = kept.scatter_reduce(1, cells, torch.where(scores == best, number, -1), "amax").gather(1, cells)
        scores = torch.where(number == kept, scores, -torch.inf)  # of equals in a cell one
        scores, order = scores.topk(self.top_states, 1)
        which, some = draw(scores.isfinite().float(), count, self.generator)
        chosen = self.memory.stamps(positions.gather(1, order.gather(1, which)))
        return self.from_arrivals(chosen, some[:, None].expand(-1, count), novel=False)

    def from_given(self, count: int) -> Targets:
        """States the user knows to be good."""
        if self.given is None:
            raise ValueError("the source 'given' needs states: pass given to RecallTraces")
        shape = (len(self.visits), count)
        obs = self.given[torch.randint(len(self.given), shape, generator=self.generator, device=self.given.device)]
        active = torch.ones(shape, dtype=torch.bool, device=obs.device)
        return Targets(obs, self.cells(obs), torch.full(shape, -1, device=obs.device), active, ~active)

    def from_generated(self, count: int) -> Targets:
        """States that a generative model of each seed makes, such as a Goal GAN."""
        if self.generated is None:
            raise ValueError("the source 'generated' needs what makes states: pass generated to RecallTraces")
        obs, shape = self.generated(count), (len(self.visits), count, *self.memory.steps.obs.shape[3:])
        if obs.shape != shape:
            raise ValueError(f"generated states must have the shape {shape}, not {tuple(obs.shape)}")
        active = obs.isfinite().view(*shape[:2], -1).all(2)
        obs = obs.detach().nan_to_num(0.0, 0.0, 0.0).to(self.memory.steps.obs)
        return Targets(obs, self.cells(obs), torch.full_like(active, -1, dtype=torch.int64), active, torch.zeros_like(active))

    def from_arrivals(self, stamps: Tensor, active: Tensor, novel: bool) -> Targets:
        """The states that stamped steps arrived in."""
        positions, held = self.memory.find(stamps)
        obs = self.memory.gather(self.memory.steps.next_obs, positions)
        cells = self.memory.gather(self.memory.next_cells, positions)
        return Targets(obs, cells, stamps, active & held, torch.full_like(active, novel))

    def recorded(self, targets: Targets) -> Tensor:
        """Stamps of arrivals, `(S, B, ARRIVALS + 1)`: of the step that made a state a target, then the latest in its cell."""
        seeds = torch.arange(len(self.arrivals), device=self.arrivals.device)[:, None]
        arrivals = self.arrivals[seeds, targets.cells].sort(2, descending=True).values
        own = torch.where(targets.stamps >= 0, targets.stamps, arrivals[..., 0])
        return torch.cat([own[..., None], arrivals], 2)

    def describe(self, targets: Targets) -> dict[str, Tensor]:
        """What to log about targets, each `(S,)`: how many different cells, and the mean of their best returns."""
        ordered = torch.where(targets.active, targets.cells, -1).sort(1).values
        different = (ordered[:, 1:] != ordered[:, :-1]).sum(1) + 1 - (ordered[:, 0] < 0).long()
        returns = torch.where(targets.active, self.best_returns.gather(1, targets.cells), torch.nan)
        returns = torch.where(returns.isfinite(), returns, torch.nan)
        best = self.best_returns.amax(1)
        return {"recall/states": different, "recall/states_return": returns.nanmean(1), "recall/best_return": best}

    def is_start(self, cells: Tensor) -> Tensor:
        """Whether episodes tend to begin in these cells `(S, ...)`."""
        start = self.starts >= START_SHARE * self.starts.sum(1, keepdim=True)
        return start.gather(1, cells.flatten(1)).view(cells.shape)

    def state_dict(self) -> dict[str, Any]:
        """All counts and stamps."""
        return {name: getattr(self, name) for name in PER_CELL} | {"progress": self.progress.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Copy what `state_dict` gave."""
        self.progress.load_state_dict(state["progress"])
        for name in PER_CELL:
            getattr(self, name).copy_(state[name])


def ranks(values: Tensor) -> Tensor:
    """How many equal values come before each one in its row, `(S, B)`."""
    ordered, order = values.sort(dim=1, stable=True)
    rank = torch.arange(values.shape[1], device=values.device) - torch.searchsorted(ordered, ordered)
    return torch.empty_like(rank).scatter_(1, order, rank)
