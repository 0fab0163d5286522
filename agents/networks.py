"""Policies of a fleet."""

from __future__ import annotations

import math
from functools import cached_property
from typing import Protocol

import torch
from gymnasium import spaces
from torch import Tensor, nn

from recall_traces.draws import gumbel
from recall_traces.fleet import FleetMLP
from recall_traces.spaces import ActionSpace, ObservationSpace


class Distribution(Protocol):
    """A policy's choice of actions in a batch of observations, `(S, B, ...)`."""

    def log_prob(self, actions: Tensor) -> Tensor:
        """Log-probability or log-density, `(S, B)`."""
        ...

    def entropy(self) -> Tensor:
        """In nats, `(S, B)`."""
        ...

    def sample(self, noise: Tensor) -> Tensor:
        """Actions as a function of noise that `Policy.noise` drew."""
        ...

    def mode(self) -> Tensor:
        """The most likely actions."""
        ...


class Categorical:
    """Over the values of a `Discrete` space, from unnormalised `logits` `(S, B, A)`. `torch.distributions` takes no generator."""

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits

    @cached_property
    def log_probs(self) -> Tensor:
        """Of every action, `(S, B, A)`."""
        return torch.log_softmax(self.logits, -1)

    def log_prob(self, actions: Tensor) -> Tensor:
        return self.log_probs.gather(-1, actions[..., None]).squeeze(-1)

    def entropy(self) -> Tensor:
        return -(self.log_probs.exp() * self.log_probs).sum(-1)

    def sample(self, noise: Tensor) -> Tensor:
        return (self.logits + noise).argmax(-1)

    def mode(self) -> Tensor:
        return self.logits.argmax(-1)


class DiagonalGaussian:
    """Over a `Box`, unbounded: `mean` `(S, B, D)`, `log_std` `(S, 1, D)`. The learner clips what it plays to the bounds."""

    def __init__(self, mean: Tensor, log_std: Tensor) -> None:
        self.mean, self.log_std = mean, log_std

    def log_prob(self, actions: Tensor) -> Tensor:
        z = (actions - self.mean) * torch.exp(-self.log_std)
        return (-0.5 * z.square() - self.log_std).sum(-1) - 0.5 * math.log(2 * math.pi) * actions.shape[-1]

    def entropy(self) -> Tensor:
        per_dimension = self.log_std + 0.5 * math.log(2 * math.pi * math.e)
        return per_dimension.sum(-1).expand(self.mean.shape[:-1])

    def sample(self, noise: Tensor) -> Tensor:
        return self.mean + noise * self.log_std.exp()

    def mode(self) -> Tensor:
        return self.mean


class Policy(nn.Module):
    """π(a | s) of each seed: a categorical for `Discrete` actions, a Gaussian of state-independent width for `Box`."""

    def __init__(
        self,
        num_seeds: int,
        observation_space: ObservationSpace,
        action_space: ActionSpace,
        hidden: tuple[int, ...],
        activation: str,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.discrete = isinstance(action_space, spaces.Discrete)
        outputs = int(action_space.n) if isinstance(action_space, spaces.Discrete) else math.prod(action_space.shape)
        self.outputs = outputs
        self.mlp = FleetMLP(num_seeds, (observation_space,), hidden, outputs, activation, 0.01, generator)
        if not self.discrete:
            self.log_std = nn.Parameter(torch.zeros(num_seeds, 1, outputs))

    def forward(self, obs: Tensor) -> Distribution:
        outputs = self.mlp(obs)
        return Categorical(outputs) if self.discrete else DiagonalGaussian(outputs, self.log_std)

    def noise(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """What `Distribution.sample` needs for actions of the given leading axes, `(*shape, outputs)`: Gumbel or normal."""
        if self.discrete:
            return gumbel((*shape, self.outputs), generator)
        return torch.empty(*shape, self.outputs, device=generator.device).normal_(generator=generator)
