"""The backtracking model: which (state, action) could have led to a state (Goyal et al. 2019)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import torch
from gymnasium import spaces
from torch import Tensor

from recall_traces.checks import check_positive, check_units, check_whole
from recall_traces.data import Traces, Transitions
from recall_traces.neighbours import NeighbourModel
from recall_traces.network import NetworkModel
from recall_traces.seeding import restore_generator, seeded_generator
from recall_traces.shortest import shortest_traces
from recall_traces.spaces import check_action_space, check_observation_space, num_states
from recall_traces.table import TableModel

MAX_TABLE_STATES = 1 << 18
KINDS = ("auto", "table", "network", "neighbours")


@dataclass(frozen=True)
class BacktrackingConfig:
    """What the model is made of."""

    kind: str = "auto"
    """'table' (exact counts; finite states and actions), 'neighbours' (a kernel density over own steps; `Box` states), 'network',
    or 'auto': a table up to 262,144 states, neighbours in a `Box`, else a network, as where rewards are predicted."""
    hidden: tuple[int, ...] = (64, 64)
    """Units of each hidden layer of a network."""
    learning_rate: float = 2e-3
    """Adam's step size for a network at the beginning of a call of `fit`; it falls linearly to 0."""
    batch_size: int = 256
    """Transitions of one seed in a network's update."""
    components: int = 4
    """Gaussians in the mixtures of a network, over changes of `Box` states and over `Box` actions."""
    support: int = 8192
    """Recorded steps of one seed that 'neighbours' draws from."""
    neighbours: int = 16
    """How many of them that arrived nearest to a state may have led there."""
    bandwidth: float = 0.5
    """Width of the kernels of 'neighbours', in units of a step's length."""
    share_contexts: bool = True
    """Let a table of `MultiDiscrete` states learn under one context, such as a goal, what serves under all others."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}, not {self.kind!r}")
        check_whole(self, "batch_size", "components", "support", "neighbours", of="the model's ")
        check_positive(self, "learning_rate", "bandwidth", of="the model's ")
        check_units(self, "hidden", of="the model's ")


class BacktrackingModel:
    """q(a, s | s') for a fleet of seeds, fitted by maximum likelihood.

    Args:
        observation_space: Flat `Box`, `Discrete` or `MultiDiscrete`.
        action_space: Bounded flat `Box` or `Discrete`.
        num_seeds: `S`, independent models side by side.
        seed: Seeds initial weights, minibatches and samples.
        device: Where the model lives.
        config: What it is made of.
        predict_rewards: Learn the rewards too, for `reward`; networks only.

    Raises:
        UnsupportedSpaceError: a space is none of the above.
        ValueError: a table was asked for, and a space is not finite or rewards are to be predicted.
    """

    def __init__(
        self,
        observation_space: gymnasium.Space[Any],
        action_space: gymnasium.Space[Any],
        num_seeds: int = 1,
        seed: int = 0,
        device: torch.device | str = "cpu",
        config: BacktrackingConfig | None = None,
        predict_rewards: bool = False,
    ) -> None:
        config = config or BacktrackingConfig()
        self.num_seeds, self.device = num_seeds, torch.device(device)
        self.observation_space, self.action_space = check_observation_space(observation_space), check_action_space(action_space)
        self.generator = seeded_generator(seed, "model", self.device)
        finite = isinstance(self.action_space, spaces.Discrete) and not isinstance(self.observation_space, spaces.Box)
        self.kind = kind = config.kind
        """'table', 'neighbours' or 'network'."""
        if kind == "auto":
            small = finite and num_states(self.observation_space) <= MAX_TABLE_STATES
            counted = "table" if small else "neighbours" if isinstance(self.observation_space, spaces.Box) else "network"
            self.kind = kind = "network" if predict_rewards else counted
        if predict_rewards and kind != "network":
            raise ValueError(f"the kind {kind!r} predicts no rewards: set the model's kind to 'network'")
        if kind == "table":
            if not (finite and isinstance(self.action_space, spaces.Discrete)):
                raise ValueError(
                    f"a table needs finite states and actions, not {observation_space} and {action_space}: set kind to 'network'"
                )
            self.density: TableModel | NetworkModel | NeighbourModel = TableModel(
                self.observation_space, self.action_space, num_seeds, config.share_contexts, self.generator, self.device
            )
        elif kind == "neighbours":
            if not isinstance(self.observation_space, spaces.Box):
                raise ValueError(f"neighbours need Box observations, not {observation_space}: set the model's kind to 'auto'")
            self.density = NeighbourModel(
                self.observation_space,
                self.action_space,
                num_seeds,
                config.support,
                config.neighbours,
                config.bandwidth,
                self.generator,
                self.device,
            )
        else:
            self.density = NetworkModel(
                self.observation_space,
                self.action_space,
                num_seeds,
                config.hidden,
                config.learning_rate,
                config.batch_size,
                config.components,
                predict_rewards,
                self.generator,
                seed,
            ).to(self.device)

    @property
    def learns_once(self) -> bool:
        """Whether a transition is to be given to `fit` once (a table counts it), or may come again (a network)."""
        return self.density.learns_once

    def fit(self, transitions: Transitions, updates: int = 2000, active: Sequence[bool] | None = None) -> dict[str, Tensor]:
        """Go on fitting to transitions.

        Args:
            transitions: Fields `(S, B, ...)`. Neighbours forget those of before.
            updates: Gradient steps of a network; a table counts every transition once, whatever this is, neighbours take them as
                they are.
            active: Which seeds learn, one per seed; the others keep everything, neighbours only if as many transitions are given
                as before. All by default.

        Returns:
            `loss`: -log q(a, s | s') in nats per transition, `(S,)`. With neighbours `unknown` beside it: the share of
            transitions that nothing is known of; the loss leaves them out. `reward_loss` where rewards are predicted: half the
            squared error in units of the mean square.

        Raises:
            ValueError: the leading axes are not `(S, B)`.
        """
        if transitions.rewards.dim() != 2 or len(transitions.rewards) != self.num_seeds:
            raise ValueError(f"fit needs fields (S, B, ...) with S = {self.num_seeds}, not {tuple(transitions.rewards.shape)}")
        return self.density.fit(transitions, updates, active)

    def count_again(self, remembered: Callable[[], Transitions]) -> None:
        """Let a table count all that is remembered, `(S, B, ...)`, for seeds whose contexts changed in the last `fit`."""
        if isinstance(self.density, TableModel):
            self.density.count_again(remembered)

    def reset(self) -> None:
        """Make a table forget; a network goes on from where it is, and neighbours begin anew with every `fit`."""
        if isinstance(self.density, TableModel):
            self.density.reset()

    @torch.no_grad()
    def log_prob(self, obs: Tensor, actions: Tensor, next_obs: Tensor) -> Tensor:
        """Give log q(a, s | s') of a batch `(S, B, ...)`, `(S, B)`; a density in raw units for `Box`."""
        return self.density.log_prob(obs, actions, next_obs)

    def sample(self, next_obs: Tensor) -> tuple[Tensor, Tensor]:
        """Draw (actions, obs) that may have led to `next_obs` `(S, B, ...)`, each `(S, B, ...)`."""
        actions, obs, _ = self.density.sample(next_obs)
        return actions, obs

    def reward(self, obs: Tensor, actions: Tensor, next_obs: Tensor) -> Tensor:
        """Predict the rewards of steps `(S, B, ...)`, `(S, B)`, if it was made to."""
        assert isinstance(self.density, NetworkModel)
        return self.density.reward(obs, actions, next_obs)

    def sample_traces(self, states: Tensor, length: int) -> Traces:
        """Draw a trace into each state.

        Args:
            states: High-value states `(S, B, *observation)`.
            length: `L`, steps of a trace.

        Returns:
            Traces `(S, B, L, ...)` in forward time. Steps that do not move are left out (of a table's draws) or masked (of
            a network's): standing still leads nowhere. Before a state that nothing is known to lead to, the mask is False.
        """
        if isinstance(self.density, NeighbourModel):
            return self.density.sample_traces(states, length)
        return roll_back(lambda s: self.density.sample(s, moving=True), states, length, self.observation_space)

    def shortest_traces(self, starts: Tensor, states: Tensor, length: int, tried: Transitions | None = None) -> Traces:
        """Find the shortest trace from a start into each state, with a search of all that the model knows; neighbours only.

        Args:
            starts: Where traces begin, `(S, G, *observation)`; that into state `b` at start `b % G`.
            states: High-value states `(S, B, *observation)`.
            length: `L`, the most steps of a trace.
            tried: Recorded steps `(S, E, ...)`, also such that moved nothing; steps that they refute are left out.

        Returns:
            Traces `(S, B, L, ...)` in forward time; the mask is False all along where there is none.

        Raises:
            ValueError: the model is not of the kind 'neighbours'.
        """
        if not isinstance(self.density, NeighbourModel):
            raise ValueError("only a model of the kind 'neighbours' can be searched for shortest traces")
        return shortest_traces(self.density, starts, states, length, tried)

    def state_dict(self) -> dict[str, Tensor]:
        """Weights or counts, and the generator."""
        return dict(self.density.state_dict()) | {"generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Copy what `state_dict` gave."""
        restore_generator(self.generator, state["generator"])
        self.density.load_state_dict({name: value for name, value in state.items() if name != "generator"})


def roll_back(
    sample: Callable[[Tensor], tuple[Tensor, Tensor, Tensor]], states: Tensor, length: int, space: gymnasium.Space[Any]
) -> Traces:
    """Go back step by step from `states` `(S, B, ...)`, all traces at once.

    `sample` gives actions, states and whether the way is known, as `TableModel.sample` does.
    """
    low = high = None
    if isinstance(space, spaces.Box):
        low, high = (torch.as_tensor(bound, dtype=states.dtype, device=states.device) for bound in (space.low, space.high))
    steps, alive = [], torch.ones(states.shape[:2], dtype=torch.bool, device=states.device)
    for _ in range(length):
        actions, obs, known = sample(states)
        if low is not None:
            obs = obs.clamp(low, high)
        alive = alive & known
        moved = (obs != states).flatten(2).any(-1) if obs.dim() > 2 else obs != states
        steps.append((obs, actions, alive & moved))
        states = obs
    # Stacked in front and seen from behind: writing every L-th number would cost as much as all the draws.
    obs, actions, mask = (torch.stack(column[::-1]).movedim(0, 2) for column in zip(*steps, strict=True))
    return Traces(obs, actions, mask, mask.float())
