import pytest
import torch
from gymnasium import spaces

from recall_traces.agents.ppo import PPO, PPOConfig, generalized_advantages
from recall_traces.envs.interface import Step

GAMMA, LAMBDA = 0.5, 0.8


def advantages(rewards, values, next_values, terminated=(), truncated=(), gamma=GAMMA, gae_lambda=LAMBDA):
    """Of one environment; `terminated` and `truncated` are the steps that were."""
    columns = [torch.tensor(x)[:, None, None] for x in (rewards, values, next_values)]
    flags = [torch.tensor([t in steps for t in range(len(rewards))])[:, None, None] for steps in (terminated, truncated)]
    return generalized_advantages(*columns, *flags, gamma, gae_lambda)[:, 0, 0].tolist()


def test_nothing_ends():
    # Deltas by hand: 1 + 0.5·20 - 10 = 1, 2 + 0.5·30 - 20 = -3, 3 + 0.5·40 - 30 = -7; the last bootstraps from V = 40.
    # With γλ = 0.4: A2 = -7, A1 = -3 - 2.8 = -5.8, A0 = 1 - 2.32 = -1.32.
    found = advantages([1.0, 2.0, 3.0], [10.0, 20.0, 30.0], [20.0, 30.0, 40.0])
    assert found == pytest.approx([-1.32, -5.8, -7.0])


def test_termination_neither_bootstraps_nor_passes_anything_on():
    # The successor's value 30 must not count: delta 1 = 2 - 20 = -18. A0 = 1 + 0.4·(-18) = -6.2.
    found = advantages([1.0, 2.0, 3.0], [10.0, 20.0, 30.0], [20.0, 30.0, 40.0], terminated=[1])
    assert found == pytest.approx([-6.2, -18.0, -7.0])


def test_truncation_bootstraps_from_the_true_successor_and_passes_nothing_on():
    # The true successor of step 1 is worth 60, the first state of the next episode 30: delta 1 = 2 + 30 - 20 = 12.
    found = advantages([1.0, 2.0, 3.0], [10.0, 20.0, 30.0], [20.0, 60.0, 40.0], truncated=[1])
    assert found == pytest.approx([1 + 0.4 * 12, 12.0, -7.0])


@pytest.mark.parametrize(("flags", "last"), [({"terminated": [2]}, 3 - 30.0), ({"truncated": [2]}, 3 + 20 - 30.0)])
def test_an_end_at_the_last_step_of_the_rollout(flags, last):
    found = advantages([1.0, 2.0, 3.0], [10.0, 20.0, 30.0], [20.0, 30.0, 40.0], **flags)
    assert found == pytest.approx([1 + 0.4 * (-3 + 0.4 * last), -3 + 0.4 * last, last])


def test_lambda_one_is_the_return_and_lambda_zero_the_temporal_difference():
    rewards, values, next_values = [1.0, 2.0, 4.0], [3.0, 5.0, 7.0], [5.0, 7.0, 9.0]
    monte_carlo = advantages(rewards, values, next_values, terminated=[2], gae_lambda=1.0)
    assert monte_carlo == pytest.approx([1 + 0.5 * 2 + 0.25 * 4 - 3, 2 + 0.5 * 4 - 5, 4 - 7])
    assert advantages(rewards, values, next_values, gae_lambda=0.0) == pytest.approx([1 + 2.5 - 3, 2 + 3.5 - 5, 4 + 4.5 - 7])


def test_environments_do_not_mix():
    generator = torch.Generator().manual_seed(0)
    rewards, values, next_values = torch.randn(3, 7, 2, 3, generator=generator)
    terminated, truncated = torch.rand(2, 7, 2, 3, generator=generator) < 0.2
    together = generalized_advantages(rewards, values, next_values, terminated, truncated, 0.9, 0.8)
    for s in range(2):
        for n in range(3):
            alone = generalized_advantages(*(x[:, s, n] for x in (rewards, values, next_values, terminated, truncated)), 0.9, 0.8)
            torch.testing.assert_close(together[:, s, n], alone)


class Endless:
    """Reward 1 in every step; episodes are cut after `length` steps and never terminate."""

    device, success_return = torch.device("cpu"), None
    observation_space, action_space = spaces.Discrete(1), spaces.Discrete(2)

    def __init__(self, num_envs, length):
        self.num_envs, self.length = num_envs, length

    def reset(self):
        self.age = 0
        return torch.zeros(self.num_envs, dtype=torch.int64)

    def step(self, actions):
        self.age += 1
        obs, never = torch.zeros(self.num_envs, dtype=torch.int64), torch.zeros(self.num_envs, dtype=torch.bool)
        return Step(obs, torch.ones(self.num_envs), never, never | (self.age % self.length == 0), obs)


@pytest.mark.parametrize("length", [1, 7, 10_000])
def test_the_value_of_reward_1_forever_is_one_over_one_minus_gamma(length):
    # Were truncation termination, the value with length 1 would be 1 and with length 7 below 4.
    config = PPOConfig(learning_rate=0.02, n_steps=32, batch_size=64, n_epochs=4, gamma=0.9, net_arch=(8,))
    ppo = PPO(Endless(8, length), config, num_seeds=4, seed=0).learn(10_000)
    assert ppo.value(torch.zeros(4, 1, dtype=torch.int64))[:, 0].tolist() == pytest.approx([10.0] * 4, rel=0.05)
