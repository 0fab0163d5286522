"""Networks and an optimiser for a fleet: `S` independent runs in one program, the seed being the leading axis.

Every parameter is stacked, `(S, ...)`, every batch is `(S, B, ...)`, and a loss is a sum over seeds of per-seed means, so
gradients never mix. A fleet of one is an ordinary network.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import islice
from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch.optim.adam import adam

from recall_traces.spaces import ObservationSpace, factor_sizes, tensor_shape

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh_,
    "relu": torch.relu_,
    "elu": partial(nn.functional.elu, inplace=True),
    "silu": partial(nn.functional.silu, inplace=True),
}
"""They overwrite their input, the fresh output of a linear layer: memory is what a small fleet waits for most."""
NARROW = 12
"""Layers of at most so many outputs have a product of their own on a CPU."""


class FleetLinear(nn.Module):
    """`S` linear layers side by side, `(S, B, inputs)` to `(S, B, outputs)`.

    Weights are orthogonal with the given gain and biases zero, as in Stable-Baselines3.
    """

    def __init__(self, num_seeds: int, inputs: int, outputs: int, gain: float, generator: torch.Generator) -> None:
        super().__init__()
        self.weight = nn.Parameter(stacked_orthogonal(num_seeds, inputs, outputs, gain, generator))
        self.bias = nn.Parameter(torch.zeros(num_seeds, 1, outputs))

    def forward(self, x: Tensor) -> Tensor:
        num_seeds, _, outputs = self.weight.shape
        if x.device.type == "cpu" and outputs <= NARROW and num_seeds * outputs > 1:
            narrow: Tensor = NarrowProduct.apply(x, self.weight, self.bias)
            return narrow
        return torch.baddbmm(self.bias, x, self.weight)


class NarrowProduct(torch.autograd.Function):
    """`baddbmm(bias, x, weight)` for few outputs on a CPU, where BLAS is much faster with all of it transposed."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        # A copy, also where it is a view already: activations overwrite it.
        return torch.baddbmm(bias.mT, weight.mT, x.mT).mT.clone(memory_format=torch.contiguous_format)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        [grad] = grads
        by_x = by_weight = by_bias = None
        if ctx.needs_input_grad[0]:
            by_x = grad * weight.mT if weight.shape[2] == 1 else torch.bmm(grad, weight.mT)
        if ctx.needs_input_grad[1]:
            by_weight = torch.bmm(grad.mT, x).mT
        if ctx.needs_input_grad[2]:
            by_bias = grad.sum(1, keepdim=True)
        return by_x, by_weight, by_bias


class FleetEmbedding(nn.Module):
    """`S` linear layers over one-hot inputs: int64 `(S, B)` or `(S, B, factors)` to `(S, B, outputs)`.

    The product of a one-hot vector and a matrix is one row of the matrix, so rows are gathered and nothing is multiplied.
    """

    def __init__(self, num_seeds: int, sizes: Sequence[int], outputs: int, gain: float, generator: torch.Generator) -> None:
        super().__init__()
        self.inputs, self.outputs = sum(sizes), outputs
        self.weight = nn.Parameter(stacked_orthogonal(num_seeds, self.inputs, outputs, gain, generator))
        self.bias = nn.Parameter(torch.zeros(num_seeds, 1, outputs))
        first_row = torch.arange(num_seeds)[:, None, None] * self.inputs
        self.register_buffer("first_row", first_row + torch.tensor([sum(sizes[:k]) for k in range(len(sizes))]), persistent=False)
        self.first_row: Tensor

    def forward(self, x: Tensor) -> Tensor:
        rows = x.view(*x.shape[:2], -1) + self.first_row
        num_seeds, batch, factors = rows.shape
        weight = self.weight.reshape(-1, self.outputs)
        if factors == 1:
            gathered = nn.functional.embedding(rows.view(num_seeds, batch), weight)
        else:
            gathered = nn.functional.embedding_bag(rows.reshape(-1, factors), weight, mode="sum").view(num_seeds, batch, -1)
        return gathered + self.bias


class FleetMLP(nn.Module):
    """`S` multilayer perceptrons: `Box` inputs as numbers, `Discrete` and `MultiDiscrete` one-hot.

    Args:
        num_seeds: `S`.
        inputs: Spaces of what comes in, each a batch `(S, B, *value)` of its own; `forward` takes them in this order. To
            the network neighbouring `Box`es are one.
        hidden: Units of each hidden layer; may be empty.
        outputs: What comes out, `(S, B, outputs)`.
        activation: A name in `ACTIVATIONS`.
        output_gain: Gain of the last layer's orthogonal weights.
        generator: Draws the weights, on the CPU, so that a seed means the same weights on every device.
    """

    def __init__(
        self,
        num_seeds: int,
        inputs: Sequence[ObservationSpace],
        hidden: Sequence[int],
        outputs: int,
        activation: str,
        output_gain: float,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        widths = [*hidden, outputs]
        gains = [math.sqrt(2)] * len(hidden) + [output_gain]
        groups: list[list[ObservationSpace]] = []
        for space in inputs:
            if groups and is_box(space) and is_box(groups[-1][-1]):
                groups[-1].append(space)
            else:
                groups.append([space])
        self.group_sizes = [len(group) for group in groups]
        first = [first_layer(num_seeds, group, widths[0], gains[0], generator) for group in groups]
        later = [FleetLinear(num_seeds, widths[k], widths[k + 1], gains[k + 1], generator) for k in range(len(hidden))]
        self.first, self.later = nn.ModuleList(first), nn.ModuleList(later)
        self.activation = ACTIVATIONS[activation]

    @torch.no_grad()
    def redraw_uniformly(self, generator: torch.Generator) -> FleetMLP:
        """Draw weights and biases anew as `torch.nn.Linear` does: uniform within 1 / √inputs of a layer."""
        parameters = list(self.parameters())
        weights, biases = parameters[::2], parameters[1::2]
        joined = len(self.first)  # these are parts of one layer
        fan_ins = [sum(weight.shape[1] for weight in weights[:joined])] * joined + [
            weight.shape[1] for weight in weights[joined:]
        ]
        for weight, bias, inputs in zip(weights, biases, fan_ins, strict=True):
            for parameter in (weight, bias):
                parameter.uniform_(-(inputs**-0.5), inputs**-0.5, generator=generator)
        return self

    def forward(self, *inputs: Tensor) -> Tensor:
        values = iter(inputs)
        joined = [next(values) if size == 1 else torch.cat(list(islice(values, size)), -1) for size in self.group_sizes]
        x = self.first[0](joined[0])
        for k in range(1, len(joined)):
            x = x + self.first[k](joined[k])
        for layer in self.later:
            x = layer(self.activation(x))
        return x


def is_box(space: ObservationSpace) -> bool:
    """Whether values are numbers."""
    return isinstance(space, spaces.Box)


def first_layer(
    num_seeds: int, joined: Sequence[ObservationSpace], outputs: int, gain: float, generator: torch.Generator
) -> nn.Module:
    """The layer that takes in values of several `Box`es, side by side, or of one finite space."""
    if is_box(joined[0]):
        return FleetLinear(num_seeds, sum(math.prod(tensor_shape(space)) for space in joined), outputs, gain, generator)
    return FleetEmbedding(num_seeds, factor_sizes(joined[0]), outputs, gain, generator)


class FleetAdam:
    """Torch's fused Adam over stacked parameters, with a choice of the seeds that take the step.

    Parameters become views of one matrix `(S, P)`, and to Adam each row, one seed, is a parameter. So a step costs the same
    however many layers there are, and a seed can be clipped or left out by its row. A seed that is left out keeps parameters,
    moments and step count; a zero gradient would not do, since old momentum still moves the weights.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], eps: float = 1e-8) -> None:
        self.parameters, self.eps = list(parameters), eps
        self.values = one_row_per_seed(self.parameters)
        self.grads, self.first, self.second = (torch.zeros_like(self.values) for _ in range(3))
        self.steps = self.values.new_zeros(len(self.values))
        self.rows = [list(x.unbind(0)) for x in (self.values, self.first, self.second, self.steps)]

    @torch.no_grad()
    def step(self, learning_rate: float | Tensor, active: Sequence[bool] | None = None, scale: Tensor | None = None) -> None:
        """Step the active seeds.

        Args:
            learning_rate: The same for all seeds; on a GPU also a tensor there, without axes.
            active: One per seed, on the host; all of them by default.
            scale: Factor on each seed's gradient, `(S,)`, as `clip_scale` gives it.
        """
        grads = self.grads if scale is None else self.grads * scale[:, None]
        chosen = [[row for s, row in enumerate(rows) if active is None or active[s]] for rows in (*self.rows, grads.unbind(0))]
        values, first, second, steps, gradients = chosen
        if not values:
            return
        # The functional form: what torch.optim.Adam adds around it costs more than the step of a small network.
        adam(
            values,
            gradients,
            first,
            second,
            [],
            steps,
            fused=True,
            amsgrad=False,
            beta1=0.9,
            beta2=0.999,
            lr=learning_rate,
            weight_decay=0.0,
            eps=self.eps,
            maximize=False,
        )

    def state_dict(self) -> dict[str, Tensor]:
        """Moments `(S, P)` and step counts `(S,)`, the very tensors; the parameters belong to their modules."""
        return {"first": self.first, "second": self.second, "steps": self.steps}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Copy what `state_dict` gave."""
        for name, value in self.state_dict().items():
            value.copy_(state[name])


def one_row_per_seed(parameters: Sequence[nn.Parameter]) -> Tensor:
    """Make stacked parameters `(S, ...)` views of one new matrix `(S, P)`, and return it."""
    values = torch.cat([p.detach().flatten(1) for p in parameters], 1)
    column = 0
    for p in parameters:
        columns = slice(column, column + p[0].numel())
        p.data = values[:, columns].view_as(p)
        column = columns.stop
    return values


def backward(losses: Tensor, *optimizers: FleetAdam) -> None:
    """Leave the gradient of each seed's loss, `(S,)`, with the optimisers, which together hold all parameters it depends on."""
    gradients = iter(torch.autograd.grad(losses.sum(), [p for optimizer in optimizers for p in optimizer.parameters]))
    for optimizer in optimizers:
        optimizer.grads = torch.cat([next(gradients).flatten(1) for _ in optimizer.parameters], 1)


def clip_scale(max_norm: float, *optimizers: FleetAdam) -> Tensor:
    """Factor `(S,)` that brings each seed's gradient norm, over all the optimisers together, down to `max_norm`."""
    norm = torch.stack([optimizer.grads.norm(dim=1) for optimizer in optimizers]).norm(dim=0)
    return (max_norm / (norm + 1e-6)).clamp(max=1.0)


def stacked_orthogonal(num_seeds: int, inputs: int, outputs: int, gain: float, generator: torch.Generator) -> Tensor:
    """Orthogonal matrices (Saxe et al. 2014), independent per seed, `(S, inputs, outputs)`."""
    matrices = [nn.init.orthogonal_(torch.empty(outputs, inputs), gain, generator=generator).T for _ in range(num_seeds)]
    return torch.stack(matrices).contiguous()
