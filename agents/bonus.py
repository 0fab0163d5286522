"""Intrinsic rewards that pay for the unseen: visit counts and random network distillation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor

from recall_traces.cells import Cells
from recall_traces.checks import check_not_negative, check_positive, check_units, check_whole
from recall_traces.data import Transitions
from recall_traces.fleet import FleetAdam, FleetMLP, backward
from recall_traces.normalization import RunningNormalizer
from recall_traces.seeding import restore_generator, seeded_generator
from recall_traces.spaces import ObservationSpace

KINDS = ("auto", "visits", "rnd")
PARTS = ("target", "predictor", "optimizer", "obs_statistics", "error_statistics")
"""Of a `DistillationBonus`, those that have a state."""


@dataclass(frozen=True)
class BonusConfig:
    """How the unseen is paid for."""

    kind: str = "auto"
    """'visits' (1/√visits; Bellemare et al. 2016), 'rnd' (Burda et al. 2019), or 'auto': visits of finite states, else rnd."""
    coefficient: float = 0.01
    """Factor on the bonus."""
    hidden: tuple[int, ...] = (64, 64)
    """Units of each hidden layer of rnd's networks."""
    features: int = 32
    """What rnd's networks put out."""
    learning_rate: float = 1e-3
    """Adam's step size for rnd."""
    updates: int = 16
    """Gradient steps of rnd's predictor per rollout."""
    batch_size: int = 256
    """Arrivals of one seed in such a step."""
    cell_bins: int = 12
    """Cells along each dimension of a Box, to count visits in."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}, not {self.kind!r}")
        check_whole(self, "features", "updates", "batch_size", "cell_bins")
        check_positive(self, "learning_rate")
        check_not_negative(self, "coefficient")
        check_units(self, "hidden")


class VisitBonus:
    """Pays coefficient / √visits for each arrival in a cell, the arrival itself counted.

    Args:
        observation_space: Of one environment.
        config: See `BonusConfig`.
        num_seeds: `S`.
        seed: Draws the cells' projections.
        device: Where the counts are.
    """

    def __init__(
        self, observation_space: ObservationSpace, config: BonusConfig, num_seeds: int, seed: int, device: torch.device | str
    ) -> None:
        self.coefficient = config.coefficient
        self.cells = Cells(observation_space, num_seeds, config.cell_bins, seed, device)
        self.visits = torch.zeros(num_seeds, self.cells.num_cells, device=device)

    def rewards(self, transitions: Transitions) -> Tensor:
        """Count a rollout `(T, S, N, ...)`, then pay for it, `(T, S, N)`."""
        arrived = transitions.next_obs.transpose(0, 1).flatten(1, 2)
        self.cells.calibrate(arrived)
        cells = self.cells(arrived)
        self.visits.scatter_add_(1, cells, torch.ones_like(cells, dtype=torch.float32))
        return self.pay(cells).unflatten(1, (len(transitions.rewards), -1)).transpose(0, 1)

    def at(self, next_obs: Tensor) -> Tensor:
        """Pay for states `(S, B, *observation)` by the counts of now, `(S, B)`."""
        return self.pay(self.cells(next_obs))

    def pay(self, cells: Tensor) -> Tensor:
        """The bonus of cells `(S, B)`; one that was never visited counts as if once."""
        return self.coefficient * self.visits.gather(1, cells).clamp(min=1).rsqrt()

    def state_dict(self) -> dict[str, Any]:
        """Counts, and what tells cells apart."""
        return {"visits": self.visits, "cells": self.cells.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Copy what `state_dict` gave."""
        self.visits.copy_(state["visits"])
        self.cells.load_state_dict(state["cells"])


class DistillationBonus:
    """Pays the error with which a network predicts a random one (random network distillation).

    Departures from the paper: one value function for both rewards, and the error is divided by its own running standard
    deviation instead of that of its discounted sum.

    Args:
        observation_space: Of one environment.
        config: See `BonusConfig`.
        num_seeds: `S`.
        seed: Draws the networks.
        device: Where they live.
    """

    def __init__(
        self, observation_space: ObservationSpace, config: BonusConfig, num_seeds: int, seed: int, device: torch.device | str
    ) -> None:
        self.config = config
        generator = seeded_generator(seed, "distillation")
        self.generator = seeded_generator(seed, "distillation batches", device)
        self.target, self.predictor = (
            FleetMLP(num_seeds, (observation_space,), config.hidden, config.features, "relu", 1.0, generator).to(device)
            for _ in range(2)
        )
        self.optimizer = FleetAdam(self.predictor.parameters())
        self.box = isinstance(observation_space, spaces.Box)
        size = observation_space.shape[0] if isinstance(observation_space, spaces.Box) else 1
        self.obs_statistics = RunningNormalizer(num_seeds, size, clip=5.0).to(device)
        self.error_statistics = RunningNormalizer(num_seeds, 1, center=False).to(device)

    def rewards(self, transitions: Transitions) -> Tensor:
        """Pay for a rollout `(T, S, N, ...)`, `(T, S, N)`, then train the predictor on it."""
        arrived = transitions.next_obs.transpose(0, 1).flatten(1, 2)
        if self.box:
            self.obs_statistics.update(arrived)
            arrived = self.obs_statistics(arrived)
        features, error = self.error(arrived)
        self.error_statistics.update(error)
        bonus = self.config.coefficient * self.error_statistics(error)[..., 0]
        num_seeds, rows = bonus.shape
        seeds = torch.arange(num_seeds, device=bonus.device)[:, None]
        for _ in range(self.config.updates):
            batch = (num_seeds, min(self.config.batch_size, rows))
            chosen = torch.randint(rows, batch, generator=self.generator, device=bonus.device)
            loss = (self.predictor(arrived[seeds, chosen]) - features[seeds, chosen]).square().mean((1, 2))
            backward(loss, self.optimizer)
            self.optimizer.step(self.config.learning_rate)
        return bonus.unflatten(1, (len(transitions.rewards), -1)).transpose(0, 1)

    def at(self, next_obs: Tensor) -> Tensor:
        """Pay for states `(S, B, *observation)` by the predictor of now, `(S, B)`."""
        _, error = self.error(self.obs_statistics(next_obs) if self.box else next_obs)
        return self.config.coefficient * self.error_statistics(error)[..., 0]

    @torch.no_grad()
    def error(self, arrived: Tensor) -> tuple[Tensor, Tensor]:
        """The random features of normalised states `(S, B, ...)`, and how badly they are predicted, `(S, B, 1)`."""
        features = self.target(arrived)
        return features, (self.predictor(arrived) - features).square().mean(-1, keepdim=True)

    def state_dict(self) -> dict[str, Any]:
        """Networks, optimiser, statistics and generator."""
        return {name: getattr(self, name).state_dict() for name in PARTS} | {"generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Copy what `state_dict` gave."""
        for name in PARTS:
            getattr(self, name).load_state_dict(state[name])
        restore_generator(self.generator, state["generator"])


def make_bonus(
    observation_space: ObservationSpace, config: BonusConfig, num_seeds: int, seed: int, device: torch.device | str
) -> VisitBonus | DistillationBonus:
    """The bonus that the configuration asks for."""
    kind = config.kind
    if kind == "auto":
        kind = "rnd" if isinstance(observation_space, spaces.Box) else "visits"
    return (VisitBonus if kind == "visits" else DistillationBonus)(observation_space, config, num_seeds, seed, device)
