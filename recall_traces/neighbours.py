"""The backtracking model as a kernel density over the agent's own steps: what led to states close by, led here."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from scipy.spatial import KDTree
from torch import Tensor

from recall_traces.data import Traces, Transitions
from recall_traces.draws import gumbel
from recall_traces.spaces import ActionSpace

STANDS_STILL = 1e-6
"""A dimension whose root mean square change per step is below this never changes: a context, such as a goal."""
REACH = 3.0
"""Steps that arrived further away than so many widths of the kernel led somewhere else."""
HELD_OUT = 512
"""Most steps beside the support that the loss is measured on."""
CHUNK = 512
"""Rows of the support whose distances to all others are held at once."""


class NeighbourModel:
    """q(a, s | s') = Σ_i w_i(s') K(a - a_i) K(s - s_i): steps i of a support, weighted by how near to s' they arrived.

    Distances are Euclidean in units of each dimension's root mean square change per step; w_i falls with the distance of
    s'_i from s' as a Gaussian of width `bandwidth`, and only the `neighbours` nearest count. A draw is a recorded step (the
    kernels K, of the same width, are for `log_prob` only): a way back through draws never leaves what the agent has seen, and
    passes from one episode to another where they meet. Dimensions that never change within a step, such as the goal of an
    episode, do not count in distances and stay as they are in s'.

    Args:
        observation_space: A `Box`.
        action_space: Any supported one.
        num_seeds: `S`.
        support: `M`, steps of one seed that are drawn from: the first ones given to the last `fit`.
        neighbours: `K`.
        bandwidth: In units of a step.
        generator: Draws.
        device: Where it lives.
    """

    learns_once = False
    """Every `fit` begins anew."""

    def __init__(
        self,
        observation_space: spaces.Box,
        action_space: ActionSpace,
        num_seeds: int,
        support: int,
        neighbours: int,
        bandwidth: float,
        generator: torch.Generator,
        device: torch.device,
    ) -> None:
        self.action_space, self.num_seeds, self.support, self.neighbours = action_space, num_seeds, support, neighbours
        self.bandwidth, self.generator = bandwidth, generator
        size = observation_space.shape[0]
        boxed = isinstance(action_space, spaces.Box)
        action = (action_space.shape[0],) if isinstance(action_space, spaces.Box) else ()
        kind = torch.float32 if boxed else torch.int64
        # Before the first fit one step that moved nothing, so that nothing is known to have led anywhere.
        self.obs = torch.zeros(num_seeds, 1, size, device=device)
        self.actions = torch.zeros(num_seeds, 1, *action, dtype=kind, device=device)
        self.next_obs = torch.zeros(num_seeds, 1, size, device=device)
        self.scale = torch.zeros(num_seeds, 1, size, device=device)
        """Root mean square change of each dimension in a step that moves; 0 where it never changes."""
        self.before = torch.zeros(num_seeds, 1, 1, dtype=torch.int64, device=device)
        """Of each step of the support those that arrived nearest to where it began, `(S, M, K)`."""
        self.weights = torch.full((num_seeds, 1, 1), -torch.inf, device=device)
        """Their log-weights, `(S, M, K)`."""
        self.trees: list[tuple[KDTree, NDArray[np.int64]]] = []
        """On a CPU, of each seed: where steps that moved arrived, in units of a step, and which they are; made when asked."""
        self.shift = torch.zeros(num_seeds, 1, size, dtype=torch.float64, device=device)
        """What is added to coordinates before they go into the trees."""
        self.rows = torch.arange(num_seeds, device=device)[:, None]

    def fit(self, transitions: Transitions, updates: int, active: Sequence[bool] | None) -> dict[str, Tensor]:
        """Take the first `M` of transitions `(S, B, ...)` for the support; of the others, if there are any, gives what is lost.

        `loss` is -log q, the mean over those of which anything is known, and `unknown` the share of the rest. Steps that moved
        nothing do not count.
        """
        kept = transitions.map(lambda x: x[:, : self.support])
        change = transitions.obs - transitions.next_obs
        moving = (change != 0).any(2, keepdim=True).sum(1, keepdim=True).clamp(min=1)
        scale = (change.square().sum(1, keepdim=True) / moving).sqrt()
        scale = torch.where(scale > STANDS_STILL, scale, 0.0)
        fitted = {"obs": kept.obs, "actions": kept.actions, "next_obs": kept.next_obs, "scale": scale}
        if active is not None and self.obs.shape == kept.obs.shape:
            learns = torch.tensor(active, device=scale.device)
            fitted = {
                name: torch.where(learns.view(-1, *[1] * (x.dim() - 1)), x, getattr(self, name)) for name, x in fitted.items()
            }
        for name, value in fitted.items():
            setattr(self, name, value)
        self.trees = []
        self.before, self.weights = self.nearest(self.obs)
        held_out = transitions.map(lambda x: x[:, self.support : self.support + HELD_OUT])
        moved = (held_out.obs != held_out.next_obs).any(2)
        if not bool(moved.any()):
            return {}
        log_probs = self.log_prob(held_out.obs, held_out.actions, held_out.next_obs)
        known = moved & log_probs.isfinite()
        loss = torch.where(known, -log_probs, torch.nan).nanmean(1)
        return {"loss": loss, "unknown": 1 - known.sum(1) / moved.sum(1)}

    def nearest(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """Steps of the support that arrived nearest to states `(S, B, *observation)`, and their log-weights, `(S, B, K)`.

        Steps that moved nothing lead nowhere and are left out; weights are -inf beyond `REACH` widths.
        """
        if states.device.type != "cpu":
            return self.nearest_of_all(states)
        if len(self.trees) != self.num_seeds:
            arrived = (self.next_obs * self.per_step).double()
            # All coordinates from 1 on: where denormal numbers are flushed to 0, scipy fails to split between 0 and the next one.
            self.shift = 1 - arrived.amin(1, keepdim=True)
            columns = (arrived + self.shift).numpy(), (~self.stood).numpy()
            self.trees = [(KDTree(x[kept]), kept.nonzero()[0]) for x, kept in zip(*columns, strict=True)]
        count, reach, workers = min(self.neighbours, self.next_obs.shape[1]), REACH * self.bandwidth, torch.get_num_threads()
        indices = np.zeros((*states.shape[:2], count), np.int64)
        distances = np.full(indices.shape, np.inf)
        asked = (states * self.per_step).double() + self.shift
        for s, (rows, (tree, kept)) in enumerate(zip(asked.numpy(), self.trees, strict=True)):
            if len(kept):
                distances[s], found = tree.query(rows, range(1, count + 1), distance_upper_bound=reach, workers=workers)
                indices[s] = kept[np.minimum(found, len(kept) - 1)]
        weights = -0.5 * (torch.from_numpy(distances).float() / self.bandwidth).square()
        return torch.from_numpy(indices), weights

    def nearest_of_all(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """The same by the distances to the whole support: what a GPU does faster than a tree."""
        found, stood = [], self.stood[:, None]
        for rows in states.split(CHUNK, 1):
            weights = self.log_weights(rows, self.next_obs).masked_fill(stood, -torch.inf)
            found.append(weights.topk(min(self.neighbours, weights.shape[2]), 2))
        return torch.cat([x.indices for x in found], 1), torch.cat([x.values for x in found], 1)

    @property
    def per_step(self) -> Tensor:
        """What turns a dimension into steps; 0 for one that never changes, `(S, 1, *observation)`."""
        return torch.where(self.scale > 0, 1 / self.scale.clamp(min=STANDS_STILL), 0.0)

    @property
    def stood(self) -> Tensor:
        """Steps of the support that moved nothing, bool `(S, M)`."""
        return ((self.obs - self.next_obs).abs() * (self.scale > 0) == 0).all(-1)

    def log_weights(self, states: Tensor, others: Tensor) -> Tensor:
        """How near states `(S, B, *observation)` are to others `(S, K, *observation)`: log-weights, `(S, B, K)`."""
        rows, columns = states * self.per_step, others * self.per_step
        distances = torch.cdist(rows, columns, compute_mode="donot_use_mm_for_euclid_dist")
        weights = -0.5 * (distances / self.bandwidth).square()
        return weights.masked_fill(distances > REACH * self.bandwidth, -torch.inf)

    def log_prob(self, obs: Tensor, actions: Tensor, next_obs: Tensor) -> Tensor:
        """Give log q(a, s | s'), `(S, B)`, in raw units; contexts, which never change, count as certain."""
        steps, weights = self.nearest(next_obs)
        moves = self.scale > 0
        z = (obs[:, :, None] - self.pick(self.obs, steps)) / (self.bandwidth * self.scale.clamp(min=STANDS_STILL))[:, None]
        density = torch.where(moves, -torch.log(self.bandwidth * self.scale.clamp(min=STANDS_STILL)), 0.0).sum(2)
        each = torch.where(moves[:, None], -0.5 * z.square() - 0.5 * math.log(2 * math.pi), 0.0).sum(3) + density[..., None]
        theirs = self.pick(self.actions, steps)
        if isinstance(self.action_space, spaces.Box):
            low, high = (torch.as_tensor(x, device=obs.device) for x in (self.action_space.low, self.action_space.high))
            width = self.bandwidth * (high - low) / 2
            inside = torch.special.ndtr((high - theirs) / width) - torch.special.ndtr((low - theirs) / width)
            z = (actions[:, :, None] - theirs) / width
            each = each + (-0.5 * z.square() - (math.sqrt(2 * math.pi) * width * inside).log()).sum(3)
        else:
            each = each + torch.where(theirs == actions[..., None], 0.0, -torch.inf)
        known = weights.isfinite().any(2, keepdim=True)
        shares = torch.log_softmax(torch.where(known, weights, 0.0), 2)
        return torch.logsumexp(torch.where(known, each + shares, -torch.inf), 2)

    def sample(self, next_obs: Tensor, moving: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Actions and states that may have led to `next_obs` `(S, B, ...)`, and where anything is known to have."""
        step, known = self.draw(*self.nearest(next_obs))
        obs = torch.where(self.scale > 0, self.obs[self.rows, step], next_obs)
        return self.actions[self.rows, step], torch.where(known[..., None], obs, next_obs), known

    def sample_traces(self, states: Tensor, length: int) -> Traces:
        """Draw a trace into each state `(S, B, *observation)`, `(S, B, L, ...)`: from one step of the support to the next."""
        step, alive = self.draw(*self.nearest(states))
        # Steps of all seeds in one row, and what comes before each by running sums: one number per draw, and no logarithms.
        support, count = self.before.shape[1:]
        first = self.rows * support
        before = (self.before + first[..., None]).flatten()
        known = self.weights.isfinite().any(2).flatten()
        running = self.weights.flatten(0, 1).exp().cumsum(1)
        running = running / running[:, -1:]
        step, alive = (step + first).flatten(), alive.flatten()
        found = [(step, alive)]
        for _ in range(length - 1):
            draws = torch.rand(len(step), 1, generator=self.generator, device=step.device)
            which = (running[step] <= draws).sum(1)
            alive, step = alive & known[step], before[step * count + which]
            found.append((step, alive))
        step, mask = (torch.stack(column[::-1], 1).unflatten(0, states.shape[:2]) for column in zip(*found, strict=True))
        step = step - first[..., None]
        obs, actions = self.pick(self.obs, step), self.pick(self.actions, step)
        return Traces(torch.where(self.scale[:, None] > 0, obs, states[:, :, None]), actions, mask, mask.float())

    def draw(self, steps: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """One of K steps by their log-weights `(S, B, K)`, and whether there is one, `(S, B)`."""
        which = (weights + gumbel(weights.shape, self.generator)).argmax(2, keepdim=True)
        return steps.gather(2, which)[..., 0], weights.isfinite().any(2)

    def pick(self, values: Tensor, steps: Tensor) -> Tensor:
        """Of `(S, M, ...)` what lies at `(S, B, K)`."""
        return values[self.rows[..., None], steps]

    def state_dict(self) -> dict[str, Tensor]:
        """The support."""
        return {name: getattr(self, name) for name in ("obs", "actions", "next_obs", "scale", "before", "weights")}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take over what `state_dict` gave."""
        for name, value in state.items():
            setattr(self, name, value.clone())
        self.trees = []
