"""Soft actor-critic (Haarnoja et al. 2018) for a fleet of seeds, with Stable-Baselines3's details.

A batch is `(S, B, ...)`: `B` steps of each of `S` seeds. The two critics of all seeds are one stack of `2 * S` networks, the
first critics of all seeds before the second. Departures from Stable-Baselines3 are listed in `docs/architecture.md`.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
from gymnasium import spaces
from torch import Tensor, nn

from recall_traces.agents.learner import Learner
from recall_traces.agents.networks import SquashedGaussian, SquashedPolicy
from recall_traces.agents.replay import Replay, ReplaySampling, UniformSampling
from recall_traces.agents.replayed import Replayed
from recall_traces.agents.seams import Bonus, Imitation, NoBonus, NoImitation
from recall_traces.checks import check_not_negative, check_positive, check_share, check_units, check_whole, number
from recall_traces.data import Traces, Transitions
from recall_traces.envs.interface import VectorEnv
from recall_traces.fleet import ACTIVATIONS, FleetAdam, FleetMLP, backward, one_row_per_seed
from recall_traces.normalization import NoNormalizer, RunningNormalizer
from recall_traces.seeding import seeded_generator
from recall_traces.spaces import UnsupportedSpaceError, check_action_space, check_observation_space
from recall_traces.squashing import MAX_LOG_PROB


@dataclass(frozen=True)
class SACConfig:
    """Hyperparameters, named as in Stable-Baselines3 and with its defaults."""

    learning_rate: float = 3e-4
    """Adam's step size, of actor, critics and temperature."""
    buffer_size: int = 1_000_000
    """Steps of one seed that are replayed from."""
    learning_starts: int = 100
    """Environment steps of one seed, with uniformly random actions, before training starts."""
    batch_size: int = 256
    """Steps of one seed in a minibatch."""
    tau: float = 0.005
    """How far the target critics move towards the critics after each gradient step."""
    gamma: float = 0.99
    """Discount factor."""
    train_freq: int = 1
    """Steps of every environment between trainings."""
    gradient_steps: int = 1
    """Gradient steps of a training; -1 for as many as one seed has taken environment steps since the last."""
    ent_coef: float | None = None
    """Weight of the entropy, the temperature; None to learn it."""
    initial_ent_coef: float = 1.0
    """Where a learned temperature starts."""
    target_entropy: float | None = None
    """Entropy in nats that a learned temperature steers to; None for minus the number of action dimensions."""
    n_steps: int = 256
    """Steps of every environment in a rollout: between renewals of recall traces, and between looks at how it goes."""
    net_arch: tuple[int, ...] = (256, 256)
    """Hidden units of the actor and of each critic."""
    activation: str = "relu"
    """Between layers: 'tanh', 'relu', 'elu' or 'silu'."""
    normalize_observations: bool = False
    """Divide `Box` observations by their running standard deviation, after subtracting the running mean."""

    def __post_init__(self) -> None:
        check_whole(self, "buffer_size", "batch_size", "train_freq", "n_steps")
        check_whole(self, "learning_starts", least=0)
        check_whole(self, "gradient_steps", least=-1)
        check_positive(self, "learning_rate", "tau", "initial_ent_coef")
        check_share(self, "gamma", "tau")
        check_units(self, "net_arch")
        if self.ent_coef is not None:
            check_not_negative(self, "ent_coef")
        if self.target_entropy is not None and not math.isfinite(number(self, "target_entropy")):
            raise ValueError(f"target_entropy must be finite, not {self.target_entropy}")
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, not {self.activation!r}")


class Batch(NamedTuple):
    """What one update sees, every field `(S, B, ...)`; observations are already normalised, actions lie in [-1, 1]."""

    obs: Tensor
    actions: Tensor
    rewards: Tensor
    next_obs: Tensor
    terminated: Tensor
    weights: Tensor


class SAC(Learner):
    """A fleet of SAC runs.

    Args:
        env: All copies of all seeds; row `s * N + n` belongs to seed `s`. Actions are a `Box`.
        config: Hyperparameters.
        recall: What to imitate besides: `RecallTraces`, or an object with the same methods.
        bonus: Intrinsic reward, counted anew whenever a batch is drawn.
        sampling: How the replay is drawn from: uniformly, unless said otherwise.
        num_seeds: `S`, runs in the fleet.
        seed: Seeds the initial weights, the actions and the minibatches.
        allocate: Take the replay's memory now; otherwise with the first step, so not at all for a policy that only predicts.

    Raises:
        ValueError: the number of environments is not a multiple of the number of seeds, a space is not supported, or the
            replay does not fit into memory.
    """

    config_class = SACConfig

    def __init__(
        self,
        env: VectorEnv,
        config: SACConfig | None = None,
        *,
        recall: Imitation | None = None,
        bonus: Bonus | None = None,
        sampling: ReplaySampling | None = None,
        num_seeds: int = 1,
        seed: int = 0,
        allocate: bool = True,
    ) -> None:
        super().__init__(env, config or SACConfig(), num_seeds, seed)
        self.recall: Imitation = recall or NoImitation()
        self.bonus: Bonus = bonus or NoBonus()
        self.sampling: ReplaySampling = sampling or UniformSampling(num_seeds)
        c, init = self.config, seeded_generator(seed, "weights")
        observation_space, action_space = check_observation_space(env.observation_space), check_action_space(env.action_space)
        if not isinstance(action_space, spaces.Box):
            raise UnsupportedSpaceError(f"SAC needs a Box of actions, not {action_space}: use PPO")
        low, high = (
            torch.as_tensor(bound, dtype=torch.float32, device=self.device) for bound in (action_space.low, action_space.high)
        )
        self.action_bounds = (low, high)
        self.action_center, self.action_scale = (high + low) / 2, (high - low) / 2
        size = action_space.shape[0]
        self.policy = SquashedPolicy(num_seeds, observation_space, size, c.net_arch, c.activation, init).to(self.device)
        inputs = (observation_space, action_space)
        critics = FleetMLP(2 * num_seeds, inputs, c.net_arch, 1, c.activation, 1.0, init)
        self.critics = critics.redraw_uniformly(init).to(self.device)
        self.target_critics = copy.deepcopy(self.critics)
        self.target_values = one_row_per_seed(list(self.target_critics.parameters()))
        self.log_ent_coef = nn.Parameter(torch.full((num_seeds, 1), c.initial_ent_coef, device=self.device).log())
        self.target_entropy = -float(size) if c.target_entropy is None else c.target_entropy
        self.policy_optimizer = FleetAdam(self.policy.parameters())
        self.critic_optimizer = FleetAdam(self.critics.parameters())
        self.ent_coef_optimizer = FleetAdam([self.log_ent_coef])
        self.optimizers = (self.policy_optimizer, self.critic_optimizer, self.ent_coef_optimizer)
        self.obs_normalizer: RunningNormalizer | NoNormalizer = NoNormalizer().to(self.device)
        if c.normalize_observations and isinstance(observation_space, spaces.Box):
            self.obs_normalizer = RunningNormalizer(num_seeds, observation_space.shape[0]).to(self.device)
        self.replay = Replay(observation_space, action_space, num_seeds, self.num_envs, c.buffer_size, self.device)
        if allocate:
            self.replay.allocate()
        self.generator = seeded_generator(seed, "actions and minibatches", self.device)
        self.value_generator = seeded_generator(seed, "values", self.device)
        self.value_seed = self.value_generator.initial_seed()
        self.replayed = Replayed(self.learn_from, self.device)
        self.updates = 0
        """Gradient steps since it was made or loaded."""
        self.recalls = False
        """Whether there may be traces: not before the first rollout's end."""

    # -- networks ---------------------------------------------------------------------------------------------------

    def q(self, critics: FleetMLP, obs: Tensor, actions: Tensor) -> Tensor:
        """Both critics' values of normalised observations and actions in [-1, 1], each `(S, B, ...)`, `(2, S, B)`."""
        return critics(torch.cat([obs, obs]), torch.cat([actions, actions])).squeeze(-1).unflatten(0, (2, -1))

    @property
    def ent_coef(self) -> Tensor:
        """The temperature, `(S, 1)`."""
        if self.config.ent_coef is not None:
            return torch.full_like(self.log_ent_coef, self.config.ent_coef)
        return self.log_ent_coef.detach().exp()

    @torch.no_grad()
    def value(self, obs: Tensor) -> Tensor:
        """Soft value of raw observations `(S, B, *observation)`, by one action each: min Q(s, a) - α log π(a | s), `(S, B)`.

        The actions' noise depends on the seed, on how many gradient steps there were and on `B`, not on what was asked before.
        """
        obs = self.obs_normalizer(obs)
        noise = self.policy.noise(tuple(obs.shape[:2]), self.value_generator.manual_seed(self.value_seed + self.updates))
        actions, log_probs = self.policy(obs).sample_with_log_prob(noise)
        return self.q(self.critics, obs, actions).amin(0) - self.ent_coef * log_probs

    def scaled(self, actions: Tensor) -> Tensor:
        """Actions from the environment's bounds to [-1, 1]."""
        return (actions - self.action_center) / self.action_scale

    # -- collect ----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def collect(self) -> Transitions:
        """Take one step in every environment and keep it; returns `(S, N, ...)` with actions within the environment's bounds."""
        if self.last_obs is None:
            self.last_obs = self.env.reset()
        obs, shape = self.last_obs.unflatten(0, (self.num_seeds, -1)), (self.num_seeds, self.num_envs)
        noise = self.policy.noise(shape, self.generator)
        if self.env_steps < self.config.learning_starts:
            actions = torch.rand(noise.shape, generator=self.generator, device=self.device) * 2 - 1
        else:
            actions = self.policy(self.obs_normalizer(obs)).sample(noise)
        played = self.bounded(actions)
        step = self.env.step(played.flatten(0, 1))
        self.last_obs = step.obs
        results = (step.rewards, step.final_obs, step.terminated, step.truncated)
        transitions = Transitions(obs, played, *(x.unflatten(0, shape) for x in results))
        self.sampling.added(*self.replay.add(transitions))
        self.env_steps += self.num_envs
        return transitions

    # -- update -----------------------------------------------------------------------------------------------------

    def draw(self) -> tuple[Batch, Tensor]:
        """A minibatch of the replay, its end imagined if recall traces are made so; and the columns `(S, <= B)` of the rest."""
        columns, weights = self.sampling.draw(len(self.replay), self.config.batch_size, self.generator)
        steps = self.replay.at(columns)
        imagined = self.recall.imagine(self.config.batch_size) if self.recalls else None
        if imagined is not None:
            steps, weights, columns = with_imagined(steps, weights, columns, *imagined)
        rewards = steps.rewards + self.bonus.at(steps.next_obs)
        obs, next_obs = self.obs_normalizer(steps.obs), self.obs_normalizer(steps.next_obs)
        return Batch(obs, self.scaled(steps.actions), rewards, next_obs, steps.terminated, weights), columns

    def update(self) -> dict[str, Tensor]:
        """One gradient step of temperature, critics and actor, on one minibatch; returns what to log, each `(S,)`."""
        self.updates += 1
        batch, columns = self.draw()
        imitates = self.recalls and self.recall.imitation_ratio > 0 and self.recall.imitation_coefficient > 0
        rows = self.recall.imitation_batch_size or self.config.batch_size
        traces = self.recall.sample(rows, self.value) if imitates else None
        noise = self.policy.noise((self.num_seeds, 2 * self.config.batch_size), self.generator)
        learn = self.replayed if all(self.alive) else self.learn_from
        metrics, errors = learn(batch, noise, traces)
        self.sampling.learned(columns, errors[:, : columns.shape[1]])
        return metrics

    def learn_from(self, batch: Batch, noise: Tensor, traces: Traces | None = None) -> tuple[dict[str, Tensor], Tensor]:
        """The gradient step on a given minibatch.

        Args:
            batch: `(S, B, ...)`.
            noise: Draws the actions in `obs`, then those in `next_obs`, `(S, 2 * B, action)`.
            traces: Steps to imitate `(S, K, ...)`, raw.

        Returns:
            What to log, each `(S,)`; and how far the critics were off, `(S, B)`.
        """
        c, size = self.config, batch.rewards.shape[1]
        ent_coef = self.ent_coef
        with torch.no_grad():
            next_actions, next_log_probs = self.policy(batch.next_obs).sample_with_log_prob(noise[:, size:])
            next_q = self.q(self.target_critics, batch.next_obs, next_actions).amin(0) - ent_coef * next_log_probs
            target = batch.rewards + c.gamma * next_q * ~batch.terminated
        errors = self.q(self.critics, batch.obs, batch.actions) - target
        critic_loss = 0.5 * (batch.weights * errors.square()).mean(2)  # (2, S)
        backward(critic_loss.flatten(), self.critic_optimizer)
        self.critic_optimizer.step(c.learning_rate, self.alive * 2)

        # One pass of the actor for the batch and the traces.
        policy = self.policy(batch.obs if traces is None else torch.cat([batch.obs, self.obs_normalizer(traces.obs)], 1))
        now = SquashedGaussian(policy.mean[:, :size], policy.log_std[:, :size])
        actions, log_probs = now.sample_with_log_prob(noise[:, :size])
        q = self.q(self.critics, batch.obs, actions).amin(0)
        actor_loss = (ent_coef * log_probs - q).mean(1)
        metrics = {"ent_coef": ent_coef[:, 0], "entropy": -log_probs.detach().mean(1)}
        metrics |= {"critic_loss": critic_loss.detach().sum(0), "actor_loss": actor_loss.detach()}
        if traces is not None:
            on_traces = SquashedGaussian(policy.mean[:, size:], policy.log_std[:, size:])
            log_probs_of_recalled = on_traces.log_prob(self.scaled(traces.actions), limit=MAX_LOG_PROB)
            count = traces.mask.sum(1).clamp(min=1)
            imitation_loss = -(traces.weights * log_probs_of_recalled).sum(1) / count
            actor_loss = actor_loss + self.recall.imitation_coefficient * imitation_loss
            # Whatever the weights are: a seed may leave this minibatch out.
            metrics["imitation_loss"] = -(traces.mask * log_probs_of_recalled.detach()).sum(1) / count
        backward(actor_loss, self.policy_optimizer)
        self.policy_optimizer.step(c.learning_rate, self.alive)

        if c.ent_coef is None:
            # The gradient of -log α (log π + target) by log α. Where traces are imitated, it is they that make the policy sure: a
            # temperature that rose in reply would only drown the reward, so it may fall but not rise.
            gradient = -(log_probs.detach().mean(1, keepdim=True) + self.target_entropy)
            if traces is not None:
                gradient = torch.where(traces.mask.any(1, keepdim=True), gradient.clamp(min=0), gradient)
            self.ent_coef_optimizer.grads = gradient
            self.ent_coef_optimizer.step(c.learning_rate, self.alive)
        if all(self.alive):
            self.target_values.lerp_(self.critic_optimizer.values, c.tau)
        else:
            alive = torch.tensor(self.alive * 2, device=self.device)[:, None]
            moved = self.target_values.lerp(self.critic_optimizer.values, c.tau)
            self.target_values.copy_(torch.where(alive, moved, self.target_values))
        return metrics, errors.detach().abs().amax(0)

    # -- train ------------------------------------------------------------------------------------------------------

    def go_on(self, callback: Callable[[SAC, dict[str, Any]], None] | None = None) -> SAC:
        c, last = self.config, sum(self.span)
        gradient_steps = c.train_freq * self.num_envs if c.gradient_steps < 0 else c.gradient_steps
        while self.env_steps < last and any(self.alive):
            metrics: dict[str, Any] = {}
            seconds = dict.fromkeys(("collect", "update", "recall"), 0.0)
            steps = []
            for _ in range(c.n_steps):
                clock = time.perf_counter()
                steps.append(self.collect())
                collected = time.perf_counter()
                # After `load` the replay is empty; in a run of its own this holds whenever the next condition does.
                filled = len(self.replay) > min(c.learning_starts, self.replay.capacity - 1)
                if filled and self.env_steps > c.learning_starts and self.env_steps // self.num_envs % c.train_freq == 0:
                    for _ in range(gradient_steps):
                        metrics = self.update()
                seconds["collect"] += collected - clock
                seconds["update"] += time.perf_counter() - collected
            clock = time.perf_counter()
            transitions = Transitions(*(torch.stack(column) for column in zip(*(vars(x).values() for x in steps), strict=True)))
            transitions = self.freeze_broken(transitions)
            if self.failures:
                self.target_values.nan_to_num_(0.0, 0.0, 0.0)
            self.obs_normalizer.update(transitions.obs.transpose(0, 1).flatten(1, 2))
            self.recall.observe(transitions, self.bonus.rewards(transitions))
            metrics |= self.recall.update(self.value)
            self.recalls = True
            seconds["recall"] = time.perf_counter() - clock
            if callback is not None:
                callback(self, metrics | {f"seconds/{part}": value for part, value in seconds.items()})
        return self

    # -- use --------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def act(self, obs: Tensor, greedy: bool, generator: torch.Generator | None = None) -> Tensor:
        policy = self.policy(self.obs_normalizer(obs))
        if greedy:
            return self.bounded(policy.mode())
        return self.bounded(policy.sample(self.policy.noise(tuple(obs.shape[:2]), generator or self.asked_generator)))

    def bounded(self, actions: Tensor) -> Tensor:
        """From [-1, 1] to the environment's bounds, and a number even where a broken environment gave NaN."""
        bounded = self.action_center + self.action_scale * actions.nan_to_num(0.0)
        return bounded.clamp(*self.action_bounds)  # which rounding may pass

    @classmethod
    def load(cls, path: str | Path, env: VectorEnv, **kwargs: Any) -> Self:
        """Read what `save` wrote, as every learner does; the replay takes its memory with the first step."""
        return super().load(path, env, **{"allocate": False} | kwargs)

    def training_state(self) -> dict[str, Any]:
        kept = {"replay": self.replay.state_dict(), "sampling": self.sampling.state_dict()}
        return super().training_state() | kept | {"updates": self.updates, "recalls": self.recalls}

    def load_training_state(self, state: Mapping[str, Any]) -> None:
        super().load_training_state(state)
        for name in ("replay", "sampling"):
            if name in state:
                getattr(self, name).load_state_dict(state[name])
        self.updates, self.recalls = int(state["updates"]), bool(state["recalls"])

    def parts(self) -> dict[str, Any]:
        names = ("policy", "critics", "target_critics", "obs_normalizer", "policy_optimizer", "critic_optimizer")
        temperature = nn.ParameterDict({"log_ent_coef": self.log_ent_coef})
        return {name: getattr(self, name) for name in (*names, "ent_coef_optimizer")} | {"temperature": temperature}


def with_imagined(
    steps: Transitions, weights: Tensor, columns: Tensor, imagined: Transitions, known: Tensor
) -> tuple[Transitions, Tensor, Tensor]:
    """Put imagined steps `(S, K, ...)` in place of the last of a minibatch `(S, B, ...)`, where `known` `(S, K)`.

    Returns:
        The steps, their weights `(S, B)`, and the columns `(S, B - K)` of those that all seeds still have.
    """
    rest = columns.shape[1] - known.shape[1]

    def mixed(real: Tensor, made: Tensor) -> Tensor:
        return torch.cat(
            [real[:, :rest], torch.where(known.view(*known.shape, *[1] * (real.dim() - 2)), made, real[:, rest:])], 1
        )

    fields = zip(vars(steps).values(), vars(imagined).values(), strict=True)
    mixture = Transitions(*(mixed(real, made) for real, made in fields))
    return mixture, mixed(weights, torch.ones_like(weights[:, rest:])), columns[:, :rest]
