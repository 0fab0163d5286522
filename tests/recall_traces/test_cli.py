import csv
import dataclasses
import json
import re
import shlex
import subprocess
import sys
import time

import gymnasium
import pytest
import torch

import recall_traces.envs as envs
from recall_traces.agents.ppo import PPO
from recall_traces.cli import compare, experiment, main
from recall_traces.cli.options import CompareOptions, TrainOptions
from recall_traces.cli.parsing import _unboxed, option_table
from recall_traces.cli.resolve import parse_run
from recall_traces.curves import read_curves
from recall_traces.envs import registry
from recall_traces.envs.interface import Step

TINY = "--seeds 2 --steps 2048 --eval-every 1024 --eval-episodes 5"


class Breaks:
    """Walks along a line; the second seed's first environment gives NaN from its 70th step on."""

    success_return = None

    def __init__(self, num_envs, device, seed, breaks=1, fails_at=-1):
        self.num_envs, self.device, self.breaks, self.fails_at = num_envs, torch.device(device), breaks, fails_at
        self.observation_space = gymnasium.spaces.Box(-1, 1, (1,))
        self.action_space = gymnasium.spaces.Discrete(2)
        self.steps = 0

    def reset(self):
        return torch.zeros(self.num_envs, 1)

    def step(self, actions):
        self.steps += 1
        if self.steps == self.fails_at:
            raise RuntimeError("the ground\ngave way")
        obs, never = torch.zeros(self.num_envs, 1), torch.zeros(self.num_envs, dtype=torch.bool)
        rewards = actions.float()
        if self.num_envs == 16 and self.steps >= 70:  # the training environments of two seeds, not those of the evaluation
            rewards[8 : 8 + self.breaks] = torch.nan
            rewards[: 8 * (self.breaks == 8)] = torch.nan
        done = torch.full_like(never, self.steps % 10 == 0)
        return Step(obs, rewards, done, never, obs)


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """A folder of its own, one thread (many tests may run side by side) and an environment that breaks."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "_FAMILIES", dict(registry._FAMILIES))
    envs.register("Breaks-v0", Breaks)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield tmp_path
    torch.set_num_threads(threads)
    torch.set_flush_denormal(False)


def call(command):
    return main(shlex.split(command))


def rows(folder, name="curves.csv"):
    with (folder / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def record(folder):
    return json.loads((folder / "config.json").read_text())


# Help and version --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["", "--help", "-h"])
def test_help_shows_the_subcommands(command, capsys):
    assert call(command) == 0
    out = capsys.readouterr().out
    assert all(word in out for word in ("train", "compare", "plot", "list", "examples:"))


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("train --help", ["AGENT ENV", "recall-traces train ppo", "--agent.learning-rate", "--recall.model.kind", "--env.slip"]),
        (
            "compare -h",
            [
                "recall-traces compare\n",
                "--arms",
                "--sil.priority-exponent",
                "--bonus.kind",
                "(default: 0.003)",
                "those of FourRooms-15",
            ],
        ),
        ("compare CartPole-v1 --help", ["--agent.gae-lambda", "(default: linear)"]),
        ("train ppo Pendulum-v1 --help", ["--env.KEY VALUE", "(default: 0.0003)"]),
        ("plot --help", ["RUN", "--out", "recall-traces plot runs/x"]),
        ("list --help", ["recall-traces list"]),
    ],
)
def test_help_of_subcommands_has_options_and_examples(command, words, capsys):
    assert call(command) == 0
    captured = capsys.readouterr()
    assert all(word in captured.out for word in words), captured.out
    assert captured.err == ""


def test_version(capsys):
    assert call("--version") == 0
    assert capsys.readouterr().out == "recall-traces 0.1.0\n"


def test_list_tells_what_there_is(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert call("list") == 0
    out = capsys.readouterr().out
    for word in ("FourRooms-<n>", "--env.layout-seed", "CartPole-v1", "Breaks-v0", "ppo", "own-traces", "sil+bonus", "novelty"):
        assert word in out


# Bad input ---------------------------------------------------------------------------------------------------------------

BAD_INPUT = [
    ("compair", ["'compair'", "compare"]),
    ("--vershion", ["'--vershion'", "--version"]),
    ("train", ["train ppo FourRooms-19"]),
    ("train ppo", ["train ppo FourRooms-19"]),
    ("train pop FourRooms-7", ["'pop'", "ppo"]),
    ("train ppo FourRoms-19", ["'FourRoms-19'", "FourRooms-19"]),
    ("train ppo FourRooms-0", ["FourRooms-0", "FourRooms-7"]),
    ("compare FourRooms-8", ["FourRooms-8", "FourRooms-7", "FourRooms-9"]),
    ("train ppo gymnasium/CartPole-v2", ["CartPole-v2", "CartPole-v1"]),
    ("train ppo no_such_module:Foo-v0", ["no_such_module"]),
    ("train ppo FourRooms-7 more", ["'more'"]),
    ("train ppo FourRooms-7 --arm recal", ["'recal'", "recall"]),
    ("compare FourRooms-7 --arms none own-trace", ["'own-trace'", "own-traces"]),
    ("compare FourRooms-7 --arms", ["--arms"]),
    ("compare FourRooms-7 --agent dqn", ["'dqn'", "ppo"]),
    ("train ppo FourRooms-7 --stpes 5", ["--stpes", "--steps"]),
    ("train ppo FourRooms-7 --steps -5", ["--steps", "-5", "at least 1"]),
    ("train ppo FourRooms-7 --steps=-5", ["--steps", "-5", "at least 1"]),
    ("train ppo FourRooms-7 --steps", ["--steps", "value"]),
    ("train ppo FourRooms-7 --steps 1.5", ["--steps", "'1.5'", "whole number"]),
    ("train ppo FourRooms-7 --seeds 0", ["--seeds", "0", "at least 1"]),
    ("train ppo FourRooms-7 --seed -1", ["--seed", "-1", "at least 0"]),
    ("train ppo FourRooms-7 --num-envs 0", ["--num-envs", "at least 1"]),
    ("train ppo FourRooms-7 --eval-every 0", ["--eval-every", "at least 1"]),
    ("train ppo FourRooms-7 --eval-episodes 0", ["--eval-episodes", "at least 1"]),
    ("train ppo FourRooms-7 --device gpu", ["'gpu'", "cuda"]),
    ("train ppo FourRooms-7 --quiet=yes", ["--quiet", "no value"]),
    ("train ppo FourRooms-7 -q", ["-q"]),
    ("train ppo FourRooms-7 --no-quiet", ["--no-quiet"]),
    ("train ppo FourRooms-7 --env.slpi 0.2", ["--env.slpi", "--env.slip"]),
    ("train ppo FourRooms-7 --env.slip 2", ["--env.slip", "2", "between 0 and 1"]),
    ("train ppo FourRooms-7 --env.slip much", ["--env.slip", "'much'", "number"]),
    ("train ppo CartPole-v1 --env.slip 0.2", ["--env.slip"]),
    ("train ppo Pendulum-v1 --env.slip 0.2", ["Pendulum-v1", "slip"]),
    ("train ppo FourRooms-7 --agent.learning-rat 1", ["--agent.learning-rat", "--agent.learning-rate"]),
    ("train ppo FourRooms-7 --learning-rate 1", ["--learning-rate", "--agent.learning-rate"]),
    ("train ppo FourRooms-7 --agent.learning-rate -1", ["--agent.learning-rate", "-1", "positive"]),
    ("train ppo FourRooms-7 --agent.gamma 2", ["--agent.gamma", "2", "[0, 1]"]),
    ("train ppo FourRooms-7 --agent.net-arch 64 x", ["--agent.net-arch", "'x'", "whole number"]),
    ("train ppo FourRooms-7 --agent.target-kl x", ["--agent.target-kl", "'x'", "number"]),
    ("train ppo FourRooms-7 --recall.source best", ["--recall.source", "'best'", "novelty"]),
    ("train ppo FourRooms-7 --recall.model.kind tree", ["--recall.model.kind", "'tree'", "table"]),
    ("train ppo FourRooms-7 --sil.largest-advantage -3", ["largest", "positive"]),
    ("train ppo FourRooms-7 --bonus.kind none", ["--bonus.kind", "'none'", "visits"]),
    ("train ppo CartPole-v1 --arm recall-oracle", ["oracle", "predecessors"]),
    ("train ppo FourRooms-7 --arm recall --recall.source given", ["given"]),
    ("plot", ["plot runs/x"]),
    ("plot nowhere", ["nowhere"]),
    ("plot nowhere --metric sucess", ["'sucess'", "success"]),
    ("plot nowhere --thresh 1", ["--thresh", "--threshold"]),
    ("list arms", ["'arms'"]),
]


@pytest.mark.parametrize(("command", "words"), BAD_INPUT, ids=[command for command, _ in BAD_INPUT])
def test_bad_input_is_one_line_that_names_it(command, words, capsys, place):
    assert call(command) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("recall-traces: ")
    assert captured.err.count("\n") == 1
    assert all(word in captured.err for word in words), captured.err
    assert not any(sign in captured.err for sign in ("╭", "│", "----", "Traceback"))
    assert not list(place.iterdir())  # nothing was begun


UNICODE_BOX = """╭─ Value error ──────────────╮
│ Error parsing recall: trace_length must    │
│ be at least 1, not 0                       │
│ ────────────────────────── │
│ For full helptext, see recall-traces train --help │
╰────────────────────────────╯
"""


@pytest.mark.parametrize(
    "box", [UNICODE_BOX, UNICODE_BOX.translate(str.maketrans("─│╭╮╰╯", "-|++++")), UNICODE_BOX.replace("│", "")]
)
def test_boxes_are_unpacked_whatever_they_are_drawn_with(box):
    table = option_table(CompareOptions())
    assert _unboxed(box, table) == "--recall.trace-length must be at least 1, not 0"
    assert _unboxed(box.replace("trace_length", "it"), table) == "--recall: it must be at least 1, not 0"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cuda_is_refused_where_there_is_none(capsys):
    assert call("train ppo FourRooms-7 --device cuda") == 2
    assert "no GPU" in capsys.readouterr().err


def test_a_place_that_cannot_be_written_is_bad_input(place, capsys):
    (place / "file").write_text("mine")
    assert call(f"train ppo FourRooms-7 {TINY} --out file/run") == 2
    assert "cannot write to file/run" in capsys.readouterr().err
    assert call(f"train ppo FourRooms-7 {TINY} --out file") == 2


# Options -----------------------------------------------------------------------------------------------------------------


def other_value(value):
    """Another value of the same kind that the field's owner may accept, and its words on the command line."""
    if isinstance(value, bool):
        return not value, []
    if isinstance(value, tuple):
        return (3, 5), ["3", "5"]
    if isinstance(value, float):
        return (0.5, ["0.5"]) if value != 0.5 else (0.25, ["0.25"])
    return value + 1, [str(value + 1)]


CHOICES = {
    "learning_rate_schedule": "linear",
    "activation": "elu",
    "source": "novelty",
    "traces_from": "record",
    "fit_on": "top",
    "kind": {"recall.model": "network", "bonus": "rnd"},
    "target_kl": 0.5,
    "layout_seed": 3,
}


def every_field(config, path):
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from every_field(value, f"{path}.{field.name}")
        else:
            yield path, field.name, value


def test_every_field_of_every_config_is_reachable():
    default = parse_run(["FourRooms-9"], CompareOptions(), "compare", "", ("env_id",))
    parts = ("agent", "recall", "sil", "bonus", "env")
    leaves = [leaf for part in parts for leaf in every_field(getattr(default, part), part)]
    assert len(leaves) > 40
    for path, name, value in leaves:
        new = CHOICES.get(name)
        new = new[path] if isinstance(new, dict) else new
        new, words = (new, [str(new)]) if new is not None else other_value(value)
        option = f"--{path}.{name}".replace("_", "-")
        options = parse_run([option, *words, "FourRooms-9"] if not words else ["FourRooms-9", option, *words], *COMPARE)
        found = options
        for part in path.split("."):
            found = getattr(found, part)
        assert getattr(found, name) == new != value, option
        changed = [leaf for part in parts for leaf in every_field(getattr(options, part), part) if leaf not in leaves]
        assert changed == [(path, name, new)]


COMPARE = (CompareOptions(), "compare", "", ("env_id",))


def test_the_environment_decides_the_defaults():
    assert parse_run([], *COMPARE).env_id == "FourRooms-15"
    assert parse_run(["FourRooms-19"], *COMPARE).agent.learning_rate == 3e-3
    assert parse_run(["CartPole-v1"], *COMPARE).agent.learning_rate_schedule == "linear"
    assert parse_run(["Acrobot-v1"], *COMPARE).agent.learning_rate == 3e-4


@pytest.mark.parametrize(
    "command",
    [
        "FourRooms-9 --env.random-start --env.slip 0.5",
        "--env.random-start FourRooms-9 --env.slip=0.5",
        "--env.slip 0.5 FourRooms-9 --env.random_start",
        "--env.slip 0.5 --env.random-start FourRooms-9",
    ],
)
def test_the_environment_is_found_wherever_it_stands(command):
    options = parse_run(command.split(), *COMPARE)
    assert options.env_id == "FourRooms-9"
    assert options.env_keywords == {"slip": 0.5, "random_start": True, "random_goal": False, "layout_seed": None}


def test_keywords_of_gymnasium_are_python_or_text():
    words = "--env.goal-velocity 0.01 --env.render_mode=rgb_array --env.flag --env.on true Pendulum-v1 --env.list [1,2]"
    options = parse_run(shlex.split(words), *COMPARE)
    assert options.env_id == "Pendulum-v1"
    expected = {"goal_velocity": 0.01, "render_mode": "rgb_array", "flag": True, "on": True, "list": [1, 2]}
    assert options.env_keywords == expected


def test_the_learner_and_its_hyperparameters_share_a_name():
    options = parse_run(["--agent", "ppo", "--agent.ent-coef", "0.5", "--arms", "none", "recall"], *COMPARE)
    assert (options.learner, options.agent.ent_coef, options.arms) == ("ppo", 0.5, ("none", "recall"))
    options = parse_run(["ppo", "FourRooms-9"], TrainOptions(learner="", env_id=""), "train", "", ("learner", "env_id"))
    assert (options.learner, options.env_id) == ("ppo", "FourRooms-9")


def test_the_table_of_options_is_what_tyro_takes(capsys):
    assert call("compare FourRooms-7 --help") == 0
    help_text = capsys.readouterr().out
    shown = {word.strip(",") for word in help_text.partition("options")[2].split() if re.match("--[a-z]", word)}
    full = parse_run(["FourRooms-7"], *COMPARE)
    known = set(option_table(full)) - {"--no-quiet", "--no-overwrite"}
    assert known <= shown
    assert shown - known <= {"--help"}


def test_a_module_of_the_current_folder_registers_its_environment(place, monkeypatch):
    (place / "my_rooms.py").write_text(
        "from recall_traces import envs\nenvs.register('Mine-<n>', 'recall_traces.envs.four_rooms:FourRooms',"
        " 'recall_traces.envs.four_rooms:FourRoomsConfig')\n"
    )
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path not in ("", str(place))])
    assert call(f"train ppo my_rooms:Mine-7 {TINY} --out run --env.slip 0.1 --quiet") == 0
    assert record(place / "run")["configuration"]["env"]["slip"] == 0.1
    sys.modules.pop("my_rooms")


# train -------------------------------------------------------------------------------------------------------------------


def test_train_writes_a_run_folder(place, capsys):
    assert call(f"train ppo FourRooms-7 --arm recall {TINY} --out run --recall.model.hidden 3 4") == 0
    out = capsys.readouterr().out.splitlines()
    assert out[-1] == "run"
    assert out[-2].startswith("recall: 2,048 of 2,048 steps, success ")
    run = place / "run"
    found = rows(run)
    assert [(row["arm"], row["seed"], row["env_steps"]) for row in found] == [
        ("recall", str(seed), str(steps)) for steps in (0, 1024, 2048) for seed in range(2)
    ]
    assert all(0 <= float(row[name]) <= 1 for row in found for name in row if "return" in name or "success" in name)
    assert [row["env_steps"] for row in rows(run, "timings.csv")] == ["0", "1024", "2048"]
    assert all(float(row["seconds"]) > 0 for row in rows(run, "timings.csv"))
    config = record(run)
    assert config["task"] == "FourRooms-7"
    assert config["arms"]["recall"]["status"] == "finished"
    assert config["arms"]["recall"]["failures"] == {}
    settings = config["configuration"]
    assert (settings["learner"], settings["seeds"], settings["steps"], settings["device"]) == ("ppo", 2, 2048, settings["device"])
    assert settings["recall"]["model"]["hidden"] == [3, 4]
    assert settings["agent"]["learning_rate"] == 0.003
    assert settings["env"]["slip"] == 0.0
    (made,) = config["calls"]
    assert made["command_line"].startswith("recall-traces train ppo FourRooms-7 --arm recall")
    assert made["versions"]["torch"]
    assert made["hardware"]["cores"] >= 1
    assert set(made) == {"date", "command_line", "versions", "git_commit", "hardware"}
    ppo = PPO.load(run / "recall.safetensors", envs.make("FourRooms-7", num_envs=2))
    assert (ppo.num_seeds, ppo.env_steps) == (2, 2048)
    assert list((run / "tensorboard" / "recall").glob("events.*"))


def test_evaluations_come_at_the_first_rollout_past_each_multiple(place):
    call("train ppo FourRooms-7 --steps 3000 --eval-every 700 --eval-episodes 1 --out run --quiet")  # rollouts of 512 steps
    assert [row["env_steps"] for row in rows(place / "run")] == ["0", "1024", "1536", "2560", "3072"]


def test_the_same_command_writes_the_same_curves(place):
    for name in ("a", "b"):
        assert call(f"train ppo FourRooms-7 --arm recall+bonus {TINY} --env.slip 0.1 --out {name} --quiet") == 0
    assert call(f"train ppo FourRooms-7 --arm recall+bonus {TINY} --env.slip 0.1 --out c --quiet --seed 1") == 0
    assert (place / "a" / "curves.csv").read_bytes() == (place / "b" / "curves.csv").read_bytes()
    assert (place / "a" / "curves.csv").read_bytes() != (place / "c" / "curves.csv").read_bytes()


def test_how_often_one_evaluates_does_not_touch_training(place):
    for every in (512, 2048):
        call(f"train ppo FourRooms-7 --steps 2048 --eval-every {every} --eval-episodes 2 --out {every} --quiet")
    ends = [PPO.load(place / name / "none.safetensors", envs.make("FourRooms-7")) for name in ("512", "2048")]
    assert torch.equal(ends[0].policy_optimizer.values, ends[1].policy_optimizer.values)


def test_quiet_prints_the_folder_alone_and_the_default_is_a_new_one(place, capsys):
    for _ in range(2):
        assert call(f"train ppo FourRooms-7 {TINY} --quiet") == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    folders = captured.out.splitlines()
    assert len(set(folders)) == 2
    assert all(name.startswith("runs/FourRooms-7-") and (place / name / "curves.csv").exists() for name in folders)


def test_train_refuses_a_folder_with_results_unless_told_to(place, capsys):
    command = f"train ppo FourRooms-7 {TINY} --out run --quiet"
    assert call(command) == 0
    (place / "run" / "notes.txt").write_text("mine")
    assert call(command) == 2
    assert "run has results" in capsys.readouterr().err
    assert call(f"{command} --arm sil --overwrite") == 0
    assert {row["arm"] for row in rows(place / "run")} == {"sil"}
    assert not (place / "run" / "none.safetensors").exists()
    assert (place / "run" / "notes.txt").exists()


# What goes wrong on the way ----------------------------------------------------------------------------------------------


def test_a_seed_with_nan_is_named_and_the_others_finish(place, capsys):
    assert call(f"train ppo Breaks-v0 {TINY} --agent.n-steps 64 --agent.batch-size 64 --out run") == 0
    (line,) = capsys.readouterr().err.splitlines()
    for word in ("none on Breaks-v0", "seed 1", "environment 0", "step 560"):
        assert word in line
    failures = record(place / "run")["arms"]["none"]["failures"]
    assert list(failures) == ["1"]
    found = rows(place / "run")
    assert [row["env_steps"] for row in found if row["seed"] == "0"] == ["0", "1024", "2048"]
    assert all(row["episode_return"] and not row["success"] for row in found if row["seed"] == "0")
    broken = [row for row in found if row["seed"] == "1"]
    assert broken[0]["episode_return"]
    assert [(row["env_steps"], row["episode_return"]) for row in broken[1:]] == [("1024", ""), ("2048", "")]


def test_an_arm_without_any_seed_left_is_a_failure(place, capsys):
    assert call(f"train ppo Breaks-v0 {TINY} --agent.n-steps 64 --env.breaks 8 --out run --quiet") == 1
    captured = capsys.readouterr()
    assert "seed 0" in captured.err
    assert "seed 1" in captured.err
    assert captured.err.count("\n") == 1


def test_a_crash_is_one_line_and_keeps_what_was_measured(place, capsys):
    command = f"train ppo Breaks-v0 {TINY} --agent.n-steps 64 --env.breaks 0 --env.fails-at 200 --out run"
    assert call(command) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "none failed: RuntimeError: the ground gave way" in line
    assert "Traceback" in (place / "run" / "error.txt").read_text()
    assert record(place / "run")["arms"]["none"]["status"] == "failed"
    assert [row["env_steps"] for row in rows(place / "run")] == ["0", "0", "1024", "1024"]


def test_a_full_disk_is_one_line(place, capsys, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("recall_traces.runs.RunFolder.add_curves", full)
    assert call(f"compare FourRooms-7 --arms none {TINY} --out run") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "No space left on device" in line


# compare -----------------------------------------------------------------------------------------------------------------


def interrupt_at(monkeypatch, number):
    """Ctrl-C in the evaluation of that number."""
    count, real = 0, experiment.evaluate

    def evaluate(*arguments):
        nonlocal count
        count += 1
        if count == number:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(experiment, "evaluate", evaluate)


def test_compare_writes_statistics_and_a_picture_and_shows_a_table(place, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    assert call(f"compare FourRooms-7 --agent ppo --arms none own-traces {TINY} --out run") == 0
    out = capsys.readouterr().out
    for word in ("none", "own-traces", "2 of 2", "90%", "area", "better than", "picture: run/curves.png"):
        assert word in out
    comparison = json.loads((place / "run" / "comparison.json").read_text())
    assert list(comparison["arms"]) == ["none", "own-traces"]
    assert len(comparison["pairs"]) == 2
    assert (place / "run" / "curves.png").stat().st_size > 10_000
    (curves,) = read_curves(place / "run")
    assert curves.seeds == {"none": (0, 1), "own-traces": (0, 1)}


def test_compare_of_returns_shows_no_threshold(place, capsys):
    assert call(f"compare Breaks-v0 --arms none bonus {TINY} --agent.n-steps 64 --env.breaks 0 --out run") == 0
    out = capsys.readouterr().out
    assert "area" in out
    assert "90%" not in out


def test_ctrl_c_keeps_what_was_measured_and_the_run_goes_on_later(place, capsys, monkeypatch):
    command = f"compare FourRooms-7 --arms none recall {TINY} --out run"
    with monkeypatch.context() as patch:
        interrupt_at(patch, 6)  # the last of the second arm
        assert call(command) == 130
    captured = capsys.readouterr()
    assert captured.err.splitlines() == ["recall-traces: interrupted; what was measured so far is in run"]
    run = place / "run"
    partial = rows(run)
    assert [row["arm"] for row in partial] == ["none"] * 6 + ["recall"] * 4
    assert (run / "curves.png").exists()
    assert list(json.loads((run / "comparison.json").read_text())["arms"]) == ["none", "recall"]
    assert record(run)["arms"]["recall"]["status"] == "interrupted"

    policy = (run / "none.safetensors").stat().st_mtime_ns
    assert call(command) == 0
    out = capsys.readouterr().out
    assert "none: finished before" in out
    assert (run / "none.safetensors").stat().st_mtime_ns == policy  # not run again
    assert rows(run)[:10] == partial
    assert len(rows(run)) == 12
    assert [call["command_line"] for call in record(run)["calls"]] == [f"recall-traces {command}"] * 2

    monkeypatch.setattr(compare, "summarize", lambda folder: {})  # which takes longer than these runs
    assert call(command.replace("run", "whole") + " --quiet") == 0
    assert (place / "whole" / "curves.csv").read_bytes() == (run / "curves.csv").read_bytes()


def test_ctrl_c_before_the_first_evaluation(place, capsys, monkeypatch):
    interrupt_at(monkeypatch, 1)
    assert call(f"compare FourRooms-7 --arms none {TINY} --out run") == 130
    assert capsys.readouterr().err.count("\n") == 1


def test_compare_goes_on_with_more_arms_but_not_with_another_configuration(place, capsys, monkeypatch):
    monkeypatch.setattr(compare, "summarize", lambda folder: {})  # which takes longer than these runs
    command = f"compare FourRooms-7 --arms none {TINY} --out run --quiet"
    assert call(command) == 0
    before = (place / "run" / "curves.csv").read_text()
    assert call(command.replace("--arms none", "--arms none sil")) == 0
    assert (place / "run" / "curves.csv").read_text().startswith(before)
    assert {row["arm"] for row in rows(place / "run")} == {"none", "sil"}
    capsys.readouterr()
    for change, words in (
        ("--steps 4096", "steps is 2048 there and 4096 here"),
        ("--recall.trace-length 7", "recall.trace_length is 60 there and 7 here"),
        ("--env.slip 0.5", "env.slip is 0.0 there and 0.5 here"),
    ):
        assert call(f"{command} {change}") == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert words in line
        assert "--overwrite" in line
    assert call(f"{command} --env.slip 0.5 --overwrite") == 0
    assert {row["arm"] for row in rows(place / "run")} == {"none"}


def test_the_demo_compares_five_arms():
    demo = parse_run([], *COMPARE)
    assert (demo.env_id, demo.seeds, demo.arms) == ("FourRooms-15", 8, ("none", "sil", "bonus", "own-traces", "recall"))


# plot --------------------------------------------------------------------------------------------------------------------


def test_plot_draws_one_run_or_several(place, capsys):
    header = "arm,seed,env_steps,episode_return,success,greedy_episode_return,greedy_success\n"
    for name in ("a", "b"):
        (place / name).mkdir()
        lines = "".join(f"none,{seed},{steps},0.5,0.5,0.5,0.5\n" for seed in range(2) for steps in (0, 10))
        (place / name / "curves.csv").write_text(header + lines)
    assert call("plot a") == 0
    assert call("plot a b --out pictures/both.png --metric episode_return --threshold 0.4 --title 'Two runs'") == 0
    assert call("plot a b") == 0
    assert capsys.readouterr().out.splitlines() == ["a/curves.png", "pictures/both.png", "curves.png"]
    assert all((place / name).stat().st_size > 10_000 for name in ("a/curves.png", "pictures/both.png", "curves.png"))


def test_plain_things_answer_without_torch():
    code = (
        "import sys; from recall_traces.cli import main; "
        "main(['--help']); main(['nonsense']); main(['plot']); main(['plot', '--help']); sys.exit('torch' in sys.modules)"
    )
    began = time.perf_counter()
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0
    assert time.perf_counter() - began < 60
