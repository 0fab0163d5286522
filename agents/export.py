"""A policy of one seed as a plain torch module, and as a file that loads without this library."""

from __future__ import annotations

import io
import logging
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor, nn

from recall_traces.agents.learner import Learner
from recall_traces.agents.networks import LOG_STD_RANGE
from recall_traces.agents.ppo import PPO
from recall_traces.agents.sac import SAC
from recall_traces.fleet import FleetEmbedding, FleetLinear, FleetMLP
from recall_traces.normalization import RunningNormalizer
from recall_traces.spaces import tensor_dtype, tensor_shape

TORCH, ONNX = ".pt2", ".onnx"
MODULES: dict[str, type[nn.Module]] = {"tanh": nn.Tanh, "relu": nn.ReLU, "elu": nn.ELU, "silu": nn.SiLU}


class OneHotLinear(nn.Module):
    """A linear layer over one-hot inputs, int64 `(B, factors)`: the sum of one row of the weights per factor."""

    def __init__(self, weight: Tensor, bias: Tensor, first_row: Tensor) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)
        self.register_buffer("first_row", first_row)
        self.first_row: Tensor

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.embedding(x + self.first_row, self.weight).sum(1) + self.bias


class Normalize(nn.Module):
    """Running statistics as they were at the end of training."""

    def __init__(self, mean: Tensor, scale: Tensor, clip: float) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("scale", scale)
        self.mean: Tensor
        self.scale: Tensor
        self.clip = clip

    def forward(self, x: Tensor) -> Tensor:
        return ((x - self.mean) / self.scale).clamp(-self.clip, self.clip)


class PlainPolicy(nn.Module):
    """π(a | s) of one seed, for raw observations `(B, *observation)`, with nothing of this library in it but the class's name.

    `forward` gives two tensors: the most likely actions, within the environment's bounds, `(B,)` or `(B, D)`; and what to draw
    others from: of `Discrete` actions the logits `(B, A)`; of `Box` actions mean and log-deviation of a Gaussian `(B, 2, D)`,
    with PPO over the actions themselves, with SAC over what tanh maps to [-1, 1] and then to the bounds.
    """

    def __init__(self, learner: PPO | SAC, seed: int) -> None:
        super().__init__()
        mlp = learner.policy.mlp
        layers: list[nn.Module] = []
        if isinstance(learner.obs_normalizer, RunningNormalizer):
            statistics = learner.obs_normalizer
            layers.append(Normalize(statistics.mean[seed, 0].clone(), statistics.scale[seed, 0].clone(), statistics.clip))
        self.factors = not isinstance(learner.env.observation_space, spaces.Box)
        layers += _layers(mlp, MODULES[learner.config.activation], seed)
        self.layers = nn.Sequential(*layers)
        self.discrete = isinstance(learner.env.action_space, spaces.Discrete)
        self.squashed = isinstance(learner, SAC)
        if isinstance(learner, PPO) and not self.discrete:
            self.log_std = nn.Parameter(learner.policy.log_std[seed, 0].detach().clone())
        if learner.action_bounds is not None:
            low, high = learner.action_bounds
            self.register_buffer("low", low.clone())
            self.register_buffer("high", high.clone())
            self.low: Tensor
            self.high: Tensor

    def forward(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        outputs = self.layers(obs.reshape(obs.shape[0], -1) if self.factors else obs)
        if self.discrete:
            return outputs.argmax(1), outputs
        if self.squashed:
            mean, log_std = outputs.chunk(2, 1)
            log_std = log_std.clamp(*LOG_STD_RANGE)
            actions = (self.high + self.low) / 2 + (self.high - self.low) / 2 * torch.tanh(mean)
        else:
            mean, log_std = outputs, self.log_std.expand_as(outputs)
            actions = mean
        return torch.minimum(torch.maximum(actions, self.low), self.high), torch.stack((mean, log_std), 1)


def plain_policy(learner: Learner, seed: int = 0) -> PlainPolicy:
    """The policy of a seed, on the CPU.

    Raises:
        ValueError: there is no such seed.
    """
    if not 0 <= seed < learner.num_seeds:
        raise ValueError(f"there is no seed {seed}; there are {learner.num_seeds}, counted from 0")
    assert isinstance(learner, PPO | SAC)
    return PlainPolicy(learner, seed).cpu().eval().requires_grad_(False)


def export_policy(learner: Learner, seed: int, path: Path) -> None:
    """Write the policy of a seed as a file that loads without this library, for batches of any size.

    Args:
        learner: Whose policy.
        seed: Which seed.
        path: `.pt2` for `torch.export.load`, `.onnx` for ONNX; folders on the way are made.

    Raises:
        ValueError: another suffix, no such seed, or what ONNX needs is not installed.
        OSError: the file cannot be written.
    """
    if path.suffix not in (TORCH, ONNX):
        raise ValueError(f"{path} must end in {TORCH} (torch) or {ONNX}")
    if path.suffix == ONNX and not (find_spec("onnx") and find_spec("onnxscript")):
        raise ValueError(f"{path} needs onnx and onnxscript: pip install 'recall-traces[onnx]'")
    policy, space = plain_policy(learner, seed), learner.env.observation_space
    example = torch.zeros(2, *tensor_shape(space), dtype=tensor_dtype(space))
    program = torch.export.export(policy, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == TORCH:
        # Through memory: where torch itself cannot write, it says so in words of its own, and not by an OSError.
        file = io.BytesIO()
        torch.export.save(program, file)
        path.write_bytes(file.getvalue())
        return
    with warnings.catch_warnings():
        # What the exporter says about itself, such as that torchvision is not there.
        warnings.simplefilter("ignore")
        logger = logging.getLogger("torch.onnx")
        level = logger.level
        logger.setLevel(logging.ERROR)
        names: dict[str, Any] = {"input_names": ["obs"], "output_names": ["actions", "distribution"]}
        try:
            torch.onnx.export(program, (), str(path), external_data=False, verbose=False, **names)
        finally:
            logger.setLevel(level)


def _layers(mlp: FleetMLP, activation: type[nn.Module], seed: int) -> list[nn.Module]:
    """One seed's layers of a perceptron with one input."""
    layers: list[nn.Module] = []
    for layer in [*mlp.first, *mlp.later]:
        if layers:
            layers.append(activation())
        if isinstance(layer, FleetEmbedding):
            # The rows of all seeds lie one below the other; here those of one.
            first_row = layer.first_row[0, 0]
            weight, bias = layer.weight[seed].detach().clone(), layer.bias[seed, 0].detach().clone()
            layers.append(OneHotLinear(weight, bias, first_row.clone()))
        else:
            assert isinstance(layer, FleetLinear)
            inputs, outputs = layer.weight.shape[1:]
            linear = nn.Linear(inputs, outputs, device="meta")  # so that no weights are drawn
            linear.weight = nn.Parameter(layer.weight[seed].detach().T.contiguous())
            linear.bias = nn.Parameter(layer.bias[seed, 0].detach().clone())
            layers.append(linear)
    return layers
