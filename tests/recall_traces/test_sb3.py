"""The callback, with Stable-Baselines3's own models."""

import dataclasses
import math
import sys

import cloudpickle
import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3
from stable_baselines3.common.callbacks import BaseCallback, CallbackList, CheckpointCallback, EvalCallback
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecFrameStack, VecNormalize

from recall_traces import BacktrackingConfig, RecallConfig, RecallTracesCallback
from recall_traces.data import Traces
from recall_traces.envs.sb3 import make_vec_env
from recall_traces.saving import flatten, load_tree
from recall_traces.sb3_actors import make_actor

SMALL = RecallConfig(
    traces_per_update=8,
    trace_length=10,
    search_length=10,
    imitation_batch_size=32,
    rare_reward=1.0,  # lines pay at every step
    model=BacktrackingConfig(kind="network", hidden=(16,)),
)
ON, OFF = {"n_steps": 16}, {"learning_starts": 20, "buffer_size": 1000, "batch_size": 8}
SERVED = [(PPO, ON | {"batch_size": 16}), (A2C, {}), (SAC, OFF), (TD3, OFF), (DDPG, OFF)]


def net():
    """A small one; anew each time, since Stable-Baselines3 writes into it."""
    return {"policy_kwargs": {"net_arch": [16]}}


class Line(gymnasium.Env):
    """A point moves by its action. Even episodes end by themselves after 7 steps, odd ones run out of time after 5."""

    def __init__(self, discrete=False, number=0):
        self.observation_space = spaces.Box(-1000, 1000, (2,), np.float32)
        self.action_space = spaces.Discrete(3) if discrete else spaces.Box(-2, 2, (1,), np.float32)
        self.discrete, self.number, self.episode, self.log = discrete, number, -1, []

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self.episode += 1
        self.age, self.place = 0, 2.0 * self.number + 0.25 * self.episode
        return self.observe(), {}

    def observe(self):
        return np.array([self.place, self.age], np.float32)

    def step(self, action):
        before = self.observe()
        self.place += float(action - 1 if self.discrete else action[0])
        self.age += 1
        odd = self.episode % 2
        terminated, truncated = not odd and self.age == 7, bool(odd) and self.age == 5
        reward = 1.0 + self.place
        self.log.append((before, np.array(action), np.float32(reward), self.observe(), terminated, truncated))
        return self.observe(), reward, terminated, truncated, {}


def lines(count=2, discrete=False, normalized=False):
    env = DummyVecEnv([lambda n=n: Line(discrete, n) for n in range(count)])
    return VecNormalize(env, clip_obs=1e6) if normalized else env


def remembered(callback, n):
    """What the callback's memory holds of one environment, in time order: every field `(T, ...)`."""
    memory = callback.recall.memory
    return {name: value[0, n, : memory.time].numpy() for name, value in vars(memory.steps).items()}


def lived_through(env, n):
    """The same as the environment itself wrote it down."""
    columns = zip(*env.unwrapped.envs[n].log if not isinstance(env, VecNormalize) else env.venv.envs[n].log, strict=True)
    names = ("obs", "actions", "rewards", "next_obs", "terminated", "truncated")
    return {name: np.array(column) for name, column in zip(names, columns, strict=True)}


def parameters(module):
    return torch.cat([p.detach().flatten().clone() for p in module.parameters()])


# What is remembered ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("normalized", [False, True])
@pytest.mark.parametrize(("algorithm", "options"), SERVED)
def test_every_step_is_remembered_as_it_was(algorithm, options, normalized):
    env = lines(2, normalized=normalized)
    callback = RecallTracesCallback(SMALL, seed=0)
    algorithm("MlpPolicy", env, seed=0, **options, **net()).learn(160, callback=callback)
    callback._observe()
    off_policy = "learning_starts" in options
    skipped = 1 if off_policy and not normalized else 0  # nobody shows the callback where it began
    for n in range(2):
        found, truth = remembered(callback, n), lived_through(env, n)
        steps = len(found["rewards"])
        assert 60 < steps == 80 - skipped - 1  # the newest is held back
        assert truth["terminated"][:steps].sum() > 3 < truth["truncated"][:steps].sum()
        for name, value in found.items():
            expected = truth[name][skipped : skipped + steps]
            # Undoing the normalisation of a terminal observation rounds.
            tolerance = 1e-2 if normalized and name == "next_obs" else 1e-5
            np.testing.assert_allclose(value, expected, atol=tolerance, rtol=1e-5, err_msg=name)


def test_discrete_actions_and_one_environment():
    env = lines(1, discrete=True)
    callback = RecallTracesCallback(SMALL, seed=0)
    PPO("MlpPolicy", env, seed=0, gamma=0.5, **ON, batch_size=16, **net()).learn(64, callback=callback)
    assert callback.recall.memory.gamma == 0.5
    callback._observe()
    found, truth = remembered(callback, 0), lived_through(env, 0)
    for name, value in found.items():
        np.testing.assert_array_equal(value, truth[name][: len(value)], err_msg=name)


def test_environments_in_other_processes():
    module = sys.modules[__name__]
    cloudpickle.register_pickle_by_value(module)  # the other process may not be able to import the tests
    env = SubprocVecEnv([Line, Line])
    cloudpickle.unregister_pickle_by_value(module)
    callback = RecallTracesCallback(SMALL)
    PPO("MlpPolicy", env, **ON, batch_size=16, **net()).learn(64, callback=callback)
    env.close()
    callback._observe()
    memory = callback.recall.memory
    assert memory.time == 31
    assert memory.steps.terminated[0, :, :31].any(1).all()
    assert memory.steps.truncated[0, :, :31].any(1).all()
    within = ~(memory.steps.terminated | memory.steps.truncated)[0, :, :30]
    assert torch.equal(memory.steps.next_obs[0, :, :30][within], memory.steps.obs[0, :, 1:31][within])


def test_several_calls_of_learn():
    """Going on keeps episodes whole; starting over breaks them off, as if their time was up."""
    env = lines(1)
    model, callback = PPO("MlpPolicy", env, **ON, batch_size=16, **net()), RecallTracesCallback(SMALL)
    model.learn(16, callback=callback)
    model.learn(16, callback=callback, reset_num_timesteps=False)
    callback._observe()
    found, truth = remembered(callback, 0), lived_through(env, 0)
    assert len(found["rewards"]) == 31
    for name, value in found.items():
        np.testing.assert_allclose(value, truth[name][:31], rtol=1e-5, err_msg=name)
    assert not (truth["terminated"] | truth["truncated"])[31]
    model.learn(16, callback=callback)  # resets the environment in the middle of an episode
    callback._observe()
    found = remembered(callback, 0)
    assert len(found["rewards"]) == 47
    assert found["truncated"][31]
    assert not found["terminated"][31]
    assert callback.recall.memory.age[0, 0, 32] == 0


class Walk(gymnasium.Env):
    """A point in an unbounded plane drifts away by its action, and begins anew after 50 steps."""

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self.age = 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.age += 1
        place = np.array([self.age, np.sin(self.age) + float(action[0])], np.float32)
        return place, 0.0, False, self.age == 50, {}


@pytest.mark.parametrize(
    ("algorithm", "options", "count"), [(A2C, {}, 4), (SAC, {"buffer_size": 1000, "batch_size": 8, "learning_starts": 0}, 1)]
)
def test_the_grid_of_unbounded_observations_is_fixed_by_many_states(algorithm, options, count):
    callback = RecallTracesCallback(SMALL, seed=0)
    algorithm("MlpPolicy", DummyVecEnv([Walk] * count), seed=0, **options, **net()).learn(400, callback=callback)
    memory = callback.recall.memory
    assert memory.time * count >= 256
    first = memory.steps.next_obs[0, :, : 256 // count].flatten(0, 1)
    ratio = callback.recall.cells.width[0, 0] / (6 * first.std(0, correction=0) / SMALL.cell_bins)
    assert ((ratio > 0.5) & (ratio < 2)).all()


def continuous(memory):
    """Whether every step of lines takes one unit of time and begins where the one before it led, but for the ends of episodes."""
    held = memory.steps.map(lambda x: x[0, :, : memory.time])
    if not torch.equal(held.obs[..., 1] + 1, held.next_obs[..., 1]):
        return False
    within = ~(held.terminated | held.truncated)[:, :-1]
    return torch.equal(held.next_obs[:, :-1][within], held.obs[:, 1:][within])


def test_steps_between_that_the_callback_did_not_see():
    model, callback = SAC("MlpPolicy", lines(1), **OFF, **net()), RecallTracesCallback(SMALL)
    model.learn(40, callback=callback)
    model.learn(3, reset_num_timesteps=False)
    model.learn(40, callback=callback, reset_num_timesteps=False)
    callback._observe()
    assert callback.recall.memory.time > 70
    assert continuous(callback.recall.memory)


def test_an_environment_that_was_reset_between():
    env = lines(1)
    model, callback = PPO("MlpPolicy", env, **ON, batch_size=16, **net()), RecallTracesCallback(SMALL)
    model.learn(16, callback=callback)
    model.set_env(env)  # resets it, as Stable-Baselines3 knows
    model.learn(16, callback=callback, reset_num_timesteps=False)
    callback._observe()
    assert callback.recall.memory.time == 31
    assert continuous(callback.recall.memory)


def test_normalised_environments_tell_that_they_were_moved_between():
    env = lines(1, normalized=True)
    model, callback = PPO("MlpPolicy", env, **ON, batch_size=16, **net()), RecallTracesCallback(SMALL)
    model.learn(16, callback=callback)
    env.reset()
    model.learn(16, callback=callback, reset_num_timesteps=False)
    callback._observe()
    found = remembered(callback, 0)
    assert found["next_obs"][15, 1] == 4  # in the middle of an episode
    assert found["truncated"][15]
    assert found["obs"][16, 1] == 0


def test_the_same_model_from_a_file(tmp_path):
    model, callback = SAC("MlpPolicy", lines(1), **OFF, **net()), RecallTracesCallback(SMALL)
    model.learn(41, callback=callback)  # not at an episode's end
    model.save(tmp_path / "model")
    model = SAC.load(tmp_path / "model", env=lines(1))
    model.learn(40, callback=callback, reset_num_timesteps=False)
    callback._observe()
    assert callback.recall.memory.time > 70
    assert continuous(callback.recall.memory)


def test_stacked_frames_inside_and_outside_of_normalisation():
    """Outside, raw observations are remembered; inside they cannot be asked for, and are remembered as the policy sees them."""
    for inside in (False, True):
        env = VecFrameStack(lines(2, normalized=True), 3) if inside else VecNormalize(VecFrameStack(lines(2), 3), clip_obs=1e6)
        model, callback = PPO("MlpPolicy", env, **ON, batch_size=16, **net()), RecallTracesCallback(SMALL)
        model.learn(96, callback=callback)
        callback._observe()
        memory = callback.recall.memory
        assert memory.time == 47
        assert callback.recall.buffer[0].mask.any()
        found = remembered(callback, 0)
        truth = np.array([row[2] for row in (env.venv if inside else env).venv.unwrapped.envs[0].log])
        np.testing.assert_allclose(found["rewards"], truth[:47], rtol=1e-5)
        places = np.array([row[0] for row in env.unwrapped.envs[0].log])[:47]
        assert np.allclose(found["obs"][:, -2:], places, atol=1e-4) != inside


# What is imitated --------------------------------------------------------------------------------------------------------


class Watch(BaseCallback):
    """Notes, rollout by rollout, whether the stored log-probabilities are those of the policy that stands at its end."""

    def __init__(self):
        super().__init__()
        self.differences, self.before, self.changed = [], None, []

    def _on_rollout_start(self):
        self.before = parameters(self.model.policy)

    def _on_step(self):
        return True

    def _on_rollout_end(self):
        self.changed.append(not torch.equal(self.before, parameters(self.model.policy)))
        data = next(self.model.rollout_buffer.get(None))
        actions = data.actions.long().flatten() if isinstance(self.model.action_space, spaces.Discrete) else data.actions
        with torch.no_grad():
            _, log_prob, _ = self.model.policy.evaluate_actions(data.observations, actions)
        self.differences.append(float((log_prob - data.old_log_prob).abs().max()))


@pytest.mark.parametrize("discrete", [False, True])
def test_the_first_ratio_of_every_rollout_is_1(discrete):
    watch, callback = Watch(), RecallTracesCallback(SMALL)
    model = PPO("MlpPolicy", lines(2, discrete, normalized=True), n_steps=64, batch_size=32, n_epochs=2, **net())
    plain = parameters(model.policy)
    model.learn(5 * 128, callback=[watch, callback])
    assert len(watch.differences) == 5
    assert max(watch.differences) < 1e-4
    assert not torch.equal(plain, parameters(model.policy))
    assert model.logger.name_to_value or callback.recall.buffer  # it did imitate
    assert callback.recall.buffer[0].mask.any()


STATE_DEPENDENT = [(algorithm, options | {"use_sde": True}) for algorithm, options in SERVED if algorithm not in (TD3, DDPG)]


NOISE = {"action_noise": NormalActionNoise(np.zeros(1), np.full(1, 0.3))}
CONTRIB = [("TRPO", ON | {"batch_size": 16}), ("TQC", OFF)]
NOISY = [(TD3, OFF | NOISE), (SAC, OFF | NOISE)]


@pytest.mark.parametrize(
    ("algorithm", "options", "normalized"),
    [(*case, False) for case in (*SERVED, *STATE_DEPENDENT, *NOISY, *CONTRIB)] + [(PPO, SERVED[0][1], True), (SAC, OFF, True)],
)
def test_without_weight_nothing_changes_bit_for_bit(algorithm, options, normalized):
    if isinstance(algorithm, str):
        algorithm = getattr(pytest.importorskip("sb3_contrib"), algorithm)
    finals = []
    for callback in (None, RecallTracesCallback(RecallConfig(imitation_coefficient=0.0, trace_length=10, search_length=10))):
        model = algorithm("MlpPolicy", lines(2, normalized=normalized), seed=3, **options, **net())
        model.learn(96, callback=callback)
        finals.append((parameters(model.policy), np.random.random(), torch.rand(3)))  # noqa: NPY002  # the global one is the point
    assert torch.equal(finals[0][0], finals[1][0])
    assert finals[0][1] == finals[1][1]
    assert torch.equal(finals[0][2], finals[1][2])


def steer(model, callback, actions, updates=200):
    """Let the model imitate one action in all states that were seen."""
    memory = callback.recall.memory
    obs = memory.steps.obs[:, :, : memory.time]  # (1, N, T, 2): every environment's steps as one trace
    mask = torch.ones(obs.shape[:3], dtype=torch.bool)
    callback.recall.buffer = [Traces(obs, torch.full((*obs.shape[:3], 1), actions), mask, mask.float())]
    callback._imitate(updates)
    obs = obs[0].flatten(0, 1).numpy()
    normalize = model.get_vec_normalize_env()
    return model.predict(obs if normalize is None else normalize.normalize_obs(obs), deterministic=True)[0]


@pytest.mark.parametrize("normalized", [False, True])
@pytest.mark.parametrize(("algorithm", "options"), SERVED)
def test_imitation_steers_the_policy_towards_what_was_recalled(algorithm, options, normalized):
    for action in (-1.2, 0.8):
        model = algorithm("MlpPolicy", lines(2, normalized=normalized), seed=0, **options, **net())
        model.learn(64, callback=(callback := RecallTracesCallback(SMALL, seed=0)))
        for group in callback.actor.optimizer.param_groups:
            group["lr"] = 0.02
        critic = model.critic if hasattr(model, "critic") else model.policy.value_net
        before = parameters(critic)
        assert np.median(np.abs(steer(model, callback, action) - action)) < 0.3
        assert torch.equal(before, parameters(critic))  # only the actor learns from it


def test_the_loss_is_the_policys_own_log_probability():
    obs, actions = torch.randn(5, 2), torch.rand(5, 1) * 3 - 1.5
    sac = SAC("MlpPolicy", lines(1), **net())
    with torch.no_grad():
        found = make_actor(sac).loss(obs, actions)
        mean, log_std, _ = sac.actor.get_action_dist_params(obs)
    squashed = torch.distributions.TransformedDistribution(
        torch.distributions.Normal(mean, log_std.exp()), [torch.distributions.TanhTransform(cache_size=1)]
    )
    torch.testing.assert_close(found, -squashed.log_prob(actions / 2).sum(1), atol=1e-4, rtol=1e-4)
    td3 = TD3("MlpPolicy", lines(1), **net())
    with torch.no_grad():
        torch.testing.assert_close(make_actor(td3).loss(obs, actions), (td3.actor(obs) - actions / 2).square()[:, 0])
    ppo = PPO("MlpPolicy", lines(1), **net())
    with torch.no_grad():
        normal = ppo.policy.get_distribution(obs).distribution
        torch.testing.assert_close(make_actor(ppo).loss(obs, actions), -normal.log_prob(actions)[:, 0])
    ppo = PPO("MlpPolicy", lines(1), use_sde=True, policy_kwargs={"net_arch": [16], "squash_output": True})
    with torch.no_grad():
        own = ppo.policy.get_distribution(obs).log_prob(actions / 2)  # which it squashes to [-1, 1]
        torch.testing.assert_close(make_actor(ppo).loss(obs, actions), -own)


def test_long_imitation_of_one_action_leaves_a_squashed_gaussian_its_noise():
    model = SAC("MlpPolicy", lines(1), seed=0, **OFF, **net())
    model.learn(64, callback=(callback := RecallTracesCallback(SMALL, seed=0)))
    for group in callback.actor.optimizer.param_groups:
        group["lr"] = 0.003
    steer(model, callback, 0.8, updates=1500)
    obs = callback.recall.memory.steps.obs[0, 0, : callback.recall.memory.time]
    with torch.no_grad():
        _, log_std, _ = model.actor.get_action_dist_params(obs)
        loss = callback.actor.loss(obs, torch.full((len(obs), 1), 0.8))
    assert loss.median() < -1.0  # it has learnt the action
    assert log_std.median() > math.log(0.06)  # without a bound it was 0.015, and falling


def test_the_value_is_the_critics():
    obs = torch.randn(5, 2)
    with torch.no_grad():
        sac = SAC("MlpPolicy", lines(1), **net())
        q = torch.cat(sac.critic(obs, sac.actor(obs, deterministic=True)), 1)
        torch.testing.assert_close(make_actor(sac).value(obs), q.min(1).values)
        ppo = PPO("MlpPolicy", lines(1), **net())
        torch.testing.assert_close(make_actor(ppo).value(obs), ppo.policy.predict_values(obs)[:, 0])


def test_the_algorithms_clipping_and_modes_hold():
    model = PPO("MlpPolicy", lines(2), **ON, batch_size=16, max_grad_norm=1e-3, **net())
    model.learn(64, callback=(callback := RecallTracesCallback(SMALL)))
    loss, during = callback.actor.loss, []
    callback.actor.loss = lambda *batch: (during.append(model.policy.training), loss(*batch))[1]
    for training in (True, False):
        model.policy.set_training_mode(training)
        callback._imitate(1)
        assert model.policy.training == training
        assert all(module.training == training for module in model.policy.modules())
    assert during == [True, True]
    grads = torch.cat([p.grad.flatten() for p in model.policy.parameters() if p.grad is not None])
    assert float(grads.norm()) == pytest.approx(1e-3, rel=0.01)


def test_the_coefficient_weighs_the_loss():
    grads = []
    for coefficient in (1.0, 0.25):
        config = dataclasses.replace(SMALL, imitation_updates=0, imitation_coefficient=coefficient)
        model = PPO("MlpPolicy", lines(2), seed=0, max_grad_norm=1e9, **ON, batch_size=16, **net())
        model.learn(64, callback=(callback := RecallTracesCallback(config, seed=0)))
        callback._imitate(1)
        grads.append(torch.cat([p.grad.flatten() for p in model.policy.parameters() if p.grad is not None]))
    assert grads[0].abs().max() > 0
    torch.testing.assert_close(grads[1], 0.25 * grads[0])


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, 60),  # one gradient step for one step of both environments
        ({"gradient_steps": 3}, 180),
        ({"gradient_steps": -1}, 120),  # one per step of one environment
        ({"train_freq": 10, "gradient_steps": 10}, 60),
        ({"gradient_steps": 0}, 0),
    ],
)
def test_off_policy_models_imitate_in_proportion_to_their_gradient_steps(options, expected):
    config = RecallConfig(imitation_ratio=0.5, trace_length=10, search_length=10, update_every=40, model=SMALL.model)
    callback, count = RecallTracesCallback(config), []
    model = SAC("MlpPolicy", lines(2), **OFF, **net(), **options)
    original = callback._imitate
    callback._imitate = lambda minibatches: (count.append(minibatches), original(minibatches))
    model.learn(140, callback=callback)  # 20 steps come before learning
    # The last training phase has no rollout after it.
    last = max(1, options.get("gradient_steps", 1)) * options.get("train_freq", 1) / options.get("train_freq", 1)
    assert expected / 2 - 0.5 * last - 1.5 <= sum(count) <= expected / 2


def test_training_by_episodes():
    model = SAC("MlpPolicy", lines(1), **OFF, **net(), train_freq=(1, "episode"), gradient_steps=-1)
    model.learn(120, callback=(callback := RecallTracesCallback(SMALL)))
    callback._observe()
    assert callback.recall.memory.time > 100
    assert callback.recall.buffer[0].mask.any()


def test_short_rollouts_do_not_recall_after_each():
    config = RecallConfig(update_every=50, trace_length=10, search_length=10, model=SMALL.model)
    callback, updates = RecallTracesCallback(config), []
    model = A2C("MlpPolicy", lines(2), **net())  # rollouts of 10 steps
    model.learn(10, callback=callback)
    original = callback.recall.update
    callback.recall.update = lambda value: (updates.append(1), original(value))[1]
    model.learn(200, callback=callback, reset_num_timesteps=False)
    assert 3 <= len(updates) <= 5


@pytest.mark.parametrize("algorithm", [PPO, SAC])
def test_states_of_high_value_by_the_models_own_critic(algorithm):
    config = RecallConfig(source="critic", trace_length=10, search_length=10, rare_reward=1.0, model=SMALL.model)
    model = algorithm("MlpPolicy", lines(2, normalized=True), **(ON | {"batch_size": 16} if algorithm is PPO else OFF), **net())
    model.learn(96, callback=(callback := RecallTracesCallback(config)))
    assert callback.recall.buffer[0].mask.any()


def test_the_noise_of_state_dependent_exploration_is_that_of_the_imitated_policy():
    differences = []

    class Noise(BaseCallback):
        def _on_step(self):
            policy = self.model.policy
            drawn_with = policy.action_dist.weights_dist.scale
            differences.append(float((policy.action_dist.get_std(policy.log_std) - drawn_with).detach().abs().max()))
            return True

    model = PPO("MlpPolicy", lines(2), **ON, batch_size=16, learning_rate=0.01, use_sde=True, **net())
    model.learn(128, callback=[callback := RecallTracesCallback(SMALL), Noise()])
    assert callback.recall.buffer[0].mask.any()
    assert max(differences) == 0


def test_by_default_something_happens_within_three_rollouts():
    class Rollouts(BaseCallback):
        count = 0

        def _on_rollout_start(self):
            self.count += 1

        def _on_step(self):
            return self.count < 3

    finals = []
    for callback in (None, RecallTracesCallback()):
        model = PPO("MlpPolicy", make_vec_env("FourRooms-7", 2, seed=0), n_steps=128, batch_size=64, seed=0, **net())
        model.learn(10_000, callback=[Rollouts(), *([callback] if callback else [])])
        finals.append(parameters(model.policy))
    assert callback.recall.buffer[0].mask.any()
    assert not torch.equal(*finals)


def test_where_every_step_pays_nothing_is_imitated():
    finals = []
    for callback in (None, RecallTracesCallback()):
        model = PPO("MlpPolicy", lines(2), n_steps=128, batch_size=64, seed=0, **net())
        model.learn(768, callback=callback)
        finals.append(parameters(model.policy))
    assert callback.recall.buffer[0].mask.any()
    assert torch.equal(*finals)


# Company -----------------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:rich is experimental")
def test_other_callbacks_and_the_progress_bar(tmp_path):
    model = PPO("MlpPolicy", lines(2), **ON, batch_size=16, **net())
    recall = RecallTracesCallback(SMALL)
    others = [
        EvalCallback(DummyVecEnv([lambda: Monitor(Line())]), eval_freq=20, n_eval_episodes=1, verbose=0),
        CheckpointCallback(20, str(tmp_path)),
    ]
    model.learn(96, callback=CallbackList([recall, *others]), progress_bar=True)
    assert list(tmp_path.glob("*.zip"))
    model.save(tmp_path / "model.zip")
    assert PPO.load(tmp_path / "model.zip", env=lines(2)).num_timesteps == 96


def test_what_is_logged(tmp_path):
    from stable_baselines3.common.logger import configure

    model = PPO("MlpPolicy", lines(2), **ON, batch_size=16, **net())
    model.set_logger(configure(str(tmp_path), ["csv"]))
    model.learn(320, callback=RecallTracesCallback(SMALL), log_interval=3)
    model.logger.close()
    header = (tmp_path / "progress.csv").read_text().splitlines()[0].split(",")
    names = "model_loss imitation_loss traces trace_length states states_return best_return novelty_share rarity seconds"
    assert {f"recall/{name}" for name in names.split()} <= set(header)


class Names(BaseCallback):
    """What is in the logger at each step."""

    names: frozenset[str] = frozenset()

    def _on_step(self):
        self.names |= set(self.logger.name_to_value)
        return True


def test_what_is_not_finite_is_not_logged():
    model = A2C("MlpPolicy", lines(2), seed=0, **net())
    model.learn(100, callback=(callback := RecallTracesCallback(SMALL)))
    update = callback.recall.update
    callback.recall.update = lambda *value: update(*value) | {"recall/nothing": torch.tensor([torch.nan])}
    model.learn(600, callback=[callback, seen := Names()], reset_num_timesteps=False, log_interval=10**6)
    assert "recall/traces" in seen.names
    assert "recall/nothing" not in seen.names


def test_steps_before_training_starts_do_not_pile_up():
    config = dataclasses.replace(SMALL, memory_size=60)
    model = SAC("MlpPolicy", lines(2), seed=0, learning_starts=300, buffer_size=1000, batch_size=8, **net())
    model.learn(280, callback=(callback := RecallTracesCallback(config)))
    assert len(callback._steps) <= 31
    assert callback.recall.memory.time + len(callback._steps) == 139  # all but the first, before which nothing was seen


def test_save_and_load_go_on_exactly(tmp_path):
    path = tmp_path / "callback.safetensors"
    model = PPO("MlpPolicy", lines(2), **ON, batch_size=16, seed=0, **net())
    model.learn(160, callback=(callback := RecallTracesCallback(SMALL, seed=5)))
    callback._due = 0.5  # as an off-policy model might leave it
    callback.save(path)
    loaded = RecallTracesCallback().load(path)
    loaded.save(tmp_path / "again")  # what was loaded
    loaded = RecallTracesCallback(SMALL).load(tmp_path / "again")
    loaded.init_callback(model)
    assert loaded.config == SMALL
    assert loaded.seed == 5
    assert (loaded.seconds, loaded._due) == (callback.seconds, callback._due)
    # The environments of the saved run are gone: its open episodes end.
    assert len(loaded._steps) == len(callback._steps) > 1
    assert bool((loaded._steps[-1].truncated | callback._steps[-1].terminated).all())
    callback._break_off()
    for x in (callback, loaded):
        x._observe(keep=0)
    for _ in range(3):
        a, b = (x.recall.update(x._value) for x in (callback, loaded))
        assert a.keys() == b.keys()
        for x, y in zip(callback.recall.buffer, loaded.recall.buffer, strict=True):
            assert torch.equal(x.obs, y.obs)
            assert torch.equal(x.actions, y.actions)
        assert torch.equal(callback.recall.sample(9).obs, loaded.recall.sample(9).obs)
    model.learn(32, callback=loaded)


class Save(BaseCallback):
    """Saves a callback in the middle of each rollout."""

    def __init__(self, callback, path):
        super().__init__()
        self.callback, self.path = callback, path

    def _on_step(self):
        if self.n_calls % 7 == 0:
            self.callback.save(self.path)
        return True


@pytest.mark.parametrize("env", [lines, lambda: DummyVecEnv([Walk] * 2)])
def test_saving_changes_nothing(env, tmp_path):
    finals = []
    for saves in (False, True):
        model, callback = A2C("MlpPolicy", env(), seed=0, n_steps=8, **net()), RecallTracesCallback(SMALL)
        model.learn(400, callback=[callback, *([Save(callback, tmp_path / "saved")] if saves else [])])
        finals.append(parameters(model.policy))
    assert callback.recall.buffer[0].mask.any()
    assert torch.equal(*finals)


def test_files_hold_only_what_is_remembered(tmp_path):
    sizes = []
    for memory_size in (1000, 100_000):
        callback = RecallTracesCallback(dataclasses.replace(SMALL, memory_size=memory_size), seed=0)
        PPO("MlpPolicy", lines(2), **ON, batch_size=16, seed=0, **net()).learn(64, callback=callback)
        callback.save(tmp_path / "saved")
        sizes.append((tmp_path / "saved").stat().st_size)
    assert abs(sizes[1] - sizes[0]) < 1000


def test_generators_stay_on_the_cpu_and_all_else_goes_to_the_device(tmp_path):
    model = PPO("MlpPolicy", lines(2), **ON, batch_size=16, **net())
    model.learn(64, callback=(callback := RecallTracesCallback(SMALL)))
    callback.save(tmp_path / "saved")
    tree, _ = load_tree(tmp_path / "saved", "meta")
    devices = {name: value.device.type for name, value in flatten(tree) if isinstance(value, torch.Tensor)}
    generators = {"recall/generator", "recall/model/generator"}
    assert {name for name, device in devices.items() if device == "cpu"} == generators
    assert set(devices.values()) == {"cpu", "meta"}
    moved = []
    loaded = RecallTracesCallback().load(tmp_path / "saved")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("recall_traces.sb3.to_device", lambda tree, device: moved.append(device) or tree)
        loaded.init_callback(model)
    assert moved == [model.device]


def test_files_that_are_not_one(tmp_path):
    with pytest.raises(FileNotFoundError):
        RecallTracesCallback().load(tmp_path / "nothing")
    (tmp_path / "junk").write_bytes(b"junk" * 100)
    with pytest.raises(ValueError, match="is not a saved RecallTracesCallback"):
        RecallTracesCallback().load(tmp_path / "junk")
    with pytest.raises(ValueError, match="nothing to save"):
        RecallTracesCallback().save(tmp_path / "early")
    with pytest.raises(ValueError, match="is a folder: give the file"):
        RecallTracesCallback().load(tmp_path)
    model = PPO("MlpPolicy", lines(2), **ON, batch_size=16, **net())
    model.learn(32, callback=(callback := RecallTracesCallback(SMALL)))
    callback.save(tmp_path / "two")
    with pytest.raises(ValueError, match=r"folder .*missing does not exist"):
        callback.save(tmp_path / "missing" / "two")
    with pytest.raises(ValueError, match="another configuration"):
        RecallTracesCallback(RecallConfig()).load(tmp_path / "two")
    other = RecallTracesCallback().load(tmp_path / "two")
    with pytest.raises(ValueError, match="with 2 environments, not 3"):
        PPO("MlpPolicy", lines(3), **ON, batch_size=16, **net()).learn(48, callback=other)
    with pytest.raises(ValueError, match="another observation or action space"):
        PPO("MlpPolicy", DummyVecEnv([Walk] * 2), **ON, batch_size=16, **net()).learn(32, callback=other)
    model.learn(32, callback=other)  # it still has what was loaded
    other._observe()
    assert other.recall.memory.time == 16 + 15


# Who is not served -------------------------------------------------------------------------------------------------------


class Odd(Line):
    def __init__(self, space):
        super().__init__(discrete=True)
        self.observation_space = space

    def observe(self):
        return self.observation_space.sample()


IMAGE = spaces.Box(0, 255, (36, 36, 3), np.uint8)


def test_models_that_cannot_be_served_are_refused_when_training_starts():
    contrib = pytest.importorskip("sb3_contrib")
    refused = [
        (DQN("MlpPolicy", lines(1, discrete=True)), "DQN has no actor.*PPO, A2C, SAC, TD3, DDPG, TRPO and TQC"),
        (PPO("MultiInputPolicy", Odd(spaces.Dict(a=spaces.Discrete(3)))), "observations of PPO.*Dict"),
        (PPO("CnnPolicy", Odd(IMAGE)), "observations of PPO.*FlattenObservation.*and MlpPolicy"),
        (contrib.RecurrentPPO("MlpLstmPolicy", lines(1)), "recurrent"),
        (contrib.MaskablePPO("MlpPolicy", lines(1, discrete=True)), "masks"),
        (contrib.QRDQN("MlpPolicy", lines(1, discrete=True)), "QRDQN has no actor"),
        (contrib.ARS("LinearPolicy", lines(1)), "ARS has no actor"),
    ]
    for model, message in refused:
        with pytest.raises(ValueError, match=message) as error:
            model.learn(10, callback=RecallTracesCallback())
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="use another source"):
        RecallTracesCallback(RecallConfig(source="given"))
    with pytest.raises(ValueError, match="'generated'"):
        RecallTracesCallback(RecallConfig(source="generated"))
    with pytest.raises(ValueError, match="imagined steps are for"):
        RecallTracesCallback(RecallConfig(imagined_share=0.1))
    with pytest.raises(ValueError, match="oracle are for our own learners"):
        RecallTracesCallback(RecallConfig(traces_from="oracle"))


def test_arguments_that_are_none():
    with pytest.raises(TypeError, match="must be a RecallConfig, not dict"):
        PPO("MlpPolicy", lines(1), **ON, batch_size=16, **net()).learn(16, callback=RecallTracesCallback)
    with pytest.raises(ValueError, match="seed must be at least 0, not -1"):
        RecallTracesCallback(seed=-1)
    with pytest.raises(TypeError, match="float"):
        RecallTracesCallback(seed=1.5)


def test_a_seed_that_numpy_drew_is_saved(tmp_path):
    callback = RecallTracesCallback(SMALL, seed=np.int64(7))
    PPO("MlpPolicy", lines(1), **ON, batch_size=16, **net()).learn(16, callback=callback)
    callback.save(tmp_path / "seven")
    assert RecallTracesCallback().load(tmp_path / "seven").seed == 7


def test_contributed_algorithms_are_served():
    contrib = pytest.importorskip("sb3_contrib")
    for model in (
        contrib.TRPO("MlpPolicy", lines(2), **ON, batch_size=16, **net()),
        contrib.TQC("MlpPolicy", lines(2), **OFF, **net()),
    ):
        config = RecallConfig(source="critic", trace_length=10, search_length=10, rare_reward=1.0, model=SMALL.model)
        model.learn(96, callback=(callback := RecallTracesCallback(config)))
        for group in callback.actor.optimizer.param_groups:
            group["lr"] = 0.02
        assert np.median(np.abs(steer(model, callback, -1.2) + 1.2)) < 0.3


def test_another_environment_needs_another_callback():
    callback = RecallTracesCallback(SMALL)
    PPO("MlpPolicy", lines(2), **ON, batch_size=16, **net()).learn(32, callback=callback)
    with pytest.raises(ValueError, match="make a new one"):
        PPO("MlpPolicy", lines(2, discrete=True), **ON, batch_size=16, **net()).learn(32, callback=callback)
    with pytest.raises(ValueError, match="make a new one"):
        PPO("MlpPolicy", lines(3), **ON, batch_size=16, **net()).learn(32, callback=callback)
