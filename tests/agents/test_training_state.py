"""A learner that goes on from a saved training state does, bit for bit, what it would have done without the break."""

import dataclasses

import pytest
import torch

import recall_traces.envs as envs
from recall_traces.agents.arms import ARMS, ArmConfigs, make_learner
from recall_traces.agents.bonus import BonusConfig
from recall_traces.agents.goal_gan import GoalGANConfig
from recall_traces.agents.ppo import PPOConfig
from recall_traces.agents.sac import SACConfig
from recall_traces.agents.self_imitation import SelfImitationConfig
from recall_traces.model import BacktrackingConfig
from recall_traces.recall import RecallConfig
from recall_traces.saving import flatten, load_tree, save_tree

SEEDS, ROLLOUTS, BREAK = 2, 4, 2
NETWORK = BacktrackingConfig(kind="network", hidden=(8,), batch_size=16)
RECALL = RecallConfig(traces_per_update=4, search_length=20, trace_length=10, memory_size=400, model_updates=2, buffer_updates=2)
CONFIGS = ArmConfigs(
    recall=RECALL,
    sil=SelfImitationConfig(memory_size=400, imitation_batch_size=32),
    bonus=BonusConfig(hidden=(8,), updates=2, batch_size=16),
    goal_gan=GoalGANConfig(iteration_steps=20, goals=2, tries=1, updates=3, hidden=(8,), batch_size=8),
)
PPO_SETTINGS = {"n_steps": 32, "batch_size": 64, "n_epochs": 2, "net_arch": (8,), "learning_rate_schedule": "linear"}
PPO_CONFIG = PPOConfig(**PPO_SETTINGS)
SAC_CONFIG = SACConfig(n_steps=32, batch_size=16, buffer_size=200, learning_starts=40, net_arch=(8,), normalize_observations=True)
PPO_ARMS = [arm for arm in ARMS if "per" not in arm.split("+")]
WITH_NETWORK = dataclasses.replace(CONFIGS, recall=dataclasses.replace(RECALL, model=NETWORK))
IMAGINED = dataclasses.replace(CONFIGS, recall=dataclasses.replace(RECALL, model=NETWORK, imagined_share=0.25))
NEIGHBOURS = BacktrackingConfig(kind="neighbours", support=64, neighbours=4)
SHORTEST = dataclasses.replace(CONFIGS, recall=dataclasses.replace(RECALL, model=NEIGHBOURS, search="shortest"))


def build(agent, arm, env_id, configs=CONFIGS, ppo=PPO_CONFIG, **options):
    env = envs.make(env_id, num_envs=SEEDS * 4, seed=3, **options)
    return make_learner(agent, arm, env, ppo if agent == "ppo" else SAC_CONFIG, configs, SEEDS, seed=3)


def end_of(learner):
    """Everything that a learner has at its end, by name; copied, since the tensors are in use."""
    leaves = flatten(learner.training_state())
    return {name: value.clone() if isinstance(value, torch.Tensor) else value for name, value in leaves}


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if isinstance(value, torch.Tensor):
            assert value.shape == found[name].shape, name
            same = (found[name] == value) | (found[name].isnan() & value.isnan())
            assert bool(same.all()), name
        else:
            assert found[name] == value, name


def break_and_go_on(tmp_path, *arguments, **options):
    """End states of a run as it is, and of one that was saved after `BREAK` rollouts and went on in fresh objects."""
    rollout = 32 * 4

    class Stop(Exception):
        pass

    def stop(learner, metrics):
        if learner.env_steps == BREAK * rollout:
            save_tree(tmp_path / "state", learner.training_state(), {})
            raise Stop

    whole = build(*arguments, **options).learn(ROLLOUTS * rollout)
    broken = build(*arguments, **options)
    with pytest.raises(Stop):
        broken.learn(ROLLOUTS * rollout, stop)
    fresh = build(*arguments, **options)
    fresh.load_training_state(load_tree(tmp_path / "state", "cpu")[0])
    assert fresh.env_steps == BREAK * rollout
    fresh.go_on()
    assert fresh.env_steps == whole.env_steps == ROLLOUTS * rollout
    return end_of(fresh), end_of(whole)


@pytest.mark.parametrize("arm", PPO_ARMS)
def test_ppo_goes_on_exactly_with_every_arm(arm, tmp_path):
    task = ("PointMass-2", {}) if "goal-gan" in arm else ("FourRooms-7", {"slip": 0.2, "random_start": True})
    assert_same(*break_and_go_on(tmp_path, "ppo", arm, task[0], **task[1]))


@pytest.mark.parametrize("arm", [arm for arm in ARMS if arm != "recall-oracle"])
def test_sac_goes_on_exactly_with_every_arm(arm, tmp_path):
    task = ("PointMaze-U", {"random_goal": "goal-gan" in arm, "start": "uniform", "inertia": True})
    assert_same(*break_and_go_on(tmp_path, "sac", arm, task[0], **task[1]))


@pytest.mark.parametrize("configs", [WITH_NETWORK, IMAGINED, SHORTEST], ids=["network", "imagined", "shortest"])
def test_every_kind_of_model_goes_on_exactly(configs, tmp_path):
    assert_same(*break_and_go_on(tmp_path, "sac", "recall", "PointMaze-U", configs=configs))


@pytest.mark.parametrize(
    ("env_id", "options"),
    [
        ("CartPole-v1", {}),
        ("FourRooms-7", {"random_goal": True}),
        ("PointMass-3", {"goals": "all"}),
        ("Hopper-v5", {}),
        ("SparseHopper-v5", {}),
        ("DelayedAnt-v5", {}),
        ("Reacher-v5", {}),
    ],
)
def test_every_environment_is_put_back_exactly(env_id, options, tmp_path):
    settings = PPO_SETTINGS | {"normalize_observations": True, "normalize_rewards": True}
    assert_same(*break_and_go_on(tmp_path, "ppo", "none", env_id, ppo=PPOConfig(**settings), **options))


def test_a_state_of_before_the_first_step_is_one_too(tmp_path):
    first = build("ppo", "recall", "FourRooms-7")
    save_tree(tmp_path / "state", first.training_state(), {})
    fresh = build("ppo", "recall", "FourRooms-7")
    fresh.load_training_state(load_tree(tmp_path / "state", "cpu")[0])
    assert_same(end_of(fresh.learn(256)), end_of(first.learn(256)))


def test_broken_seeds_stay_broken(tmp_path):
    first = build("ppo", "none", "FourRooms-7")
    first.alive, first.failures = [False, True], {0: "seed 0: broke"}
    save_tree(tmp_path / "state", first.training_state(), {})
    fresh = build("ppo", "none", "FourRooms-7")
    fresh.load_training_state(load_tree(tmp_path / "state", "cpu")[0])
    assert (fresh.alive, fresh.failures) == ([False, True], {0: "seed 0: broke"})


def test_an_environment_that_cannot_be_put_back_begins_new_episodes(tmp_path):
    first = build("ppo", "recall", "gymnasium/CartPole-v1")
    first.learn(128)
    assert bool((first.recall.memory.open_age > 0).any())
    save_tree(tmp_path / "state", first.training_state(), {})
    fresh = build("ppo", "recall", "gymnasium/CartPole-v1")
    fresh.load_training_state(load_tree(tmp_path / "state", "cpu")[0])
    assert not bool((fresh.recall.memory.open_age > 0).any())
    assert fresh.last_obs is None
    fresh.learn(128)
    assert fresh.env_steps == 256
    first_new = fresh.recall.memory.age[:, :, 32]  # the first column after the break
    assert first_new.tolist() == [[0] * 4] * SEEDS
    first.env.close()
    fresh.env.close()


def test_a_state_of_another_learner_is_refused(tmp_path):
    state = build("ppo", "none", "FourRooms-7").training_state()
    other = build("ppo", "none", "FourRooms-9")
    with pytest.raises(ValueError, match="should have shape"):
        other.load_training_state(state)
