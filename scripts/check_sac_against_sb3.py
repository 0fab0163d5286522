"""Is our SAC Stable-Baselines3's? Both learn Pendulum-v1 with the same hyperparameters; their learning curves are compared.

    python scripts/check_sac_against_sb3.py --out runs/sac-against-sb3

Both in Gymnasium's environment, with a gradient step for each step of a seed, evaluated every 1,000 steps; `parity.py` says
how. Returns are negative, so the ratio is that of costs, and one below 1 is in favour of ours. About three hours on one core,
most of it Stable-Baselines3's.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import stable_baselines3
import torch
import tyro
from parity import ACTIVATIONS, Parity, check
from stable_baselines3.common.env_util import make_vec_env
from torch import Tensor

from recall_traces.agents.presets import preset
from recall_traces.agents.sac import SAC, SACConfig

TASK = "Pendulum-v1"


@dataclass(frozen=True)
class Options:
    """Parity of SAC with Stable-Baselines3 on Pendulum-v1."""

    task: str = TASK
    """What is learnt."""
    out: Path = Path("runs/sac-against-sb3")
    """Folder of curves.csv and result.json."""
    seeds: int = 16
    """Runs of each."""
    steps: int = 15_000
    """Environment steps of a seed."""
    evaluate_every: int = 1000
    """Environment steps of a seed."""
    num_envs: int = 1
    """Environments of a seed."""
    seed: int = 0
    """Seeds our fleet; Stable-Baselines3's runs count up from it."""
    agent: SACConfig = field(default_factory=lambda: replace(preset(TASK).sac, n_steps=250, buffer_size=15_000))
    """Hyperparameters of both."""


def theirs(options: Options, seed: int) -> stable_baselines3.SAC:
    """Stable-Baselines3's SAC."""
    config = options.agent
    return stable_baselines3.SAC(
        "MlpPolicy",
        make_vec_env(options.task, n_envs=options.num_envs, seed=seed),
        learning_rate=config.learning_rate,
        buffer_size=config.buffer_size,
        learning_starts=config.learning_starts,
        batch_size=config.batch_size,
        tau=config.tau,
        gamma=config.gamma,
        train_freq=config.train_freq,
        gradient_steps=config.gradient_steps,
        ent_coef=f"auto_{config.initial_ent_coef}" if config.ent_coef is None else config.ent_coef,
        target_entropy="auto" if config.target_entropy is None else config.target_entropy,
        policy_kwargs={"net_arch": list(config.net_arch), "activation_fn": ACTIVATIONS[config.activation]},
        seed=seed,
        device="cpu",
    )


def act(model: stable_baselines3.SAC, obs: Tensor, greedy: bool) -> Tensor:
    """Its actions."""
    return torch.as_tensor(model.predict(obs.numpy(), deterministic=greedy)[0])


PARITY = Parity(lambda env, o: SAC(env, o.agent, num_seeds=o.seeds, seed=o.seed), theirs, act)


if __name__ == "__main__":
    check(PARITY, tyro.cli(Options, description=__doc__))
