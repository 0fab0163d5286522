import dataclasses

import pytest
import torch

from recall_traces.agents.arms import ARMS, ArmConfigs, check_arm, make_learner, make_seams
from recall_traces.agents.bonus import BonusConfig, DistillationBonus, VisitBonus
from recall_traces.agents.ppo import PPO, PPOConfig
from recall_traces.agents.presets import ELSEWHERE, PRESETS, preset
from recall_traces.agents.replay import PrioritizedSampling, UniformSampling
from recall_traces.agents.sac import SACConfig
from recall_traces.agents.seams import NoBonus, NoImitation
from recall_traces.agents.self_imitation import SelfImitation, SelfImitationConfig
from recall_traces.envs import make
from recall_traces.recall import RecallConfig, RecallTraces

SMALL = ArmConfigs(
    recall=RecallConfig(imitation_batch_size=32, trace_length=10, traces_per_update=4, search_length=10, candidates=2),
    sil=SelfImitationConfig(imitation_batch_size=32, imitation_ratio=2.0),
    bonus=BonusConfig(coefficient=0.02),
)
IMITATION = {"none": NoImitation, "bonus": NoImitation, "per": NoImitation, "sil": SelfImitation, "sil+bonus": SelfImitation}


@pytest.mark.parametrize("arm", [arm for arm in ARMS if not {"per", "goal-gan"} & set(arm.split("+"))])
def test_every_arm_is_a_choice_of_objects_and_trains(arm):
    env = make("FourRooms-7", num_envs=6)
    imitation, bonus, _ = make_seams(arm, env, 3, 0, SMALL)
    assert type(imitation) is IMITATION.get(arm, RecallTraces)
    assert type(bonus) is (VisitBonus if "bonus" in arm else NoBonus)
    ppo = PPO(env, PPOConfig(n_steps=80, batch_size=80, n_epochs=2), recall=imitation, bonus=bonus, num_seeds=3)
    logged = []
    ppo.learn(2 * 160, lambda learner, metrics: logged.append(metrics))
    assert len(logged) == 3
    assert not ppo.failures
    assert bool(ppo.policy_optimizer.values.isfinite().all())
    assert ("imitation_loss" in logged[-1]) == (IMITATION.get(arm) is not NoImitation)
    for name, value in logged[-1].items():
        assert isinstance(value, float) if name.startswith("seconds/") else value.shape == (3,), name


@pytest.mark.parametrize("arm", [arm for arm in ARMS if arm != "recall-oracle" and "goal-gan" not in arm])
def test_every_arm_trains_with_a_replay(arm):
    env = make("Pendulum-v1", num_envs=6)
    config = SACConfig(buffer_size=500, batch_size=32, learning_starts=20, n_steps=40, train_freq=4, net_arch=(16, 16))
    # So few steps know no ways from where the agent is.
    small = dataclasses.replace(SMALL, recall=dataclasses.replace(SMALL.recall, search="sample"))
    sac = make_learner("sac", arm, env, config, small, 3)
    assert type(sac.recall) is IMITATION.get(arm.removesuffix("+per"), RecallTraces)
    assert type(sac.bonus) is (DistillationBonus if "bonus" in arm else NoBonus)
    assert type(sac.sampling) is (PrioritizedSampling if "per" in arm.split("+") else UniformSampling)
    logged = []
    sac.learn(2 * 80, lambda learner, metrics: logged.append(metrics))
    assert len(logged) == 3
    assert not sac.failures
    assert all(bool(optimizer.values.isfinite().all()) for optimizer in sac.optimizers)
    # No return is above 0 there.
    assert ("imitation_loss" in logged[-1]) == (type(sac.recall) is not NoImitation and arm != "recall-return")
    for name, value in logged[-1].items():
        assert isinstance(value, float) if name.startswith("seconds/") else value.shape == (3,), name


@pytest.mark.parametrize("env_id", ["Pendulum-v1", "PointMass-3", "SomebodysOwn-v0"])
def test_as_many_gradient_steps_as_steps_however_many_environments(env_id):
    """Where nothing else was tuned, SAC trains as much as Stable-Baselines3's with one environment does."""
    assert preset(env_id).sac.gradient_steps == -1


def test_prioritized_replay_needs_a_replay():
    with pytest.raises(ValueError, match=r"'recall\+per' needs a learner with a replay: use sac"):
        make_seams("recall+per", make("FourRooms-7", num_envs=2), 1, 0, SMALL)


def test_recall_arms_differ_in_what_their_names_say():
    env = make("FourRooms-7", num_envs=2)
    arms = ("recall", "recall-return", "own-traces", "recall-oracle", "recall+bonus")
    found = {arm: make_seams(arm, env, 1, 0, SMALL).recall.config for arm in arms}
    same = dataclasses.replace
    assert found == {
        "recall": SMALL.recall,
        "recall-return": same(SMALL.recall, source="return"),
        "own-traces": same(SMALL.recall, traces_from="record"),
        "recall-oracle": same(SMALL.recall, traces_from="oracle"),
        "recall+bonus": SMALL.recall,
    }


def test_settings_reach_their_objects():
    env = make("FourRooms-7", num_envs=2)
    imitation, bonus, _ = make_seams("sil+bonus", env, 1, 0, SMALL)
    assert imitation.config == SMALL.sil
    assert (imitation.imitation_ratio, imitation.imitation_batch_size) == (2.0, 32)
    assert bonus.coefficient == 0.02
    assert isinstance(make_seams("bonus", make("CartPole-v1", num_envs=2), 1, 0, SMALL)[1], DistillationBonus)


@pytest.mark.parametrize("arm", ["recall", "own-traces", "sil", "recall+bonus"])
@pytest.mark.parametrize("agent", ["ppo", "sac"])
def test_returns_are_discounted_as_the_learner_does(agent, arm):
    config = {"ppo": PPOConfig(gamma=0.5), "sac": SACConfig(gamma=0.5, buffer_size=100)}[agent]
    learner = make_learner(agent, arm, make("PointMaze-U", num_envs=2), config, SMALL)
    assert learner.recall.memory.gamma == 0.5


@pytest.mark.parametrize("change", [{"imagined_share": 0.2}, {"search": "shortest"}])
def test_arms_without_a_model_do_without_what_only_a_model_can(change):
    """So that one setting serves all arms of a comparison."""
    recall = dataclasses.replace(SMALL.recall, **change)
    env = make("PointMaze-U", num_envs=2)
    made = make_seams("own-traces", env, 1, 0, dataclasses.replace(SMALL, recall=recall)).recall
    assert made.imagine(64) is None
    assert not made.ways.searches


@pytest.mark.parametrize(
    ("asked", "nearest"),
    [("recal", "recall"), ("own-trace", "own-traces"), ("bonus+sil", "sil+bonus"), ("recall-orcale", "recall-oracle")],
)
def test_an_unknown_arm_names_the_nearest(asked, nearest):
    with pytest.raises(ValueError, match=rf"unknown arm '{asked.replace('+', '.')}': nearest are .*{nearest.replace('+', '.')}"):
        check_arm(asked)
    with pytest.raises(ValueError, match="unknown arm"):
        make_seams(asked, make("FourRooms-7", num_envs=2), 1, 0, SMALL)


def test_an_arm_that_resembles_none_lists_them_all():
    with pytest.raises(ValueError, match=r"none, recall, .*bonus"):
        check_arm("§§§")


def test_the_oracle_needs_an_environment_that_knows():
    with pytest.raises(ValueError, match="predecessors"):
        make_seams("recall-oracle", make("CartPole-v1", num_envs=2), 1, 0, SMALL)


def test_imagined_steps_need_critics():
    configs = dataclasses.replace(SMALL, recall=dataclasses.replace(SMALL.recall, imagined_share=0.5))
    with pytest.raises(ValueError, match="use sac"):
        make_seams("recall", make("CartPole-v1", num_envs=2), 1, 0, configs)
    make_seams("own-traces", make("CartPole-v1", num_envs=2), 1, 0, configs)  # which sets it to 0


def test_the_same_seed_trains_the_same():
    runs = []
    for _ in range(2):
        env = make("FourRooms-7", num_envs=4, seed=5)
        imitation, bonus, _ = make_seams("recall+bonus", env, 2, 5, SMALL)
        ppo = PPO(
            env, PPOConfig(n_steps=80, batch_size=80, n_epochs=2), recall=imitation, bonus=bonus, num_seeds=2, seed=5
        ).learn(320)
        runs.append(ppo.policy_optimizer.values.clone())
    assert torch.equal(*runs)


@pytest.mark.parametrize(
    ("env_id", "expected"),
    [
        ("FourRooms-19", PRESETS["FourRooms-"]),
        ("CartPole-v1", PRESETS["CartPole-v1"]),
        ("PointMass-4", PRESETS["PointMass-"]),
        ("PointMaze-Medium", PRESETS["PointMaze-"]),
        ("Hopper-v5", ELSEWHERE),
    ],
)
def test_presets_are_found_by_name(env_id, expected):
    assert preset(env_id) == expected
