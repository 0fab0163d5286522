"""`recall-traces watch`: a film of a policy."""

import json
import shutil
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from cli_helpers import TINY, call
from PIL import Image

import recall_traces.envs as envs
from recall_traces.cli.saved import draw_without_screen, environment_keywords
from recall_traces.cli.watch import WatchOptions, camera, play
from recall_traces.envs.colours import AGENT

UP, LEFT, RIGHT = 0, 2, 3


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of two arms."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    assert call(f"compare FourRooms-7 --arms none own-traces {TINY} --quiet --out {folder}") == 0
    return folder


@pytest.fixture
def run(trained, place):
    shutil.copytree(trained, place / "run")
    return place / "run"


def test_watch_films_the_arm_that_recalls(run, capsys):
    assert call("watch run --episodes 2 --fps 20") == 0
    assert capsys.readouterr().out == "run/watch-own-traces-0.gif\n"
    with Image.open(run / "watch-own-traces-0.gif") as film:
        assert film.n_frames > 2
        pixels = np.asarray(film.convert("RGB")).astype(int)
    assert (np.abs(pixels - AGENT).max(-1) < 4).any()
    first = (run / "watch-own-traces-0.gif").read_bytes()
    assert call("watch run --arm none --seed 1 --episodes 1 --greedy --out films/none.gif") == 0
    assert call("watch run --episodes 2 --fps 20") == 0
    assert (run / "watch-own-traces-0.gif").read_bytes() == first
    assert (run.parent / "films" / "none.gif").stat().st_size > 1000


class KnowsTheWay:
    """The second of two seeds does; the first runs against a wall."""

    num_seeds = 2
    way = (UP, LEFT, LEFT, LEFT, LEFT, UP, UP, UP)

    def __init__(self):
        self.moves, self.asked = 0, set()

    def act(self, obs, greedy, generator):
        self.asked.add((tuple(obs.shape), greedy))
        self.moves += 1
        return torch.tensor([[RIGHT], [self.way[(self.moves - 1) % len(self.way)]]])


def test_a_film_follows_the_policy_of_its_seed_to_the_end_of_each_episode():
    show, env = camera(lambda num_envs, **more: envs.make("FourRooms-7", num_envs, **more))
    learner = KnowsTheWay()
    film = play(learner, env, show, WatchOptions(run="x", seed=1, episodes=2, greedy=True))
    assert learner.asked == {((2, 1), True)}
    cells = [np.argwhere((picture[8::16, 8::16] == AGENT).all(-1)).tolist() for picture, _, _ in film.frames]
    there = [[[5, 5]], [[4, 5]], [[4, 4]], [[4, 3]], [[4, 2]], [[4, 1]], [[3, 1]], [[2, 1]], [[1, 1]]]
    assert cells == there * 2
    captions = [caption for _, caption, _ in film.frames]
    assert captions[:2] == ["episode 1 of 2, step 0, return 0", "episode 1 of 2, step 1, return 0"]
    assert captions[-1] == "episode 2 of 2, step 8, return 1, ended"
    assert [k for k, frame in enumerate(film.frames) if frame[2]] == [8, 17]
    film = play(KnowsTheWay(), env, show, WatchOptions(run="x", seed=0, episodes=1))
    assert film.frames[-1][1] == "step 70, return 0, time is up"


def test_a_task_of_gymnasium_draws_itself(monkeypatch):
    from recall_traces.envs.gymnasium_adapter import GymnasiumVectorEnv

    asked = []

    def make(num_envs, **more):
        asked.append(more)
        return envs.make("MountainCar-v0", num_envs, **more)

    monkeypatch.setattr(GymnasiumVectorEnv, "picture", lambda self: np.zeros((4, 4, 3), np.uint8))
    show, env = camera(make)
    assert asked == [{}, {"render_mode": "rgb_array"}]
    assert show(None).shape == (4, 4, 3)
    assert show(torch.zeros(2)) is None, "a new episode has begun"
    env.close()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "watch takes one run"),
        ("run run", "watch takes one run"),
        ("nowhere", "there is no run folder nowhere"),
        (".", "is no run folder: config.json cannot be read"),
        ("run --arm recal", "run has no arm 'recal'; it has none, own-traces"),
        ("run --seed 2", "--seed is 2; the run has 0 to 1"),
        ("run --seed -1", "--seed is -1; the run has 0 to 1"),
        ("run --episodes 0", "--episodes is 0; it must be at least 1"),
        ("run --fps 0", "--fps is 0; it must be at least 1"),
        ("run --out film.png", "film.png is no name of a film; it must end in .gif or .mp4"),
        ("run --out run/config.json/film.gif", "cannot write run/config.json/film.gif"),
        ("run --speed 2", "unknown option --speed"),
    ],
)
def test_what_cannot_be_watched_is_said_in_one_sentence(run, capsys, arguments, message):
    assert call(f"watch {arguments}") == 2
    error = capsys.readouterr().err
    assert error.startswith("recall-traces: ")
    assert error.count("\n") == 1
    assert message in error
    assert not list(run.glob("*.gif"))


def test_without_a_policy_there_is_nothing_to_watch(run, capsys):
    (run / "own-traces.safetensors").unlink()
    assert call("watch run --arm own-traces") == 2
    assert capsys.readouterr().err == "recall-traces: the arm own-traces of run has no saved policy; it is finished\n"
    assert call("watch run --episodes 1 --fps 60") == 0  # the other one
    assert capsys.readouterr().out == "run/watch-none-0.gif\n"
    (run / "none.safetensors").write_text("nonsense")
    assert call("watch run") == 2
    assert "the policies of none cannot be loaded: run/none.safetensors is not a saved PPO" in capsys.readouterr().err
    (run / "none.safetensors").unlink()
    assert call("watch run") == 2
    assert capsys.readouterr().err == "recall-traces: no arm of run has a saved policy\n"


def test_what_cannot_be_drawn(place, capsys):
    assert call(f"train ppo Breaks-v0 {TINY} --agent.n-steps 64 --env.breaks 0 --quiet --out run") == 0
    assert call("watch run") == 2
    assert capsys.readouterr().err == "recall-traces: this environment cannot be drawn: it has no method render\n"
    record = json.loads((place / "run" / "config.json").read_text())
    record["configuration"]["env_id"] = "Broken-v0"
    (place / "run" / "config.json").write_text(json.dumps(record))
    assert call("watch run") == 2
    assert "unknown environment 'Broken-v0'" in capsys.readouterr().err


def test_options_of_the_environment_are_those_of_the_evaluation_for_this_machine():
    ranges = {"healthy_z_range": [0.7, 2.0], "engine": "warp", "frame_skip": 4}
    configuration = {"env_id": "Hopper-v5", "env": {"engine": "warp"}, "eval_env": ranges}
    assert environment_keywords(configuration, "eval_env") == {
        "healthy_z_range": (0.7, 2.0),
        "engine": "auto",
        "frame_skip": 4,
    }


def test_without_a_screen_mujoco_draws_by_what_there_is(monkeypatch):
    from recall_traces.cli import saved

    monkeypatch.setattr(saved, "sys", SimpleNamespace(platform="linux"))
    for libraries, display, chosen in (
        (("EGL", "OSMesa"), "", "egl"),
        (("OSMesa",), "", "osmesa"),
        ((), "", None),
        (("EGL",), ":0", None),
    ):
        environment = {"DISPLAY": display}
        monkeypatch.setattr(saved, "os", SimpleNamespace(environ=environment))
        monkeypatch.setattr(saved, "find_library", lambda name, libraries=libraries: name if name in libraries else None)
        draw_without_screen()
        assert environment.get("MUJOCO_GL") == chosen
    assert sys.platform  # of everyone else
