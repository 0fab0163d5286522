"""What a picture of recall traces shows, as arrays: gathered from what a learner holds; nothing here draws.

States are drawn where they are on the task's floor plan, if it has one, and else along the first two principal components of
the remembered states, each dimension in units of its own deviation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recall_traces.recall import RecallTraces
from recall_traces.targets import Value

if TYPE_CHECKING:
    from recall_traces.envs.floor_plan import FloorPlan

Floats = NDArray[np.float64]
MOST_STATES = 20_000
"""Remembered states that components are computed of, and shown."""
MOST_STARTS = 60
DRAWS, CHUNK = 8, 512
"""How often the value of each state is asked for, since SAC's depends on a drawn action; states asked for at once."""
SQUARES = 40
"""Along each component."""
APART = 0.3
"""How far traces are drawn beside each other where states are cells, in cells."""


@dataclass(frozen=True)
class Scene:
    """Everything is in the unit of the axes."""

    labels: tuple[str, str]
    """Of the x and the y axis, with the unit."""
    x_edges: Floats
    """Of squares, `(W + 1,)`."""
    y_edges: Floats
    """`(H + 1,)`."""
    visits: Floats
    """Remembered steps that arrived in each square, `(H, W)`."""
    value: Floats
    """The critic's value in each square, nan where there is none to show, `(H, W)`."""
    remembered: int
    """Steps that visits count."""
    segments: Floats
    """Recalled steps: where each begins and ends, `(K, 2, 2)`."""
    togo: NDArray[np.int64]
    """Steps from the beginning of each to the high-value state, at least 1, `(K,)`."""
    targets: Floats
    """High-value states, `(M, 2)`."""
    starts: Floats
    """Where recorded episodes began, `(P, 2)`."""
    plan: FloorPlan | None = None
    """Where there is one, the axes are its own."""
    goal: tuple[float, float] | None = None
    """Where the plan's goal is; if each episode has its own, that of a high-value state, for which the value holds."""


def make_scene(recall: RecallTraces, value: Value, seed: int, plan: FloorPlan | None = None) -> Scene:
    """Gather what a picture of one seed's traces shows.

    Args:
        recall: Holds traces and memory.
        value: V(s) of raw observations `(S, B, *observation)`, `(S, B)`.
        seed: Which of the fleet, from 0.
        plan: Where states are; without one, principal components are drawn.

    Raises:
        ValueError: nothing was recalled yet, or states are single numbers and there is no plan.
    """
    steps, memory = recalled_steps(recall, seed), recall.memory
    if not len(steps.obs):
        not_rare = ": reward is not rare there, and traces are recalled only where it is (recall.rare_reward)"
        why = " yet" if recall.share.rarity[seed] > 0 else not_rare
        raise ValueError(f"seed {seed} has recalled no traces{why}")
    arrived = memory.steps.next_obs[seed, :, : len(memory)].flatten(0, 1)
    began = memory.steps.obs[seed, :, : len(memory)][memory.age[seed, :, : len(memory)] == 0]
    began = _thinned(began, MOST_STARTS)

    def valued(states: Tensor) -> Floats:
        chunks = (chunk.repeat(DRAWS, *[1] * (chunk.dim() - 1)) for chunk in states.to(recall.device).split(CHUNK))
        values = [value(chunk.expand(recall.num_seeds, *chunk.shape))[seed].view(DRAWS, -1).mean(0) for chunk in chunks]
        return _array(torch.cat(values))

    targets = steps.next_obs[steps.togo == 1].unique(dim=0)
    if plan is None:
        if arrived.dim() < 2 or arrived.shape[1] < 2:
            raise ValueError("states that are single numbers, without a floor plan, cannot be drawn in a plane")
        states = _thinned(arrived, MOST_STATES)
        components = Components(_array(states))

        def place(obs: Tensor) -> Floats:
            return components(_array(obs))

        labels, goal = components.labels, None
        places = place(states)
        x_edges, y_edges = _edges(places, place(targets), place(steps.obs))
        counts, sums = _count(places, x_edges, y_edges), _count(places, x_edges, y_edges, valued(states))
        squares = np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
    else:
        like = targets[0]

        def place(obs: Tensor) -> Floats:
            return _array(plan.positions(obs))

        labels, goal = plan.labels, plan.goal(like)
        x_edges, y_edges = plan.squares()
        squares = _values_on(
            plan, x_edges, y_edges, goal, lambda centres: valued(plan.observations(centres.to(like.device), like))
        )
    visits = _count(place(arrived), x_edges, y_edges)
    segments = np.stack((place(steps.obs), place(steps.next_obs)), 1)
    if not steps.obs.is_floating_point():
        segments += _apart(steps.trace)
    return Scene(
        labels,
        x_edges,
        y_edges,
        visits,
        squares,
        len(arrived),
        segments,
        steps.togo.cpu().numpy(),
        place(targets),
        place(began),
        plan,
        goal,
    )


@dataclass(frozen=True)
class Steps:
    """The valid steps of one seed's traces, trace by trace in forward time."""

    obs: Tensor
    """`(K, *observation)`."""
    next_obs: Tensor
    """`(K, *observation)`."""
    trace: Tensor
    """Number of each step's trace, `(K,)`."""
    togo: Tensor
    """Steps from here to the high-value state, this one included, `(K,)`."""


def recalled_steps(recall: RecallTraces, seed: int) -> Steps:
    """What the trace buffer holds of one seed.

    Raises:
        ValueError: there was no update yet.
    """
    if not recall.buffer:
        raise ValueError("nothing has been recalled yet: there was no update")
    obs, next_obs, mask = (torch.cat([getattr(t, name)[seed] for t in recall.buffer]) for name in ("obs", "next_obs", "mask"))
    togo = mask.flip(1).cumsum(1).flip(1)
    trace = torch.arange(len(mask), device=mask.device)[:, None].expand_as(mask)
    return Steps(obs[mask], next_obs[mask], trace[mask], togo[mask])


def longest_trace(steps: Steps, count: int) -> tuple[Tensor, list[int]]:
    """At most `count` states along the trace with the most steps, evenly spread, the high-value state last.

    Returns:
        States `(F, *observation)`, and how many steps each is away from the high-value state.
    """
    chosen = steps.trace == steps.trace[steps.togo.argmax()]
    states, togo = torch.cat((steps.obs[chosen], steps.next_obs[chosen][-1:])), [*steps.togo[chosen].tolist(), 0]
    shown = np.unique(np.linspace(0, len(states) - 1, count).round().astype(int)).tolist()
    return states[shown], [togo[k] for k in shown]


class Components:
    """The first two principal components of states, each dimension standardised.

    Args:
        states: `(K, D)`, D at least 2.
    """

    def __init__(self, states: Floats) -> None:
        self.mean, deviation = states.mean(0), states.std(0)
        # What never changes has no unit to be measured in.
        self.scale = np.divide(1.0, deviation, out=np.zeros_like(deviation), where=deviation > 1e-8)
        standard = (states - self.mean) * self.scale
        variances, directions = np.linalg.eigh(standard.T @ standard / len(states))
        self.directions = directions[:, [-1, -2]]
        # Of two opposite directions the one whose largest part is positive, so that a picture is not mirrored by chance.
        largest = np.abs(self.directions).argmax(0)
        self.directions = self.directions * np.sign(self.directions[largest, [0, 1]])
        shares = variances[[-1, -2]] / max(variances.sum(), 1e-12)
        first, second = (f"{name} principal component\n({share:.0%} of the variance)" for name, share in _named(shares))
        self.labels = first, second

    def __call__(self, states: Floats) -> Floats:
        """Where states `(K, D)` lie, in deviations, `(K, 2)`."""
        places: Floats = (states - self.mean) * self.scale @ self.directions
        return places


def _named(shares: Floats) -> list[tuple[str, float]]:
    return list(zip(("first", "second"), shares.tolist(), strict=True))


def _edges(places: Floats, targets: Floats, recalled: Floats) -> tuple[Floats, Floats]:
    """Edges of squares that hold all high-value states, and remembered and recalled ones but for a few far away."""
    low = np.min((np.quantile(places, 0.002, 0), np.quantile(recalled, 0.05, 0), targets.min(0)), 0)
    high = np.max((np.quantile(places, 0.998, 0), np.quantile(recalled, 0.95, 0), targets.max(0)), 0)
    margin = np.maximum(0.03 * (high - low), 1e-3)
    x, y = np.linspace(low - margin, high + margin, SQUARES + 1).T
    return x, y


def _count(places: Floats, x_edges: Floats, y_edges: Floats, weights: Floats | None = None) -> Floats:
    """How many places `(K, 2)` lie in each square, or the sum of their weights `(K,)`, `(H, W)`."""
    return np.histogram2d(places[:, 0], places[:, 1], [x_edges, y_edges], weights=weights)[0].T


def _values_on(
    plan: FloorPlan, x_edges: Floats, y_edges: Floats, goal: tuple[float, float], valued: Callable[[Tensor], Floats]
) -> Floats:
    """The value in the middle of each square, `(H, W)`; nan in walls and at the goal, where episodes are over."""
    x, y = np.meshgrid((x_edges[:-1] + x_edges[1:]) / 2, (y_edges[:-1] + y_edges[1:]) / 2)
    centres = np.stack((x.ravel(), y.ravel()), 1)
    shown = plan.free(centres) & (np.hypot(*(centres - goal).T) > plan.goal_radius)
    values = np.full(len(centres), np.nan)
    values[shown] = valued(torch.from_numpy(centres[shown]).float())
    return values.reshape(x.shape)


def _apart(trace: Tensor) -> Floats:
    """How far beside its place each step is drawn, so that traces along the same cells do not hide each other, `(K, 1, 1)`."""
    numbers, rank = trace.unique(return_inverse=True)
    return _array((2 * rank + 1 - len(numbers)) * (APART / len(numbers)))[:, None, None]


def _thinned(rows: Tensor, most: int) -> Tensor:
    """At most twice as many rows, evenly spread."""
    return rows[:: max(1, len(rows) // most)]


def _array(values: Tensor) -> Floats:
    return values.double().cpu().numpy()
