"""The backtracking model as networks: a backward policy and a backward dynamics, fitted by maximum likelihood."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from gymnasium import spaces
from torch import Tensor, nn

from recall_traces.data import Transitions
from recall_traces.draws import gumbel
from recall_traces.fleet import FleetAdam, FleetMLP, backward, clip_scale
from recall_traces.normalization import RunningNormalizer
from recall_traces.seeding import seeded_generator
from recall_traces.spaces import ActionSpace, ObservationSpace, factor_sizes

INSIDE = 1 - 1e-4
"""Recorded actions at a bound are moved this far inside, or the squashed Gaussian would put an infinite density on them."""
LOG_STD_RANGE = (-5.0, 1.0)
FIRST_LOG_STD = -2.0


class NetworkModel(nn.Module):
    """q(a | s') · q(s | a, s'), following the factorisation of Goyal et al. (2019), section on the backtracking model.

    Backward policy: categorical, or for `Box` actions a mixture of Gaussians squashed to the bounds. Backward dynamics: for `Box`
    states a mixture of Gaussians over s - s' in units of its running standard deviation (mixtures are ours: where several ways
    lead into a state, one Gaussian lies between them); for finite states one categorical per factor, factor k given a, s' and
    the factors before it, so that joint moves stay joint.

    On request also r(s, a, s') by least squares, as bidirectional model-based policy optimisation has it (Lai et al. 2020).

    Args:
        observation_space: Any supported one.
        action_space: Any supported one.
        num_seeds: `S`.
        hidden: Units of each hidden layer.
        learning_rate: Adam's step size.
        batch_size: Transitions of one seed in an update.
        components: Gaussians in a mixture.
        predict_rewards: Whether to learn the reward too.
        generator: Draws minibatches and samples.
        seed: Draws the initial weights.
    """

    learns_once = False
    """Transitions may be given again and again."""

    def __init__(
        self,
        observation_space: ObservationSpace,
        action_space: ActionSpace,
        num_seeds: int,
        hidden: tuple[int, ...],
        learning_rate: float,
        batch_size: int,
        components: int,
        predict_rewards: bool,
        generator: torch.Generator,
        seed: int,
    ) -> None:
        super().__init__()
        self.space, self.action_space, self.num_seeds = observation_space, action_space, num_seeds
        self.learning_rate, self.batch_size, self.generator = learning_rate, batch_size, generator
        self.components = components
        init = seeded_generator(seed, "model weights")

        def network(inputs: list[ObservationSpace], outputs: int) -> FleetMLP:
            return FleetMLP(num_seeds, inputs, hidden, outputs, "relu", 0.1, init)

        def mixture(inputs: list[ObservationSpace], size: int) -> FleetMLP:
            mlp = network(inputs, components * (1 + 2 * size))
            # Components that start wide and at the same place all become the same Gaussian, and stay so for long.
            if components > 1:
                *_, last = mlp.parameters()
                bias = last.data.view(num_seeds, components, -1)
                bias[..., 1 : 1 + size].uniform_(-1.0, 1.0, generator=init)
                bias[..., 1 + size :] = FIRST_LOG_STD
            return mlp

        if isinstance(action_space, spaces.Box):
            low, high = (torch.as_tensor(bound, dtype=torch.float32) for bound in (action_space.low, action_space.high))
            self.register_buffer("action_center", (high + low) / 2)
            self.register_buffer("action_scale", (high - low) / 2)
            self.action_center: Tensor
            self.action_scale: Tensor
            self.policy = mixture([observation_space], action_space.shape[0])
        else:
            self.policy = network([observation_space], int(action_space.n))
        if isinstance(observation_space, spaces.Box):
            size = observation_space.shape[0]
            self.obs_statistics = RunningNormalizer(num_seeds, size)
            self.change_statistics = RunningNormalizer(num_seeds, size, center=False)
            self.dynamics = nn.ModuleList([mixture([observation_space, action_space], size)])
        else:
            sizes = factor_sizes(observation_space)
            before = [[spaces.MultiDiscrete(sizes[:k])] if k else [] for k in range(len(sizes))]
            self.dynamics = nn.ModuleList(
                network([observation_space, action_space, *before[k]], sizes[k]) for k in range(len(sizes))
            )
        self.rewards: FleetMLP | None = None
        if predict_rewards:
            self.reward_statistics = RunningNormalizer(num_seeds, 1, center=False)
            self.rewards = network([observation_space, action_space, observation_space], 1)
        self.optimizer: FleetAdam | None = None

    def fit(self, transitions: Transitions, updates: int, active: Sequence[bool] | None) -> dict[str, Tensor]:
        """Take `updates` Adam steps on minibatches of transitions `(S, B, ...)`, step size falling; gives their mean loss."""
        if self.optimizer is None:  # made late, so that the parameters already lie on their device
            self.optimizer = FleetAdam(self.parameters())
        learns = None if active is None else torch.tensor(active, device=transitions.rewards.device)
        if isinstance(self.space, spaces.Box):
            self.obs_statistics.update(transitions.next_obs, learns)
            self.change_statistics.update(transitions.obs - transitions.next_obs, learns)
        if self.rewards is not None:
            self.reward_statistics.update(transitions.rewards[..., None], learns)
        rows = transitions.rewards.shape[1]
        seeds = torch.arange(self.num_seeds, device=transitions.rewards.device)[:, None]
        losses, reward_losses = [], []
        for update in range(updates):
            chosen = torch.randint(
                rows, (self.num_seeds, min(self.batch_size, rows)), generator=self.generator, device=seeds.device
            )
            batch = tuple(x[seeds, chosen] for x in (transitions.obs, transitions.actions, transitions.next_obs))
            loss = -self.log_prob(*batch).mean(1)
            losses.append(loss.detach())
            if self.rewards is not None:
                rewards = transitions.rewards[seeds, chosen][..., None] / self.reward_statistics.root_mean_square
                reward_losses.append(0.5 * (self.scaled_rewards(*batch) - rewards).square().mean((1, 2)))
                loss = loss + reward_losses[-1]
            backward(loss, self.optimizer)
            # Down to 0 within each call, so that a long fit ends at a minimum and not in its noise.
            self.optimizer.step(self.learning_rate * (1 - update / updates), active, clip_scale(10.0, self.optimizer))
        found = {"loss": losses, "reward_loss": reward_losses}
        return {name: torch.stack(column).detach().mean(0) for name, column in found.items() if column}

    def get_extra_state(self) -> dict[str, Tensor]:
        """The optimiser's part of `state_dict`."""
        return {} if self.optimizer is None else self.optimizer.state_dict()

    def set_extra_state(self, state: dict[str, Tensor]) -> None:
        """Take over what `get_extra_state` gave."""
        self.optimizer = FleetAdam(self.parameters()) if state else None
        if self.optimizer is not None:
            self.optimizer.load_state_dict(state)

    def encode(self, obs: Tensor) -> Tensor:
        """What the networks take for a state."""
        return self.obs_statistics(obs) if isinstance(self.space, spaces.Box) else obs

    def encode_action(self, actions: Tensor) -> Tensor:
        """What the networks take for an action: `Box` scaled to [-1, 1]."""
        return (actions - self.action_center) / self.action_scale if isinstance(self.action_space, spaces.Box) else actions

    def log_prob(self, obs: Tensor, actions: Tensor, next_obs: Tensor) -> Tensor:
        """Give log q(a, s | s'), `(S, B)`, in raw units, with a gradient."""
        state, action = self.encode(next_obs), self.encode_action(actions)
        outputs = self.policy(state)
        if isinstance(self.action_space, spaces.Box):
            inside = action.clamp(-INSIDE, INSIDE)
            before = Mixture(outputs, self.components).log_prob(torch.atanh(inside))
            # d tanh(x)/dx = 1 - tanh(x)^2, and the scale to the bounds.
            log_prob = before - (1 - inside.square()).log().sum(-1) - self.action_scale.log().sum()
        else:
            log_prob = categorical_log_prob(outputs, actions)
        if isinstance(self.space, spaces.Box):
            scale = self.change_statistics.scale
            change = Mixture(self.dynamics[0](state, action), self.components)
            return log_prob + change.log_prob((obs - next_obs) / scale) - scale.log().sum(-1)
        factors = obs.view(*actions.shape[:2], -1)
        for k, network in enumerate(self.dynamics):
            log_prob = log_prob + categorical_log_prob(
                network(state, action, *([factors[..., :k]] if k else [])), factors[..., k]
            )
        return log_prob

    def scaled_rewards(self, obs: Tensor, actions: Tensor, next_obs: Tensor) -> Tensor:
        """The reward in units of its root mean square, `(S, B, 1)`."""
        assert self.rewards is not None
        return self.rewards(self.encode(next_obs), self.encode_action(actions), self.encode(obs))

    @torch.no_grad()
    def reward(self, obs: Tensor, actions: Tensor, next_obs: Tensor) -> Tensor:
        """Predict the rewards of steps `(S, B, ...)`, `(S, B)`."""
        return (self.scaled_rewards(obs, actions, next_obs) * self.reward_statistics.root_mean_square)[..., 0]

    @torch.no_grad()
    def sample(self, next_obs: Tensor, moving: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Actions and states that may have led to `next_obs` `(S, B, ...)`, and True: a network always has an answer.

        `moving` is for tables; a network may answer with the successor itself.
        """
        state = self.encode(next_obs)
        outputs = self.policy(state)
        if isinstance(self.action_space, spaces.Box):
            action = torch.tanh(Mixture(outputs, self.components).sample(self.generator))
            actions = self.action_center + self.action_scale * action
        else:
            action = actions = self.draw(outputs)
        if isinstance(self.space, spaces.Box):
            change = Mixture(self.dynamics[0](state, action), self.components)
            obs = next_obs + self.change_statistics.scale * change.sample(self.generator)
        else:
            factors: list[Tensor] = []
            for network in self.dynamics:
                factors.append(self.draw(network(state, action, *([torch.stack(factors, -1)] if factors else []))))
            obs = factors[0] if isinstance(self.space, spaces.Discrete) else torch.stack(factors, -1)
        return actions, obs, torch.ones(next_obs.shape[:2], dtype=torch.bool, device=next_obs.device)

    def draw(self, logits: Tensor) -> Tensor:
        """One category per row."""
        return (logits + gumbel(logits.shape, self.generator)).argmax(-1)


class Mixture:
    """A mixture of K diagonal Gaussians from a network's outputs `(S, B, K * (1 + 2 * D))` (Bishop 1994).

    Deviations are softly bounded (Chua et al. 2018).
    """

    def __init__(self, outputs: Tensor, components: int) -> None:
        outputs = outputs.unflatten(-1, (components, -1))
        self.logits = outputs[..., 0]
        self.mean, log_std = outputs[..., 1:].chunk(2, -1)
        low, high = LOG_STD_RANGE
        log_std = high - nn.functional.softplus(high - log_std)
        self.log_std = low + nn.functional.softplus(log_std - low)

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density of `(S, B, D)`, `(S, B)`."""
        z = (x[..., None, :] - self.mean) * (-self.log_std).exp()
        each = (-0.5 * z.square() - self.log_std - 0.5 * math.log(2 * math.pi)).sum(-1)
        return torch.logsumexp(each + torch.log_softmax(self.logits, -1), -1)

    def sample(self, generator: torch.Generator) -> Tensor:
        """One draw each, `(S, B, D)`."""
        component = (self.logits + gumbel(self.logits.shape, generator)).argmax(-1)[..., None, None]
        mean, log_std = (x.take_along_dim(component, -2)[..., 0, :] for x in (self.mean, self.log_std))
        return mean + log_std.exp() * torch.empty_like(mean).normal_(generator=generator)


def categorical_log_prob(logits: Tensor, values: Tensor) -> Tensor:
    """Log-probability of a category, `(S, B)`."""
    return torch.log_softmax(logits, -1).gather(-1, values[..., None])[..., 0]
