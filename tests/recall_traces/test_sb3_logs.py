import csv
import importlib
import json
import math
import pickle
import shutil
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from matplotlib.image import imread

from recall_traces import plotting, sb3_logs
from recall_traces.cli import main
from recall_traces.curves import COLUMNS, METRICS, read_curves

NAN = math.nan
STEPS = 768


@pytest.fixture(scope="session")
def sb3(tmp_path_factory):
    """Two environments, PPO and everything that Stable-Baselines3 can log of it, with a witness of the episodes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those of other packages are none of ours
        import gymnasium
        from stable_baselines3 import PPO
        from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
        from stable_baselines3.common.env_util import make_vec_env
        from stable_baselines3.common.logger import configure
        from stable_baselines3.common.monitor import Monitor

        class Witness(BaseCallback):
            def _on_step(self):
                episodes.extend(info["episode"] for info in self.locals["infos"] if "episode" in info)
                return True

        episodes: list[dict[str, float]] = []
        folder = tmp_path_factory.mktemp("logs") / "PPO_1"
        env = make_vec_env("CartPole-v1", n_envs=2, seed=0, monitor_dir=str(folder))
        agent = PPO(
            "MlpPolicy", env, n_steps=64, batch_size=64, n_epochs=1, policy_kwargs={"net_arch": [8]}, seed=0, device="cpu"
        )
        agent.set_logger(configure(str(folder), ["csv", "tensorboard"]))
        evaluation = EvalCallback(
            Monitor(gymnasium.make("CartPole-v1")), n_eval_episodes=3, eval_freq=100, log_path=str(folder), verbose=0
        )
        agent.learn(STEPS, callback=[Witness(), evaluation])
        agent.logger.close()
        env.close()
    return SimpleNamespace(folder=folder, episodes=episodes, evaluation=evaluation)


def keep(sb3, folder, *patterns):
    """A copy of the run with some of its files."""
    folder.mkdir(parents=True)
    for pattern in patterns:
        for file in sb3.folder.glob(pattern):
            shutil.copy(file, folder)
    return folder


def monitor(file, episodes, env_id="CartPole-v1", start=0.0, extra=""):
    """A monitor file of (return, length, time, ...) by hand."""
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = [f"#{json.dumps({'t_start': start, 'env_id': env_id})}", "r,l,t" + extra]
    file.write_text("\n".join([*lines, *(",".join(map(str, episode)) for episode in episodes), ""]))
    return file.parent


def evaluations(folder, steps=(100, 200), results=((1.0, 2.0), (3.0, 4.0)), **more):
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "evaluations.npz", timesteps=steps, results=results, **more)
    return folder


def native(folder, task="CartPole-v1", arm="recall", success="0.5", steps=(0, 2048, 4096)):
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f"{arm},{seed},{step},{100 + seed},{success},{120 + seed},{success}" for seed in range(3) for step in steps]
    (folder / "curves.csv").write_text("\n".join([",".join(COLUMNS), *lines, ""]))
    (folder / "config.json").write_text(json.dumps({"task": task}))
    return folder


def read_one(*paths):
    """The only arm and seed of the only task: env steps and values by metric."""
    (curves,) = read_curves(*paths)
    (arm,) = curves.arms
    return curves.env_steps.tolist(), {metric: curves.values[metric][arm][0].tolist() for metric in METRICS}


def windows(samples, size):
    """What is promised, spelled out: (step, value) by windows, empty ones filled."""
    found = {}
    for step, value in samples:
        found.setdefault(math.ceil(step / size) * size, []).append(value)
    steps = list(range(min(found), max(found) + 1, size))
    values = []
    for step in steps:
        values.append(sum(found[step]) / len(found[step]) if step in found else values[-1])
    return steps, values


# What Stable-Baselines3 writes -------------------------------------------------------------------------------------------


def test_evaluations_come_at_their_own_steps_and_fill_both_columns(sb3):
    steps, values = read_one(sb3.folder)  # preferred to all that is beside it
    assert steps == [200, 400, 600]
    means = [sum(map(float, episodes)) / 3 for episodes in sb3.evaluation.evaluations_results]
    assert values["episode_return"] == pytest.approx(means)
    assert values["greedy_episode_return"] == values["episode_return"]
    assert values["success"] == values["greedy_success"] == [0, 0, 0]  # CartPole's threshold is 475
    assert read_curves(sb3.folder)[0].task == "CartPole-v1"  # the monitor files beside it know
    assert read_curves(sb3.folder)[0].seeds == {"PPO": (0,)}


@pytest.mark.parametrize("size", [50, 128, 2048])
def test_monitor_files_of_all_environments_are_one_run(sb3, tmp_path, monkeypatch, size):
    monkeypatch.setattr(sb3_logs, "WINDOW", size)
    steps, values = read_one(keep(sb3, tmp_path / "PPO_1", "*monitor.csv", "progress.csv", "events*"))
    ends = np.cumsum([episode["l"] for episode in sb3.episodes])
    assert len(ends) > 15
    expected = windows(zip(ends.tolist(), [episode["r"] for episode in sb3.episodes], strict=True), size)
    assert steps == expected[0]
    assert values["episode_return"] == pytest.approx(expected[1])
    assert values["success"] == [0] * len(steps)
    assert np.isnan(values["greedy_episode_return"] + values["greedy_success"]).all()


def test_the_logger_tells_the_same_by_csv_and_tensorboard(sb3, tmp_path, monkeypatch):
    monkeypatch.setattr(sb3_logs, "WINDOW", 128)
    with (sb3.folder / "progress.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    expected = {}
    for metric, tag in (("episode_return", "rollout/ep_rew_mean"), ("greedy_episode_return", "eval/mean_reward")):
        known = [(int(row["time/total_timesteps"]), float(row[tag])) for row in rows if row[tag]]
        expected[metric] = dict(zip(*windows(known, 128), strict=True))
    assert len(expected["episode_return"]) == STEPS // 128
    # TensorBoard goes second: the files of the logger both, then its events alone.
    for number, patterns in enumerate([("progress.csv", "events*"), ("events*",)]):
        steps, values = read_one(keep(sb3, tmp_path / str(number) / "PPO_1", *patterns))
        for metric, curve in expected.items():
            assert values[metric] == pytest.approx([curve.get(step, NAN) for step in steps], nan_ok=True)
        assert np.isnan(values["success"] + values["greedy_success"]).all()


def test_evaluations_alone_in_a_logger_fill_both_columns(tmp_path):
    tmp_path.joinpath("progress.csv").write_text(
        'eval/mean_reward,time/total_timesteps,eval/success_rate,note\n5,2048,0.5,"a, ""b"""\n,3000,,\n7.5,4096,True,\n'
    )
    steps, values = read_one(tmp_path)
    assert steps == [2048, 4096]
    assert values["episode_return"] == values["greedy_episode_return"] == [5, 7.5]
    assert values["success"] == values["greedy_success"] == [0.5, 1]


def test_our_own_curves_come_first(sb3, tmp_path):
    folder = native(keep(sb3, tmp_path / "run", "*"))
    (curves,) = read_curves(folder)
    assert curves.arms == ("recall",)
    assert read_curves(folder / "progress.csv", folder / "curves.csv")[0].arms == ("run", "recall")


# By hand -----------------------------------------------------------------------------------------------------------------


def test_windows_by_hand(tmp_path):
    # Steps in time order: 1000 (a), 3000 (b), 4096 (a), 4097 (a), 9097 (b). The first ends in the first window, the next two
    # in the second, the fourth in the third, nobody in the fourth, the last in the fifth, which reaches from 8193 to 10240.
    monitor(tmp_path / "run_3" / "a.monitor.csv", [(10, 1000, 1.0), (480, 1096, 2.5), (20, 1, 3.0)], start=100.0)
    folder = monitor(tmp_path / "run_3" / "b.monitor.csv", [(500, 2000, 0.5), (7, 5000, 4.0)], start=101.0)
    steps, values = read_one(folder)
    assert steps == [2048, 4096, 6144, 8192, 10240]
    assert values["episode_return"] == [10, 490, 20, 20, 7]
    assert values["success"] == [0, 1, 0, 0, 0]
    # By their own names they are runs of their own, seeds of one arm.
    (curves,) = read_curves(folder / "a.monitor.csv", folder / "b.monitor.csv")
    assert curves.seeds == {"run": (0, 1)}
    np.testing.assert_array_equal(curves.values["episode_return"]["run"][1], [500, 500, 500, 7])
    assert curves.env_steps.tolist() == [2048, 4096, 6144, 8192]


def test_a_file_that_a_second_session_went_on_with_stays_in_order(tmp_path):
    monitor(tmp_path / "a.monitor.csv", [(1, 2000, 5), (2, 2000, 90), (3, 2000, 4), (4, 2000, 80)])
    steps, values = read_one(tmp_path)
    assert (steps, values["episode_return"]) == ([2048, 4096, 6144, 8192], [1, 2, 3, 4])


def test_the_logs_own_success_counts_more_than_a_threshold(tmp_path):
    monitor(tmp_path / "a" / "monitor.csv", [(500, 500, 1, True), (500, 500, 2, False), (0, 500, 3, "")], extra=",is_success")
    assert read_one(tmp_path / "a")[1]["success"] == [0.5]
    folder = evaluations(tmp_path / "b", successes=[[True, True], [True, False]])
    assert read_one(folder)[1]["success"] == read_one(folder)[1]["greedy_success"] == [1, 0.5]


def test_gaps_are_no_values(tmp_path):
    folder = evaluations(tmp_path / "a" / "CartPole-v1", results=[[500, NAN], [NAN, NAN]])
    assert read_one(folder)[0] == [100]
    monitor(tmp_path / "b" / "monitor.csv", [("", 3000, 1), (3, 3000, 2)])
    assert read_one(tmp_path / "b")[0] == [6144]


@pytest.mark.parametrize("end", ["7,20", "7.0,2000,3"])
def test_a_torn_last_line_is_left_out(tmp_path, end):
    file = monitor(tmp_path / "monitor.csv", [(1, 10, 1)]) / "monitor.csv"
    file.write_text(file.read_text() + end)
    assert read_one(tmp_path)[1]["episode_return"] == [1]


def test_torn_events_give_what_came_before(sb3, tmp_path):
    file = next(keep(sb3, tmp_path / "PPO_1", "events*").iterdir())
    file.write_bytes(file.read_bytes()[:-7])
    assert read_one(tmp_path / "PPO_1")[0] == [2048]


# Arms, seeds and tasks ---------------------------------------------------------------------------------------------------


def test_a_folder_of_runs_stands_for_each(tmp_path):
    for number in (1, 2, 10):
        evaluations(tmp_path / "tb" / f"PPO_{number}", results=[[number], [number]])
    (tmp_path / "tb" / "other").mkdir()
    (curves,) = read_curves(tmp_path / "tb")
    assert curves.seeds == {"PPO": (0, 1, 2)}
    assert curves.values["episode_return"]["PPO"][:, 0].tolist() == [1, 2, 10]
    with pytest.raises(ValueError, match="does not exist"):
        read_curves(tmp_path / "tb" / "other")


def test_numbered_folders_are_seeds(tmp_path):
    folders = [evaluations(tmp_path / name) for name in ("PPO_2", "PPO_1", "A2C_1", "_7", "PPO_1b")]
    for clashes in (False, True):
        (curves,) = read_curves(*folders, folders[0], folders[1] / "evaluations.npz", prefix_clashes=clashes)
        assert curves.seeds == {"PPO": (0, 1), "A2C": (0,), "_7": (0,), "PPO_1b": (0,)}


def test_equal_arms_of_different_places_are_told_apart(tmp_path):
    own = native(tmp_path / "own", arm="PPO", task="t")
    folders = [evaluations(tmp_path / name) for name in ("slow/PPO_1", "fast/PPO_1", "fast/PPO_2", "fast/SAC_1")]
    (curves,) = read_curves(own, *folders, prefix_clashes=True)
    assert {arm: len(seeds) for arm, seeds in curves.seeds.items()} == {"own/PPO": 3, "slow/PPO": 1, "fast/PPO": 2, "SAC": 1}
    # Where nobody asked for that they are one arm, and no seed is lost.
    (curves,) = read_curves(*folders, own)
    assert curves.seeds == {"PPO": (0, 1, 2, 3, 4, 5), "SAC": (0,)}
    np.testing.assert_array_equal(curves.values["episode_return"]["PPO"][:3, 0], [100, 101, 102])


@pytest.mark.parametrize("order", [1, -1])
def test_an_unknown_task_is_that_of_the_run_beside_it(tmp_path, order):
    folders = [native(tmp_path / "run", task="FourRooms-13"), evaluations(tmp_path / "logs" / "PPO_1", results=[[0, 1], [1, 1]])]
    (curves,) = read_curves(*folders[::order])
    assert curves.task == "FourRooms-13"
    assert curves.arms == ("recall", "PPO")[::order]
    assert curves.values["success"]["PPO"][0][np.isfinite(curves.values["success"]["PPO"][0])].tolist() == [0.5, 1]


def test_an_unknown_task_is_that_of_a_log_that_knows(tmp_path):
    known, unknown = monitor(tmp_path / "a_1" / "monitor.csv", [(1, 10, 1)]), evaluations(tmp_path / "b_1")
    (curves,) = read_curves(unknown, known)
    assert (curves.task, curves.arms) == ("CartPole-v1", ("b", "a"))
    assert np.isfinite(curves.values["success"]["b"]).any()


def test_an_unknown_task_is_called_like_the_folder_around_it(tmp_path):
    folder = evaluations(tmp_path / "Walker" / "PPO_1")
    assert read_curves(folder)[0].task == "Walker"
    others = [native(tmp_path / name, task=name) for name in ("Walker-v5", "Hopper-v5")]
    assert [curves.task for curves in read_curves(*others, folder)] == ["Walker-v5", "Hopper-v5", "Walker"]


@pytest.mark.parametrize(
    ("env_id", "task"),
    [
        ("CartPole-v1", "CartPole-v1"),
        ("CartPole-v1", "gymnasium/CartPole-v1"),
        ("recall_traces/CartPole-v1", "CartPole-v1"),
        ("recall_traces/FourRooms-13-v0", "FourRooms-13"),
        ("Mine-v0", "my_module:Mine-v0"),
    ],
)
def test_one_task_by_two_names_is_one(tmp_path, env_id, task):
    folder = monitor(tmp_path / "PPO_1" / "monitor.csv", [(500, 10, 1)], env_id=env_id)
    (curves,) = read_curves(native(tmp_path / "run", task=task), folder)
    assert (curves.task, curves.arms) == (task, ("recall", "PPO"))
    assert np.isfinite(curves.values["success"]["PPO"]).any() == (env_id != "Mine-v0")


def test_other_tasks_are_kept_apart(tmp_path):
    folders = [monitor(tmp_path / name / "monitor.csv", [(1, 10, 1)], env_id=name) for name in ("Hopper-v5", "Swimmer-v5")]
    assert [curves.task for curves in read_curves(*folders)] == ["Hopper-v5", "Swimmer-v5"]


def test_a_folder_called_after_its_task_is_of_the_algorithm_around_it(tmp_path):
    folders = [
        monitor(tmp_path / algo / f"CartPole-v1_{number}" / "0.monitor.csv", [(1, 10, 1)])
        for algo in ("ppo", "a2c")
        for number in (1, 2)
    ]
    (curves,) = read_curves(*folders, prefix_clashes=True)
    assert curves.seeds == {"ppo": (0, 1), "a2c": (0, 1)}


@pytest.mark.parametrize("env_id", ["None", "", None, 3, ["CartPole-v1"]])
def test_a_monitor_that_does_not_tell_its_task(tmp_path, env_id):
    folder = monitor(tmp_path / "logs" / "PPO_1" / "monitor.csv", [(1, 10, 1)], env_id=env_id)
    assert read_curves(folder)[0].task == "logs"


# What is no log ----------------------------------------------------------------------------------------------------------

HEADER = b'#{"t_start": 0.0, "env_id": "CartPole-v1"}\nr,l,t\n'


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("monitor.csv", b"", "does not begin with #"),
        ("monitor.csv", b"r,l,t\n1,10,1\n", "does not begin with #"),
        ("monitor.csv", b"#[1]\nr,l,t\n1,10,1\n", "does not begin with #"),
        ("monitor.csv", b"#" + b"[" * 100_000, "does not begin with #"),
        ("monitor.csv", HEADER[:-4], "lacks the column r, l, t"),
        ("monitor.csv", HEADER, "no episode return"),
        ("monitor.csv", HEADER + b"\xff\xfe\n", "not a readable CSV"),
        ("monitor.csv", HEADER + b"1,10\n", "line 3: 2 fields"),
        ("monitor.csv", HEADER + b"x,10,1\n", "line 3: r is 'x'"),
        ("monitor.csv", HEADER + b"inf,10,1\n", "r is 'inf'"),
        ("monitor.csv", HEADER + b"1,1.5,1\n", "episode lengths"),
        ("monitor.csv", HEADER + b"1,-3,1\n", "episode lengths"),
        ("monitor.csv", HEADER + b"1,,1\n", "episode lengths"),
        ("monitor.csv", HEADER + b"1,1e18,1\n", "episode lengths"),
        ("monitor.csv", HEADER + b"1,900000000,1\n" * 2, "steps be from 0"),
        ("monitor.csv", HEADER + b"1,10,\n", "seconds"),
        ("monitor.csv", HEADER.replace(b"0.0", b'"now"') + b"1,10,1\n", "seconds"),
        ("monitor.csv", HEADER.replace(b"0.0", b"1" + b"0" * 400) + b"1,10,1\n", "seconds"),
        ("monitor.csv", HEADER.replace(b"0.0", b"NaN") + b"1,10,1\n", "seconds"),
        ("progress.csv", b"", "lacks the column time/total_timesteps"),
        ("progress.csv", b"time/total_timesteps,loss\n10,1\n", "no episode return"),
        ("progress.csv", b"time/total_timesteps,rollout/ep_rew_mean\n0.5,1\n", "whole numbers"),
        ("progress.csv", b"time/total_timesteps,rollout/ep_rew_mean\n10,abc\n", "'abc'"),
        ("evaluations.npz", b"", "EvalCallback"),
        ("evaluations.npz", b"PK\x03\x04 torn", "EvalCallback"),
        ("evaluations.npz", b"not an archive", "EvalCallback"),
        ("events.out.tfevents.1.host", b"", "no episode return"),
        ("events.out.tfevents.1.host", b"garbage" * 100, "no episode return"),
    ],
)
def test_what_is_no_log_is_said_in_one_sentence(tmp_path, capsys, name, content, says):
    (tmp_path / name).write_bytes(content)
    for path in (tmp_path, tmp_path / name):
        with pytest.raises(ValueError, match=says) as raised:
            read_curves(path)
        assert name in str(raised.value)
        assert str(raised.value).endswith(".")
    assert main(["plot", str(tmp_path), "--out", str(tmp_path / "picture.png")]) == 2
    said = capsys.readouterr().err
    assert said.startswith("recall-traces: ")
    assert said.count("\n") == 1
    assert not (tmp_path / "picture.png").exists()


@pytest.mark.parametrize(
    "arrays",
    [
        {"timesteps": [1]},
        {"results": [[1.0]]},
        {"timesteps": [1, 2], "results": [[1.0]]},
        {"timesteps": [[1]], "results": [[1.0]]},
        {"timesteps": 1, "results": [[1.0]]},
        {"timesteps": [1.0], "results": [[1.0]]},
        {"timesteps": [1], "results": [1.0]},
        {"timesteps": [1], "results": 1.0},
        {"timesteps": [1], "results": [["one"]]},
        {"timesteps": [1], "results": [[1j]]},
        {"timesteps": [1], "results": [[np.inf]]},
        {"timesteps": [1], "results": [[]]},
        {"timesteps": [-1], "results": [[1.0]]},
        {"timesteps": [2**62], "results": [[1.0]]},
        {"timesteps": [1], "results": [[1.0]], "successes": [1.0]},
        {"timesteps": [1], "results": [[1.0]], "successes": [["yes"]]},
    ],
)
def test_archives_of_other_arrays_are_refused(tmp_path, arrays):
    np.savez(tmp_path / "evaluations.npz", **arrays)
    with pytest.raises(ValueError, match=r"evaluations\.npz.*\.$"):
        read_curves(tmp_path)


def test_an_array_in_place_of_an_archive_is_refused(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros(3))
    (tmp_path / "x.npy").rename(tmp_path / "evaluations.npz")
    with pytest.raises(ValueError, match="EvalCallback"):
        read_curves(tmp_path)


class Trap:
    """Unpickled, it leaves a file behind."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return open, (str(self.file), "w")


def test_nothing_that_is_read_is_run(tmp_path, monkeypatch):
    trap = tmp_path / "sprung"
    np.savez(tmp_path / "evaluations.npz", timesteps=[1], results=np.array([[Trap(trap)]], dtype=object))
    with pytest.raises(ValueError, match="no archive of plain arrays"):
        read_curves(tmp_path)
    (tmp_path / "evaluations.npz").write_bytes(pickle.dumps(Trap(trap)))
    with pytest.raises(ValueError, match="EvalCallback"):
        read_curves(tmp_path)
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "sprung_trap.py").write_text(f"open({str(trap)!r}, 'w').close()")
    monkeypatch.syspath_prepend(tmp_path / "code")
    folder = monitor(tmp_path / "PPO_1" / "monitor.csv", [(1, 10, 1)], env_id="sprung_trap:CartPole-v1")
    assert read_curves(folder)[0].task == "sprung_trap:CartPole-v1"
    assert not trap.exists()
    importlib.import_module("sprung_trap")  # the trap was a good one
    assert trap.exists()


def test_monitor_files_of_several_tasks_are_no_run(tmp_path):
    for name in ("Hopper-v5", "Swimmer-v5"):
        monitor(tmp_path / f"{name}.monitor.csv", [(1, 10, 1)], env_id=name)
    with pytest.raises(ValueError, match=r"several tasks \(Hopper-v5, Swimmer-v5\)"):
        read_curves(tmp_path)
    assert len(read_curves(*tmp_path.iterdir())) == 2


CELL = st.one_of(
    st.sampled_from(["1", "2048", "0.5", "", "nan", "-1", "1e400", "True", '"', "\x00", "9" * 30]), st.text(max_size=3)
)
LINES = st.lists(st.lists(CELL, min_size=2, max_size=4).map(",".join), max_size=5).map("\n".join)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(["monitor.csv", "progress.csv", "evaluations.npz"]), st.one_of(st.binary(max_size=100), LINES))
@example("monitor.csv", "1,2,3\n")
def test_garbage_is_a_sentence_or_a_curve(tmp_path, name, content):
    if isinstance(content, str):
        begin = HEADER if name == "monitor.csv" else b"time/total_timesteps,rollout/ep_rew_mean,eval/mean_reward\n"
        content = begin + content.encode("utf-8", "replace")
    (tmp_path / name).write_bytes(content)
    said = None
    try:
        assert read_curves(tmp_path / name)[0].env_steps.size
    except ValueError as error:
        said = error
    assert said is None or (type(said) is ValueError and str(said).endswith("."))


# The picture -------------------------------------------------------------------------------------------------------------


def test_a_baseline_is_drawn_beside_our_own_run(sb3, tmp_path, monkeypatch, capsys):
    metrics = []
    draw = plotting.plot_comparison
    monkeypatch.setattr(plotting, "plot_comparison", lambda *args, **more: [metrics.append(more["metric"]), draw(*args, **more)])
    own, out = native(tmp_path / "run"), tmp_path / "both.png"
    assert main(["plot", str(own), str(sb3.folder), "--out", str(out)]) == 0
    assert capsys.readouterr().out.splitlines() == [str(out)]
    pixels = imread(out)[..., :3]
    assert np.ptp(pixels) > 0.9
    for colour in plotting.COLOURS[:2]:  # that of each arm is there
        rgb = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        assert (np.abs(pixels - rgb).max(-1) < 0.02).sum() > 100
    # Without a success of its own the baseline would be missing: returns are drawn, unless success was asked for.
    baseline = str(keep(sb3, tmp_path / "PPO_1", "progress.csv"))
    for more in ([], ["--metric", "success"], ["--metric", "greedy_episode_return"]):
        assert main(["plot", str(own), baseline, "--out", str(out), *more]) == 0
    assert metrics == ["success", "episode_return", "success", "greedy_episode_return"]


def test_an_empty_picture_is_refused(tmp_path, capsys):
    monitor(tmp_path / "PPO_1" / "monitor.csv", [(1, 10, 1)])
    for metric in ("greedy_success", "greedy_episode_return"):  # which episodes of training do not tell
        assert main(["plot", str(tmp_path / "PPO_1"), "--out", str(tmp_path / "none.png"), "--metric", metric]) == 2
        assert f"there is no {metric} in what was read" in capsys.readouterr().err
    assert not (tmp_path / "none.png").exists()


def test_help_names_the_files(capsys):
    assert main(["plot", "--help"]) == 0
    out = capsys.readouterr().out
    assert all(word in out for word in ("Stable-Baselines3", "evaluations.npz", "monitor.csv", "logs/PPO_1"))
