"""What Stable-Baselines3's algorithms have in common for imitation: an actor, its optimiser, and a value of states.

Public attributes only, so that this holds for every version and for whoever builds on them.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from typing import Any

import torch
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from torch import Tensor, nn

from recall_traces.spaces import UnsupportedSpaceError, check_action_space, check_observation_space
from recall_traces.squashing import INSIDE, MAX_LOG_PROB

SERVED = "PPO, A2C, SAC, TD3, DDPG, TRPO and TQC"


class Actor(ABC):
    """One model's actor. Observations and actions are batches as the policy's networks take them, `(B, ...)`.

    Args:
        model: Of a served algorithm.
    """

    optimizer: torch.optim.Optimizer
    """The one that trains the actor."""
    module: nn.Module
    """Holds the parameters of the imitation loss."""
    max_grad_norm: float | None = None
    """What the algorithm clips gradients to, if it does."""

    def __init__(self, model: BaseAlgorithm) -> None:
        self.model = model
        space = model.action_space
        if isinstance(space, spaces.Box):
            self.low, self.high = (torch.as_tensor(bound, device=model.device) for bound in (space.low, space.high))

    @abstractmethod
    def loss(self, obs: Tensor, actions: Tensor) -> Tensor:
        """What imitation lowers, `(B,)`: -log π(a | s), or the squared error of an actor that has no distribution."""

    @abstractmethod
    def value(self, obs: Tensor) -> Tensor:
        """V(s), `(B,)`."""

    def scaled(self, actions: Tensor) -> Tensor:
        """Actions from the environment's bounds to [-1, 1]."""
        return 2 * (actions - self.low) / (self.high - self.low) - 1


class OnPolicyActor(Actor):
    """PPO, A2C, TRPO: one policy network with one optimiser for actor and critic."""

    def __init__(self, model: OnPolicyAlgorithm) -> None:
        super().__init__(model)
        self.module, self.optimizer = model.policy, model.policy.optimizer
        self.max_grad_norm = model.max_grad_norm or None  # TRPO, which clips nothing, has 0

    def loss(self, obs: Tensor, actions: Tensor) -> Tensor:
        policy: Any = self.model.policy
        if policy.squash_output:
            actions = self.scaled(actions).clamp(-INSIDE, INSIDE)
        _, log_prob, _ = policy.evaluate_actions(obs, actions)
        return -log_prob

    def value(self, obs: Tensor) -> Tensor:
        policy: Any = self.model.policy
        return policy.predict_values(obs).flatten()


class OffPolicyActor(Actor):
    """SAC, TQC (a squashed Gaussian), TD3, DDPG (deterministic): an actor with an optimiser of its own, and critics."""

    def __init__(self, model: OffPolicyAlgorithm) -> None:
        super().__init__(model)
        algorithm: Any = model  # which has what OffPolicyAlgorithm does not declare
        self.actor, self.critic = algorithm.actor, algorithm.critic
        self.module, self.optimizer = self.actor, self.actor.optimizer
        self.stochastic = hasattr(self.actor, "get_action_dist_params")

    def loss(self, obs: Tensor, actions: Tensor) -> Tensor:
        actions = self.scaled(actions)
        if not self.stochastic:
            return (self.actor(obs) - actions).square().mean(1)
        mean, log_std, options = self.actor.get_action_dist_params(obs)
        distribution = self.actor.action_dist.proba_distribution(mean, log_std, **options)
        actions = actions.clamp(-INSIDE, INSIDE)
        # The Gaussian before the squashing, dimension by dimension: of a sum one that is sure would hide another that is not.
        before = distribution.distribution.log_prob(torch.atanh(actions)).clamp(max=MAX_LOG_PROB)
        return (torch.log(1 - actions.square()) - before).sum(1)

    def value(self, obs: Tensor) -> Tensor:
        actions = self.actor(obs, deterministic=True) if self.stochastic else self.actor(obs)
        q = self.critic(obs, actions)
        # One number per critic, or (TQC) many quantiles of each.
        return torch.cat(q, 1).amin(1) if isinstance(q, tuple) else q.flatten(1).mean(1)


def make_actor(model: BaseAlgorithm) -> Actor:
    """The actor of a model that can be served.

    Raises:
        ValueError: it cannot; says why and what to do.
    """
    name = type(model).__name__
    for kind, check in (("observations", check_observation_space), ("actions", check_action_space)):
        try:
            check(getattr(model, f"{kind[:-1]}_space"))
        except UnsupportedSpaceError as error:
            hint = " and MlpPolicy takes that" if "FlattenObservation" in str(error) else ""
            raise ValueError(f"recall traces cannot serve these {kind} of {name}: {error}{hint}") from error
    if isinstance(model, OnPolicyAlgorithm):
        known = inspect.signature(model.policy.evaluate_actions).parameters
        if "lstm_states" in known:
            raise ValueError(f"{name} has a recurrent policy, and single states are recalled: use PPO, or stack frames")
        if "action_masks" in known:
            raise ValueError(f"{name} masks actions, and masks are not remembered: use PPO")
        return OnPolicyActor(model)
    if isinstance(model, OffPolicyAlgorithm) and hasattr(getattr(model, "actor", None), "optimizer"):
        return OffPolicyActor(model)
    raise ValueError(f"{name} has no actor that could imitate: recall traces serve {SERVED}")
