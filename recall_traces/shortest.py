"""The shortest ways through a model of neighbours, without the steps that were tried and led elsewhere."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import dijkstra
from torch import Tensor

from recall_traces.data import Traces, Transitions
from recall_traces.neighbours import CHUNK, NeighbourModel

LINK = 0.15
"""Distance, in units of a step, whose square's half it costs to pass from one recorded step to another."""
GUESS = 1 + 1e-6
"""What costs more than this was not recorded just so: the next step began a little aside."""
ROUNDS = 64
"""How often ways are looked for, each time without what was refuted; ways that still have such steps are none."""
WIDTH = 0.25
"""Of the kernels that tell how near it was tried, in units of a step and of half an action's range."""
WRONG_BY = 0.7
"""A step is wrong if what was tried there changed the state by something else, further off than this, in units of a step."""
ENOUGH = 0.5
"""Weight of what was tried, from which on it counts; one step from this very state with this very action weighs 1."""
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]
Floats = NDArray[np.float32]


def shortest_traces(model: NeighbourModel, starts: Tensor, states: Tensor, length: int, tried: Transitions | None) -> Traces:
    """Find the shortest trace from start `b % G` of `(S, G, *observation)` into state `b` of `(S, B, *observation)`.

    A trace costs 1 for each of its steps and, wherever it passes from one recorded step to another, half the squared distance
    between them in units of `LINK`.

    Such a link is a guess: the next step was recorded a little aside, and there may be a wall between. The shortest way is made
    of the most hopeful guesses, so long ones cost far more than they lack in likelihood. And those on the ways that were
    found are compared with what was tried next to where they begin; what is refuted is left out, and ways are looked for
    again, as a lazy roadmap checks only the edges that it is about to use (Bohlin and Kavraki 2000). What was never tried is
    believed, so that the agent tries it.

    The search is scipy's, on the host.

    Args:
        model: What is searched.
        starts: Where traces begin.
        states: Where they end.
        length: `L`, the most steps of a trace; where the shortest is longer there is none.
        tried: Recorded steps `(S, E, ...)`, also such that moved nothing; None: everything is believed.
    """
    price = (model.bandwidth / LINK) ** 2
    ends, last = model.nearest(states)
    costs = (1 - price * model.weights, 1 - price * model.log_weights(model.obs, starts), -price * last)
    columns = zip(*(x.cpu().numpy() for x in (model.before, ends, *costs)), strict=True)
    graphs = [Graph(*arrays) for arrays in columns]
    found = [
        graph.ways(length, np.arange(len(graph.ends)))
        if tried is None
        else _tenable_ways(graph, model, seed, starts[seed], length, tried)
        for seed, graph in enumerate(graphs)
    ]
    rows = torch.from_numpy(np.stack(found)).to(states.device)
    mask, steps = rows >= 0, rows.clamp(min=0)
    obs, actions = model.pick(model.obs, steps), model.pick(model.actions, steps)
    return Traces(torch.where(model.scale[:, None] > 0, obs, states[:, :, None]), actions, mask, mask.float())


@dataclass
class Graph:
    """Steps of one seed's support, numbered from 0, then its starts, and what it costs to take a step after one of them."""

    before: Ints
    """Steps that may come before each step, `(M, K)`."""
    ends: Ints
    """Steps that may be the last of each way, `(B, K)`."""
    links: Floats
    """Cost of each step after one that may come before it, `(M, K)`; inf where it cannot."""
    first: Floats
    """Cost of each step after each start, `(M, G)`."""
    last: Floats
    """Cost of ending with a step, `(B, K)`."""

    @property
    def start(self) -> Ints:
        """Where each way starts, `(B,)`."""
        support, num_starts = self.first.shape
        return support + np.arange(len(self.ends)) % num_starts

    def ways(self, length: int, which: Ints) -> Ints:
        """Steps of those ways that cost least, `(B, L)`, -1 before their beginning, or everywhere where there is none."""
        (support, num_starts), each = self.first.shape, np.arange(len(which))
        linked, begun = np.isfinite(self.links), np.isfinite(self.first)
        (step, _), (first_step, start) = linked.nonzero(), begun.nonzero()
        arcs = np.concatenate([self.before[linked], support + start]), np.concatenate([step, first_step])
        nodes = support + num_starts
        graph = csr_matrix((np.concatenate([self.links[linked], self.first[begun]]), arcs), shape=(nodes, nodes))
        starts, start = np.unique(self.start[which], return_inverse=True)
        cost, came_from = dijkstra(graph, indices=starts, return_predecessors=True)
        ends = self.ends[which]
        total = cost[start[:, None], ends] + self.last[which]
        best = total.argmin(1)
        step = np.where(np.isfinite(total[each, best]), ends[each, best], -1)
        steps = []
        for _ in range(length):
            steps.append(step)
            step = np.where(step < 0, -1, came_from[start, step])
            step = np.where(step >= support, -1, step)
        return np.where(step[:, None] >= 0, -1, np.stack(steps[::-1], 1)).astype(np.int64)

    def cost(self, after: Ints, step: Ints) -> Floats:
        """What steps cost after what came before them, `(P,)`."""
        return np.where(after < len(self.first), self.links[self.link(after, step)], self.first[self.begin(after, step)])

    def leave_out(self, after: Ints, step: Ints) -> None:
        """Never take these steps after these."""
        linked = after < len(self.first)
        self.links[self.link(after[linked], step[linked])] = np.inf
        self.first[self.begin(after[~linked], step[~linked])] = np.inf

    def link(self, after: Ints, step: Ints) -> tuple[Ints, Ints]:
        """Where in `links` a pair stands."""
        return step, (self.before[step] == after[:, None]).argmax(1)

    def begin(self, after: Ints, step: Ints) -> tuple[Ints, Ints]:
        """Where in `first` a pair stands."""
        return step, np.maximum(after - len(self.first), 0)


def _tenable_ways(graph: Graph, model: NeighbourModel, seed: int, starts: Tensor, length: int, tried: Transitions) -> Ints:
    """The ways of a graph without steps that are refuted; it is without them afterwards."""
    places = torch.cat([model.next_obs[seed], starts])
    ways = np.full((len(graph.ends), length), -1)
    which, believed = np.arange(len(ways)), np.empty(0, np.int64)
    for _ in range(ROUNDS):
        ways[which] = found = graph.ways(length, which)
        there = found >= 0
        after = np.pad(found, ((0, 0), (1, 0)), constant_values=-1)[:, :-1]
        after = np.where(after < 0, graph.start[which][:, None], after)
        (came, step), index = np.unique(np.stack([after[there], found[there]]), axis=1, return_inverse=True)
        pair = came * len(model.obs[seed]) + step
        doubted = (graph.cost(came, step) > GUESS) & ~np.isin(pair, believed)
        wrong = np.zeros_like(doubted)
        wrong[doubted] = _refuted(model, seed, places[came[doubted]], step[doubted], tried)
        if not wrong.any():
            return ways
        believed = np.concatenate([believed, pair[doubted & ~wrong]])
        # What goes wrong after one step mostly does after the others that arrive there too: asked at once, that saves rounds.
        again = np.unique(step[wrong])
        links = graph.links[again]
        row, column = (np.isfinite(links) & (links > GUESS)).nonzero()
        others, theirs = graph.before[again][row, column], again[row]
        also = _refuted(model, seed, places[others], theirs, tried)
        graph.leave_out(np.append(came[wrong], others[also]), np.append(step[wrong], theirs[also]))
        refuted = np.zeros_like(there)
        refuted[there] = wrong[index.ravel()]
        which = which[refuted.any(1)]
    ways[which] = -1
    return ways


def _refuted(model: NeighbourModel, seed: int, places: Tensor, steps: Ints, tried: Transitions) -> Bools:
    """Whether what a seed tried near places `(P, *observation)` says that steps `(P,)` of the support do not go as recorded.

    The mean change of what was tried, weighted by how near its state and action are, is compared with the step's change.
    """
    if len(steps) > CHUNK:
        parts = [slice(first, first + CHUNK) for first in range(0, len(steps), CHUNK)]
        return np.concatenate([_refuted(model, seed, places[part], steps[part], tried) for part in parts])
    per_step = model.per_step[seed]
    weights = -0.5 * (torch.cdist(places * per_step, tried.obs[seed] * per_step) / WIDTH).square()
    actions, theirs = model.actions[seed, steps], tried.actions[seed]
    if isinstance(model.action_space, spaces.Box):
        low, high = (torch.as_tensor(x, device=places.device) for x in (model.action_space.low, model.action_space.high))
        half = (high - low) / 2
        weights = weights - 0.5 * (torch.cdist(actions / half, theirs / half) / WIDTH).square()
    else:
        weights = torch.where(actions[:, None] == theirs, weights, -torch.inf)
    weights = weights.exp()
    known = weights.sum(1, keepdim=True)
    change = weights @ ((tried.next_obs[seed] - tried.obs[seed]) * per_step) / known.clamp(min=1e-9)
    recorded = (model.next_obs[seed, steps] - model.obs[seed, steps]) * per_step
    return ((known[:, 0] >= ENOUGH) & ((change - recorded).norm(dim=1) > WRONG_BY)).cpu().numpy()
