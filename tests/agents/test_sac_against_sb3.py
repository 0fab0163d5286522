"""With equal weights, batch and noise, SAC does what Stable-Baselines3's SAC does."""

import gymnasium
import pytest
import stable_baselines3
import torch
from gymnasium import spaces
from ppo_helpers import CLOSE, Spaces
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.type_aliases import ReplayBufferSamples

from recall_traces.agents.sac import SAC, Batch, SACConfig

OBSERVATION, ACTION, ROWS = 3, 2, 32


def linears(module):
    return [layer for layer in module.modules() if isinstance(layer, torch.nn.Linear)]


def copy_to_sb3(sac, model, seed):
    """Give a Stable-Baselines3 model the weights of one seed."""
    actor = model.policy.actor
    trunk, heads = linears(actor.latent_pi), (actor.mu, actor.log_std)
    layers = [sac.policy.mlp.first[0], *sac.policy.mlp.later]
    for layer, linear in zip(layers, trunk, strict=False):
        linear.weight.data.copy_(layer.weight.data[seed].T)
        linear.bias.data.copy_(layer.bias.data[seed, 0])
    for head, columns in zip(heads, (slice(0, ACTION), slice(ACTION, None)), strict=True):
        head.weight.data.copy_(layers[-1].weight.data[seed][:, columns].T)
        head.bias.data.copy_(layers[-1].bias.data[seed, 0, columns])
    for ours, theirs in ((sac.critics, model.policy.critic), (sac.target_critics, model.policy.critic_target)):
        for k, network in enumerate((theirs.qf0, theirs.qf1)):
            row = k * sac.num_seeds + seed
            for layer, linear in zip([ours.first[0], *ours.later], linears(network), strict=True):
                linear.weight.data.copy_(layer.weight.data[row].T)
                linear.bias.data.copy_(layer.bias.data[row, 0])


def rows(parameter, gradients):
    """A weight (or its gradient) in our order."""
    values = parameter.grad if gradients else parameter.data
    return (values.T if values.dim() == 2 else values).flatten()


def actor_of(model, gradients):
    actor = model.policy.actor
    trunk = [rows(x, gradients) for layer in linears(actor.latent_pi) for x in (layer.weight, layer.bias)]
    heads = [[x.grad if gradients else x.data for x in (head.weight, head.bias)] for head in (actor.mu, actor.log_std)]
    weights, biases = zip(*heads, strict=True)
    return torch.cat([*trunk, torch.cat(weights).T.flatten(), *biases])


def critic_of(network, gradients):
    return torch.cat([rows(x, gradients) for layer in linears(network) for x in (layer.weight, layer.bias)])


@pytest.mark.parametrize("learned", [True, False])
def test_losses_gradients_and_weights_equal_stable_baselines3(learned, monkeypatch):
    box, action_box = spaces.Box(-5, 5, (OBSERVATION,)), spaces.Box(-1, 1, (ACTION,))
    num_seeds, seed = 3, 1
    ent_coef = None if learned else 0.3
    config = SACConfig(net_arch=(16, 24), gamma=0.9, tau=0.1, ent_coef=ent_coef, initial_ent_coef=0.5, buffer_size=8)
    sac = SAC(Spaces(box, action_box, num_seeds), config, num_seeds=num_seeds)

    class Nothing(gymnasium.Env):
        observation_space, action_space = box, action_box

    model = stable_baselines3.SAC(
        "MlpPolicy",
        Nothing(),
        gamma=0.9,
        tau=0.1,
        ent_coef="auto_0.5" if learned else 0.3,
        policy_kwargs={"net_arch": [16, 24]},
        buffer_size=8,
        device="cpu",
    )
    generator = torch.Generator().manual_seed(0)
    for values in (sac.policy_optimizer.values, sac.critic_optimizer.values, sac.target_values):
        values.add_(torch.randn(values.shape, generator=generator), alpha=0.1)
    copy_to_sb3(sac, model, seed)

    def randn(*shape):
        return torch.randn(num_seeds, ROWS, *shape, generator=generator)

    obs, next_obs, actions, rewards = randn(OBSERVATION), randn(OBSERVATION), randn(ACTION).tanh(), randn()
    terminated = randn() > 1
    assert terminated[seed].any()
    noise = torch.randn(num_seeds, 2 * ROWS, ACTION, generator=generator)
    metrics, errors = sac.learn_from(Batch(obs, actions, rewards, next_obs, terminated, torch.ones(num_seeds, ROWS)), noise)

    sample = ReplayBufferSamples(
        obs[seed], actions[seed], next_obs[seed], terminated[seed, :, None].float(), rewards[seed, :, None]
    )
    monkeypatch.setattr(model.replay_buffer, "sample", lambda *_, **__: sample)
    draws = iter(noise[seed].split(ROWS))
    monkeypatch.setattr(torch.distributions.Normal, "rsample", lambda self, *_: self.loc + self.scale * next(draws))
    model.set_logger(Logger(None, []))
    critic_gradients = []
    step = model.policy.critic.optimizer.step

    def note(*args, **kwargs):  # the actor's loss adds to the critics' gradients afterwards
        networks = (model.policy.critic.qf0, model.policy.critic.qf1)
        critic_gradients.extend(critic_of(network, True).clone() for network in networks)
        return step(*args, **kwargs)

    monkeypatch.setattr(model.policy.critic.optimizer, "step", note)
    model.train(1)
    log = model.logger.name_to_value
    assert float(metrics["critic_loss"][seed]) == pytest.approx(log["train/critic_loss"], abs=1e-5)
    assert float(metrics["actor_loss"][seed]) == pytest.approx(log["train/actor_loss"], abs=1e-5)
    assert float(metrics["ent_coef"][seed]) == pytest.approx(log["train/ent_coef"], abs=1e-6)
    assert errors.shape == (num_seeds, ROWS)

    torch.testing.assert_close(sac.policy_optimizer.grads[seed], actor_of(model, True), **CLOSE)
    torch.testing.assert_close(sac.policy_optimizer.values[seed], actor_of(model, False), **CLOSE)
    if learned:
        torch.testing.assert_close(sac.log_ent_coef[seed], model.log_ent_coef, **CLOSE)
        assert float(sac.log_ent_coef.detach()[seed].exp()) != pytest.approx(0.5, abs=1e-5)

    for k, network in enumerate((model.policy.critic.qf0, model.policy.critic.qf1)):
        row = k * num_seeds + seed
        torch.testing.assert_close(sac.critic_optimizer.grads[row], critic_gradients[k], **CLOSE)
        torch.testing.assert_close(sac.critic_optimizer.values[row], critic_of(network, False), **CLOSE)
    for k, network in enumerate((model.policy.critic_target.qf0, model.policy.critic_target.qf1)):
        torch.testing.assert_close(sac.target_values[k * num_seeds + seed], critic_of(network, False), **CLOSE)
