"""Goal GAN: goals that are neither too easy nor too hard for the agent as it is now, for a fleet of seeds.

Florensa, Held, Geng, Abbeel, "Automatic Goal Generation for Reinforcement Learning Agents", ICML 2018. It is an environment
around an environment, so that no learner knows of it:

goals --> episodes try them --> success rates --> labels --> GAN --> the next goals
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, cast

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from recall_traces.checks import check_not_negative, check_positive, check_share, check_units, check_whole
from recall_traces.draws import draw
from recall_traces.envs.goals import GoalEnv
from recall_traces.envs.interface import Step, VectorEnv, is_restorable
from recall_traces.fleet import FleetAdam, FleetMLP, backward
from recall_traces.seeding import restore_generator, seeded_generator

KEPT = ("old_goals", "num_old", "tries", "successes")
"""Tensors of a `GoalGAN` that are written in place."""
MOST_KEPT = 256
"""Goals of one seed that an iteration adds to the replay at most, since they are looked at one after the other."""


@dataclass(frozen=True)
class GoalGANConfig:
    """How goals are proposed."""

    iteration_steps: int = 1280
    """Steps of every environment between two sets of goals; several episodes."""
    goals: int = 32
    """Goals of every environment in an iteration; as many are tried as there is time for."""
    tries: int = 3
    """Episodes in a row that try a goal before it is labelled and the next one's turn comes."""
    least_success: float = 0.1
    """Goals that a smaller share of their episodes reached are too hard."""
    most_success: float = 0.9
    """Goals that a larger share reached are too easy."""
    replay_share: float = 1 / 3
    """Share of goals drawn from those that were once neither, so that the agent does not forget; the rest is generated."""
    replay_size: int = 1000
    """How many of those are kept; the oldest make way."""
    replay_distance: float = 1.0
    """Kept goals are at least this far from each other, in goal radii."""
    goal_noise: float = 1.0
    """Root mean square length of the Gaussian noise on generated goals, in goal radii."""
    noise_size: int = 4
    """Dimensions of the noise that the generator makes goals of."""
    hidden: tuple[int, ...] = (64, 64)
    """Units of each hidden layer of generator and discriminator."""
    learning_rate: float = 1e-3
    """Adam's step size for the discriminator."""
    generator_learning_rate: float = 1e-4
    """Adam's step size for the generator; with one as large as the discriminator's it gathers in one place."""
    updates: int = 200
    """Gradient steps of both networks per iteration."""
    batch_size: int = 64
    """Goals of one seed in a gradient step."""

    def __post_init__(self) -> None:
        check_whole(self, "iteration_steps", "goals", "tries", "replay_size", "noise_size", "updates", "batch_size")
        check_positive(self, "learning_rate", "generator_learning_rate")
        check_not_negative(self, "replay_distance", "goal_noise")
        check_share(self, "least_success", "most_success", "replay_share")
        check_units(self, "hidden")
        if self.least_success > self.most_success:
            raise ValueError(f"least_success must be at most most_success, {self.most_success}, not {self.least_success}")


class LeastSquaresGAN:
    """Generators of points in `[-1, 1]^D` and their discriminators, by least squares (Mao et al. 2017).

    Departures from Florensa et al., who use RMSProp with one step size: Adam, as everywhere here, smaller networks, and a slower
    generator.

    Args:
        num_seeds: `S`.
        size: `D`.
        config: Networks and training.
        seed: Draws weights, noise and minibatches.
        device: Where everything is kept.
    """

    def __init__(self, num_seeds: int, size: int, config: GoalGANConfig, seed: int, device: torch.device | str) -> None:
        self.num_seeds, self.config = num_seeds, config
        weights = seeded_generator(seed, "goal GAN weights")
        noise, points = (spaces.Box(-np.inf, np.inf, (n,), np.float32) for n in (config.noise_size, size))
        self.generator = FleetMLP(num_seeds, (noise,), config.hidden, size, "relu", 1.0, weights).to(device)
        self.discriminator = FleetMLP(num_seeds, (points,), config.hidden, 1, "relu", 1.0, weights).to(device)
        self.generator_optimizer = FleetAdam(self.generator.parameters())
        self.discriminator_optimizer = FleetAdam(self.discriminator.parameters())
        self.draws = seeded_generator(seed, "goal GAN", device)

    def noise(self, *shape: int) -> Tensor:
        """What points are made of, standard normal, `(*shape, noise_size)`."""
        return torch.randn(*shape, self.config.noise_size, generator=self.draws, device=self.draws.device)

    def generate(self, noise: Tensor) -> Tensor:
        """Points `(S, B, D)` made of noise `(S, B, noise_size)`."""
        return self.generator(noise).tanh()

    def fit(self, points: Tensor, good: Tensor, weights: Tensor) -> None:
        """Train on labelled points; a seed without any keeps its networks.

        Args:
            points: `(S, K, D)`.
            good: Which the generator should make more of, bool, `(S, K)`; the others teach the discriminator alone.
            weights: Minibatches are drawn in proportion to these, `(S, K)`.
        """
        updates, batch_size = self.config.updates, self.config.batch_size
        active = (weights > 0).any(1).tolist()
        seeds = torch.arange(self.num_seeds, device=points.device)[:, None]
        columns, _ = draw(weights, updates * batch_size, self.draws)
        for chosen in columns.split(batch_size, 1):
            noise = self.noise(2, self.num_seeds, batch_size)
            self.update(points[seeds, chosen], good[seeds, chosen], noise[0], noise[1], active)

    @torch.enable_grad()  # environments are stepped without gradients
    def update(self, points: Tensor, good: Tensor, noise: Tensor, generator_noise: Tensor, active: list[bool]) -> None:
        """One gradient step of the discriminator, then of the generator.

        With a = -1, b = 1, c = 0 the discriminator minimises mean(y (D(g) - b)² + (1 - y) (D(g) - a)²) + mean((D(G(z)) - a)²),
        the generator mean((D(G(z)) - c)²).

        Args:
            points: `(S, B, D)`.
            good: Their labels y, bool, `(S, B)`.
            noise: z of the discriminator's step, `(S, B, noise_size)`.
            generator_noise: z of the generator's.
            active: Seeds that take the step.
        """
        config, targets = self.config, good.float() * 2 - 1
        losses = (self.discriminator(points).squeeze(2) - targets).square().mean(1)
        losses = losses + (self.discriminator(self.generate(noise).detach()) + 1).square().mean((1, 2))
        backward(losses, self.discriminator_optimizer)
        self.discriminator_optimizer.step(config.learning_rate, active)
        backward(self.discriminator(self.generate(generator_noise)).square().mean((1, 2)), self.generator_optimizer)
        self.generator_optimizer.step(config.generator_learning_rate, active)

    def state_dict(self) -> dict[str, Any]:
        """Networks, optimisers and the generator of random numbers."""
        return {name: part.state_dict() for name, part in self._parts().items()} | {
            "draws": {"generator": self.draws.get_state()}
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Copy what `state_dict` gave."""
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
        restore_generator(self.draws, state["draws"]["generator"])

    def _parts(self) -> dict[str, Any]:
        names = ("generator", "discriminator", "generator_optimizer", "discriminator_optimizer")
        return {f"gan_{name}": getattr(self, name) for name in names}


class GoalGAN:
    """An environment whose episodes have the goals that a GAN proposes, of which some are reached and some are not.

    In the first iteration the environment draws its goals itself, and then the generator learns to put out the positions that
    were seen in it: where a policy gets to that has learnt next to nothing. From then on each copy tries goals in turn, and the
    share of its episodes that reached a goal labels it. Observations, rewards and ends of episodes pass through as they are.

    Departures from Florensa et al.: labels come from the episodes that the learner trains on, without extra ones; how many goals
    are tried depends on how long their episodes take.

    Args:
        env: All copies of all seeds; row `s * N + n` belongs to seed `s`. Its `propose` is taken.
        config: See `GoalGANConfig`.
        num_seeds: `S`; each has goals and networks of its own.
        seed: Seeds whatever is drawn.

    Raises:
        ValueError: the environment has no goals, or its copies cannot be shared equally.
    """

    def __init__(self, env: VectorEnv, config: GoalGANConfig | None = None, *, num_seeds: int = 1, seed: int = 0) -> None:
        self.env, self.config = check_goals(env), config or GoalGANConfig()
        if env.num_envs % num_seeds:
            raise ValueError(f"{env.num_envs} environments cannot be shared equally by {num_seeds} seeds")
        self.num_envs, self.device, self.num_seeds = env.num_envs, env.device, num_seeds
        self.observation_space: gymnasium.Space[Any] = env.observation_space
        self.action_space: gymnasium.Space[Any] = env.action_space
        self.success_return = env.success_return
        low, high = self.env.goal_low, self.env.goal_high
        self.center, self.half_side, size = (high + low) / 2, (high - low) / 2, len(low)
        self.gan = LeastSquaresGAN(num_seeds, size, self.config, seed, env.device)
        self.draws = seeded_generator(seed, "goals", env.device)
        self.shape = (num_seeds, env.num_envs // num_seeds)

        self.goals: Tensor | None = None
        """Of this iteration, `(S, N, G, D)`; None in the first."""
        self.old_goals = torch.full((num_seeds, self.config.replay_size, size), torch.inf, device=env.device)
        """Goals that were neither too easy nor too hard, `(S, replay_size, D)`; infinite where there is none yet."""
        self.num_old = torch.zeros(num_seeds, dtype=torch.int64, device=env.device)
        """How many there ever were, `(S,)`."""
        self.tries = torch.zeros(*self.shape, self.config.goals, device=env.device)
        """Episodes of this iteration that ended with each goal, `(S, N, G)`."""
        self.successes = torch.zeros_like(self.tries)
        """Of which it was reached, `(S, N, G)`."""
        self._episode = torch.zeros(self.shape, dtype=torch.int64, device=env.device)
        """Number of each copy's episode; -1 for the one in which an iteration begins, which has another goal."""
        self._visited: list[Tensor] = []
        self._steps = 0
        self.env.propose = None

    def __getattr__(self, name: str) -> Any:
        """What else the environment has, such as `render`."""
        if name == "env":  # not there yet, as in a copy that is being made
            raise AttributeError(name)
        return getattr(self.env, name)

    def reset(self) -> Tensor:
        """Start a new episode in every copy."""
        obs = self.env.reset()
        self._episode += 1
        return obs

    def step(self, actions: Tensor) -> Step:
        """Take one step in every copy; after an iteration make the next goals."""
        step = self.env.step(actions)
        self._count(step)
        self._steps += 1
        if self._steps % self.config.iteration_steps == 0:
            self._next_iteration()
        return step

    def state_dict(self) -> dict[str, Any]:
        """All that the following steps depend on: goals, labels, networks, generators, and the environment where it tells."""
        lists = {
            "goals": [] if self.goals is None else [self.goals],
            "visited": [torch.stack(self._visited)] if self._visited else [],
        }
        return {
            "gan": self.gan.state_dict(),
            "generator": self.draws.get_state(),
            "episode": self._episode,
            "steps": self._steps,
            "env": self.env.state_dict() if is_restorable(self.env) else {},
            **{name: {str(k): value for k, value in enumerate(values)} for name, values in lists.items()},
            **{name: getattr(self, name) for name in KEPT},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Copy what `state_dict` gave, of as many copies."""
        self.gan.load_state_dict(state["gan"])
        restore_generator(self.draws, state["generator"])
        for name in KEPT:
            getattr(self, name).copy_(state[name])
        self._episode.copy_(state["episode"])
        self._steps = int(state["steps"])
        self._visited = list(state["visited"]["0"].clone().unbind(0)) if state["visited"] else []
        self.goals = state["goals"]["0"].clone() if state["goals"] else None
        self.env.propose = None if self.goals is None else self.propose
        if is_restorable(self.env):
            self.env.load_state_dict(state["env"])

    def labels(self) -> tuple[Tensor, Tensor]:
        """Which goals of this iteration are neither too easy nor too hard, and which were tried to the end, bool `(S, N, G)`."""
        tried = self.tries >= self.config.tries
        rates = self.successes / self.tries
        return tried & (rates >= self.config.least_success) & (rates <= self.config.most_success), tried

    @torch.no_grad()
    def generate(self, count: int) -> Tensor:
        """Goals as the generators make them, without noise, `(S, count, D)`."""
        return self.center + self.half_side * self.gan.generate(self.gan.noise(self.num_seeds, count))

    def states(self, count: int) -> Tensor:
        """Observations at generated goals: high-value states to recall from (Goyal et al. 2019, on generated states).

        Positions are moved to the nearest that the observation space has; velocities are 0.

        Returns:
            `(S, count, *observation)`; NaN in the first iteration, when there are no goals yet.
        """
        space = cast(spaces.Box, self.observation_space)
        low, high = (torch.as_tensor(bound, device=self.device) for bound in (space.low, space.high))
        obs = torch.zeros(self.num_seeds, count, len(low), device=self.device)
        if self.goals is None:
            return obs.fill_(torch.nan)
        goals = self.generate(count)
        obs[..., self.env.goal_columns] = obs[..., self.env.position_columns] = goals
        return obs.clamp(low, high)

    def propose(self, num_envs: int) -> Tensor:
        """The goal that each copy tries next, `(num_envs, D)`."""
        return self._goals_of(self._numbers(self._episode + 1)).flatten(0, 1)

    def _numbers(self, episodes: Tensor) -> Tensor:
        """Which of its goals each copy tries in an episode, `(S, N, 1)`."""
        return (episodes // self.config.tries % self.config.goals)[..., None]

    def _goals_of(self, numbers: Tensor) -> Tensor:
        """Goals of the given numbers, one for each copy, `(S, N, D)`."""
        assert self.goals is not None
        return self.goals.take_along_dim(numbers[..., None], 2)[:, :, 0]

    def _count(self, step: Step) -> None:
        """Take note of the episodes that ended."""
        if self.goals is None:
            self._visited.append(step.final_obs[:, self.env.position_columns])
            return
        numbers, found = self._numbers(self._episode), step.final_obs[:, self.env.goal_columns].unflatten(0, self.shape)
        # What an episode is really about is what it shows: not so if it began before this iteration, or broke.
        proposed = (found == self._goals_of(numbers)).all(2)
        ended, reached = (x.unflatten(0, self.shape) for x in (step.terminated | step.truncated, step.terminated))
        self.tries.scatter_add_(2, numbers, (ended & proposed)[..., None].float())
        self.successes.scatter_add_(2, numbers, (reached & proposed)[..., None].float())
        self._episode += ended

    def _next_iteration(self) -> None:
        """Train on what was tried, and make the next goals."""
        config = self.config
        if self.goals is None:
            points = torch.stack(self._visited, 1).unflatten(0, self.shape).flatten(1, 2)  # (S, N * steps, D)
            self._visited = []
            good = points.isfinite().all(2)
            self.env.propose, tried = self.propose, good
        else:
            points, good, tried = (x.flatten(1, 2) for x in (self.goals, *self.labels()))
            self._keep(points, good)
        self.gan.fit((points - self.center) / self.half_side, good, tried.float())

        count = self.shape[1] * config.goals
        deviation = config.goal_noise * self.env.goal_radius / math.sqrt(len(self.center))
        fresh = self.generate(count)
        fresh += deviation * torch.randn(fresh.shape, generator=self.draws, device=self.device)
        old = self._draw_old(count)
        again = torch.rand((*old.shape[:2], 1), generator=self.draws, device=self.device) < config.replay_share
        goals = torch.where(again & old.isfinite(), old, fresh)
        self.goals = goals.clamp(self.env.goal_low, self.env.goal_high).unflatten(1, (-1, config.goals))
        self._episode.fill_(-1)
        self.tries.zero_()
        self.successes.zero_()

    def _keep(self, goals: Tensor, good: Tensor) -> None:
        """Put good ones of the goals `(S, G, D)` into the replay, unless they are near one that is there."""
        seeds = torch.arange(self.num_seeds, device=self.device)
        first = good.long().sort(dim=1, descending=True, stable=True).indices[:, :MOST_KEPT]
        goals, good = goals[seeds[:, None], first], good[seeds[:, None], first]
        for goal, wanted in zip(goals.unbind(1), good.unbind(1), strict=True):
            distance = (self.old_goals - goal[:, None]).norm(dim=2).amin(1)
            wanted = wanted & (distance >= self.config.replay_distance * self.env.goal_radius)
            place = seeds, self.num_old % self.config.replay_size
            self.old_goals[place] = torch.where(wanted[:, None], goal, self.old_goals[place])
            self.num_old += wanted

    def _draw_old(self, count: int) -> Tensor:
        """Goals of the replay, `(S, count, D)`; infinite where there is none yet."""
        draws = torch.rand(self.num_seeds, count, generator=self.draws, device=self.device)
        rows = (draws * self.num_old.clamp(max=self.config.replay_size)[:, None]).long()
        return self.old_goals.take_along_dim(rows[..., None], 1)


def check_goals(env: VectorEnv) -> GoalEnv:
    """Return an environment that has goals.

    Raises:
        ValueError: it has none, or one that is always the same.
    """
    columns = getattr(env, "goal_columns", slice(0))
    if not hasattr(env, "propose") or columns.start == columns.stop:
        raise ValueError("a Goal GAN needs an environment with goals: PointMass-<n>, or PointMaze with --env.random-goal")
    return cast(GoalEnv, env)
