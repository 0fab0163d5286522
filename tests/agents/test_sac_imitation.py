"""What SAC imitates, and what that does to policy and temperature."""

import pytest
import torch
from ppo_helpers import Spaces
from sac_helpers import UNEQUAL, Given, random_batch

from recall_traces.agents.sac import SAC, Batch, SACConfig
from recall_traces.squashing import MAX_LOG_PROB


def test_the_imitation_loss_is_the_weighted_mean_over_valid_steps():
    """Of raw observations and of actions in the bounds of the environment; it adds to the gradient by its coefficient."""
    generator = torch.Generator().manual_seed(0)
    obs = torch.randn(1, 16, 3, generator=generator) + 5
    actions = torch.rand(1, 16, 2, generator=generator) * torch.tensor([3.0, 4.0]) + torch.tensor([-1.5, 0.5])
    recall = Given(obs, actions, {0})
    config = SACConfig(net_arch=(8,), buffer_size=8, normalize_observations=True)
    sac, plain = (SAC(Spaces(action_space=UNEQUAL), config, recall=recall) for _ in range(2))
    for learner in (sac, plain):
        learner.obs_normalizer.update(obs)
    normal = (obs - obs.mean(1, keepdim=True)) / obs.std(1, correction=0, keepdim=True)
    scaled = actions / torch.tensor([2.0, 2.5]) - torch.tensor([0.0, 1.0])
    policy = sac.policy(normal)
    change = torch.distributions.TransformedDistribution(
        torch.distributions.Normal(policy.mean, policy.log_std.exp()), torch.distributions.TanhTransform()
    )
    log_probs = change.log_prob(scaled).sum(-1)[0, :14]
    loss = -(log_probs * torch.arange(1, 15)).sum() / 14
    assert (
        float((log_probs.detach() + torch.log(1 - scaled.square()).sum(-1)[0, :14]).max()) < MAX_LOG_PROB
    )  # the limit is far away
    parameters = list(sac.policy.parameters())
    gradient = torch.cat([x.flatten(1) for x in torch.autograd.grad(loss, parameters)], 1)

    batch, noise = random_batch(1, 8)
    metrics, _ = sac.learn_from(batch, noise, recall.traces)
    plain.learn_from(batch, noise)
    assert float(metrics["imitation_loss"][0]) == pytest.approx(-log_probs.mean().item(), rel=1e-4)  # whatever the weights
    difference = sac.policy_optimizer.grads - plain.policy_optimizer.grads
    torch.testing.assert_close(difference, recall.imitation_coefficient * gradient, atol=1e-4, rtol=1e-3)
    assert torch.equal(sac.critic_optimizer.values, plain.critic_optimizer.values)
    assert torch.equal(sac.log_ent_coef, plain.log_ent_coef)


def test_imitation_alone_leads_to_the_recalled_action_and_leaves_some_noise():
    """Critics that say 0 and a temperature of 0 pull nowhere: all there is to learn from is one recalled step of each seed."""
    actions = torch.tensor([[-1.2, 4.0], [0.0, 2.5], [1.0, 0.5]])[:, None].repeat(1, 3, 1)
    obs = torch.tensor([[1.0, 0.0, -1.0], [0.3, 0.3, 0.3], [0.0, 2.0, 0.0]])[:, None].repeat(1, 3, 1)
    recall = Given(obs, actions, {0, 1, 2})  # one step and two of padding
    config = SACConfig(net_arch=(16,), activation="tanh", learning_rate=2e-3, ent_coef=0.0, buffer_size=8)
    sac = SAC(Spaces(action_space=UNEQUAL, num_envs=3), config, recall=recall, num_seeds=3)
    sac.critic_optimizer.values.zero_()
    sac.target_values.zero_()
    rows, ending = torch.zeros(3, 1), torch.ones(3, 1, dtype=torch.bool)
    nothing = Batch(rows[..., None].expand(3, 1, 3), rows[..., None].expand(3, 1, 2), rows, obs[:, :1], ending, rows + 1)
    noise = torch.zeros(3, 2, 2)
    for _ in range(600):
        sac.learn_from(nothing, noise, recall.traces)
    assert not bool(sac.critic_optimizer.values.any())
    torch.testing.assert_close(sac.act(obs, greedy=True), actions, atol=0.2, rtol=0)
    with torch.no_grad():
        log_std = sac.policy(obs).log_std[:, 0]
    # A Gaussian's largest log-density is -log σ - 0.92; without a limit it is above 3.3 by now.
    assert float((-log_std - 0.92).max()) < MAX_LOG_PROB + 0.8
    assert float((-log_std - 0.92).min()) > MAX_LOG_PROB - 0.3


def test_actions_at_the_bounds_are_imitated_too():
    recalled = torch.tensor([[[2.0, 0.0]]]).expand(1, 3, 2)  # the upper and the lower bound
    recall = Given(torch.zeros(1, 3, 3), recalled, {0})
    config = SACConfig(net_arch=(16,), learning_rate=2e-3, ent_coef=0.0, buffer_size=8)
    sac = SAC(Spaces(action_space=UNEQUAL), config, recall=recall)
    sac.critic_optimizer.values.zero_()
    sac.target_values.zero_()
    nothing = Batch(
        *torch.zeros(1, 1, 3)[None],
        torch.zeros(1, 1, 2),
        torch.zeros(1, 1),
        torch.zeros(1, 1, 3),
        torch.ones(1, 1) > 0,
        torch.ones(1, 1),
    )
    for _ in range(600):
        sac.learn_from(nothing, torch.zeros(1, 2, 2), recall.traces)
    torch.testing.assert_close(sac.act(torch.zeros(1, 3, 3), greedy=True), recalled, atol=0.05, rtol=0)


@pytest.mark.parametrize(("target", "falls"), [(-30.0, True), (30.0, False)])
def test_the_temperature_falls_but_does_not_rise_where_traces_are_imitated(target, falls):
    """Seed 0 has traces, seed 1 has none; the entropy lies between the two targets."""
    generator = torch.Generator().manual_seed(0)
    recall = Given(torch.randn(2, 6, 3, generator=generator), torch.rand(2, 6, 2, generator=generator), {0})
    config = SACConfig(net_arch=(8,), buffer_size=8, target_entropy=target)
    sac = SAC(Spaces(num_envs=2), config, recall=recall, num_seeds=2)
    for step in range(3):
        batch, noise = random_batch(2, 8, seed=step)
        sac.learn_from(batch, noise, recall.traces)
    imitates, plain = sac.log_ent_coef[:, 0].tolist()
    assert plain == pytest.approx(-3 * config.learning_rate if falls else 3 * config.learning_rate, rel=1e-2)
    assert imitates == pytest.approx(plain if falls else 0.0, abs=1e-7)
