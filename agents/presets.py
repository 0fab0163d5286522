"""Hyperparameters that are known to work, by environment."""

from __future__ import annotations

from recall_traces.agents.ppo import PPOConfig

PPO_PRESETS = {
    "FourRooms-": PPOConfig(learning_rate=2e-3, n_steps=64, batch_size=256, n_epochs=4, ent_coef=0.03),
    "CartPole-v1": PPOConfig(learning_rate=1e-3, learning_rate_schedule="linear", n_steps=128, batch_size=256, n_epochs=4, gamma=0.98, gae_lambda=0.8),
}
"""By the beginning of the environment's name. Chosen on FourRooms-15, without recall and before any comparison."""


def ppo_preset(env_id: str) -> PPOConfig:
    """The preset of the longest matching name, or Stable-Baselines3's defaults."""
    matching = [name for name in PPO_PRESETS if env_id.startswith(name)]
    return PPO_PRESETS[max(matching, key=len)] if matching else PPOConfig()
