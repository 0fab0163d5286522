"""Settings that are known to work, by environment; elsewhere the configurations' own defaults hold."""

from __future__ import annotations

from dataclasses import dataclass, field

from recall_traces.agents.bonus import BonusConfig
from recall_traces.agents.goal_gan import GoalGANConfig
from recall_traces.agents.ppo import PPOConfig
from recall_traces.agents.replay import PrioritizedConfig
from recall_traces.agents.sac import SACConfig
from recall_traces.agents.self_imitation import SelfImitationConfig
from recall_traces.recall import RecallConfig


@dataclass(frozen=True)
class Preset:
    """Settings of the learner and of what an arm may choose."""

    ppo: PPOConfig = field(default_factory=PPOConfig)
    """Of PPO."""
    sac: SACConfig = field(default_factory=SACConfig)
    """Of SAC."""
    recall: RecallConfig = field(default_factory=RecallConfig)
    """Of recall traces, the model's and the own ones."""
    sil: SelfImitationConfig = field(default_factory=SelfImitationConfig)
    """Of self-imitation."""
    bonus: BonusConfig = field(default_factory=BonusConfig)
    """Of the intrinsic reward."""
    per: PrioritizedConfig = field(default_factory=PrioritizedConfig)
    """Of prioritized replay."""
    goal_gan: GoalGANConfig = field(default_factory=GoalGANConfig)
    """Of the Goal GAN."""


PRESETS = {
    # By the tuning on FourRooms-15 in docs/tuning.md, where arms share what they have in common: the setting that is best or
    # nearly so for all of them.
    "FourRooms-": Preset(
        ppo=PPOConfig(learning_rate=3e-3, n_steps=64, batch_size=256, n_epochs=4, ent_coef=0.03),
        recall=RecallConfig(imitation_ratio=1.0, imitation_batch_size=512, buffer_updates=1, candidates=1, novelty_ceiling=0.8),
        sil=SelfImitationConfig(imitation_ratio=1.0, imitation_batch_size=512),
        bonus=BonusConfig(coefficient=0.01),
    ),
    # By the tuning on other seeds in docs/tuning.md. A temperature of 1 drowns a single reward for many thousands of steps.
    "PointMaze-": Preset(
        ppo=PPOConfig(n_steps=256),
        sac=SACConfig(
            learning_rate=1e-3,
            buffer_size=200_000,
            learning_starts=1000,
            batch_size=128,
            gradient_steps=4,
            initial_ent_coef=0.1,
            n_steps=128,
            net_arch=(64, 64),
        ),
        recall=RecallConfig(imitation_coefficient=0.3, imitation_batch_size=128, novelty_actions=4),
        sil=SelfImitationConfig(imitation_batch_size=128),
    ),
    # Stable-Baselines3's settings of rl-baselines3-zoo.
    "Pendulum-v1": Preset(ppo=PPOConfig(n_steps=256), sac=SACConfig(learning_rate=1e-3, gradient_steps=-1)),
    # PPO's settings by feasible goals and the plain learner; shorter searches for recall, since no way is long.
    "PointMass-": Preset(
        ppo=PPOConfig(learning_rate=1e-3, n_steps=256, batch_size=256, n_epochs=4),
        sac=SACConfig(gradient_steps=-1),
        recall=RecallConfig(imitation_ratio=0.125, trace_length=40, candidates=4, search_length=60),
    ),
    # Every step pays there, so nothing is imitated (`RecallConfig.rare_reward`).
    "CartPole-v1": Preset(
        ppo=PPOConfig(learning_rate=2e-3, learning_rate_schedule="linear", n_steps=128, batch_size=256, n_epochs=4),
    ),
}
"""By the beginning of the environment's name."""
ELSEWHERE = Preset(ppo=PPOConfig(n_steps=256), sac=SACConfig(gradient_steps=-1))
"""Stable-Baselines3's defaults, with rollouts of 2048 steps, and as many gradient steps of SAC as environment steps, of a seed
where it has 8 environments instead of one."""


def preset(env_id: str) -> Preset:
    """Find the preset of the longest matching name, or what holds elsewhere."""
    matching = [name for name in PRESETS if env_id.startswith(name)]
    return PRESETS[max(matching, key=len)] if matching else ELSEWHERE
