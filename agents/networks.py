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
from recall_traces.squashing import INSIDE

LOG_STD_RANGE = (-20.0, 2.0)
HALF_LOG_TAU = 0.5 * math.log(2 * math.pi)


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


class SquashedGaussian:
    """Over [-1, 1]^D: tanh of a diagonal Gaussian, `mean` and `log_std` `(S, B, D)` (Haarnoja et al. 2018, appendix C)."""

    def __init__(self, mean: Tensor, log_std: Tensor) -> None:
        self.mean, self.log_std = mean, log_std

    def sample_with_log_prob(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Actions as a function of standard normal noise `(S, B, D)`, and their log-density `(S, B)`, both with a gradient."""
        actions = torch.tanh(self.mean + noise * self.log_std.exp())
        # The noise is what the density of the Gaussian depends on; going back from the action would lose digits near ±1.
        return actions, self.density(noise, actions)

    def log_prob(self, actions: Tensor, limit: float = math.inf) -> Tensor:
        """Log-density of actions in [-1, 1], moved inside by `INSIDE`, `(S, B)`; before squashing `limit` at most per axis."""
        actions = actions.clamp(-INSIDE, INSIDE)
        return self.density((torch.atanh(actions) - self.mean) * torch.exp(-self.log_std), actions, limit)

    def density(self, z: Tensor, actions: Tensor, limit: float = math.inf) -> Tensor:
        """Log-density of actions that lie `z` deviations from the mean before the squashing."""
        before = (-0.5 * z.square() - self.log_std - HALF_LOG_TAU).clamp(max=limit)
        return (before - torch.log(1 - actions.square() + 1e-6)).sum(-1)

    def sample(self, noise: Tensor) -> Tensor:
        return torch.tanh(self.mean + noise * self.log_std.exp())

    def mode(self) -> Tensor:
        return torch.tanh(self.mean)


class SquashedPolicy(nn.Module):
    """π(a | s) of each seed over [-1, 1]^D, mean and deviation by one network; weights drawn as by `torch.nn.Linear`."""

    def __init__(
        self,
        num_seeds: int,
        observation_space: ObservationSpace,
        action_size: int,
        hidden: tuple[int, ...],
        activation: str,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.action_size = action_size
        mlp = FleetMLP(num_seeds, (observation_space,), hidden, 2 * action_size, activation, 1.0, generator)
        self.mlp = mlp.redraw_uniformly(generator)

    def forward(self, obs: Tensor) -> SquashedGaussian:
        mean, log_std = self.mlp(obs).chunk(2, -1)
        return SquashedGaussian(mean, log_std.clamp(*LOG_STD_RANGE))

    def noise(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """What the distribution needs to draw actions of the given leading axes, `(*shape, D)`: standard normal."""
        return torch.empty(*shape, self.action_size, device=generator.device).normal_(generator=generator)


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
