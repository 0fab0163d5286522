"""With equal weights and equal data, PPO does what Stable-Baselines3's PPO and VecNormalize do."""

import gymnasium
import numpy as np
import pytest
import stable_baselines3
import torch
from gymnasium import spaces
from ppo_helpers import CLOSE, Spaces, steps_taken
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecNormalize

from recall_traces.agents.ppo import PPO, PPOConfig
from recall_traces.data import Transitions


def copy_to_sb3(ppo, model, seed=0):
    """Give a Stable-Baselines3 model the weights of one seed."""

    def copy(linear, layer):
        linear.weight.data.copy_(layer.weight.data[seed].T)
        linear.bias.data.copy_(layer.bias.data[seed, 0])

    extractor = model.policy.mlp_extractor
    for network, hidden, last in (
        (ppo.policy.mlp, extractor.policy_net, model.policy.action_net),
        (ppo.critic, extractor.value_net, model.policy.value_net),
    ):
        for layer, linear in zip([network.first[0], *network.later], [hidden[0], hidden[2], last], strict=True):
            copy(linear, layer)
    if not ppo.policy.discrete:
        model.policy.log_std.data.copy_(ppo.policy.log_std.data[seed, 0])


def sb3_parameters(model, gradients=False):
    """Weights (or gradients) of a Stable-Baselines3 model in the order of ours: policy, then critic, each `(P,)`."""
    policy = model.policy
    rows = []
    for hidden, last, log_std in (
        (policy.mlp_extractor.policy_net, policy.action_net, getattr(policy, "log_std", None)),
        (policy.mlp_extractor.value_net, policy.value_net, None),
    ):
        # nn.Module.parameters() names a module's own parameters before those of its parts.
        tensors = [] if log_std is None else [log_std]
        tensors += [x for linear in (hidden[0], hidden[2], last) for x in (linear.weight, linear.bias)]
        values = [x.grad if gradients else x.data for x in tensors]
        rows.append(torch.cat([(x.T if x.dim() == 2 else x).flatten() for x in values]))
    return rows


class Record(BaseCallback):
    """Notes the true transitions of a Stable-Baselines3 rollout before it adds values to rewards."""

    def __init__(self):
        super().__init__()
        self.steps = []

    def _on_step(self):
        now = self.locals
        final_obs = now["new_obs"].copy()
        for n, info in enumerate(now["infos"]):
            if now["dones"][n]:
                final_obs[n] = info["terminal_observation"]
        truncated = np.array([info.get("TimeLimit.truncated", False) for info in now["infos"]]) & now["dones"]
        flags = (now["dones"] & ~truncated, truncated)
        self.steps.append((self.model._last_obs.copy(), now["actions"].copy(), now["rewards"].copy(), final_obs, *flags))
        return True

    def transitions(self):
        """Of a fleet of one, `(T, 1, N, ...)`."""
        columns = [torch.as_tensor(np.stack(column))[:, None] for column in zip(*self.steps, strict=True)]
        return Transitions(*(x.float() if x.dtype == torch.float64 else x for x in columns))


# The update -----------------------------------------------------------------------------------------------------------------


TASKS = {
    "categorical": ("CartPole-v1", {"max_episode_steps": 12}, {}),
    "gaussian": ("Pendulum-v1", {"max_episode_steps": 10}, {}),
    "one-hot": ("FrozenLake-v1", {"max_episode_steps": 9}, {}),
    "two-one-hots": ("recall_traces/FourRooms-7-v0", {"max_episode_steps": 9}, {"random_goal": True}),
    "relu": ("CartPole-v1", {"max_episode_steps": 12}, {}),
}


@pytest.mark.parametrize("name", TASKS)
def test_loss_gradients_and_weights_equal_stable_baselines3(name):
    task, limit, options = TASKS[name]
    activation = "relu" if name == "relu" else "tanh"
    config = PPOConfig(n_steps=32, batch_size=128, n_epochs=1, ent_coef=0.02, gamma=0.9, gae_lambda=0.8, activation=activation)
    envs = DummyVecEnv([lambda: gymnasium.make(task, **limit, **options)] * 4)
    model = stable_baselines3.PPO(
        "MlpPolicy",
        envs,
        n_steps=config.n_steps,
        batch_size=config.batch_size,
        n_epochs=config.n_epochs,
        ent_coef=config.ent_coef,
        gamma=config.gamma,
        gae_lambda=config.gae_lambda,
        policy_kwargs={"activation_fn": torch.nn.ReLU if name == "relu" else torch.nn.Tanh},
        seed=0,
        device="cpu",
    )
    ppo = PPO(Spaces(envs.observation_space, envs.action_space, 4), config, seed=1)
    generator = torch.Generator().manual_seed(2)

    def disturb(scale):
        for optimizer in (ppo.policy_optimizer, ppo.critic_optimizer):
            optimizer.values.add_(torch.randn(optimizer.values.shape, generator=generator), alpha=scale)
        copy_to_sb3(ppo, model)

    disturb(0.1)
    record = Record()
    _, callback = model._setup_learn(1000, record)
    assert model.collect_rollouts(envs, callback, model.rollout_buffer, config.n_steps)
    transitions = record.transitions()
    assert transitions.truncated.any()
    assert transitions.terminated.any() == (name != "gaussian")

    rollout = ppo.estimate(transitions)
    buffer = model.rollout_buffer
    flat = {name: torch.as_tensor(getattr(buffer, name)).flatten()[None] for name in ("log_probs", "advantages", "returns")}
    torch.testing.assert_close(rollout.log_probs, flat["log_probs"], **CLOSE)
    torch.testing.assert_close(rollout.advantages, flat["advantages"], **CLOSE)
    torch.testing.assert_close(rollout.returns, flat["returns"], **CLOSE)

    # Other weights than those that acted, so that the ratio is not 1 and some of it is clipped.
    disturb(0.15)
    loss, metrics = ppo.loss(rollout)
    before = ppo.policy_optimizer.values.clone()
    update = ppo.update(rollout, config.learning_rate)
    model.train()
    log = model.logger.name_to_value
    assert 0 < log["train/clip_fraction"] < 1
    assert loss[0].item() == pytest.approx(log["train/loss"], rel=1e-5, abs=1e-5)
    for ours, theirs, sign in (
        ("policy_loss", "policy_gradient_loss", 1),
        ("value_loss", "value_loss", 1),
        ("entropy", "entropy_loss", -1),
        ("approx_kl", "approx_kl", 1),
    ):
        assert float(metrics[ours][0]) == pytest.approx(sign * log[f"train/{theirs}"], abs=1e-5, rel=1e-6)
        assert float(update[ours][0]) == pytest.approx(sign * log[f"train/{theirs}"], abs=1e-5, rel=1e-6)

    norm = torch.cat([ppo.policy_optimizer.grads, ppo.critic_optimizer.grads], 1).norm()
    assert norm > config.max_grad_norm  # so clipping is compared too
    scale = config.max_grad_norm / norm
    theirs = zip(
        (ppo.policy_optimizer, ppo.critic_optimizer), sb3_parameters(model, gradients=True), sb3_parameters(model), strict=True
    )
    for optimizer, gradients, values in theirs:
        torch.testing.assert_close(optimizer.grads[0] * scale, gradients, **CLOSE)
        torch.testing.assert_close(optimizer.values[0], values, **CLOSE)
    assert (ppo.policy_optimizer.values - before).abs().max() > 1e-4


def test_many_updates_equal_stable_baselines3():
    """Adam's moments too: 20 steps on one batch, the learning rate as configured."""
    config = PPOConfig(n_steps=32, batch_size=64, n_epochs=20, learning_rate=1e-3)
    envs = DummyVecEnv([lambda: gymnasium.make("CartPole-v1")] * 2)
    model = stable_baselines3.PPO(
        "MlpPolicy", envs, learning_rate=1e-3, n_steps=32, batch_size=64, n_epochs=20, seed=0, device="cpu"
    )
    ppo = PPO(Spaces(envs.observation_space, envs.action_space, 2), config)
    copy_to_sb3(ppo, model)
    record = Record()
    _, callback = model._setup_learn(1000, record)
    model.collect_rollouts(envs, callback, model.rollout_buffer, 32)
    ppo.update(ppo.estimate(record.transitions()), 1e-3)
    model.train()
    for optimizer, values in zip((ppo.policy_optimizer, ppo.critic_optimizer), sb3_parameters(model), strict=True):
        torch.testing.assert_close(optimizer.values[0], values, atol=1e-4, rtol=0.0)


def test_target_kl_stops_where_stable_baselines3_does():
    """It looks at the divergence before the step that it then leaves out."""
    config = PPOConfig(n_steps=64, batch_size=64, n_epochs=30, learning_rate=3e-3, target_kl=0.01)
    env = DummyVecEnv([lambda: gymnasium.make("CartPole-v1")])
    model = stable_baselines3.PPO(
        "MlpPolicy", env, learning_rate=3e-3, n_steps=64, batch_size=64, n_epochs=30, target_kl=0.01, seed=0, device="cpu"
    )
    ppo = PPO(Spaces(env.observation_space, env.action_space), config)
    copy_to_sb3(ppo, model)
    record = Record()
    _, callback = model._setup_learn(1000, record)
    model.collect_rollouts(env, callback, model.rollout_buffer, 64)
    ppo.update(ppo.estimate(record.transitions()), 3e-3)
    model.train()
    steps = model.policy.optimizer.state[model.policy.action_net.weight]["step"]
    assert 0 < steps_taken(ppo)[0] == steps.item() < 30


# Rewards --------------------------------------------------------------------------------------------------------------------


class Replay(VecEnv):
    """Gives recorded rewards and ends of episodes to VecNormalize."""

    def __init__(self, rewards, dones):
        super().__init__(rewards.shape[1], spaces.Box(-1, 1, (1,)), spaces.Discrete(2))
        self.rewards, self.dones, self.time = rewards, dones, 0

    def reset(self):
        return np.zeros((self.num_envs, 1), np.float32)

    def step_wait(self):
        t, self.time = self.time, self.time + 1
        return np.zeros((self.num_envs, 1), np.float32), self.rewards[t], self.dones[t], [{}] * self.num_envs

    def step_async(self, actions):
        pass

    def close(self):
        pass

    def get_attr(self, attr_name, indices=None):
        return [None] * self.num_envs

    def set_attr(self, attr_name, value, indices=None):
        pass

    def env_method(self, method_name, *args, indices=None, **kwargs):
        pass

    def env_is_wrapped(self, wrapper_class, indices=None):
        return [False] * self.num_envs


def test_rewards_are_normalised_as_by_stable_baselines3():
    ppo = PPO(Spaces(num_envs=6), PPOConfig(n_steps=20, gamma=0.9, normalize_rewards=True), num_seeds=2)
    generator = torch.Generator().manual_seed(0)
    rewards = 5 * torch.randn(60, 2, 3, generator=generator) + torch.tensor([3.0, -40.0])[:, None]
    rewards[-1] = 1000.0  # beyond the clip
    terminated, truncated = torch.rand(2, 60, 2, 3, generator=generator) < 0.07
    unused = torch.zeros(60, 2, 3, 1)
    last = []
    for rollout in range(3):
        t = slice(20 * rollout, 20 * rollout + 20)
        fields = (unused, unused, rewards, unused, terminated, truncated)
        last = ppo.normalize_rewards(Transitions(*(x[t] for x in fields)))
    for s in range(2):
        theirs = VecNormalize(Replay(rewards[:, s].numpy(), (terminated | truncated)[:, s].numpy()), norm_obs=False, gamma=0.9)
        theirs.reset()
        for _ in range(60):
            theirs.step(np.zeros(3))
        np.testing.assert_allclose(ppo.reward_normalizer.var[s].item(), theirs.ret_rms.var, rtol=1e-4)
        np.testing.assert_allclose(ppo.discounted_return[s], theirs.returns, rtol=1e-4)
        np.testing.assert_allclose(last[-1, s], theirs.normalize_reward(rewards[-1, s].numpy()), rtol=1e-4)
        np.testing.assert_allclose(last[3, s], theirs.normalize_reward(rewards[43, s].numpy()), rtol=1e-4)
