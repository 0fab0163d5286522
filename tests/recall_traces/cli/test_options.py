"""What the words of a command line become: defaults, every field of every configuration, the environment's keywords."""

import dataclasses
import re
import shlex
import sys

import pytest
from cli_helpers import TINY, call, record

from recall_traces.cli.errors import UsageError
from recall_traces.cli.options import CompareOptions, TrainOptions
from recall_traces.cli.parsing import option_table
from recall_traces.cli.resolve import parse_run

COMPARE = (CompareOptions(), "compare", "", ("env_id",))


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
    "search": "shortest",
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
        option = f"--{path}.{'no-' if value is True else ''}{name}".replace("_", "-")
        options = parse_run([option, *words, "FourRooms-9"] if not words else ["FourRooms-9", option, *words], *COMPARE)
        found = options
        for part in path.split("."):
            found = getattr(found, part)
        assert getattr(found, name) == new != value, option
        changed = [leaf for part in parts for leaf in every_field(getattr(options, part), part) if leaf not in leaves]
        assert changed == [(path, name, new)]


def test_the_environment_decides_the_defaults():
    assert parse_run([], *COMPARE).env_id == "FourRooms-15"
    assert parse_run(["FourRooms-19"], *COMPARE).agent.learning_rate == 3e-3
    assert parse_run(["CartPole-v1"], *COMPARE).agent.learning_rate_schedule == "linear"
    assert parse_run(["Acrobot-v1"], *COMPARE).agent.learning_rate == 3e-4


def test_the_demo_compares_five_arms():
    demo = parse_run([], *COMPARE)
    assert (demo.env_id, demo.seeds, demo.arms) == ("FourRooms-15", 8, ("none", "sil", "bonus", "own-traces", "recall"))


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
    known = set(option_table(full)) - {"--no-quiet", "--no-overwrite", "--no-keep-checkpoints"}
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


def test_evaluation_may_have_other_options_of_the_environment():
    words = ["PointMaze-U", "--agent", "sac", "--env.start", "uniform", "--eval-env.start", "far"]
    options = parse_run(words, *COMPARE)
    assert options.env_keywords == {"start": "uniform", "random_goal": False, "inertia": False}
    assert options.eval_env_keywords == {"start": "far", "random_goal": False, "inertia": False}
    # What is not given is as in training.
    options = parse_run(["PointMaze-U", "--env.inertia"], *COMPARE)
    assert options.eval_env_keywords == options.env_keywords
    options = parse_run(["--eval-env.inertia", "False", "PointMaze-U", "--env.inertia"], *COMPARE)
    assert (options.env.inertia, options.eval_env_keywords["inertia"]) == (True, False)


def test_evaluation_with_other_observations_is_refused(capsys):
    assert call("compare PointMaze-U --agent sac --eval-env.inertia True --out x --quiet") == 2
    assert "--eval-env gives PointMaze-U other observations" in capsys.readouterr().err
    assert call("compare CartPole-v1 --eval-env.start far --quiet") == 2
    assert "unknown option --eval-env.start" in capsys.readouterr().err


def test_engine_is_short_for_the_environments_option():
    for words in ("--engine warp", "--engine=warp", "--env.engine warp"):
        options = parse_run(["Hopper-v5", *words.split()], *COMPARE)
        assert options.env.engine == "warp"
        assert options.eval_env_keywords["engine"] == "warp"
    assert parse_run(["--engine", "cpu", "Hopper-v5"], *COMPARE).env_id == "Hopper-v5"
    with pytest.raises(UsageError, match=r"--env\.engine is 'gpu'; it must be one of auto, cpu, warp"):
        parse_run(["Hopper-v5", "--engine", "gpu"], *COMPARE)
    with pytest.raises(UsageError, match=r"unknown option --env\.engine"):
        parse_run(["FourRooms-9", "--engine", "cpu"], *COMPARE)
