"""What the agent lived through: a ring of recorded steps per environment, in time order, with returns and episodes.

    seed s, environment n:   | ... t-2, t-1, t |        ring of C steps, (S, N, C, ...)
    position of a step:      n * C + slot               one number per seed, in [0, N * C)

Because a column is in time order, the way into a state is simply what lies before it in the ring.
"""

from __future__ import annotations

import torch
from torch import Tensor

from recall_traces.cells import Cells
from recall_traces.data import Transitions
from recall_traces.spaces import ActionSpace, ObservationSpace, tensor_dtype, tensor_shape

LONG_AGO = -(2**62)


class Memory:
    """The last `capacity` steps of each seed.

    Args:
        observation_space: Of one observation.
        action_space: Of one action.
        cells: Tells states apart; None where nobody asks for `next_cells`, which are then not kept.
        num_seeds: `S`.
        num_envs: `N`.
        capacity: Steps per seed; at least one per environment.
        gamma: Discount of `returns`.
        device: Where everything is kept.
    """

    def __init__(
        self,
        observation_space: ObservationSpace,
        action_space: ActionSpace,
        cells: Cells | None,
        num_seeds: int,
        num_envs: int,
        capacity: int,
        gamma: float,
        device: torch.device | str,
    ) -> None:
        columns = max(1, capacity // num_envs)
        shape = (num_seeds, num_envs, columns)

        def zeros(dtype: torch.dtype, *size: int) -> Tensor:
            return torch.zeros(*shape, *size, dtype=dtype, device=device)

        self.cells, self.gamma, self.num_columns = cells, gamma, columns
        obs_type, obs_shape = tensor_dtype(observation_space), tensor_shape(observation_space)
        self.steps = Transitions(
            obs=zeros(obs_type, *obs_shape),
            actions=zeros(tensor_dtype(action_space), *tensor_shape(action_space)),
            rewards=zeros(torch.float32),
            next_obs=zeros(obs_type, *obs_shape),
            terminated=zeros(torch.bool),
            truncated=zeros(torch.bool),
        )
        self.age = zeros(torch.int64)
        """Recorded steps of the same episode before this one, `(S, N, C)`."""
        self.returns = zeros(torch.float32)
        """Discounted return-to-go, the step's own reward included; up to now while the episode is open, `(S, N, C)`."""
        self.episode_returns = zeros(torch.float32)
        """Undiscounted return of the whole episode, once closed, `(S, N, C)`."""
        self.episode_lengths = zeros(torch.int64)
        """Steps of the whole episode, once closed, `(S, N, C)`."""
        self.closed = zeros(torch.bool)
        """Whether the step's episode has ended, `(S, N, C)`."""
        self.next_cells = zeros(torch.int64, *(() if cells is not None else (0,)))
        """Cell of `next_obs`, `(S, N, C)`; empty without cells."""
        self.open_age = torch.zeros(num_seeds, num_envs, dtype=torch.int64, device=device)
        """Steps so far of the episode that is still open, `(S, N)`."""
        self.open_return = torch.zeros(num_seeds, num_envs, device=device)
        """Its undiscounted return so far, `(S, N)`."""
        self.time = 0
        """Steps observed per environment, ever."""

    def __len__(self) -> int:
        """Steps held per environment."""
        return min(self.time, self.num_columns)

    def observe(self, transitions: Transitions) -> tuple[Tensor, Tensor, Tensor]:
        """Write a rollout `(T, S, N, ...)` that continues each column.

        Returns:
            Positions of the rollout's steps, `(S, T * N)` in time order; positions `(S, K)` of all steps that may have
            been closed by it; and which of these were, bool `(S, K)`.

        Raises:
            ValueError: the rollout is longer than the memory.
        """
        length = len(transitions.rewards)
        if length > self.num_columns:
            raise ValueError(
                f"a rollout of {length} steps does not fit a memory of {self.num_columns} per environment: raise memory_size"
            )
        device = self.age.device
        times = torch.arange(length, device=device)
        slots = (self.time + times) % self.num_columns
        done = transitions.terminated | transitions.truncated
        # First step of each step's episode, negative where it began before this rollout; last step, `length` where still open.
        first = torch.where(done.roll(1, 0), times[:, None, None], LONG_AGO)
        first[0] = -self.open_age
        first = first.cummax(0).values
        last = torch.where(done, times[:, None, None], length).flip(0).cummin(0).values.flip(0)
        # Undiscounted episode return by differences of a running sum, so that no loop over time is needed.
        total = torch.cat([torch.zeros_like(transitions.rewards[:1]), transitions.rewards.cumsum(0)])
        before = torch.where(first > 0, total.gather(0, first.clamp(min=0)), -self.open_return)
        episode_returns = total.gather(0, (last + 1).clamp(max=length)) - before
        returns = self.returns_to_go(transitions.rewards, done)

        lengths = last + 1 - first

        self.extend_open(returns[0], episode_returns[0], lengths[0], last[0] < length)
        open_before = self.open_age
        chunk = transitions.map(lambda x: x.movedim(0, 2))  # (S, N, T, ...)
        for field in ("obs", "actions", "rewards", "next_obs", "terminated", "truncated"):
            getattr(self.steps, field)[:, :, slots] = getattr(chunk, field)
        closed = last < length
        if self.cells is not None:
            next_cells = self.cells(transitions.next_obs.transpose(0, 1).flatten(1, 2)).unflatten(1, (length, -1))  # (S, T, N)
            self.next_cells[:, :, slots] = next_cells.transpose(1, 2)
        labels = {"age": times[:, None, None] - first, "returns": returns, "closed": closed}
        labels |= {"episode_returns": episode_returns, "episode_lengths": lengths}
        for name, value in labels.items():
            getattr(self, name)[:, :, slots] = value.movedim(0, 2)
        ended = done[-1]
        self.open_age = torch.where(ended, 0, length - first[-1])
        self.open_return = torch.where(ended, 0.0, episode_returns[-1])

        written = (torch.arange(done.shape[2], device=device) * self.num_columns + slots[:, None]).flatten()
        earlier = self.earlier_positions(int(open_before.max()), length)
        earlier_closed = (torch.arange(earlier.shape[1], device=device) < open_before[..., None]) & closed[0][..., None]
        self.time += length
        positions = torch.cat([written.expand(len(open_before), -1), earlier.flatten().expand(len(open_before), -1)], 1)
        just_closed = torch.cat([closed.transpose(0, 1).flatten(1), earlier_closed.flatten(1)], 1)
        return positions[:, : len(written)], positions, just_closed

    def returns_to_go(self, rewards: Tensor, done: Tensor) -> Tensor:
        """Discounted sums of rewards to the end of each episode or of the rollout, `(T, S, N)`."""
        returns, running = torch.empty_like(rewards), torch.zeros_like(rewards[0])
        decay = self.gamma * ~done
        for t in range(len(rewards) - 1, -1, -1):
            running = torch.addcmul(rewards[t], decay[t], running)
            returns[t] = running
        return returns

    def earlier_positions(self, most: int, length: int) -> Tensor:
        """Positions of the `most` steps before now that a rollout of `length` steps leaves, latest first, `(N, W)`."""
        width = max(0, min(most, self.num_columns - length))
        slots = (self.time - 1 - torch.arange(width, device=self.age.device)) % self.num_columns
        return torch.arange(self.age.shape[1], device=self.age.device)[:, None] * self.num_columns + slots

    def extend_open(self, first_return: Tensor, episode_return: Tensor, episode_length: Tensor, closes: Tensor) -> None:
        """Tell the steps of episodes that were open what has come since: all arguments `(S, N)`, of the rollout's first step."""
        width = min(int(self.open_age.max()), self.num_columns)
        if width == 0:
            return
        back = torch.arange(width, device=self.age.device)
        slots = (self.time - 1 - back) % self.num_columns
        belongs = back < self.open_age[..., None]
        discount = self.gamma ** (back + 1).float()
        self.returns[:, :, slots] += torch.where(belongs, discount * first_return[..., None], 0.0)
        closes = belongs & closes[..., None]
        self.closed[:, :, slots] = self.closed[:, :, slots] | closes
        for values, now in ((self.episode_returns, episode_return), (self.episode_lengths, episode_length)):
            values[:, :, slots] = torch.where(closes, now[..., None], values[:, :, slots])

    def stamps(self, positions: Tensor) -> Tensor:
        """Numbers of steps that grow with time, so that the later of two is the larger, of positions `(S, B)`."""
        column, slot = positions // self.num_columns, positions % self.num_columns
        return (self.time - 1 - (self.time - 1 - slot) % self.num_columns) * self.age.shape[1] + column

    def find(self, stamps: Tensor) -> tuple[Tensor, Tensor]:
        """Positions of stamped steps, and whether the ring still holds them; both have the shape of `stamps`."""
        time, column = stamps // self.age.shape[1], stamps % self.age.shape[1]
        held = (stamps >= 0) & (time >= self.time - len(self))
        return torch.where(held, column * self.num_columns + time % self.num_columns, 0), held

    def at(self, positions: Tensor) -> Transitions:
        """The steps at positions `(S, B)`, every field `(S, B, ...)`."""
        return self.steps.map(lambda x: self.gather(x, positions))

    def gather(self, values: Tensor, positions: Tensor) -> Tensor:
        """Of `(S, N, C, ...)` what lies at positions `(S, B)`, `(S, B, ...)`."""
        seeds = torch.arange(len(values), device=values.device).view(-1, *[1] * (positions.dim() - 1))
        return values.flatten(1, 2)[seeds, positions]

    def sample(self, count: int, generator: torch.Generator, newest: int = 0) -> Tensor:
        """Positions of steps drawn uniformly, `(S, count)`, from the newest so many of each environment; 0: from all."""
        within = min(newest or len(self), len(self))
        shape = (self.age.shape[0], count)
        columns = torch.randint(self.age.shape[1], shape, generator=generator, device=self.age.device)
        later = torch.randint(within, shape, generator=generator, device=self.age.device)
        return columns * self.num_columns + (self.time - within + later) % self.num_columns

    def held(self) -> Tensor:
        """Which places of the ring hold a step, bool `(S, N, C)`."""
        return (torch.arange(self.num_columns, device=self.age.device) < len(self)).expand(self.age.shape)

    def held_positions(self) -> Tensor:
        """Positions of all steps that are held, `(S, B)`."""
        return self.held()[0].flatten().nonzero()[:, 0].expand(len(self.age), -1)

    def way_into(self, positions: Tensor, length: int) -> tuple[Tensor, Tensor]:
        """Positions of the `length` steps that end with those at `positions` `(S, B)`, in forward time, `(S, B, L)`, and a mask.

        The mask is False before the episode's first step and for what the ring has overwritten.
        """
        column, slot = positions // self.num_columns, positions % self.num_columns
        back = torch.arange(length - 1, -1, -1, device=positions.device)
        age = self.gather(self.age, positions)
        newest = (self.time - 1) % self.num_columns
        kept = (slot - newest - 1) % self.num_columns if self.time >= self.num_columns else slot
        earlier = (slot[..., None] - back) % self.num_columns
        return column[..., None] * self.num_columns + earlier, (back <= age[..., None]) & (back <= kept[..., None])

    def break_off(self) -> None:
        """What comes next begins new episodes; those that are open stay so."""
        self.open_age = torch.zeros_like(self.open_age)
        self.open_return = torch.zeros_like(self.open_return)

    def state_dict(self) -> dict[str, Tensor]:
        """Everything, as tensors; of the ring only the part that is filled."""
        held = {name: value[:, :, : len(self)] for name, value in self.rings().items()}
        return held | {"open_age": self.open_age, "open_return": self.open_return, "time": torch.tensor(self.time)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Copy what `state_dict` gave.

        Raises:
            ValueError: it is of a memory of another capacity.
        """
        time, held = int(state["time"]), state["age"].shape[2]
        if held != min(time, self.num_columns):
            raise ValueError(f"a memory of {self.num_columns} steps per environment cannot take over {held} of {time} steps")
        for name, value in self.rings().items():
            value[:, :, :held].copy_(state[name])
            value[:, :, held:] = 0
        self.open_age.copy_(state["open_age"])
        self.open_return.copy_(state["open_return"])
        self.time = time

    def rings(self) -> dict[str, Tensor]:
        """By name, what is kept of every step, `(S, N, C, ...)`."""
        names = ["age", "returns", "episode_returns", "episode_lengths", "closed"]
        names += ["next_cells"] if self.cells is not None else []
        return {f"steps.{name}": value for name, value in vars(self.steps).items()} | {n: getattr(self, n) for n in names}
