"""`recall-traces watch` and `traces`: a film of a policy, and a picture of what it recalls."""

import json
import shutil
from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest
import torch
from cli_helpers import call
from matplotlib.image import imread
from PIL import Image

import recall_traces.envs as envs
from recall_traces.cli import saved
from recall_traces.cli.traces import poses
from recall_traces.cli.watch import WatchOptions, camera, play
from recall_traces.envs.colours import AGENT
from recall_traces.envs.gymnasium_adapter import GymnasiumVectorEnv
from recall_traces.recall import Recalled

SHORT = "--seeds 2 --steps 1024 --eval-every 1024 --eval-episodes 2"
UP, LEFT, RIGHT = 0, 2, 3


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of two arms, of which the first was begun and no more."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    assert call(f"train ppo FourRooms-7 --arm recall {SHORT} --quiet --out {folder}") == 0
    record = json.loads((folder / "config.json").read_text())
    record["arms"] = {"none": {"status": "running"}, **record["arms"]}
    (folder / "config.json").write_text(json.dumps(record))
    return folder


def test_watch_films_the_arm_that_recalls(run, capsys):
    assert call("watch run --episodes 2 --fps 2") == 0
    assert capsys.readouterr().out == "run/watch-recall-0.gif\n"
    film = run / "watch-recall-0.gif"
    with Image.open(film) as frames:
        assert frames.n_frames > 2
        pixels = np.asarray(frames.convert("RGB")).astype(int)
    assert (np.abs(pixels - AGENT).max(-1) < 4).any()
    first = film.read_bytes()
    assert call("watch run --arm recall --seed 1 --episodes 1 --best --greedy --fps 1 --out films/best.gif") == 0
    assert call("watch run --episodes 2 --fps 2") == 0
    assert film.read_bytes() == first
    assert (run.parent / "films" / "best.gif").stat().st_size > 1000


def test_traces_draws_the_arm_that_recalls(run, capsys):
    assert call("traces run --seed 1") == 0
    assert call("traces run --arm recall --out pictures/x.pdf") == 0
    out, err = capsys.readouterr()
    assert out == "run/traces-recall-1.png\npictures/x.pdf\n"
    assert not err
    pixels = imread(run / "traces-recall-1.png")[..., :3]
    assert pixels.shape[1] > 1000
    assert pixels.std() > 0.1
    assert (run.parent / "pictures" / "x.pdf").stat().st_size > 5000


@pytest.mark.parametrize("command", ["traces", "watch --episodes 1"])
def test_a_torn_checkpoint_is_told_of(run, capsys, command):
    (run / "checkpoints" / "recall" / "2048.safetensors").write_bytes(b"torn")
    assert call(f"{command} run") == 0
    assert capsys.readouterr().err.startswith("run/checkpoints/recall/2048.safetensors is not used: ")


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
    show, env = camera(lambda **more: envs.make("FourRooms-7", 1, **more))
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
    asked = []

    def make(**more):
        asked.append(more)
        return envs.make("MountainCar-v0", 1, **more)

    monkeypatch.setattr(GymnasiumVectorEnv, "picture", lambda self: np.zeros((4, 4, 3), np.uint8))
    show, env = camera(make)
    assert asked == [{}, {"render_mode": "rgb_array"}]
    assert show(None).shape == (4, 4, 3)
    assert show(torch.zeros(2)) is None, "a new episode has begun"
    env.close()


def test_a_task_that_draws_nothing():
    env = GymnasiumVectorEnv("MountainCar-v0", 1)
    with pytest.raises(ValueError, match="MountainCar-v0 draws no pictures: it needs the option render_mode='rgb_array'"):
        env.picture()
    env.close()
    with pytest.raises(ValueError, match="this environment cannot be drawn: it has no method render"):
        camera(lambda: envs.make("Breaks-v0", 1))


class Blind(gymnasium.Env):
    observation_space = action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        return 0, {}

    def step(self, action):
        return 0, 0.0, False, False, {}


def test_a_gymnasium_task_that_knows_no_pictures(monkeypatch):
    spec = gymnasium.envs.registration.EnvSpec("Blind-v0", entry_point=Blind, max_episode_steps=5)
    monkeypatch.setitem(gymnasium.registry, "Blind-v0", spec)
    with pytest.raises(ValueError, match="this environment cannot be drawn: it has no render mode 'rgb_array'"):
        camera(lambda **more: envs.make("Blind-v0", 1, **more))


BOTH = [
    ("", "needs the folder of a run, such as: recall-traces "),
    ("run run", "unexpected argument 'run' after 'run'"),
    ("nowhere", "nowhere/config.json cannot be read"),
    ("run --arm recal", "run has no arm 'recal'; there are none, recall"),
    ("run --seed 2", "--seed is 2; seeds are counted from 0, and the run has 0 to 1"),
    ("run --seed -1", "--seed is -1; seeds are counted from 0, and the run has 0 to 1"),
    ("run --speed 2", "unknown option --speed"),
]


@pytest.mark.parametrize(
    ("command", "message"),
    [
        *((f"watch {arguments}", message) for arguments, message in BOTH),
        *((f"traces {arguments}", message) for arguments, message in BOTH),
        ("watch run --arm none", "run has nothing saved of none yet"),
        ("watch run --episodes 0", "--episodes is 0; it must be at least 1"),
        ("watch run --fps 0", "--fps is 0; it must be at least 1"),
        ("watch run --out film.png", "film.png is no name of a film; it must end in .gif or .mp4"),
        ("watch run --episodes 1 --out run/config.json/film.gif", "cannot write run/config.json/film.gif"),
        ("traces run --arm none", "the arm none recalls nothing; those that do have recall or own-traces in their names"),
        ("traces run --out x.gif", "x.gif is no name of a picture; it must end in .png, .pdf, .svg"),
        ("traces run --out run/config.json/x.png", "cannot write run/config.json/x.png"),
    ],
)
def test_what_cannot_be_drawn_is_said_in_one_sentence(run, capsys, command, message):
    assert call(command) == 2
    error = capsys.readouterr().err
    assert error.startswith("recall-traces: ")
    assert error.count("\n") == 1
    assert message in error
    assert not [*run.glob("*.gif"), *run.glob("*.png")]


def test_with_policies_alone_there_is_a_film_but_no_picture_of_traces(run, capsys):
    shutil.rmtree(run / "checkpoints" / "recall")
    assert call("traces run") == 2
    assert capsys.readouterr().err == (
        "recall-traces: run has the policies of recall alone: no checkpoint tells what it recalled\n"
    )
    assert call("watch run --episodes 1 --fps 1") == 0
    (run / "recall.safetensors").unlink()
    for command in ("watch", "traces"):
        assert call(f"{command} run") == 2
        assert "run has nothing saved of recall yet" in capsys.readouterr().err
    record = json.loads((run / "config.json").read_text())
    record["arms"].pop("recall")
    (run / "config.json").write_text(json.dumps(record))
    assert call("traces run") == 2
    assert capsys.readouterr().err == "recall-traces: no arm of run recalls; it has none\n"


def test_without_opengl_one_line_says_what_is_missing(capsys):
    states = torch.arange(9.0).view(1, 1, 3, 3)
    mask = torch.ones(1, 1, 3, dtype=torch.bool)
    traces = Recalled(states, mask, mask, mask.float(), states + 3, ~mask, mask)
    recall = SimpleNamespace(buffer=[traces])

    def cannot(obs, width, height):
        assert obs.tolist() == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]]
        raise RuntimeError("MuJoCo cannot draw here\n(no library)")

    assert poses(SimpleNamespace(env=SimpleNamespace(pose=cannot)), recall, 0) == []
    message = "recall-traces: without the states of a trace, posed: MuJoCo cannot draw here (no library)\n"
    assert capsys.readouterr().err == message
    drawn = poses(SimpleNamespace(env=SimpleNamespace(pose=lambda obs, width, height: list(obs))), recall, 0)
    assert [togo for _, togo in drawn] == [3, 2, 1, 0]
    assert poses(SimpleNamespace(env=object()), recall, 0) == []


def test_without_a_screen_mujoco_draws_by_what_there_is(monkeypatch):
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
        saved.draw_without_screen()
        assert environment.get("MUJOCO_GL") == chosen
