"""Recall traces: remember, choose high-value states, recall ways into them, hand out their steps for imitation.

observe --> memory --> targets --> traces (model, own record or truth) --> chosen --> trace buffer --> sample
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import gymnasium
import torch
from numpy.typing import NDArray
from torch import Tensor

from recall_traces.cells import Cells
from recall_traces.checks import check_not_negative, check_share, check_whole, plain
from recall_traces.data import Traces, Transitions
from recall_traces.draws import draw, draw_cumulative
from recall_traces.memory import Memory
from recall_traces.model import BacktrackingConfig, BacktrackingModel
from recall_traces.seeding import restore_generator, seeded_generator
from recall_traces.selection import Selection
from recall_traces.share import ImitationShare
from recall_traces.spaces import check_action_space, check_observation_space, tensor_dtype, tensor_shape
from recall_traces.targets import SOURCES, Generated, HighValueStates, Targets, Value
from recall_traces.ways import Predecessors, Ways


@dataclass(frozen=True)
class RecallConfig:
    """What to recall, and how much to imitate."""

    imitation_coefficient: float = 1.0
    """Weight of the imitation loss."""
    imitation_ratio: float = 0.5
    """Minibatches of recalled steps to imitate per gradient step of the learner. Our SAC takes one with each, unless it is 0."""
    imitation_batch_size: int | None = None
    """Recalled steps of one seed in such a minibatch; None for as many as the learner's own minibatches have."""
    imagined_share: float = 0.0
    """Share of an off-policy learner's critic batches that are recalled steps, with rewards that the model predicts; above 0 the
    model is a network, since neighbours predict none, and ways are not searched."""
    rare_reward: float = 0.1
    """Reward counts as rare while at most this share of the remembered steps pay (have a positive reward); from twice the share
    on nothing is imitated, since there is enough to learn from. 1 imitates always."""
    update_every: int = 256
    """Where Stable-Baselines3 trains after fewer environment steps, the callback renews model and traces only that often."""
    trace_length: int = 60
    """Longest trace, in steps."""
    traces_per_update: int = 32
    """High-value states to recall from, per seed and update."""
    buffer_updates: int = 8
    """How many updates' traces the buffer keeps; older ones are dropped, since the model has moved on."""
    source: str = "auto"
    """High-value states by 'return', 'critic', 'novelty', 'given', 'generated', or 'auto': novelty, then return too."""
    traces_from: str = "model"
    """'model' (the backtracking model), 'record' (the agent's own steps: no model), or 'oracle' (the environment's truth)."""
    candidates: int = 8
    """Ways recalled into each high-value state, of which the one with the fewest steps from a start is kept; 1 keeps any.
    Where the shortest ways are searched for, it stands in where there is none."""
    search: str = "auto"
    """'sample' ways from the model, or search all of it for the 'shortest' from where the agent was since the last update
    (neighbours only); 'auto': the shortest where the model can be searched."""
    search_length: int = 150
    """How far back a start is looked for when there are several candidates; the most steps of a shortest way, of
    which the last `trace_length` are kept."""
    fit_on: str = "all"
    """Fit the model on 'all' remembered steps, or on those of the 'top' trajectories by return (the paper's choice)."""
    top_fraction: float = 0.1
    """Share of remembered steps whose trajectories count as top."""
    top_states: int = 16
    """How many states count as high in value."""
    novelty_power: float = 2.0
    """Novelty targets are drawn in proportion to visits to the minus this."""
    novelty_floor: float = 0.05
    """Least share of novelty among the targets of 'auto'."""
    novelty_ceiling: float = 0.05
    """Largest share of novelty once there was some reward."""
    novelty_actions: int = 0
    """Random actions to imitate in each novelty target, besides the way into it: first return, then explore."""
    recent_episodes: int = 20
    """Over how many episodes 'auto' averages the policy's return, and after how many without progress it has stalled."""
    cell_bins: int = 12
    """Cells along each dimension of a Box, to count visits in."""
    memory_size: int = 200_000
    """Steps of one seed that are remembered."""
    model_updates: int = 64
    """Gradient steps of a network model per update; tables and neighbours need none."""
    model: BacktrackingConfig = field(default_factory=BacktrackingConfig)
    """What the backtracking model is made of."""

    def __post_init__(self) -> None:
        at_least_one = (
            "trace_length",
            "traces_per_update",
            "buffer_updates",
            "candidates",
            "search_length",
        )
        check_whole(self, *at_least_one, "update_every", "top_states", "cell_bins", "memory_size", "recent_episodes")
        check_whole(self, "model_updates", "novelty_actions", least=0)
        if self.imitation_batch_size is not None:
            check_whole(self, "imitation_batch_size")
        check_not_negative(self, "imitation_coefficient", "imitation_ratio", "novelty_power")
        check_share(self, "novelty_floor", "novelty_ceiling", "top_fraction", "imagined_share")
        if self.novelty_floor > self.novelty_ceiling:
            raise ValueError(f"novelty_floor, {self.novelty_floor}, must be at most novelty_ceiling, {self.novelty_ceiling}")
        for name in ("trace_length", "search_length"):
            if getattr(self, name) > self.memory_size:
                raise ValueError(f"{name} must be at most memory_size, {self.memory_size}, not {getattr(self, name)}")
        if not plain(self, "rare_reward") > 0:
            raise ValueError(f"rare_reward must be above 0, not {self.rare_reward}")
        choices = {"source": SOURCES, "traces_from": ("model", "record", "oracle"), "fit_on": ("all", "top")}
        choices["search"] = ("auto", "sample", "shortest")
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, not {getattr(self, name)!r}")


@dataclass(frozen=True)
class Recalled(Traces):
    """Traces with where each step leads."""

    next_obs: Tensor
    """Successors, `(S, B, L, *observation)`; the last is the high-value state."""
    terminated: Tensor
    """Where an episode ended on arrival, bool `(S, B, L)`."""
    known_end: Tensor
    """Where that is known, bool `(S, B, L)`: not where a trace leads into a state that was never recorded."""


class Pool:
    """Steps of traces side by side: they are drawn from in every gradient step, and change once per update.

    Args:
        of: The buffer for which it holds; with another one it is out of date.
        among: Traces `(S, B, L, ...)`.
        which: Which of their steps may be drawn, bool, or in proportion to what, `(S, B, L)` each.
        names: Fields to give.
    """

    def __init__(self, of: list[Recalled], among: Sequence[Traces], which: Sequence[Tensor], *names: str) -> None:
        self.of = of
        self.cumulative = torch.cat([w.flatten(1) for w in which], 1).double().cumsum(1)
        self.fields = [torch.cat([getattr(traces, name).flatten(1, 2) for traces in among], 1) for name in names]
        self.seeds = torch.arange(len(self.cumulative), device=self.cumulative.device)[:, None]

    def draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Draw `count` steps per seed: which are real, bool `(S, count)`, and the fields, `(S, count, ...)`."""
        chosen, some = draw_cumulative(self.cumulative, count, generator)
        return some[:, None].expand(-1, count), *(field[self.seeds, chosen] for field in self.fields)


class RecallTraces:
    """What a learner holds: it observes, updates after each rollout, and samples steps to imitate.

    Args:
        observation_space: Of one environment.
        action_space: Of one environment.
        config: What to recall.
        num_seeds: `S`.
        num_envs: `N`, environments of one seed.
        gamma: Discount of the return by which states are ranked; the learner's.
        seed: Seeds the model and every draw.
        device: Where everything is kept.
        given: States to recall from with the source `given`, `(G, *observation)`, array or tensor.
        generated: Makes states to recall from with the source `generated`: given their number, `(S, count, *observation)`. Rows
            that are not finite are none.
        predecessors: The truth, for `traces_from='oracle'`.

    Raises:
        UnsupportedSpaceError: a space is not served.
        ValueError: the configuration asks for something that was not given.
    """

    def __init__(
        self,
        observation_space: gymnasium.Space[Any],
        action_space: gymnasium.Space[Any],
        config: RecallConfig | None = None,
        *,
        num_seeds: int = 1,
        num_envs: int,
        gamma: float = 0.99,
        seed: int = 0,
        device: torch.device | str = "cpu",
        given: Tensor | NDArray[Any] | None = None,
        generated: Generated | None = None,
        predecessors: Predecessors | None = None,
    ) -> None:
        self.config = c = config or RecallConfig()
        self.num_seeds, self.device = num_seeds, torch.device(device)
        self.observation_space = check_observation_space(observation_space)
        action_space = check_action_space(action_space)
        if c.traces_from == "oracle" and predecessors is None:
            raise ValueError("traces from the oracle need an environment with `predecessors`, such as FourRooms")
        if c.imagined_share and c.traces_from != "model":
            raise ValueError("imagined steps need the model's rewards: set imagined_share to 0, or traces_from to 'model'")
        if c.source == "given" and given is None:
            raise ValueError("the source 'given' needs states, RecallTraces(..., given=states), and is for Python only")
        if c.source == "generated" and generated is None:
            raise ValueError("the source 'generated' needs what generates states: the arm recall+goal-gan has a Goal GAN")
        if given is not None:
            given = torch.as_tensor(given, dtype=tensor_dtype(self.observation_space), device=self.device)
        shape = tensor_shape(self.observation_space)
        if given is not None and (given.dim() != len(shape) + 1 or tuple(given.shape[1:]) != shape or len(given) == 0):
            raise ValueError(f"given states must be rows of shape {shape}, at least one, not {tuple(given.shape)}")
        if given is not None and not (given.isfinite().all() and all(row in observation_space for row in given.cpu().numpy())):
            raise ValueError(f"given states must lie in {self.observation_space}, and not all of them do")
        self.imitation_batch_size, self.imitation_coefficient = c.imitation_batch_size, c.imitation_coefficient
        self.each_update = seeded_generator(seed, "updates of recall")
        """Seeds the others anew at each update, so that what had to be drawn for one seed changes nothing for another later."""
        self.generator = seeded_generator(seed, "recall", self.device)
        self.model = BacktrackingModel(
            self.observation_space, action_space, num_seeds, seed, self.device, c.model, c.imagined_share > 0
        )
        searchable = c.traces_from == "model" and self.model.kind == "neighbours"
        if c.search == "shortest" and not searchable:
            raise ValueError("search='shortest' needs traces from a model of neighbours: set search to 'auto', or model.kind")
        self.cells = Cells(self.observation_space, num_seeds, c.cell_bins, seed, self.device)
        self.memory = Memory(
            self.observation_space, action_space, self.cells, num_seeds, num_envs, c.memory_size, gamma, self.device
        )
        self.states = HighValueStates(
            c.source,
            self.memory,
            self.cells,
            top_states=c.top_states,
            trace_length=c.trace_length,
            novelty_power=c.novelty_power,
            novelty_floor=c.novelty_floor,
            novelty_ceiling=c.novelty_ceiling,
            recent_episodes=c.recent_episodes,
            given=given,
            generated=generated,
            generator=self.generator,
        )
        self.selection = Selection(self.memory, self.cells.num_cells, self.generator)
        self.ways = Ways(
            self.observation_space,
            self.model,
            self.memory,
            self.cells,
            self.states,
            self.selection,
            traces_from=c.traces_from,
            searches=searchable and c.search != "sample",
            candidates=c.candidates,
            trace_length=c.trace_length,
            search_length=c.search_length,
            support=c.model.support,
            predecessors=predecessors,
            generator=self.generator,
        )
        self.unfitted: list[Transitions] = []
        self.buffer: list[Recalled] = []
        self.explorations: list[Traces] = []
        """Random actions in the novelty targets of the same updates as the buffer's traces, `(S, B, novelty_actions, ...)`."""
        self.to_imitate: Pool | None = None
        self.to_imagine: Pool | None = None
        self.updated = 0
        """`memory.time` at the last update."""
        self.share = ImitationShare(num_seeds, c.rare_reward, c.buffer_updates, self.device)

    def observe(self, transitions: Transitions, bonus: Tensor | None = None) -> None:
        """Remember a rollout `(T, S, N, ...)`, in time order; column (s, n) goes on across calls.

        Args:
            transitions: What happened.
            bonus: Not used: what is worth recalling is what the task itself pays.

        Raises:
            ValueError: the rollout has other numbers of seeds or environments, or is of other spaces.
        """
        expected, found = tuple(self.memory.open_age.shape), tuple(transitions.rewards.shape[1:])
        if found != expected:
            raise ValueError(f"observe needs (T, S, N) with (S, N) = {expected}, as RecallTraces was made for, not {found}")
        steps = self.memory.steps
        shapes = {"obs": (steps.obs, transitions.obs), "actions": (steps.actions, transitions.actions)}
        for name, (made_for, given) in shapes.items():
            if given.shape[3:] != made_for.shape[3:] or given.is_floating_point() != made_for.is_floating_point():
                kind = f"{given.dtype}, {tuple(given.shape[3:])} each"
                raise ValueError(f"{name} of another space than RecallTraces was made for: {kind}")
        batch = transitions.map(lambda x: x.transpose(0, 1).flatten(1, 2))
        self.cells.calibrate(batch.next_obs)
        self.states.observe(*self.memory.observe(transitions))
        if self.config.traces_from == "model" and self.model.learns_once and self.config.fit_on == "all":
            self.unfitted.append(batch)

    def update(self, value: Value | None = None) -> dict[str, Any]:
        """Fit the model, choose targets, and put traces into the buffer.

        Args:
            value: V(s) of raw observations `(S, B, ...)`, for the source `critic`.

        Returns:
            What to log, tensors `(S,)`.

        Raises:
            ValueError: nothing was observed yet.
        """
        if not self.memory.time:
            raise ValueError("there is nothing to recall yet: call observe before update")
        for generator in (self.generator, self.model.generator):
            generator.manual_seed(int(torch.randint(2**62, (), generator=self.each_update)))
        rare = self.share.observe_rewards((self.memory.steps.rewards[:, :, : len(self.memory)] > 0).float().mean((1, 2)))
        targets = self.states.choose(self.config.traces_per_update, value)
        if not self.config.imagined_share:  # nothing is going to be imitated where reward is not rare
            targets = replace(targets, active=targets.active & rare[:, None])
        metrics = self.fit(targets) if self.config.traces_from == "model" else {}
        traces, sure = self.recall(targets)
        self.updated = self.memory.time
        kept = self.config.buffer_updates
        self.buffer = [*self.buffer, traces][-kept:]
        self.explorations = [*self.explorations, self.explore(targets, sure)][-kept:]
        length = traces.mask.sum((1, 2)) / targets.active.sum(1).clamp(min=1)
        novel = (targets.novel & targets.active).sum(1) / targets.active.sum(1).clamp(min=1)
        self.share.observe_ways(torch.where(targets.active.any(1), sure, torch.nan))
        metrics |= self.share.describe()
        metrics |= {"recall/traces": targets.active.sum(1), "recall/trace_length": length, "recall/novelty_share": novel}
        return metrics | self.states.describe(targets)

    def sample(self, batch_size: int, value: Value | None = None) -> Traces:
        """Draw recalled steps by their weights, and with them random actions in novelty targets.

        Args:
            batch_size: `B`, steps per seed.
            value: Not needed here; other things to imitate weigh steps by it.

        Returns:
            Steps `(S, B, ...)`; mask and weights are 0 for a seed that has none with a weight or imitates nothing, weights also
            in the share of the calls that it leaves out, because reward is not rare or too few ways are known.
        """
        if not self.buffer:
            raise ValueError("there are no traces to sample from yet: call update first")
        if self.to_imitate is None or self.to_imitate.of is not self.buffer:
            among = [*self.buffer, *self.explorations]
            self.to_imitate = Pool(self.buffer, among, [traces.weights for traces in among], "obs", "actions")
        mask, obs, actions = self.to_imitate.draw(batch_size, self.generator)
        imitates = self.share.take()[:, None].float()
        mask = mask & (self.share.of_minibatches > 0)[:, None]
        return Traces(obs, actions, mask, mask * imitates)

    def imagine(self, batch_size: int) -> tuple[Transitions, Tensor] | None:
        """Draw recalled steps for the critics of an off-policy learner (Lai et al. 2020).

        Args:
            batch_size: `B`, steps per seed of the whole batch.

        Returns:
            Steps `(S, K, ...)`, `K` the configured share of `B`, and which are real, bool `(S, K)`: a seed may have no traces.
            None if the share is 0. A step terminates if it leads into a target where a recorded episode terminated; steps into
            states that were never recorded are left out, since they might.
        """
        count = round(self.config.imagined_share * batch_size)
        if not count:
            return None
        if self.to_imagine is None or self.to_imagine.of is not self.buffer:
            names = ("obs", "actions", "next_obs", "terminated")
            # Only steps of which it is known whether they end an episode.
            certain = [traces.mask & traces.known_end for traces in self.buffer]
            self.to_imagine = Pool(self.buffer, self.buffer, certain, *names)
        mask, obs, actions, next_obs, terminated = self.to_imagine.draw(count, self.generator)
        rewards = self.model.reward(obs, actions, next_obs)
        return Transitions(obs, actions, rewards, next_obs, terminated, torch.zeros_like(terminated)), mask

    def fit(self, targets: Targets) -> dict[str, Any]:
        """Fit the model on what is remembered; neighbours, if there are targets, above all on the ends of recorded ways there.

        Or what is known of the way into a target would often break off: of a long memory a support holds every tenth step, and
        in many dimensions no other step lies near.
        """
        c, count = self.config, self.config.model_updates * self.config.model.batch_size
        neighbours = self.model.kind == "neighbours"
        if neighbours and not bool(targets.active.any()):  # they begin anew with every fit
            return {}
        first = self.selection.ways_into(self.states.recorded(targets)[..., 0], c.trace_length) if neighbours else None
        if c.fit_on == "top":
            top = self.selection.best(c.top_fraction)
            if neighbours:
                transitions, active = self.selection.support(top, c.model.support, first), top.flatten(1).any(1)
            else:
                positions, active = draw(top.flatten(1).float(), max(4096, count), self.generator)
                transitions = self.memory.at(positions)
            self.model.reset()
            fitted = self.model.fit(transitions, c.model_updates, active.tolist())
        elif self.model.learns_once:
            if not self.unfitted:
                return {}
            columns = zip(*(vars(t).values() for t in self.unfitted), strict=True)
            fitted = self.model.fit(Transitions(*(torch.cat(column, 1) for column in columns)))
            self.model.count_again(lambda: self.memory.at(self.memory.held_positions()))
            self.unfitted = []
        elif neighbours:
            fitted = self.model.fit(self.selection.support(self.memory.held(), c.model.support, first), c.model_updates)
        else:
            fitted = self.model.fit(self.memory.at(self.memory.sample(count, self.generator)), c.model_updates)
        return {f"recall/model_{name}": value for name, value in fitted.items()}

    def recall(self, targets: Targets) -> tuple[Recalled, Tensor]:
        """Recall a way into each target, `(S, B, L, ...)`, weighted by how sure it is that ways lead there, `(S,)`."""
        obs, actions, mask, sure = self.ways.into(targets, self.memory.time - self.updated)
        next_obs = torch.cat([obs[:, :, 1:], targets.obs[:, :, None]], 2)
        position, held = self.memory.find(targets.stamps)
        terminated, known_end = torch.zeros_like(mask), torch.ones_like(mask)
        terminated[..., -1] = held & self.memory.gather(self.memory.steps.terminated, position)
        known_end[..., -1] = held
        return Recalled(obs, actions, mask, mask * sure[:, None, None], next_obs, terminated, known_end), sure

    def explore(self, targets: Targets, sure: Tensor) -> Traces:
        """Random actions in the targets that were chosen for novelty, `(S, B, novelty_actions, ...)`.

        The way there is known, what lies beyond is not: a policy that is sure of the way is sure of what it does at its end, too,
        and would do the same for ever. First return, then explore (Ecoffet et al. 2021).
        """
        shape, space = (*targets.active.shape, self.config.novelty_actions), self.model.action_space
        if isinstance(space, gymnasium.spaces.Box):
            low, high = (torch.as_tensor(bound, device=self.device) for bound in (space.low, space.high))
            draws = torch.rand(*shape, len(low), generator=self.generator, device=self.device)
            actions = low + draws * (high - low)
        else:
            actions = torch.randint(int(space.n), shape, generator=self.generator, device=self.device)
        obs = targets.obs.repeat_interleave(shape[2], 1).unflatten(1, shape[1:])
        mask = (targets.novel & targets.active).repeat_interleave(shape[2], 1).view(shape)
        return Traces(obs, actions, mask, mask * sure[:, None, None])

    @property
    def imitation_ratio(self) -> float:
        """Minibatches to imitate per gradient step of the learner; 0 where no seed imitates, so that nobody samples in vain."""
        return 0.0 if self.share.nothing else self.config.imitation_ratio

    def break_off(self) -> None:
        """All environments were put elsewhere: what comes next continues no episode."""
        self.memory.break_off()

    def state_dict(self) -> dict[str, Any]:
        """Everything that a run needs to go on exactly."""
        return {
            "model": self.model.state_dict(),
            "cells": self.cells.state_dict(),
            "memory": self.memory.state_dict(),
            "states": self.states.state_dict(),
            "each_update": self.each_update.get_state(),
            "generator": self.generator.get_state(),
            "share": self.share.state_dict(),
            "updated": torch.tensor(self.updated),
            "buffer": {str(k): vars(traces) for k, traces in enumerate(self.buffer)},
            "explorations": {str(k): vars(traces) for k, traces in enumerate(self.explorations)},
            "unfitted": {str(k): vars(transitions) for k, transitions in enumerate(self.unfitted)},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave: traces are kept as they are, the rest is copied."""
        for name in ("model", "cells", "memory", "states", "share"):
            getattr(self, name).load_state_dict(state[name])
        restore_generator(self.each_update, state["each_update"])
        restore_generator(self.generator, state["generator"])
        self.updated = int(state["updated"])
        self.buffer = [Recalled(**state["buffer"][str(k)]) for k in range(len(state["buffer"]))]
        self.explorations = [Traces(**state["explorations"][str(k)]) for k in range(len(state["explorations"]))]
        self.unfitted = [Transitions(**state["unfitted"][str(k)]) for k in range(len(state["unfitted"]))]
