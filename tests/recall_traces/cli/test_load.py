"""Loading an arm of a run: options, environment, learner and what it holds."""

import json

import pytest
import torch
from cli_helpers import TINY, call, record

from recall_traces.agents.arms import ARMS
from recall_traces.agents.ppo import PPO
from recall_traces.cli.load import from_json, load_run, read_options
from recall_traces.cli.options import CompareOptions
from recall_traces.cli.resolve import parse_run
from recall_traces.envs.mujoco.hopper import HopperConfig
from recall_traces.recall import RecallConfig, RecallTraces


def test_a_finished_arm_has_its_policies_and_its_traces(place):
    assert call(f"train ppo FourRooms-7 --arm recall {TINY} --out run --quiet --env.slip 0.1 --seed 3") == 0
    found = load_run("run")
    assert (found.arm, found.complete, found.learner.env_steps) == ("recall", True, 2048)
    assert (found.options.seed, found.options.env.slip, found.env.num_envs) == (3, 0.1, 16)
    saved = PPO.load("run/recall.safetensors", found.make_env(2))
    assert torch.equal(found.learner.policy_optimizer.values, saved.policy_optimizer.values)
    recall = found.learner.recall
    assert isinstance(recall, RecallTraces)
    assert len(recall.memory) == 256
    assert bool(recall.sample(32).mask.all())
    obs = found.make_env(2 * 5).reset().unflatten(0, (2, -1))
    assert found.learner.act(obs, greedy=True).shape == (2, 5)


def test_without_a_checkpoint_the_policies_are_loaded(place):
    assert call(f"train ppo FourRooms-7 {TINY} --out run --quiet") == 0
    for checkpoint in (place / "run" / "checkpoints" / "none").iterdir():
        checkpoint.unlink()
    found = load_run("run", "none")
    assert (found.complete, found.file.name) == (False, "none.safetensors")
    assert found.learner.env_steps == 2048
    (place / "run" / "none.safetensors").unlink()
    with pytest.raises(ValueError, match="nothing saved of none yet"):
        load_run("run")


def test_the_best_policies_are_those_of_an_earlier_evaluation(place):
    assert call(f"train ppo FourRooms-7 {TINY} --out run --quiet") == 0
    best = record(place / "run")["arms"]["none"]["best"]
    found = load_run("run", best=True)
    assert found.learner.env_steps == best["env_steps"]
    (place / "run" / "checkpoints" / "none" / "best.safetensors").unlink()
    with pytest.raises(ValueError, match="no best"):
        load_run("run", best=True)


def test_arms_must_be_named_where_there_are_several(place):
    assert call(f"compare FourRooms-7 --arms none sil {TINY} --out run --quiet") == 0
    assert load_run("run", "sil").arm == "sil"
    with pytest.raises(ValueError, match="several arms, and none was named; there are none, sil"):
        load_run("run")
    with pytest.raises(ValueError, match="no arm 'recall'; there are none, sil"):
        load_run("run", "recall")
    with pytest.raises(ValueError, match=r"config\.json cannot be read"):
        load_run("nowhere")


@pytest.mark.parametrize(
    "command",
    [
        "FourRooms-9 --agent ppo --env.slip 0.2 --eval-env.slip 0 --recall.model.hidden 3 4 --agent.target-kl 0.1",
        "PointMaze-U --agent sac --env.random-goal --agent.ent-coef 0.2 --seeds 3 --goal-gan.hidden 5",
        "Hopper-v5 --arms recall --env.healthy-z-range 0.5 inf",
        "Pendulum-v1 --env.g 9.8",
    ],
)
def test_options_come_back_from_the_record(command, place):
    from recall_traces.cli.options import configuration

    asked = parse_run(command.split(), CompareOptions(), "compare", "", ("env_id",))
    settings = json.loads(json.dumps(configuration(asked, "cpu")))
    found = read_options({"configuration": settings, "arms": {}, "calls": [{"arms": list(asked.arms)}]})
    assert json.loads(json.dumps(configuration(found, "cpu"))) == settings
    assert (found.agent, found.recall, found.arms, found.env) == (asked.agent, asked.recall, asked.arms, asked.env)
    assert all(arm in ARMS for arm in found.arms)


@pytest.mark.parametrize(
    ("kind", "data", "words"),
    [
        (RecallConfig, {"trace_length": "long"}, "recall.trace_length is 'long'"),
        (RecallConfig, {"trace_length": True}, "recall.trace_length is 'True'"),
        (RecallConfig, {"trace_lenght": 3}, "recall.trace_lenght is not a setting"),
        (RecallConfig, {"model": 3}, "recall.model must be a group"),
        (RecallConfig, {"model": {"hidden": [3, "x"]}}, "recall.model.hidden is 'x'"),
        (RecallConfig, {"trace_length": 0}, "trace_length must be at least 1"),
        (HopperConfig, {"healthy_z_range": [0.7]}, r"recall.healthy_z_range is '\[0.7\]'"),
        (RecallConfig, [], "recall must be a group"),
    ],
)
def test_what_cannot_be_a_setting_is_named(kind, data, words):
    with pytest.raises(ValueError, match=words):
        from_json(kind, data, "recall")
