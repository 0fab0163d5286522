"""The shortest ways through a model of neighbours, without the steps that were tried and led elsewhere."""

from __future__ import annotations

import torch
from gymnasium import spaces
from torch import Tensor

from recall_traces.data import Traces, Transitions
from recall_traces.neighbours import NeighbourModel

ROUNDS = 8
"""How often ways are looked for anew after steps of theirs were found to be wrong."""
WRONG_BY = 0.5
"""A step is wrong if what was tried there changed the state by something else, further off than this, in units of a step."""
ENOUGH = 1.0
"""Weight of what was tried, from which on it counts: that of one recorded step from this very state with this very action."""


def shortest_traces(model: NeighbourModel, starts: Tensor, states: Tensor, length: int, tried: Transitions | None) -> Traces:
    """Find the shortest trace from start `b % G` of `(S, G, *observation)` into state `b` of `(S, B, *observation)`.

    A trace costs 1 for each of its steps and, wherever it passes from one recorded step to another, half the squared distance
    between them in units of the bandwidth: what that link lacks in log-weight.

    Such a link is a guess: the next step was recorded a little aside, and there may be a wall between. The shortest way is made
    of the most hopeful guesses. So the steps of the ways that were found are compared with what was tried next to where they
    begin; those that are refuted are left out, and ways are looked for again, as a lazy roadmap checks only the edges
    that it is about to use (Bohlin and Kavraki 2000). What was never tried is believed, so that the agent tries it.

    Args:
        model: What is searched.
        starts: Where traces begin.
        states: Where they end.
        length: `L`, the most steps of a trace.
        tried: Recorded steps `(S, E, ...)`, also such that moved nothing; None: everything is believed.
    """
    first = 1 - model.log_weights(model.obs, starts)  # (S, M, G), the cost of beginning with a step
    links = 1 - model.weights  # (S, M, K), that of a step after one of those before it
    for _ in range(ROUNDS):
        steps, mask = search(model, first, links, states, length)
        wrong = torch.zeros_like(mask) if tried is None else leave_out(model, first, links, starts, tried, steps, mask)
        if not wrong.any():
            break
    mask = mask & ~wrong.any(2, keepdim=True)
    obs, actions = model.pick(model.obs, steps), model.pick(model.actions, steps)
    return Traces(torch.where(model.scale[:, None] > 0, obs, states[:, :, None]), actions, mask, mask.float())


def search(model: NeighbourModel, first: Tensor, links: Tensor, states: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Steps of the support that the ways consist of and where there are such, `(S, B, L)`.

    Bellman's and Ford's algorithm, for all seeds and starts at once.
    """
    (_, support, neighbours), num_starts = links.shape, first.shape[2]
    first_row = model.rows[..., None] * support  # rows of the supports of all seeds, one below the other
    before, further = (model.before + first_row).flatten(), links.reshape(-1, neighbours, 1)
    cost = first.flatten(0, 1)  # (S * M, G), that of the way up to and with each step
    came_from = torch.full_like(cost, -1, dtype=torch.int64)
    for _ in range(length - 1):
        through, which = (cost.index_select(0, before).view(-1, neighbours, num_starts) + further).min(1)
        shorter = through < cost
        if not shorter.any():
            break
        cost = torch.where(shorter, through, cost)
        came_from = torch.where(shorter, before.view(-1, neighbours).gather(1, which), came_from)
    start = torch.arange(states.shape[1], device=states.device) % num_starts
    steps, weights = model.nearest(states)
    total, best = (cost[steps + first_row, start[:, None]] - weights).min(2, keepdim=True)
    row = torch.where(total.isfinite(), steps.gather(2, best) + first_row, -1)[..., 0]
    way = [row]
    for _ in range(length - 1):
        way.append(torch.where(way[-1] < 0, -1, came_from[way[-1].clamp(min=0), start]))
    rows = torch.stack(way[::-1], 2)
    return (rows - first_row).clamp(min=0), rows >= 0


def leave_out(
    model: NeighbourModel, first: Tensor, links: Tensor, starts: Tensor, tried: Transitions, steps: Tensor, mask: Tensor
) -> Tensor:
    """Which steps of ways `(S, B, L)` are wrong; they cost infinitely much from now on, after what came before them."""
    num_starts, support = starts.shape[1], model.obs.shape[1]
    begins = mask & ~torch.nn.functional.pad(mask, (1, 0))[..., :-1]
    # What came before: a step, or beyond the steps a start.
    start = support + torch.arange(mask.shape[1], device=mask.device) % num_starts
    before = torch.where(begins, start[:, None], torch.nn.functional.pad(steps, (1, 0))[..., :-1])
    wrong = torch.zeros_like(mask)
    for s in range(len(mask)):
        pairs, index = torch.stack([before[s][mask[s]], steps[s][mask[s]]]).unique(dim=1, return_inverse=True)
        came, step = pairs
        places = torch.cat([model.next_obs[s], starts[s]])[came]
        false = refuted(model, s, places, step, tried)
        wrong[s, mask[s]] = false[index]
        came, step = came[false], step[false]
        linked, begun = came < support, came >= support
        slots = (model.before[s, step[linked]] == came[linked, None]).long().argmax(1)
        links[s, step[linked], slots] = torch.inf
        first[s, step[begun], came[begun] - support] = torch.inf
    return wrong


def refuted(model: NeighbourModel, seed: int, places: Tensor, steps: Tensor, tried: Transitions) -> Tensor:
    """Whether what a seed tried near places `(B, *observation)` says that steps `(B,)` of the support do not go as recorded.

    The mean change of what was tried, weighted by how near its state and action are, is compared with the step's change.
    """
    per_step, width = model.per_step[seed], model.bandwidth
    distances = torch.cdist(places * per_step, tried.obs[seed] * per_step) / width
    weights = -0.5 * distances.square()
    actions, theirs = model.actions[seed, steps], tried.actions[seed]
    if isinstance(model.action_space, spaces.Box):
        low, high = (torch.as_tensor(x, device=places.device) for x in (model.action_space.low, model.action_space.high))
        half = (high - low) / 2
        weights = weights - 0.5 * (torch.cdist(actions / half, theirs / half) / width).square()
    else:
        weights = torch.where(actions[:, None] == theirs, weights, -torch.inf)
    weights = weights.exp()
    known = weights.sum(1, keepdim=True)
    change = weights @ ((tried.next_obs[seed] - tried.obs[seed]) * per_step) / known.clamp(min=1e-9)
    recorded = (model.next_obs[seed, steps] - model.obs[seed, steps]) * per_step
    return (known[:, 0] >= ENOUGH) & ((change - recorded).norm(dim=1) > WRONG_BY)
