"""Where the posterior is too hopeful: imitation alone credits an action with the luck that followed.

    python scripts/stochastic_example.py        # a minute on one core

One state, two actions: 'safe' pays 1 with probability 0.6, 'risky' with 0.5. For several coefficients PPO trains with recall
traces from the rewarded state, and the share of 'safe' that it ends up playing is printed: mean and range over 16 seeds.
"""

import gymnasium
import torch
from torch import Tensor

from recall_traces import RecallConfig, RecallTraces
from recall_traces.agents.ppo import PPO, PPOConfig
from recall_traces.envs.interface import Step

SEEDS, ENVS, PAYS = 16, 8, (0.6, 0.5)


class Bandit:
    """State 0 leads to state 1 (paid) or 2 (not), where the episode ends."""

    observation_space = gymnasium.spaces.Discrete(3)
    action_space = gymnasium.spaces.Discrete(2)
    success_return = 1.0
    num_envs = SEEDS * ENVS
    device = torch.device("cpu")

    def __init__(self) -> None:
        self.generator = torch.Generator().manual_seed(0)
        self.pays = torch.tensor(PAYS)

    def reset(self) -> Tensor:
        return torch.zeros(self.num_envs, dtype=torch.int64)

    def step(self, actions: Tensor) -> Step:
        paid = torch.rand(self.num_envs, generator=self.generator) < self.pays[actions]
        ended = torch.ones(self.num_envs, dtype=torch.bool)
        return Step(self.reset(), paid.float(), ended, ~ended, torch.where(paid, 1, 2))


if __name__ == "__main__":
    torch.set_num_threads(1)
    print("coefficient   share of 'safe'   range over 16 seeds")
    for coefficient in (0.0, 0.1, 0.3, 1.0, 3.0):
        env = Bandit()
        # Half of the steps pay, and yet all is imitated: that is what is shown here.
        config = RecallConfig(
            source="return", imitation_coefficient=coefficient, imitation_ratio=0.5, trace_length=1, rare_reward=1.0
        )
        recall = RecallTraces(env.observation_space, env.action_space, config, num_seeds=SEEDS, num_envs=ENVS)
        ppo = PPO(env, PPOConfig(learning_rate=2e-3, n_steps=64, batch_size=256, n_epochs=4), recall=recall, num_seeds=SEEDS)
        ppo.learn(20_000)
        safe = ppo.log_prob(torch.zeros(SEEDS, 1, dtype=torch.int64), torch.zeros(SEEDS, 1, dtype=torch.int64)).exp()
        print(f"{coefficient:11.2f} {safe.mean():17.2f}   {safe.min():.2f} to {safe.max():.2f}", flush=True)
