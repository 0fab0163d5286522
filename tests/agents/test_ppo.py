import math

import gymnasium
import numpy as np
import pytest
import stable_baselines3
import torch
from gymnasium import spaces
from safetensors.torch import save_file
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecNormalize

from recall_traces.agents.ppo import PPO, Minibatch, PPOConfig
from recall_traces.agents.seams import NoImitation
from recall_traces.data import Traces, Transitions
from recall_traces.envs import make
from recall_traces.envs.interface import Step

BOX, BOX_ACTION = spaces.Box(-1, 1, (3,)), spaces.Box(-1, 1, (2,))
TWO_NUMBERS = spaces.Box(-1, 1, (2,))
CLOSE = {"atol": 1e-5, "rtol": 1e-5}


# Environments of tests -----------------------------------------------------------------------------------------------------


class Spaces:
    """Has spaces and is never stepped."""

    device, success_return = torch.device("cpu"), None

    def __init__(self, observation_space=BOX, action_space=BOX_ACTION, num_envs=1):
        self.observation_space, self.action_space, self.num_envs = observation_space, action_space, num_envs


class Probe:
    """Small tasks, each of which a learner fails for one reason; copies differ only by their row.

    Observations are one number. `first` gives first observations, `transition` (obs, actions, age) what comes of a step:
    rewards, true successors, terminated, truncated.
    """

    device, success_return = torch.device("cpu"), None
    observation_space = spaces.Box(-10, 10, (1,))

    def __init__(self, num_envs, first, transition, action_space=None):
        self.num_envs, self.first, self.transition = num_envs, first, transition
        self.action_space = action_space or spaces.Discrete(2)
        self.generator = torch.Generator().manual_seed(0)

    def reset(self):
        self.age = torch.zeros(self.num_envs, dtype=torch.int64)
        self.obs = self.first(self.num_envs, self.generator)
        return self.obs[:, None]

    def step(self, actions):
        self.age = self.age + 1
        rewards, final_obs, terminated, truncated = self.transition(self.obs, actions, self.age)
        done = terminated | truncated
        self.obs = torch.where(done, self.first(self.num_envs, self.generator), final_obs)
        self.age = torch.where(done, 0, self.age)
        return Step(self.obs[:, None], rewards, terminated, truncated, final_obs[:, None])


def zeros(count, generator):
    return torch.zeros(count)


def signs(count, generator):
    return torch.randint(2, (count,), generator=generator) * 2.0 - 1.0


def always(obs):
    return torch.ones_like(obs, dtype=torch.bool)


def never(obs):
    return torch.zeros_like(obs, dtype=torch.bool)


class Drift:
    """Observation and reward are functions of row, time and action alone; episodes of 7 steps end in turn by truncation.

    From `breaks_at` steps on the rewards (or observations) of the rows in `broken` are `value`.
    """

    device, success_return = torch.device("cpu"), None

    def __init__(self, rows, box_actions=False, broken=(), breaks_at=10**9, what="rewards", value=math.nan):
        self.rows, self.num_envs = torch.tensor(rows, dtype=torch.float32), len(rows)
        self.observation_space, self.action_space = TWO_NUMBERS, BOX_ACTION if box_actions else spaces.Discrete(3)
        self.broken = torch.tensor([row in broken for row in rows])
        self.breaks_at, self.what, self.value = breaks_at, what, value
        self.time = 0

    def reset(self):
        return self.observe()

    def observe(self):
        return torch.stack([torch.sin(self.rows + 0.7 * self.time), torch.cos(0.3 * self.rows * self.time)], -1)

    def step(self, actions):
        assert bool(actions.isfinite().all())
        self.time += 1
        obs, score = self.observe(), actions.float() if actions.dim() == 1 else actions.sum(-1)
        rewards = torch.sin(self.rows + self.time) + score
        if self.time >= self.breaks_at:
            if self.what == "rewards":
                rewards = torch.where(self.broken, self.value, rewards)
            else:
                obs = torch.where(self.broken[:, None], self.value, obs)
        ended = torch.full_like(self.broken, self.time % 7 == 0)
        return Step(obs, rewards, ended & (self.rows % 2 == 0), ended & (self.rows % 2 == 1), obs)


# PPO is PPO ----------------------------------------------------------------------------------------------------------------


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
        assert float(metrics[ours][0]) == pytest.approx(sign * log[f"train/{theirs}"], abs=1e-5)
        assert float(update[ours][0]) == pytest.approx(sign * log[f"train/{theirs}"], abs=1e-5)

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


# Fleets --------------------------------------------------------------------------------------------------------------------


def tensors(ppo):
    """All state of a fleet, by name; the first axis is the seed."""
    return {f"{part}.{name}": value for part, holder in ppo.parts().items() for name, value in holder.state_dict().items()}


def copy_seed(fleet, single, seed):
    """Give a fleet of one everything of one seed of a larger fleet."""
    theirs = fleet.parts()
    for part, holder in single.parts().items():
        holder.load_state_dict({name: value[seed : seed + 1] for name, value in theirs[part].state_dict().items()})


def assert_same_seed(fleet, single, seed, **tolerance):
    theirs = tensors(fleet)
    for name, value in tensors(single).items():
        torch.testing.assert_close(
            value[0], theirs[name][seed], **(tolerance or CLOSE), msg=lambda text, name=name: f"{name}: {text}"
        )


def state(ppo, seed):
    """Weights, moments and step counts of a seed, in one row."""
    return torch.cat([x[seed].flatten() for name, x in tensors(ppo).items() if "normalizer" not in name])


def steps_taken(ppo):
    return ppo.policy_optimizer.steps.tolist()


def random_batch(ppo, rows, seed=0):
    """`(S, rows, ...)`, different for each seed of the fleet, of about the scale of the real."""
    generator = torch.Generator().manual_seed(seed)
    shape = (ppo.num_seeds, rows)
    obs = torch.randn(*shape, 3, generator=generator)
    actions = torch.randn(*shape, 2, generator=generator)
    advantages, returns = torch.randn(2, *shape, generator=generator)
    with torch.no_grad():
        log_probs = ppo.log_prob(obs, actions) + 0.1 * torch.randn(shape, generator=generator)
    return Minibatch(obs, actions, log_probs, advantages, returns)


def row(batch, seed):
    return Minibatch(*(x[seed : seed + 1] for x in vars(batch).values()))


def test_updates_of_a_fleet_are_those_of_fleets_of_one():
    config = PPOConfig(batch_size=32, n_epochs=5, ent_coef=0.01, learning_rate=1e-2)
    fleet = PPO(Spaces(num_envs=6), config, num_seeds=3)
    singles = [PPO(Spaces(num_envs=2), config) for _ in range(3)]
    for s, single in enumerate(singles):
        copy_seed(fleet, single, s)
    for round_ in range(3):
        batch = random_batch(fleet, 32, round_)
        fleet.update(batch, 1e-2)
        for s, single in enumerate(singles):
            single.update(row(batch, s), 1e-2)
    for s, single in enumerate(singles):
        assert_same_seed(fleet, single, s)


def test_target_kl_stops_single_seeds():
    config = PPOConfig(batch_size=32, n_epochs=10, learning_rate=3e-3, target_kl=0.02)
    fleet = PPO(Spaces(num_envs=3), config, num_seeds=3)
    singles = [PPO(Spaces(), config) for _ in range(3)]
    for s, single in enumerate(singles):
        copy_seed(fleet, single, s)
    batch = random_batch(fleet, 32)
    with torch.no_grad():
        batch.log_probs.copy_(fleet.log_prob(batch.obs, batch.actions))
    batch.log_probs[1] += 0.4 * torch.randn(32, generator=torch.Generator().manual_seed(1))  # seed 1 is far off from the start
    before = state(fleet, 1).clone()
    fleet.update(batch, 3e-3)
    assert torch.equal(state(fleet, 1), before)
    taken = steps_taken(fleet)
    assert taken[1] == 0
    assert 0 < taken[0] < 10
    assert 0 < taken[2] < 10
    for s, single in enumerate(singles):
        single.update(row(batch, s), 3e-3)
        assert steps_taken(single) == [taken[s]]
        assert_same_seed(fleet, single, s)
    # The stop holds for one rollout only.
    fleet.update(random_batch(fleet, 32, 5), 3e-3)
    assert steps_taken(fleet)[1] > 0


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


def test_a_frozen_seed_keeps_everything_and_the_others_do_not_notice():
    config = PPOConfig(batch_size=32, n_epochs=3)
    fleet, reference = (PPO(Spaces(num_envs=3), config, num_seeds=3) for _ in range(2))
    batch = random_batch(fleet, 32)
    fleet.update(batch, 1e-2)  # so that there is momentum
    reference.update(batch, 1e-2)
    fleet.alive[1] = False
    before = state(fleet, 1).clone()
    fleet.update(batch, 1e-2)
    reference.update(batch, 1e-2)
    assert torch.equal(state(fleet, 1), before)
    assert torch.equal(state(fleet, 0), state(reference, 0))
    assert torch.equal(state(fleet, 2), state(reference, 2))


def test_a_seed_that_is_left_out_does_not_mind_a_gradient_that_is_not_finite():
    fleet = PPO(Spaces(num_envs=2), PPOConfig(batch_size=32, n_epochs=1), num_seeds=2)
    batch = random_batch(fleet, 32)
    fleet.update(batch, 1e-3)
    before = state(fleet, 1).clone()
    fleet.alive[1] = False
    batch.returns[1] = math.nan
    fleet.update(batch, 1e-3)
    assert torch.equal(state(fleet, 1), before)


class Given:
    """Imitation of steps that are given, for some seeds."""

    imitation_updates, imitation_batch_size, imitation_coefficient = 3, 16, 2.0

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


def test_the_imitation_loss_is_the_weighted_mean_over_valid_steps():
    generator = torch.Generator().manual_seed(0)
    obs, actions = torch.randn(1, 16, 3, generator=generator), torch.randn(1, 16, 2, generator=generator)
    ppo = PPO(Spaces(), recall=Given(obs, actions, {0}))
    ppo.recall.imitation_updates = 1
    with torch.no_grad():
        log_probs = ppo.log_prob(obs, actions)[0, :10]
    expected = -(log_probs * torch.arange(1, 11)).sum() / 10
    before = ppo.policy_optimizer.values.clone()
    assert float(ppo.imitate(1e-3)["imitation_loss"][0]) == pytest.approx(float(expected), rel=1e-5)
    step = (ppo.policy_optimizer.values - before).abs()
    assert 0.5e-3 < step[step > 0].median() < 1.01e-3  # Adam's first step has the size of the learning rate
    with torch.no_grad():
        assert (ppo.log_prob(obs, actions)[0, :10] * torch.arange(1, 11)).sum() > (log_probs * torch.arange(1, 11)).sum()


@pytest.mark.parametrize("box_actions", [False, True])
def test_learning_as_a_fleet_is_learning_alone(box_actions, monkeypatch):
    """Whole training: with the same noise and minibatches, three seeds together are three seeds one by one."""
    config = PPOConfig(
        n_steps=10, batch_size=20, n_epochs=2, learning_rate=1e-2, learning_rate_schedule="linear", net_arch=(8,),
        normalize_observations=True, normalize_rewards=True,
    )  # fmt: skip
    env_rows = [0, 1, 2, 3, 4, 5]  # two of each seed
    fleet = PPO(Drift(env_rows, box_actions), config, num_seeds=3)
    singles = [PPO(Drift(env_rows[2 * s : 2 * s + 2], box_actions), config) for s in range(3)]
    for s, single in enumerate(singles):
        copy_seed(fleet, single, s)
    draws = []
    draw = fleet.policy.noise

    def remember(shape, generator):
        draws.append(draw(shape, generator))
        return draws[-1]

    monkeypatch.setattr(fleet.policy, "noise", remember, raising=False)
    fleet.learn(100)
    for s, single in enumerate(singles):
        left = [x[:, s : s + 1] for x in draws]
        monkeypatch.setattr(single.policy, "noise", lambda shape, generator, left=left: left.pop(0), raising=False)
        single.learn(100)
        assert not left
        assert_same_seed(fleet, single, s, atol=1e-4, rtol=1e-4)
    assert fleet.env_steps == 100


def test_minibatches_take_every_row_once_per_epoch_and_keep_rows_together():
    ppo = PPO(Spaces(num_envs=4), PPOConfig(batch_size=8, n_epochs=3), num_seeds=2)
    rows = 27  # three minibatches, three rows left out
    number = torch.arange(2 * rows, dtype=torch.float32).view(2, rows)
    batch = Minibatch(number[..., None].expand(2, rows, 3) / 100, number[..., None].expand(2, rows, 2) / 100, *[number / 100] * 3)
    seen = []
    original = ppo.loss

    def spy(minibatch):
        seen.append(minibatch)
        return original(minibatch)

    ppo.loss = spy
    ppo.update(batch, 0.0)
    assert len(seen) == 9
    for minibatch in seen:
        for value in (
            minibatch.actions,
            minibatch.log_probs[..., None],
            minibatch.advantages[..., None],
            minibatch.returns[..., None],
        ):
            assert torch.equal(value[..., 0], minibatch.obs[..., 0])
    orders = torch.stack([(torch.cat([x.returns for x in seen[e : e + 3]], 1) * 100).round() for e in (0, 3, 6)])
    for s in range(2):
        for epoch in orders[:, s]:
            assert len(set(epoch.tolist())) == 24
            assert set(epoch.tolist()) <= set(number[s].tolist())
        assert not torch.equal(orders[0, s], orders[1, s])  # another order in every epoch
    assert not torch.equal(orders[0, 0], orders[0, 1] - rows)  # and for every seed


# Probes: each task can be failed for one reason ------------------------------------------------------------------------------

PROBE = PPOConfig(learning_rate=5e-3, n_steps=16, batch_size=64, n_epochs=4, gamma=0.8, net_arch=(16,))
SEEDS = 8


def train(first, transition, steps=4096, action_space=None, **changes):
    config = PPOConfig(**{**vars(PROBE), **changes})
    return PPO(Probe(8 * SEEDS, first, transition, action_space), config, num_seeds=SEEDS, seed=0).learn(steps)


def values(ppo, obs):
    return ppo.value(torch.full((SEEDS, 1, 1), obs))[:, 0].tolist()


def chance(ppo, obs, action):
    with torch.no_grad():
        return ppo.log_prob(torch.full((SEEDS, 1, 1), obs), torch.full((SEEDS, 1), action)).exp()[:, 0]


def near(value, tolerance=0.1):
    return pytest.approx([value] * SEEDS, abs=tolerance)


def test_probe_constant_reward():
    """Fails if the critic does not learn at all, or bootstraps over termination (the value would be 5)."""
    ppo = train(zeros, lambda obs, actions, age: (torch.ones_like(obs), obs, always(obs), never(obs)))
    assert values(ppo, 0.0) == near(1.0)


def test_probe_reward_by_observation():
    """Fails if rewards are paired with the wrong observations."""
    ppo = train(signs, lambda obs, actions, age: (obs, obs, always(obs), never(obs)))
    assert values(ppo, 1.0) == near(1.0)
    assert values(ppo, -1.0) == near(-1.0)


def test_probe_delayed_reward():
    """Fails if discounting or the way back in time is wrong."""

    def two_steps(obs, actions, age):
        return (obs == 1.0).float(), obs + 1.0, obs == 1.0, never(obs)

    ppo = train(zeros, two_steps)
    assert values(ppo, 1.0) == near(1.0)
    assert values(ppo, 0.0) == near(0.8)


def test_probe_truncation():
    """Fails if truncation is termination (the value would be 1)."""
    ppo = train(zeros, lambda obs, actions, age: (torch.ones_like(obs), obs, never(obs), always(obs)), steps=8192)
    assert values(ppo, 0.0) == near(5.0, 0.5)


def test_probe_final_observation():
    """Fails if a truncated step bootstraps from the next episode's first observation instead of its true successor."""

    def leads_from_minus_one_to_one(obs, actions, age):
        good = obs == 1.0
        return good.float(), torch.ones_like(obs), good, ~good

    ppo = train(signs, leads_from_minus_one_to_one)
    assert values(ppo, 1.0) == near(1.0)
    # From the first observation it would be V(-1) = 0.8 · (V(-1) + 1) / 2, so 0.67.
    assert values(ppo, -1.0) == near(0.8, 0.06)


def test_probe_reward_by_action():
    """Fails if the policy does not learn."""
    ppo = train(zeros, lambda obs, actions, age: (actions.float(), obs, always(obs), never(obs)))
    assert chance(ppo, 0.0, 1).min() > 0.95


def test_probe_reward_by_action_and_observation():
    """Fails if advantages are paired with the wrong observations or actions."""
    ppo = train(signs, lambda obs, actions, age: ((actions == (obs > 0)).float(), obs, always(obs), never(obs)))
    assert chance(ppo, 1.0, 1).min() > 0.95
    assert chance(ppo, -1.0, 0).min() > 0.95


def test_probe_box_action():
    """Fails if continuous actions are paired, clipped or scaled wrongly: the best one is 0.5 above the observation."""

    def miss(obs, actions, age):
        assert bool((actions.abs() <= 2).all())
        return -((actions[:, 0] - 0.5 - obs) ** 2), obs, always(obs), never(obs)

    ppo = train(signs, miss, steps=16_384, action_space=spaces.Box(-2, 2, (1,)))
    for obs in (-1.0, 1.0):
        actions = ppo.act(torch.full((SEEDS, 1, 1), obs), greedy=True)[:, 0, 0]
        assert actions.tolist() == near(obs + 0.5, 0.25)


def test_actions_leave_within_bounds_and_are_stored_as_drawn():
    env = Probe(512, zeros, lambda obs, actions, age: (obs, obs, always(obs), never(obs)), spaces.Box(-0.5, 0.5, (1,)))
    seen, step = [], env.step
    env.step = lambda actions: (seen.append(actions), step(actions))[1]
    ppo = PPO(env, PPOConfig(n_steps=2))
    stored = ppo.collect().actions.flatten(1, 2)
    taken = torch.stack(seen)
    assert stored.abs().max() > 0.5
    assert torch.equal(taken, stored.clamp(-0.5, 0.5))
    assert ppo.act(torch.zeros(1, 1000, 1), greedy=False).abs().max() == 0.5


# Normalisers, schedule -----------------------------------------------------------------------------------------------------


def test_observations_are_normalised_by_all_that_was_seen():
    ppo = PPO(Drift([0, 1, 2, 3]), PPOConfig(n_steps=9, batch_size=18, n_epochs=1, normalize_observations=True), num_seeds=2)
    rollouts, original = [], ppo.estimate

    def spy(transitions, bonus):
        rollouts.append(transitions.obs.transpose(0, 1).flatten(1, 2))
        return original(transitions, bonus)

    ppo.estimate = spy
    ppo.learn(90)
    seen = torch.cat(rollouts, 1)
    assert seen.shape == (2, 90, 2)
    for s in range(2):
        mean, std = seen[s].numpy().mean(0), seen[s].numpy().std(0)
        np.testing.assert_allclose(ppo.obs_normalizer.mean[s, 0], mean, atol=1e-5)
        np.testing.assert_allclose(ppo.obs_normalizer.var[s, 0].sqrt(), std, rtol=1e-4)
        # The network really sees them: a policy is a function of normalised observations.
        probe = torch.tensor([[[0.3, -0.4]]]).expand(2, 1, 2)
        normal = (probe[s, 0].numpy() - mean) / std
        seen_by_policy = ppo.critic(torch.as_tensor(normal, dtype=torch.float32).expand(2, 1, 2))[s, 0, 0]
        assert float(ppo.value(probe)[s, 0]) == pytest.approx(seen_by_policy.item(), abs=1e-4)


def test_finite_observations_are_never_normalised():
    ppo = PPO(Spaces(spaces.Discrete(4), spaces.Discrete(2)), PPOConfig(normalize_observations=True))
    obs = torch.tensor([[0, 1, 2, 3]])
    assert torch.equal(ppo.obs_normalizer(obs), obs)


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


def test_values_are_in_the_units_of_the_environments_rewards():
    """Self-imitation compares them with recorded returns."""
    ppo = train(signs, lambda obs, actions, age: (100 + 50 * obs, obs, always(obs), never(obs)), normalize_rewards=True)
    assert values(ppo, 1.0) == near(150.0, 15.0)
    assert values(ppo, -1.0) == near(50.0, 15.0)


@pytest.mark.parametrize(("schedule", "expected"), [("constant", [1.0] * 4), ("linear", [1.0, 0.75, 0.5, 0.25])])
def test_learning_rate_schedule(schedule, expected):
    ppo = PPO(Drift([0, 1]), PPOConfig(learning_rate=2e-3, learning_rate_schedule=schedule, n_steps=5, n_epochs=1))
    rates, original = [], ppo.update
    ppo.update = lambda rollout, rate: (rates.append(rate), original(rollout, rate))[1]
    ppo.learn(40)
    assert rates == pytest.approx([2e-3 * x for x in expected])
    ppo.learn(40)  # each call has a schedule of its own
    assert rates[4:] == pytest.approx([2e-3 * x for x in expected])


def test_steps_are_counted_per_seed_and_in_whole_rollouts():
    ppo, seen = PPO(Drift([0, 1, 2, 3]), PPOConfig(n_steps=5, n_epochs=1), num_seeds=2), []
    ppo.learn(25, lambda learner, metrics: seen.append((learner.env_steps, set(metrics))))
    assert [steps for steps, _ in seen] == [0, 10, 20, 30]
    assert seen[0][1] == set()
    assert {"policy_loss", "value_loss", "entropy", "approx_kl", "seconds/collect"} <= seen[1][1]


def test_episodes_go_on_from_one_rollout_to_the_next():
    def climb(obs, actions, age):
        return obs, obs + 1.0, age == 7, never(obs)

    ppo = PPO(Probe(2, zeros, climb), PPOConfig(n_steps=5))
    seen = torch.cat([ppo.collect().obs for _ in range(3)])
    assert seen[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4, 5, 6, 0, 1, 2, 3, 4, 5, 6, 0]


def test_the_same_seed_gives_the_same_run_and_another_another():
    first, again, other = (PPO(Drift([0, 1, 2, 3]), PPOConfig(n_steps=8), num_seeds=2, seed=seed).learn(64) for seed in (3, 3, 4))
    for name, value in tensors(first).items():
        assert torch.equal(value, tensors(again)[name]), name
    assert not torch.equal(first.policy_optimizer.values, other.policy_optimizer.values)


def test_torchs_global_generator_is_left_alone():
    before = torch.get_rng_state()
    PPO(Drift([0, 1]), PPOConfig(n_steps=8)).learn(32)
    assert torch.equal(torch.get_rng_state(), before)


# What breaks ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("what", ["rewards", "obs"])
@pytest.mark.parametrize("box_actions", [False, True])
def test_a_broken_environment_stops_its_seed_alone(value, what, box_actions):
    config = PPOConfig(n_steps=8, batch_size=8, n_epochs=2, normalize_observations=True, normalize_rewards=True)
    # Environment 1 of seed 1 is row 3; the 13th step of each environment is the 5th of the second rollout.
    broken = Drift([0, 1, 2, 3, 4, 5], box_actions, broken=[3], breaks_at=13, what=what, value=value)
    ppo = PPO(broken, config, num_seeds=3).learn(80)
    reference = PPO(Drift([0, 1, 2, 3, 4, 5], box_actions), config, num_seeds=3).learn(80)
    after_one_rollout = PPO(Drift([0, 1, 2, 3, 4, 5], box_actions), config, num_seeds=3).learn(16)
    assert ppo.env_steps == 80
    assert ppo.alive == [True, False, True]
    assert list(ppo.failures) == [1]
    assert "seed 1" in ppo.failures[1]
    assert "environment 1 " in ppo.failures[1]
    assert "step 26" in ppo.failures[1]  # 13 steps of two environments
    for s in (0, 2):
        assert torch.equal(state(ppo, s), state(reference, s))
    assert torch.equal(state(ppo, 1), state(after_one_rollout, 1))
    for name, tensor in tensors(ppo).items():
        assert bool(tensor.isfinite().all()), name


def test_learning_stops_when_every_seed_is_broken():
    ppo = PPO(Drift([0, 1], broken=[0, 1], breaks_at=3), PPOConfig(n_steps=8), num_seeds=2).learn(80)
    assert ppo.env_steps == 8
    assert sorted(ppo.failures) == [0, 1]


@pytest.mark.parametrize("which", ["policy_optimizer", "critic_optimizer"])
def test_weights_that_are_not_finite_stop_their_seed_alone(which):
    config = PPOConfig(n_steps=8, batch_size=8)
    ppo, reference = (PPO(Drift([0, 1, 2, 3]), config, num_seeds=2).learn(16) for _ in range(2))
    getattr(ppo, which).values[1, 0] = math.nan
    ppo.learn(32)
    reference.learn(32)
    assert ppo.alive == [True, False]
    assert "seed 1" in ppo.failures[1]
    assert "weights" in ppo.failures[1]
    assert torch.equal(state(ppo, 0), state(reference, 0))
    assert bool(ppo.act(torch.zeros(2, 1, 2), greedy=True).isfinite().all())


def test_minibatches_of_one_step_are_as_in_stable_baselines3():
    """A single advantage has no standard deviation."""
    ppo = PPO(Drift([0, 1]), PPOConfig(n_steps=4, batch_size=1, n_epochs=1)).learn(16)
    assert not ppo.failures
    assert bool(ppo.policy_optimizer.values.isfinite().all())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"learning_rate": 0.0}, "learning_rate must be positive, not 0.0"),
        ({"learning_rate": math.nan}, "learning_rate"),
        ({"n_steps": 0}, "n_steps"),
        ({"batch_size": -1}, "batch_size"),
        ({"n_epochs": 0}, "n_epochs"),
        ({"clip_range": 0.0}, "clip_range"),
        ({"max_grad_norm": 0.0}, "max_grad_norm"),
        ({"gamma": 1.1}, r"gamma must lie in \[0, 1\], not 1.1"),
        ({"gae_lambda": -0.1}, "gae_lambda"),
        ({"activation": "gelu"}, "activation must be one of tanh, relu, elu, silu, not 'gelu'"),
        ({"learning_rate_schedule": "cosine"}, "learning_rate_schedule must be one of constant, linear"),
        ({"target_kl": 0.0}, "target_kl"),
        ({"target_kl": -1.0}, "target_kl"),
        ({"net_arch": (64, 0)}, "net_arch"),
        ({"net_arch": (-1,)}, "net_arch"),
    ],
)
def test_numbers_out_of_range_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        PPOConfig(**change)


def test_seeds_must_share_the_environments_equally():
    with pytest.raises(ValueError, match="5 environments cannot be shared equally by 2 seeds"):
        PPO(Spaces(num_envs=5), num_seeds=2)
    with pytest.raises(ValueError, match="0 seeds"):
        PPO(Spaces(num_envs=5), num_seeds=0)


@pytest.mark.parametrize("space", [spaces.Dict({"a": BOX}), spaces.Box(0, 255, (8, 8, 3), np.uint8), spaces.MultiBinary(3)])
def test_spaces_that_are_not_served_are_named(space):
    with pytest.raises(ValueError, match="FlattenObservation"):
        PPO(Spaces(space))


def test_there_is_nothing_to_imitate_without_recall():
    assert PPO(Spaces()).imitate(1e-3) == {}
    with pytest.raises(RuntimeError, match="nothing to imitate"):
        NoImitation().sample(1)


# Use -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("observation_space", "observation"),
    [(BOX, np.array([0.1, -0.2, 0.3])), (spaces.Discrete(5), np.int64(3)), (spaces.MultiDiscrete([3, 4]), np.array([2, 1]))],
)
@pytest.mark.parametrize("action_space", [spaces.Discrete(3), BOX_ACTION], ids=["discrete", "box"])
def test_predict(observation_space, observation, action_space):
    one, three = (PPO(Spaces(observation_space, action_space, n), num_seeds=n) for n in (1, 3))
    action, memory = one.predict(observation, deterministic=True)
    assert memory is None
    assert isinstance(action, np.ndarray)
    assert action_space.contains(action[()])
    rows, _ = one.predict(np.stack([observation] * 6), deterministic=True)
    np.testing.assert_allclose(rows, np.stack([action] * 6), atol=1e-6)

    batch = torch.as_tensor(np.stack([observation] * 6))
    by_seed, _ = three.predict(batch, deterministic=True)
    assert isinstance(by_seed, torch.Tensor)
    assert by_seed.shape == (6, *action_space.shape)
    expected = three.act(
        batch[:2].to(batch.dtype if batch.dtype == torch.int64 else torch.float32).expand(3, 2, *batch.shape[1:]), greedy=True
    )
    torch.testing.assert_close(by_seed, expected.flatten(0, 1))

    sampled = np.stack([one.predict(observation)[0] for _ in range(50)])
    assert len(np.unique(sampled, axis=0)) > 1
    with pytest.raises(ValueError, match="4 observations, which 3 seeds"):
        three.predict(batch[:4])


def test_stable_baselines3_can_evaluate_a_fleet_of_one():
    ppo = PPO(make("CartPole-v1", num_envs=8), PPOConfig(n_steps=64, batch_size=128, learning_rate=3e-3)).learn(512)
    for env in (gymnasium.make("CartPole-v1"), DummyVecEnv([lambda: gymnasium.make("CartPole-v1")] * 2)):
        mean, _ = evaluate_policy(ppo, env, n_eval_episodes=4, deterministic=True, warn=False)
        assert 8 <= mean <= 500
    mean, _ = evaluate_policy(
        PPO(Spaces(spaces.Box(-8, 8, (3,)), spaces.Box(-2, 2, (1,)))), gymnasium.make("Pendulum-v1"), 1, warn=False
    )
    assert -2000 < mean < 0


def trained(num_seeds=2, box_actions=True):
    config = PPOConfig(
        n_steps=8, batch_size=8, net_arch=(8, 4), activation="relu", normalize_observations=True, normalize_rewards=True
    )
    return PPO(Drift(list(range(2 * num_seeds)), box_actions), config, num_seeds=num_seeds).learn(48)


@pytest.mark.parametrize("num_seeds", [1, 3])
@pytest.mark.parametrize("box_actions", [False, True])
def test_what_was_saved_acts_the_same(tmp_path, num_seeds, box_actions):
    ppo = trained(num_seeds, box_actions)
    ppo.save(tmp_path / "ppo.safetensors")
    loaded = PPO.load(tmp_path / "ppo.safetensors", Drift(list(range(num_seeds)), box_actions))  # other copies than in training
    assert loaded.config == ppo.config
    assert loaded.env_steps == 48
    assert loaded.num_seeds == num_seeds
    for name, value in tensors(ppo).items():
        assert torch.equal(value, tensors(loaded)[name]), name
    obs = torch.randn(num_seeds, 20, 2, generator=torch.Generator().manual_seed(0))
    assert torch.equal(ppo.act(obs, greedy=True), loaded.act(obs, greedy=True))
    drawn = [x.act(obs, greedy=False, generator=torch.Generator().manual_seed(1)) for x in (ppo, loaded)]
    assert torch.equal(*drawn)
    assert torch.equal(ppo.value(obs), loaded.value(obs))
    # The next update is the same too: moments and step counts are there.
    batch = Minibatch(obs, ppo.act(obs, greedy=True), *torch.randn(3, num_seeds, 20, generator=torch.Generator().manual_seed(2)))
    for learner in (ppo, loaded):
        learner.config = PPOConfig(**{**vars(learner.config), "batch_size": 20, "n_epochs": 1})
        learner.update(batch, 1e-3)
    torch.testing.assert_close(ppo.policy_optimizer.values, loaded.policy_optimizer.values)


def test_a_frozen_seed_stays_frozen_when_saved(tmp_path):
    ppo = PPO(Drift([0, 1, 2], broken=[1], breaks_at=3), PPOConfig(n_steps=8, batch_size=8), num_seeds=3).learn(16)
    ppo.save(tmp_path / "ppo.safetensors")
    loaded = PPO.load(tmp_path / "ppo.safetensors", Drift([0, 1, 2]))
    assert loaded.alive == [True, False, True]
    assert loaded.failures == ppo.failures


class Other(Spaces):
    """Four rows of other spaces than those of `trained`."""

    def __init__(self, observation_space=TWO_NUMBERS, action_space=BOX_ACTION):
        super().__init__(observation_space, action_space, 4)


@pytest.mark.parametrize(
    "env",
    [
        Other(spaces.Box(-1, 1, (3,))),
        Other(spaces.Discrete(2)),
        Other(spaces.MultiDiscrete([1, 1])),
        Other(action_space=spaces.Discrete(2)),
        Other(action_space=spaces.Box(-1, 1, (3,))),
    ],
)
def test_an_environment_with_other_spaces_is_refused(tmp_path, env):
    trained().save(tmp_path / "ppo.safetensors")
    with pytest.raises(ValueError, match=r"ppo\.safetensors does not fit"):
        PPO.load(tmp_path / "ppo.safetensors", env)


def test_spaces_of_the_same_size_are_told_apart(tmp_path):
    """Four numbers, four values, and two times two values all make four inputs."""
    PPO(Spaces(spaces.Box(-1, 1, (4,)), spaces.Discrete(2))).save(tmp_path / "ppo.safetensors")
    for space in (spaces.Discrete(4), spaces.MultiDiscrete([2, 2])):
        with pytest.raises(ValueError, match=r"ppo\.safetensors does not fit"):
            PPO.load(tmp_path / "ppo.safetensors", Spaces(space, spaces.Discrete(2)))


def test_files_that_are_something_else_are_refused(tmp_path):
    path = tmp_path / "file"
    with pytest.raises(FileNotFoundError):
        PPO.load(path, Spaces())
    torch.save({"policy": torch.zeros(3)}, path)  # a pickle
    with pytest.raises(ValueError, match="is not a saved PPO"):
        PPO.load(path, Spaces())
    path.write_bytes(b"\x10" + bytes(range(200)))
    with pytest.raises(ValueError, match="is not a saved PPO"):
        PPO.load(path, Spaces())
    for metadata in (None, {"config": "{}"}, {"config": '{"tau": 0.005, "net_arch": [4]}', "num_seeds": "1", "env_steps": "0"}):
        save_file({"policy": torch.zeros(3)}, path, metadata=metadata)
        with pytest.raises(ValueError, match="is not a saved PPO"):
            PPO.load(path, Spaces())
