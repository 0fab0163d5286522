"""What an off-policy learner replays: its own steps, kept on the device, and how they are drawn."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from recall_traces.checks import check_positive, check_share
from recall_traces.data import Transitions
from recall_traces.spaces import ActionSpace, ObservationSpace, tensor_dtype, tensor_shape

BRANCHES = 32
"""Children of a node of the tree of priorities: four levels hold a million."""


def replay_bytes(observation_space: ObservationSpace, action_space: ActionSpace, num_seeds: int, capacity: int) -> int:
    """Memory of a `Replay`, in bytes."""
    per_step = 4 + 2  # reward and two flags
    for space, copies in ((observation_space, 2), (action_space, 1)):
        per_step += copies * math.prod(tensor_shape(space)) * torch.empty(0, dtype=tensor_dtype(space)).element_size()
    return num_seeds * capacity * per_step


def available_bytes(device: torch.device) -> float:
    """Memory that is free on a device, or that torch keeps there for later; infinite where the system does not tell."""
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return float(torch.cuda.mem_get_info(device)[0] + kept)
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            return next(1024.0 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return math.inf


def tree_bytes(num_seeds: int, capacity: int) -> int:
    """Memory of a `PrioritizedSampling`'s tree, in bytes."""
    return 4 * num_seeds * sum(tree_widths(capacity))


def tree_widths(capacity: int) -> list[int]:
    """Columns of each level of the tree of priorities, the leaves first: whole nodes, but for the last."""
    widths = [-(-capacity // BRANCHES) * BRANCHES]
    while widths[-1] > BRANCHES:
        nodes = -(-widths[-1] // BRANCHES)
        widths.append(nodes if nodes <= BRANCHES else -(-nodes // BRANCHES) * BRANCHES)
    return widths


def check_memory(needed: int, num_seeds: int, capacity: int, device: torch.device, remedy: str = "buffer_size") -> None:
    """Refuse what does not fit.

    Args:
        needed: Bytes that a replay is about to take, with what an arm keeps besides.
        num_seeds: For the message.
        capacity: For the message: steps per seed.
        device: Where.
        remedy: For the message: what to lower.

    Raises:
        ValueError: more than is free.
    """
    free = available_bytes(device)
    if needed > free:
        size = f"{num_seeds} seeds of {capacity:,} steps need {in_words(needed)}"
        raise ValueError(f"the replay does not fit: {size}, {in_words(free)} are free on {device}; lower {remedy}")


def in_words(size: float) -> str:
    """Bytes in GiB, or where that would be less than one in MiB."""
    return f"{size / 2**30:,.1f} GiB" if size >= 2**30 else f"{size / 2**20:,.1f} MiB"


class Replay:
    """The last `capacity` steps of each seed, `(S, capacity, ...)`; `allocate`, or the first step, takes all the memory.

    Args:
        observation_space: Of one environment.
        action_space: Of one environment.
        num_seeds: `S`.
        num_envs: `N`; the capacity is cut to a multiple of it.
        capacity: Steps per seed.
        device: Where everything is kept.
    """

    def __init__(
        self,
        observation_space: ObservationSpace,
        action_space: ActionSpace,
        num_seeds: int,
        num_envs: int,
        capacity: int,
        device: torch.device,
    ) -> None:
        self.spaces = (observation_space, action_space)
        self.num_seeds, self.num_envs, self.device = num_seeds, num_envs, device
        self.capacity, self.written = capacity - capacity % num_envs, 0
        self.first_row = torch.arange(num_seeds, device=device)[:, None] * self.capacity
        self.fields: list[Tensor] = []

    def allocate(self) -> None:
        """Take the memory.

        Raises:
            ValueError: it is not free, or a step of all environments would not fit in.
        """
        observation_space, action_space = self.spaces
        if not self.capacity:
            raise ValueError(f"a replay holds at least one step of each of the {self.num_envs} environments: raise buffer_size")
        needed = replay_bytes(observation_space, action_space, self.num_seeds, self.capacity)
        check_memory(needed, self.num_seeds, self.capacity, self.device)

        def zeros(dtype: torch.dtype, *size: int) -> Tensor:
            return torch.zeros(self.num_seeds, self.capacity, *size, dtype=dtype, device=self.device)

        obs_type, obs_shape = tensor_dtype(observation_space), tensor_shape(observation_space)
        self.steps = Transitions(
            obs=zeros(obs_type, *obs_shape),
            actions=zeros(tensor_dtype(action_space), *tensor_shape(action_space)),
            rewards=zeros(torch.float32),
            next_obs=zeros(obs_type, *obs_shape),
            terminated=zeros(torch.bool),
            truncated=zeros(torch.bool),
        )
        self.fields = list(vars(self.steps).values())

    def __len__(self) -> int:
        """Steps of each seed that are held."""
        return min(self.written, self.capacity)

    def add(self, transitions: Transitions) -> tuple[int, int]:
        """Keep one step of every environment, fields `(S, N, ...)`; returns the columns it was written to, first and end."""
        if not self.fields:
            self.allocate()
        first = self.written % self.capacity
        end = first + transitions.rewards.shape[1]
        for kept, new in zip(self.fields, vars(transitions).values(), strict=True):
            kept[:, first:end] = new
        self.written += end - first
        return first, end

    def at(self, columns: Tensor) -> Transitions:
        """The steps in columns `(S, B)`, fields `(S, B, ...)`."""
        rows = (columns + self.first_row).flatten()
        return Transitions(*(x.flatten(0, 1).index_select(0, rows).unflatten(0, columns.shape) for x in self.fields))

    def state_dict(self) -> dict[str, Any]:
        """The steps that are held, and how many there ever were."""
        steps = {name: value[:, : len(self)] for name, value in vars(self.steps).items()} if self.fields else {}
        return {"steps": steps, "written": self.written}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Copy what `state_dict` gave.

        Raises:
            ValueError: it is of a replay of another capacity.
        """
        written, steps = int(state["written"]), state["steps"]
        held = steps["rewards"].shape[1] if steps else 0
        if held != min(written, self.capacity):
            raise ValueError(f"a replay of {self.capacity} steps cannot take over {held} of {written} steps")
        if steps and not self.fields:
            self.allocate()
        for name, value in steps.items():
            getattr(self.steps, name)[:, :held].copy_(value)
        self.written = written


class Drawn(NamedTuple):
    """Columns of a replay, `(S, B)`, and how much each step counts in the critics' loss, `(S, B)`."""

    columns: Tensor
    weights: Tensor


class ReplaySampling(Protocol):
    """How steps are drawn from a replay."""

    def added(self, first: int, end: int) -> None:
        """Columns from `first` to `end` hold new steps."""
        ...

    def draw(self, held: int, batch_size: int, generator: torch.Generator) -> Drawn:
        """Draw from the first `held` columns."""
        ...

    def learned(self, columns: Tensor, errors: Tensor) -> None:
        """The critics were off by `errors` `(S, B)`, at least 0, at these steps when they learned from them."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """What a run needs to go on exactly."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Copy what `state_dict` gave."""
        ...


class UniformSampling:
    """Every step with the same probability.

    Args:
        num_seeds: `S`.
    """

    def __init__(self, num_seeds: int) -> None:
        self.num_seeds = num_seeds

    def added(self, first: int, end: int) -> None:
        """Nothing to know."""

    def draw(self, held: int, batch_size: int, generator: torch.Generator) -> Drawn:
        columns = torch.randint(held, (self.num_seeds, batch_size), generator=generator, device=generator.device)
        return Drawn(columns, torch.ones((), device=generator.device).expand(self.num_seeds, batch_size))

    def learned(self, columns: Tensor, errors: Tensor) -> None:
        """Nothing to change."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing is kept."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to copy."""


@dataclass(frozen=True)
class PrioritizedConfig:
    """Names and defaults follow the paper's proportional variant."""

    alpha: float = 0.6
    """Steps are drawn in proportion to (error + epsilon) to this power."""
    beta: float = 0.4
    """Exponent of the importance weights; 1 corrects the bias of the drawing in full."""
    epsilon: float = 1e-3
    """Added to an error, so that every step may be drawn again."""

    def __post_init__(self) -> None:
        check_share(self, "alpha", "beta")
        check_positive(self, "epsilon")


class PrioritizedSampling:
    """Steps the critics were wrong about come more often (prioritized replay, Schaul et al. 2016, proportional variant).

    A new step gets the largest priority so far. Importance weights are divided by the largest of the batch. The sums of
    priorities form a tree whose nodes have `BRANCHES` children: drawing and changing are a few batched operations per level.

    Args:
        config: See `PrioritizedConfig`.
        num_seeds: `S`.
        capacity: Columns of the replay.
        device: Where the tree is kept.
    """

    def __init__(self, config: PrioritizedConfig, num_seeds: int, capacity: int, device: torch.device | str) -> None:
        self.config = config
        self.levels = [torch.zeros(num_seeds, width, device=device) for width in tree_widths(capacity)]
        """Priorities, then sums of ever more of them, each `(S, W)`; the last has at most `BRANCHES` columns."""
        self.largest = torch.ones(num_seeds, 1, device=device)
        self.seeds = torch.arange(num_seeds, device=device)[:, None]

    def added(self, first: int, end: int) -> None:
        """Give new steps the largest priority so far."""
        columns = torch.arange(first, end, device=self.largest.device).expand(len(self.largest), -1)
        self.set(columns, self.largest.expand(-1, end - first))

    def set(self, columns: Tensor, priorities: Tensor) -> None:
        """Write priorities `(S, B)` and all sums that they are part of; of a column that comes twice one of the two counts."""
        self.levels[0].scatter_(1, columns, priorities)
        for level, above in zip(self.levels, self.levels[1:], strict=False):
            columns = columns // BRANCHES
            children = level.unflatten(1, (-1, BRANCHES))
            # Summed anew instead of corrected, so that rounding does not add up.
            above.scatter_(1, columns, children[self.seeds, columns].sum(-1))

    def draw(self, held: int, batch_size: int, generator: torch.Generator) -> Drawn:
        total = self.levels[-1].double().sum(1, keepdim=True)
        target = total * torch.rand(
            *self.seeds.shape[:1], batch_size, generator=generator, device=total.device, dtype=torch.float64
        )
        columns = torch.zeros(target.shape, dtype=torch.int64, device=total.device)
        for level in reversed(self.levels):
            if level is self.levels[-1]:
                children = level[:, None].expand(-1, batch_size, -1)
            else:
                children = level.unflatten(1, (-1, BRANCHES))[self.seeds, columns]
            sums = children.double().cumsum(-1)
            # Rounding may leave a target at the very end of a node; its last child with any weight takes it.
            last = (children > 0).long().mul_(torch.arange(1, children.shape[-1] + 1, device=total.device)).amax(-1) - 1
            child = torch.minimum((sums <= target[..., None]).sum(-1), last.clamp(min=0))
            before = torch.where(child > 0, sums.gather(-1, (child - 1).clamp(min=0)[..., None])[..., 0], 0.0)
            target = target - before
            columns = columns * BRANCHES + child
        probability = self.levels[0].gather(1, columns) / total
        weights = (held * probability) ** -self.config.beta
        return Drawn(columns, (weights / weights.amax(1, keepdim=True)).float())

    def learned(self, columns: Tensor, errors: Tensor) -> None:
        """Steps the critics were more wrong about will come more often."""
        if not columns.numel():  # all of a minibatch was imagined
            return
        priorities = (errors + self.config.epsilon) ** self.config.alpha
        self.largest = torch.maximum(self.largest, priorities.amax(1, keepdim=True))
        self.set(columns, priorities)

    def state_dict(self) -> dict[str, Any]:
        """The whole tree: sums that were made anew could differ by rounding."""
        return {"levels": {str(k): level for k, level in enumerate(self.levels)}, "largest": self.largest}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Copy what `state_dict` gave."""
        for k, level in enumerate(self.levels):
            level.copy_(state["levels"][str(k)])
        self.largest = state["largest"].clone()
