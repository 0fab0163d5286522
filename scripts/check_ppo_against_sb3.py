"""Is our PPO Stable-Baselines3's? Both learn CartPole-v1 with the same hyperparameters; their learning curves are compared.

    python scripts/check_ppo_against_sb3.py --out runs/ppo-against-sb3

Ours in its own CartPole, Stable-Baselines3 in Gymnasium's; evaluated every 2,048 steps. `parity.py` says how.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path

import stable_baselines3
import torch
import tyro
from gymnasium import spaces
from parity import ACTIVATIONS, Parity, check
from stable_baselines3.common.env_util import make_vec_env
from torch import Tensor

from recall_traces.agents.ppo import PPO, PPOConfig
from recall_traces.agents.presets import preset

TASK = "CartPole-v1"


@dataclass(frozen=True)
class Options:
    """Parity of PPO with Stable-Baselines3 on CartPole-v1."""

    task: str = TASK
    """What is learnt."""
    out: Path = Path("runs/ppo-against-sb3")
    """Folder of curves.csv and result.json."""
    seeds: int = 16
    """Runs of each."""
    steps: int = 102_400
    """Environment steps of a seed."""
    evaluate_every: int = 2048
    """Environment steps of a seed."""
    num_envs: int = 8
    """Environments of a seed."""
    seed: int = 0
    """Seeds our fleet; Stable-Baselines3's runs count up from it."""
    agent: PPOConfig = field(default_factory=lambda: preset(TASK).ppo)
    """Hyperparameters of both."""


def theirs(options: Options, seed: int) -> stable_baselines3.PPO:
    """Stable-Baselines3's PPO."""
    config, rate = options.agent, options.agent.learning_rate
    return stable_baselines3.PPO(
        "MlpPolicy",
        make_vec_env(options.task, n_envs=options.num_envs, seed=seed),
        learning_rate=(lambda remaining: rate * max(remaining, 0.0)) if config.learning_rate_schedule == "linear" else rate,
        n_steps=config.n_steps,
        batch_size=config.batch_size,
        n_epochs=config.n_epochs,
        gamma=config.gamma,
        gae_lambda=config.gae_lambda,
        clip_range=config.clip_range,
        ent_coef=config.ent_coef,
        vf_coef=config.vf_coef,
        max_grad_norm=config.max_grad_norm,
        target_kl=config.target_kl,
        policy_kwargs={"net_arch": list(config.net_arch), "activation_fn": ACTIVATIONS[config.activation]},
        seed=seed,
        device="cpu",
    )


def act(model: stable_baselines3.PPO, obs: Tensor, greedy: bool) -> Tensor:
    """Its actions, within their bounds as in training: a Gaussian knows none, and what is beyond would cost more."""
    with torch.no_grad():
        actions = model.policy.get_distribution(obs).get_actions(deterministic=greedy)
    space = model.action_space
    if not isinstance(space, spaces.Box):
        return actions
    return actions.clamp(torch.as_tensor(space.low, device=actions.device), torch.as_tensor(space.high, device=actions.device))


PARITY = Parity(lambda env, o: PPO(env, o.agent, num_seeds=o.seeds, seed=o.seed), theirs, act)


if __name__ == "__main__":
    options = tyro.cli(Options, description=__doc__)
    if options.agent.normalize_rewards:
        sys.exit("normalisation is a wrapper in Stable-Baselines3 and is not compared here")
    check(PARITY, options)
