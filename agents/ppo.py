"""Proximal policy optimisation (Schulman et al. 2017) for a fleet of seeds, with Stable-Baselines3's details.

A rollout is `(T, S, N, ...)`: `T` steps of `S` seeds with `N` environments each. Departures from Stable-Baselines3 are
listed in `docs/architecture.md`.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor

from recall_traces.agents.learner import Learner
from recall_traces.agents.networks import Policy
from recall_traces.agents.replayed import Replayed
from recall_traces.agents.seams import Bonus, Imitation, NoBonus, NoImitation
from recall_traces.checks import check_not_negative, check_positive, check_share, check_units, check_whole
from recall_traces.data import Transitions
from recall_traces.envs.interface import VectorEnv
from recall_traces.fleet import ACTIVATIONS, FleetAdam, FleetMLP, backward, clip_scale
from recall_traces.normalization import NoNormalizer, RunningNormalizer
from recall_traces.seeding import seeded_generator
from recall_traces.spaces import check_action_space, check_observation_space


@dataclass(frozen=True)
class PPOConfig:
    """Hyperparameters, named as in Stable-Baselines3 and with its defaults."""

    learning_rate: float = 3e-4
    """Adam's step size."""
    learning_rate_schedule: str = "constant"
    """'constant', or 'linear' down to 0 at the end of `learn`."""
    n_steps: int = 2048
    """Steps of each environment in a rollout."""
    batch_size: int = 64
    """Steps of one seed in a minibatch; the rest of the last minibatch of an epoch is left out."""
    n_epochs: int = 10
    """Passes over a rollout."""
    gamma: float = 0.99
    """Discount factor."""
    gae_lambda: float = 0.95
    """Trade-off between bias and variance of the advantages (Schulman et al. 2016)."""
    clip_range: float = 0.2
    """How far the probability ratio may move from 1 before the gain is clipped."""
    ent_coef: float = 0.0
    """Weight of the policy's entropy."""
    vf_coef: float = 0.5
    """Weight of the value loss."""
    max_grad_norm: float = 0.5
    """Largest gradient norm of one seed."""
    target_kl: float | None = None
    """A seed skips the rest of a rollout's updates once its approximate KL divergence exceeds 1.5 times this."""
    net_arch: tuple[int, ...] = (64, 64)
    """Hidden units of the policy and, apart, of the value."""
    activation: str = "tanh"
    """Between layers: 'tanh', 'relu', 'elu' or 'silu'."""
    normalize_observations: bool = False
    """Divide `Box` observations by their running standard deviation, after subtracting the running mean."""
    normalize_rewards: bool = False
    """Divide rewards by the running standard deviation of the discounted return."""

    def __post_init__(self) -> None:
        check_whole(self, "n_steps", "batch_size", "n_epochs")
        check_positive(self, "learning_rate", "clip_range")
        if not self.max_grad_norm > 0:  # infinity is no limit
            raise ValueError(f"max_grad_norm must be positive, not {self.max_grad_norm}")
        check_not_negative(self, "ent_coef", "vf_coef")
        if self.target_kl is not None:
            check_positive(self, "target_kl")
        check_units(self, "net_arch")
        check_share(self, "gamma", "gae_lambda")
        for name, known in (("activation", list(ACTIVATIONS)), ("learning_rate_schedule", ["constant", "linear"])):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, not {getattr(self, name)!r}")


@dataclass(frozen=True)
class Minibatch:
    """What one update sees, every field `(S, B, ...)`; observations are already normalised."""

    obs: Tensor
    actions: Tensor
    log_probs: Tensor
    advantages: Tensor
    returns: Tensor


class PPO(Learner):
    """A fleet of PPO runs.

    Args:
        env: All copies of all seeds; row `s * N + n` belongs to seed `s`.
        config: Hyperparameters.
        recall: What to imitate besides: `RecallTraces`, or an object with the same methods.
        bonus: Intrinsic reward.
        num_seeds: `S`, runs in the fleet.
        seed: Seeds the initial weights, the actions and the minibatches.

    Raises:
        ValueError: the number of environments is not a multiple of the number of seeds, or a space is not supported.
    """

    config_class = PPOConfig

    def __init__(
        self,
        env: VectorEnv,
        config: PPOConfig | None = None,
        *,
        recall: Imitation | None = None,
        bonus: Bonus | None = None,
        num_seeds: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__(env, config or PPOConfig(), num_seeds, seed)
        self.recall: Imitation = recall or NoImitation()
        self.bonus: Bonus = bonus or NoBonus()
        observation_space = check_observation_space(env.observation_space)
        action_space = check_action_space(env.action_space)
        c, init = self.config, seeded_generator(seed, "weights")
        self.policy = Policy(num_seeds, observation_space, action_space, c.net_arch, c.activation, init).to(self.device)
        self.critic = FleetMLP(num_seeds, (observation_space,), c.net_arch, 1, c.activation, 1.0, init).to(self.device)
        self.policy_optimizer = FleetAdam(self.policy.parameters(), eps=1e-5)
        self.critic_optimizer = FleetAdam(self.critic.parameters(), eps=1e-5)
        self.optimizers = (self.policy_optimizer, self.critic_optimizer)
        self.obs_normalizer: RunningNormalizer | NoNormalizer = NoNormalizer().to(self.device)
        if c.normalize_observations and isinstance(observation_space, spaces.Box):
            self.obs_normalizer = RunningNormalizer(num_seeds, observation_space.shape[0]).to(self.device)
        self.reward_normalizer: RunningNormalizer | NoNormalizer = NoNormalizer().to(self.device)
        if c.normalize_rewards:
            self.reward_normalizer = RunningNormalizer(num_seeds, 1, center=False).to(self.device)
        self.discounted_return = torch.zeros(num_seeds, self.num_envs, device=self.device)
        self.action_bounds: tuple[Tensor, Tensor] | None = None
        if isinstance(action_space, spaces.Box):
            self.action_bounds = (
                torch.as_tensor(action_space.low).to(self.device),
                torch.as_tensor(action_space.high).to(self.device),
            )
        self.generator = seeded_generator(seed, "actions and minibatches", self.device)
        self.replayed = Replayed(self.learn_from, self.device)
        self.active = list(self.alive)
        """Seeds that take the present rollout's minibatch steps."""

    # -- networks ---------------------------------------------------------------------------------------------------

    def value(self, obs: Tensor) -> Tensor:
        """V(s) of raw observations `(S, B, *observation)`, `(S, B)`, in the unit of raw rewards, without a gradient."""
        with torch.no_grad():
            return (self.critic(self.obs_normalizer(obs)) * self.reward_normalizer.scale)[..., 0]

    def log_prob(self, obs: Tensor, actions: Tensor) -> Tensor:
        """Give log π(a | s) of raw observations `(S, B, *observation)`, `(S, B)`, with a gradient."""
        return self.policy(self.obs_normalizer(obs)).log_prob(actions)

    # -- collect ----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def collect(self) -> Transitions:
        """Act for `n_steps`; return `(T, S, N, ...)` with raw observations and rewards."""
        if self.last_obs is None:
            self.last_obs = self.env.reset()
        obs, shape = self.last_obs, (self.num_seeds, self.num_envs)
        noise = self.policy.noise((self.config.n_steps, *shape), self.generator)
        steps = []
        for t in range(self.config.n_steps):
            actions = self.policy(self.obs_normalizer(obs.view(*shape, *obs.shape[1:]))).sample(noise[t])
            flat = actions.flatten(0, 1)
            step = self.env.step(self.bounded(flat))
            steps.append((obs, flat, step.rewards, step.final_obs, step.terminated, step.truncated))
            obs = step.obs
        self.last_obs = obs
        return Transitions(*(torch.stack(column).unflatten(1, shape) for column in zip(*steps, strict=True)))

    # -- estimate ---------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def estimate(self, transitions: Transitions, bonus: Tensor | float = 0.0) -> Minibatch:
        """Turn a rollout and its intrinsic rewards `(T, S, N)` into one batch `(S, T * N, ...)` with advantages and returns."""
        batch = transitions.map(lambda x: x.transpose(0, 1).flatten(1, 2))  # (S, T * N, ...)
        rollout = (self.num_seeds, self.config.n_steps, self.num_envs)
        obs = self.obs_normalizer(batch.obs)
        values = self.critic(obs).view(rollout).transpose(0, 1)
        next_values = self.critic(self.obs_normalizer(batch.next_obs)).view(rollout).transpose(0, 1)
        rewards = self.normalize_rewards(transitions) + bonus
        advantages = generalized_advantages(
            rewards, values, next_values, transitions.terminated, transitions.truncated, self.config.gamma, self.config.gae_lambda
        )
        log_probs = self.policy(obs).log_prob(batch.actions)
        advantages, returns = (x.transpose(0, 1).flatten(1) for x in (advantages, advantages + values))
        return Minibatch(obs, batch.actions, log_probs, advantages, returns)

    def normalize_rewards(self, transitions: Transitions) -> Tensor:
        """Rewards `(T, S, N)`, divided by the running deviation of the discounted return if so configured."""
        if isinstance(self.reward_normalizer, NoNormalizer):
            return transitions.rewards
        returns, running = [], self.discounted_return
        for reward, done in zip(transitions.rewards, transitions.terminated | transitions.truncated, strict=True):
            running = running * self.config.gamma + reward
            returns.append(running)
            running = running * ~done
        self.discounted_return = running
        self.reward_normalizer.update(torch.stack(returns, 1).flatten(1)[..., None])
        rewards = transitions.rewards.transpose(0, 1)
        return self.reward_normalizer(rewards.flatten(1)[..., None]).view(rewards.shape).transpose(0, 1)

    # -- update -----------------------------------------------------------------------------------------------------

    def loss(self, batch: Minibatch) -> tuple[Tensor, dict[str, Tensor]]:
        """The clipped surrogate with value and entropy terms, per seed `(S,)`, and what to log, each `(S,)`."""
        c, advantages = self.config, batch.advantages
        if advantages.shape[1] > 1:  # one alone has no deviation
            std, mean = torch.std_mean(advantages, 1, keepdim=True)
            advantages = (advantages - mean) / (std + 1e-8)
        distribution = self.policy(batch.obs)
        logratio = distribution.log_prob(batch.actions) - batch.log_probs
        gain = advantages > 0
        # min(r A, clip(r) A) in one operation: the clip bites only where it lowers the gain, above for A > 0, below for A < 0.
        low, high = torch.where(gain, -torch.inf, 1 - c.clip_range), torch.where(gain, 1 + c.clip_range, torch.inf)
        policy_loss = -(logratio.exp().clamp(low, high) * advantages).mean(1)
        value_loss = (self.critic(batch.obs).squeeze(-1) - batch.returns).square().mean(1)
        entropy = distribution.entropy().mean(1)
        loss = policy_loss + c.vf_coef * value_loss
        if c.ent_coef:
            loss = loss - c.ent_coef * entropy
        with torch.no_grad():
            approx_kl = (logratio.expm1() - logratio).mean(1)  # Schulman 2020, "Approximating KL Divergence"
        metrics = {"policy_loss": policy_loss, "value_loss": value_loss, "entropy": entropy, "approx_kl": approx_kl}
        return loss, {name: value.detach() for name, value in metrics.items()}

    def update(self, rollout: Minibatch, learning_rate: float) -> dict[str, Tensor]:
        """`n_epochs` passes of minibatch steps; returns the last minibatch's metrics, each `(S,)`."""
        c, rows = self.config, rollout.returns.shape[1]
        batch_size = min(c.batch_size, rows)
        whole = rows // batch_size * batch_size
        self.active = list(self.alive)
        # A graph that is replayed finds the same seeds, and the rate in the device's memory.
        replays = all(self.alive) and c.target_kl is None and self.device.type == "cuda"
        learn = self.replayed if replays else self.learn_from
        rate = torch.full((), learning_rate, device=self.device) if replays else learning_rate
        metrics: dict[str, Tensor] = {}
        first_row = torch.arange(self.num_seeds, device=self.device)[:, None] * rows
        for _ in range(c.n_epochs):
            order = torch.rand(self.num_seeds, rows, generator=self.generator, device=self.device).argsort(1) + first_row
            order = order[:, :whole].unflatten(1, (-1, batch_size)).transpose(0, 1).contiguous()  # (minibatches, S, B)
            epoch = [getattr(rollout, field.name).flatten(0, 1)[order] for field in dataclasses.fields(Minibatch)]
            for fields in zip(*epoch, strict=True):
                metrics = learn(Minibatch(*fields), rate)
        return metrics

    def learn_from(self, batch: Minibatch, learning_rate: float | Tensor) -> dict[str, Tensor]:
        """One minibatch step; returns what to log, each `(S,)`."""
        loss, metrics = self.loss(batch)
        if self.config.target_kl is not None:
            small = (metrics["approx_kl"] <= 1.5 * self.config.target_kl).tolist()
            self.active = [a and b for a, b in zip(self.active, small, strict=True)]
        backward(loss, self.policy_optimizer, self.critic_optimizer)
        scale = clip_scale(self.config.max_grad_norm, self.policy_optimizer, self.critic_optimizer)
        self.policy_optimizer.step(learning_rate, self.active, scale)
        self.critic_optimizer.step(learning_rate, self.active, scale)
        return metrics

    def imitate(self, learning_rate: float) -> dict[str, Tensor]:
        """Raise the log-probability of recalled actions, after the policy epochs and before the next rollout.

        So the stored log-probabilities of a rollout always belong to the policy that acted. Seeds without traces keep
        parameters, moments and step count.
        """
        metrics: dict[str, Tensor] = {}
        if self.recall.imitation_coefficient == 0:  # old momentum would move the weights nevertheless
            return metrics
        rows = self.config.n_steps * self.num_envs
        batch_size = min(self.config.batch_size, rows)
        count = math.ceil(self.recall.imitation_ratio * self.config.n_epochs * (rows // batch_size))
        batch_size = self.recall.imitation_batch_size or batch_size
        # All of them first: which seeds have something to imitate is asked once then, and a GPU is waited for once.
        batches = [self.recall.sample(batch_size, self.value) for _ in range(count)]
        some = [traces.weights.sum(1) > 0 for traces in batches]
        on_host = torch.stack(some).tolist() if some else []
        for traces, has_some, known in zip(batches, some, on_host, strict=True):
            if not any(known):
                continue
            valid = traces.mask.sum(1)
            log_probs = self.log_prob(traces.obs, traces.actions)
            loss = -(traces.weights * log_probs).sum(1) / valid.clamp(min=1)
            backward(self.recall.imitation_coefficient * loss, self.policy_optimizer)
            scale = clip_scale(self.config.max_grad_norm, self.policy_optimizer)
            active = [a and b for a, b in zip(self.alive, known, strict=True)]
            self.policy_optimizer.step(learning_rate, active, scale)
            # Of each seed the last minibatch that it did not leave out.
            latest = metrics.get("imitation_loss", torch.zeros_like(loss))
            metrics = {"imitation_loss": torch.where(has_some, loss.detach(), latest)}
        return metrics

    # -- train ------------------------------------------------------------------------------------------------------

    def go_on(self, callback: Callable[[PPO, dict[str, Any]], None] | None = None) -> PPO:
        c, rollout_steps = self.config, self.config.n_steps * self.num_envs
        first, total_steps = self.span
        while self.env_steps < first + total_steps and any(self.alive):
            clock = [time.perf_counter()]
            remaining = 1 - (self.env_steps - first) / total_steps
            learning_rate = c.learning_rate * (remaining if c.learning_rate_schedule == "linear" else 1.0)
            transitions = self.collect()
            self.env_steps += rollout_steps
            transitions = self.freeze_broken(transitions)
            clock.append(time.perf_counter())
            bonus = self.bonus.rewards(transitions)
            metrics: dict[str, Any] = self.update(self.estimate(transitions, bonus), learning_rate)
            self.obs_normalizer.update(transitions.obs.transpose(0, 1).flatten(1, 2))
            clock.append(time.perf_counter())
            # What was played, not what was drawn; and the bonus in the unit of raw rewards, as `value` is.
            played = dataclasses.replace(transitions, actions=self.bounded(transitions.actions))
            self.recall.observe(played, bonus * self.reward_normalizer.scale[..., 0])
            metrics |= self.recall.update(self.value)
            metrics |= self.imitate(learning_rate)
            clock.append(time.perf_counter())
            names = ("seconds/collect", "seconds/update", "seconds/recall")
            metrics |= {name: end - start for name, start, end in zip(names, clock, clock[1:], strict=False)}
            if callback is not None:
                callback(self, metrics)
        return self

    # -- use --------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def act(self, obs: Tensor, greedy: bool, generator: torch.Generator | None = None) -> Tensor:
        distribution = self.policy(self.obs_normalizer(obs))
        noise = None if greedy else self.policy.noise(tuple(obs.shape[:2]), generator or self.asked_generator)
        actions = distribution.mode() if noise is None else distribution.sample(noise)
        return self.bounded(actions)

    def bounded(self, actions: Tensor) -> Tensor:
        """What leaves for the environment: within its bounds, and a number even where a broken environment gave NaN."""
        return actions if self.action_bounds is None else actions.nan_to_num(0.0).clamp(*self.action_bounds)

    def training_state(self) -> dict[str, Any]:
        return super().training_state() | {"discounted_return": self.discounted_return}

    def load_training_state(self, state: Mapping[str, Any]) -> None:
        super().load_training_state(state)
        self.discounted_return = state["discounted_return"].clone()
        if self.last_obs is None:  # new episodes begin
            self.discounted_return.zero_()

    def parts(self) -> dict[str, Any]:
        """What has a state to keep, by name."""
        names = ("policy", "critic", "obs_normalizer", "reward_normalizer", "policy_optimizer", "critic_optimizer")
        return {name: getattr(self, name) for name in names}


def generalized_advantages(
    rewards: Tensor, values: Tensor, next_values: Tensor, terminated: Tensor, truncated: Tensor, gamma: float, gae_lambda: float
) -> Tensor:
    """Generalized advantage estimation (Schulman et al. 2016) along the first axis, everything `(T, ...)`.

    `next_values[t]` is the value of the true successor of step `t`: a truncated step bootstraps from it, a terminated one does
    not, and neither passes anything on to the step before.
    """
    deltas = rewards + gamma * next_values * ~terminated - values
    decay = gamma * gae_lambda * ~(terminated | truncated)
    advantages = torch.empty_like(deltas)
    running = torch.zeros_like(deltas[0])
    for t in range(len(deltas) - 1, -1, -1):
        running = torch.addcmul(deltas[t], decay[t], running)
        advantages[t] = running
    return advantages
