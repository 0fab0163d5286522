"""The part of PPO that imitates recall traces."""

import pytest
import torch
from ppo_helpers import Drift, Spaces, assert_same_seed, copy_seed, random_batch, state

from recall_traces.agents.arms import ArmConfigs, make_learner
from recall_traces.agents.ppo import PPO, PPOConfig
from recall_traces.agents.seams import NoImitation
from recall_traces.agents.self_imitation import SelfImitationConfig
from recall_traces.data import Traces
from recall_traces.recall import RecallConfig


class Given:
    """Imitation of steps that are given, for some seeds."""

    imitation_ratio, imitation_batch_size, imitation_coefficient = 0.7, 16, 2.0

    def __init__(self, obs, actions, seeds):
        self.obs, self.actions = obs, actions
        some = torch.tensor([s in seeds for s in range(len(obs))])[:, None].expand(obs.shape[:2]).clone()
        some[:, 10:] = False  # padding
        self.traces = Traces(obs, actions, some, some.float() * torch.arange(1, obs.shape[1] + 1))

    def observe(self, transitions):
        pass

    def update(self, value=None):
        return {}

    def sample(self, batch_size, value=None):
        assert batch_size == self.imitation_batch_size
        return self.traces


def test_imitation_where_only_some_seeds_have_traces():
    config = PPOConfig(batch_size=32, n_epochs=2)
    generator = torch.Generator().manual_seed(0)
    obs, actions = torch.randn(3, 16, 3, generator=generator), torch.randn(3, 16, 2, generator=generator)
    fleet = PPO(Spaces(num_envs=3), config, num_seeds=3, recall=Given(obs, actions, {0, 2}))
    fleet.update(random_batch(fleet, 32), 1e-2)
    singles = [
        PPO(Spaces(), config, recall=Given(obs[s : s + 1], actions[s : s + 1], {0} if s != 1 else set())) for s in range(3)
    ]
    for s, single in enumerate(singles):
        copy_seed(fleet, single, s)
    before, critic = state(fleet, 1).clone(), fleet.critic_optimizer.values.clone()
    metrics = fleet.imitate(1e-2)
    assert torch.equal(state(fleet, 1), before)
    assert torch.equal(fleet.critic_optimizer.values, critic)
    for s, single in enumerate(singles):
        single.imitate(1e-2)
        assert_same_seed(fleet, single, s)
    assert metrics["imitation_loss"].shape == (3,)
    assert metrics["imitation_loss"][1] == 0


@pytest.mark.parametrize(("ratio", "expected"), [(0.0, 0), (0.01, 1), (1.0, 12), (1.5, 18)])
def test_there_are_as_many_minibatches_as_gradient_steps_times_the_ratio(ratio, expected):
    given, count = Given(torch.zeros(1, 16, 3), torch.zeros(1, 16, 2), {0}), []
    given.imitation_ratio = ratio
    sample = given.sample
    given.sample = lambda *arguments: (count.append(1), sample(*arguments))[1]
    # 2 environments, rollouts of 50 rows: 3 epochs of 4 whole minibatches.
    PPO(Spaces(num_envs=2), PPOConfig(n_steps=25, batch_size=12, n_epochs=3), recall=given).imitate(1e-3)
    assert len(count) == expected


def test_the_imitation_loss_is_the_weighted_mean_over_valid_steps():
    generator = torch.Generator().manual_seed(0)
    obs, actions = torch.randn(1, 16, 3, generator=generator), torch.randn(1, 16, 2, generator=generator)
    ppo = PPO(Spaces(), recall=Given(obs, actions, {0}))
    ppo.recall.imitation_ratio = 1e-9  # one minibatch
    with torch.no_grad():
        log_probs = ppo.log_prob(obs, actions)[0, :10]
    expected = -(log_probs * torch.arange(1, 11)).sum() / 10
    before = ppo.policy_optimizer.values.clone()
    assert float(ppo.imitate(1e-3)["imitation_loss"][0]) == pytest.approx(float(expected), rel=1e-5)
    step = (ppo.policy_optimizer.values - before).abs()
    assert 0.5e-3 < step[step > 0].median() < 1.01e-3  # Adam's first step has the size of the learning rate
    with torch.no_grad():
        assert (ppo.log_prob(obs, actions)[0, :10] * torch.arange(1, 11)).sum() > (log_probs * torch.arange(1, 11)).sum()


@pytest.mark.parametrize("arm", ["recall", "sil"])
def test_without_weight_nothing_changes_bit_for_bit(arm):
    configs = ArmConfigs(
        recall=RecallConfig(imitation_coefficient=0.0, rare_reward=1.0), sil=SelfImitationConfig(imitation_coefficient=0.0)
    )
    learners = [
        make_learner("ppo", name, Drift([0, 1], False), PPOConfig(n_steps=16, batch_size=16, n_epochs=2), configs, num_seeds=2)
        for name in ("none", arm)
    ]
    for learner in learners:
        learner.learn(128)
    assert bool(learners[1].recall.sample(8, learners[1].value).weights.any())  # there was something to imitate
    assert torch.equal(learners[0].policy_optimizer.values, learners[1].policy_optimizer.values)


def test_there_is_nothing_to_imitate_without_recall():
    assert PPO(Spaces()).imitate(1e-3) == {}
    with pytest.raises(RuntimeError, match="nothing to imitate"):
        NoImitation().sample(1)
