"""The shortest ways through a model of neighbours, without the steps that were tried and led elsewhere."""

from __future__ import annotations

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import dijkstra
from torch import Tensor

from recall_traces.data import Traces, Transitions
from recall_traces.neighbours import NeighbourModel

ROUNDS = 64
"""How often ways are looked for, each time without the steps that were found to be wrong; ways that still have such are none."""
LINK = 0.15
"""Distance, in units of a step, whose square's half it costs to pass from one recorded step to another."""
GUESS = 1 + 1e-6
"""What costs more than this was not recorded just so: the next step began a little aside."""
WIDTH = 0.25
"""Of the kernels that tell how near it was tried, in units of a step and of half an action's range."""
WRONG_BY = 0.7
"""A step is wrong if what was tried there changed the state by something else, further off than this, in units of a step."""
ENOUGH = 0.5
"""Weight of what was tried, from which on it counts; one step from this very state with this very action weighs 1."""
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
    ends, weights = (x.cpu().numpy() for x in model.nearest(states))
    price = (model.bandwidth / LINK) ** 2
    first = (1 - price * model.log_weights(model.obs, starts)).cpu().numpy()
    found = [
        _ways(model, seed, starts[seed], first[seed], ends[seed], price * weights[seed], price, length, tried)
        for seed in range(len(states))
    ]
    rows = torch.from_numpy(np.stack(found)).to(states.device)
    mask, steps = rows >= 0, rows.clamp(min=0)
    obs, actions = model.pick(model.obs, steps), model.pick(model.actions, steps)
    return Traces(torch.where(model.scale[:, None] > 0, obs, states[:, :, None]), actions, mask, mask.float())


def _ways(
    model: NeighbourModel,
    seed: int,
    starts: Tensor,
    first: Floats,
    ends: Ints,
    weights: Floats,
    price: float,
    length: int,
    tried: Transitions | None,
) -> Ints:
    """Steps of the support that the ways of one seed consist of, `(B, L)`, -1 before their beginning or where there is none."""
    support, num_starts = len(model.obs[seed]), len(starts)
    before, links = model.before[seed].cpu().numpy(), 1 - price * model.weights[seed].cpu().numpy()
    start = support + np.arange(len(ends)) % num_starts
    places = torch.cat([model.next_obs[seed], starts])
    believed = np.empty(0, np.int64)
    for _ in range(ROUNDS):
        ways = _search(before, links, first, start, ends, weights, length)
        if tried is None:
            break
        there = ways >= 0
        came = np.where(there, np.pad(ways, ((0, 0), (1, 0)), constant_values=-1)[:, :-1], -1)
        came = np.where(there & (came < 0), start[:, None], came)
        (came_from, step), index = np.unique(np.stack([came[there], ways[there]]), axis=1, return_inverse=True)
        linked = came_from < support
        slot = np.where(linked, (before[step] == came_from[:, None]).argmax(1), 0)
        cost = np.where(linked, links[step, slot], first[step, np.maximum(came_from - support, 0)])
        key = came_from * support + step
        new = (cost > GUESS) & ~np.isin(key, believed)
        false = np.zeros_like(new)
        false[new] = _refuted(model, seed, places[came_from[new]], torch.from_numpy(step[new]), tried).cpu().numpy()
        if not false.any():
            break
        believed = np.concatenate([believed, key[new & ~false]])
        wrong = np.zeros_like(there)
        wrong[there] = false[index.ravel()]
        links[step[false & linked], slot[false & linked]] = np.inf
        first[step[false & ~linked], came_from[false & ~linked] - support] = np.inf
        ways = np.where(wrong.any(1, keepdims=True), -1, ways)
    return ways


def _search(before: Ints, links: Floats, first: Floats, start: Ints, ends: Ints, weights: Floats, length: int) -> Ints:
    """The ways that cost least.

    Args:
        before: Steps of the support that may come before each, `(M, K)`.
        links: What each costs after each of them, `(M, K)`.
        first: What each costs after each start, `(M, G)`.
        start: Of each way its start, `M` and up, `(B,)`.
        ends: Steps that may come last, `(B, K)`.
        weights: Their log-weights.
        length: `L`.
    """
    (support, num_starts), ways = first.shape, np.arange(len(ends))
    linked, begun = np.isfinite(links), np.isfinite(first)
    (step, _), (first_step, which) = linked.nonzero(), begun.nonzero()
    came = np.concatenate([before[linked], support + which])
    arcs = (np.concatenate([links[linked], first[begun]]), (came, np.concatenate([step, first_step])))
    nodes = support + num_starts
    graph = csr_matrix(arcs, shape=(nodes, nodes))
    cost, came_from = dijkstra(graph, indices=np.arange(support, nodes), return_predecessors=True)
    total = cost[(start - support)[:, None], ends] - weights
    best = total.argmin(1)
    row = np.where(np.isfinite(total[ways, best]), ends[ways, best], -1)
    rows = []
    for _ in range(length):
        rows.append(row)
        row = np.where(row < 0, -1, came_from[start - support, row])
        row = np.where(row >= support, -1, row)
    return np.where(row[:, None] >= 0, -1, np.stack(rows[::-1], 1)).astype(np.int64)


def _refuted(model: NeighbourModel, seed: int, places: Tensor, steps: Tensor, tried: Transitions) -> Tensor:
    """Whether what a seed tried near places `(B, *observation)` says that steps `(B,)` of the support do not go as recorded.

    The mean change of what was tried, weighted by how near its state and action are, is compared with the step's change.
    """
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
    return (known[:, 0] >= ENOUGH) & ((change - recorded).norm(dim=1) > WRONG_BY)
