"""Gradient steps on a GPU as replays of one CUDA graph: that of a small network is hundreds of kernels of microseconds each."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from inspect import ismethod
from typing import Any
from weakref import WeakMethod

import torch
from torch import Tensor

PLAIN_CALLS = 3
"""Before the capture, which must find libraries set up and memory that is kept for good already taken."""


class Replayed:
    """A function of tensors; on a GPU the host launches its kernels for a few calls, and from then on replays them.

    The function may read and change other tensors in place, such as weights and moments, which must stay where they are. It must
    not draw, nor wait for the device, nor depend on anything else that changes. Arguments are tensors and None, or tuples and
    dataclasses of them; those of other shapes are captured apart.

    On a GPU the tensors that it returns are the graph's own: they hold until the next call.

    Args:
        function: What is called.
        device: Where all its tensors are; on a CPU it is called as it is.
    """

    def __init__(self, function: Callable[..., Any], device: torch.device) -> None:
        # Whoever holds this for a method of its own must not be held by it: Python looks for such circles late.
        self.function: Callable[[], Callable[..., Any] | None] = WeakMethod(function) if ismethod(function) else lambda: function
        self.device = device
        self.captures: dict[tuple[Any, ...], _Capture] = {}

    def __call__(self, *arguments: Any) -> Any:
        """As the function."""
        function = self.function()
        assert function is not None
        if self.device.type != "cuda":
            return function(*arguments)
        shapes = tuple((x.shape, x.dtype) for x in tensors_in(arguments))
        if shapes not in self.captures:
            self.captures[shapes] = _Capture()
        with torch.cuda.device(self.device):
            return self.captures[shapes](function, arguments)


class _Capture:
    """A function at arguments of certain shapes, on the current device."""

    def __init__(self) -> None:
        self.calls = 0
        self.graph: torch.cuda.CUDAGraph | None = None
        self.arguments: tuple[Any, ...] = ()
        """Where the graph reads them."""
        self.result: Any = None

    def __call__(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        self.calls += 1
        if self.calls <= PLAIN_CALLS:
            # On a stream of its own, as the capture will be.
            current, side = torch.cuda.current_stream(), torch.cuda.Stream()
            side.wait_stream(current)
            with torch.cuda.stream(side):
                result = function(*arguments)
            current.wait_stream(side)
            return result
        if self.graph is None:
            self.graph = torch.cuda.CUDAGraph()
            self.arguments = with_tensors(arguments, (x.clone() for x in tensors_in(arguments)))
            with torch.cuda.graph(self.graph, capture_error_mode="thread_local"):  # other threads may go on meanwhile
                self.result = function(*self.arguments)
        else:
            for place, value in zip(tensors_in(self.arguments), tensors_in(arguments), strict=True):
                place.copy_(value)
        self.graph.replay()
        return self.result


def tensors_in(value: Any) -> Iterator[Tensor]:
    """All tensors in tuples and dataclasses, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple):
        for part in value:
            yield from tensors_in(part)
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from tensors_in(getattr(value, field.name))


def with_tensors(value: Any, tensors: Iterator[Tensor]) -> Any:
    """The same tuples and dataclasses, of other tensors, in the order of `tensors_in`."""
    if isinstance(value, Tensor):
        return next(tensors)
    if isinstance(value, tuple):
        parts = [with_tensors(part, tensors) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = dataclasses.fields(value)
        return type(value)(**{field.name: with_tensors(getattr(value, field.name), tensors) for field in fields})
    return value
