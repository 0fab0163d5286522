"""What TensorBoard is told of an arm."""

import math
from types import SimpleNamespace

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from recall_traces import RecallTraces, Transitions, envs
from recall_traces.cli.board import LAST_PICTURE_AFTER, PICTURE, Board, flat
from recall_traces.recall import RecallConfig

CONFIGURATION = {"env_id": "FourRooms-7", "agent": {"n_steps": 64, "net_arch": [64, 64], "shared": True}, "seed": 3}


def read(path):
    events = EventAccumulator(str(path))
    events.Reload()
    return events


def hyperparameters(events, tag):
    content = events.PluginTagToContent("hparams")[f"_hparams_/{tag}"]
    return HParamsPluginData.FromString(content)


def learner_of(arm, env):
    """Two seeds, of which the first is broken; in the arm `recall` both have taken one step from a start up and recalled it."""
    recall = object()
    if arm == "recall":
        recall = RecallTraces(
            env.observation_space,
            env.action_space,
            RecallConfig(memory_size=64, search_length=64, rare_reward=1.0),
            num_seeds=2,
            num_envs=1,
        )
        here = torch.full((2, 2, 1), 40)
        never = torch.zeros(2, 2, 1, dtype=torch.bool)
        recall.observe(Transitions(here, torch.zeros_like(here), torch.ones(2, 2, 1), here - 7, ~never, never))
        recall.update()
    return SimpleNamespace(
        recall=recall, env=env, alive=[False, True], env_steps=2048, value=lambda obs: obs.float(), num_seeds=2
    )


def test_curves_and_hyperparameters_go_into_one_folder(tmp_path):
    board = Board(tmp_path / "recall", "recall", CONFIGURATION, ["evaluation/success"])
    board.add({"evaluation/success": 0.25, "train/loss": math.nan}, 2048)
    board.add({"evaluation/success": 0.75}, 4096)
    board.close()
    assert len(list(tmp_path.rglob("events*"))) == 1, "no further run beside the curves"
    events = read(tmp_path / "recall")
    assert events.Tags()["scalars"] == ["evaluation/success"]
    assert [(event.step, event.value) for event in events.Scalars("evaluation/success")] == [(2048, 0.25), (4096, 0.75)]
    start = hyperparameters(events, "session_start_info").session_start_info.hparams
    assert start["arm"].string_value == "recall"
    assert start["agent.n_steps"].number_value == 64
    assert start["agent.net_arch"].string_value == "[64, 64]"
    experiment = hyperparameters(events, "experiment").experiment
    assert [metric.name.tag for metric in experiment.metric_infos] == ["evaluation/success"]
    assert {info.name for info in experiment.hparam_infos} == {"arm", *flat(CONFIGURATION)}
    assert hyperparameters(events, "session_end_info").session_end_info.status != 0


def test_settings_are_numbers_and_text():
    assert flat({"a": {"b": {"c": 1.5}, "d": None}, "e": False, "f": "x", "g": 2}) == {
        "a.b.c": 1.5,
        "a.d": "None",
        "e": "False",
        "f": "x",
        "g": 2,
    }


def test_traces_are_drawn_where_an_arm_recalls_and_the_task_has_a_plan(tmp_path):
    rooms, pole = envs.make("FourRooms-7", 2), envs.make("CartPole-v1", 2)
    for name, learner in (("none", learner_of("none", rooms)), ("recall", learner_of("recall", rooms))):
        board = Board(tmp_path / name, name, CONFIGURATION, ["evaluation/success"])
        before = torch.get_rng_state()
        board.show_traces(learner, 1e6, last=False)
        assert (torch.get_rng_state() == before).all()
        learner.env = pole
        learner.env_steps = 4096
        board.show_traces(learner, 1e6, last=False)
        board.close()
    assert read(tmp_path / "none").Tags()["images"] == []
    events = read(tmp_path / "recall")
    assert events.Tags()["images"] == [PICTURE]
    (image,) = events.Images(PICTURE)
    assert image.step == 2048
    assert image.width > 500


@pytest.mark.parametrize(
    ("took", "takes", "elapsed", "last", "drawn"),
    [
        (0.0, 1.0, 99.0, False, False),
        (0.0, 1.0, 101.0, False, True),
        (5.0, 1.0, 599.0, False, False),
        (5.0, 1.0, 601.0, False, True),
        (5.0, 1.0, 599.0, True, True),
        (0.0, 1.0, LAST_PICTURE_AFTER - 1, True, False),
    ],
)
def test_pictures_take_a_hundredth_of_the_time(tmp_path, monkeypatch, took, takes, elapsed, last, drawn):
    import recall_traces.trace_picture as pictures

    asked = []
    monkeypatch.setattr(pictures, "trace_pixels", lambda scene, title: asked.append(title) or torch.zeros(4, 4, 3).byte().numpy())
    board = Board(tmp_path, "recall", CONFIGURATION, [])
    board.pictures_took, board.picture_takes = took, takes
    board.show_traces(learner_of("recall", envs.make("FourRooms-7", 2)), elapsed, last)
    assert asked == ["FourRooms-7, recall, seed 1, 2,048 steps"] * drawn
    assert (board.pictures_took > took) == drawn
    board.close()
