"""Bad input on the command line is answered in one line, before anything is begun."""

import re

import gymnasium
import pytest
import torch
from cli_helpers import TINY, call

from recall_traces.agents.arms import kept_bytes
from recall_traces.cli import experiment
from recall_traces.cli.errors import UsageError
from recall_traces.cli.options import CompareOptions
from recall_traces.cli.parsing import _unboxed, option_table
from recall_traces.cli.resolve import parse_run

BAD_INPUT = [
    ("compair", ["'compair'", "compare"]),
    ("--vershion", ["'--vershion'", "--version"]),
    ("train", ["train ppo FourRooms-19"]),
    ("train ppo", ["train ppo FourRooms-19"]),
    ("train pop FourRooms-7", ["'pop'", "ppo"]),
    ("train a2c FourRooms-7", ["'a2c'", "ppo, sac"]),
    ("train ppo FourRoms-19", ["'FourRoms-19'", "FourRooms-19"]),
    ("train ppo FourRooms-0", ["FourRooms-0", "FourRooms-7"]),
    ("compare FourRooms-8", ["FourRooms-8", "FourRooms-7", "FourRooms-9"]),
    ("train ppo gymnasium/CartPole-v2", ["CartPole-v2", "CartPole-v1"]),
    ("train ppo json:FourRoms-19", ["'json:FourRoms-19'", "the nearest are json:FourRooms-19"]),
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
    (
        "train ppo FourRooms-7 --device cpu --seeds 99999999 --steps 10",
        ["--seeds 99999999", "--num-envs 8", "GiB are free on cpu"],
    ),
    ("compare FourRooms-7 --device cpu --num-envs 1000000000 --arms none", ["--num-envs 1000000000", "GiB are free on cpu"]),
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
    ("train ppo Pendulum-v1 --env.gravity 9.8", ["Pendulum-v1 has no option 'gravity'; valid options: render_mode, g"]),
    ("train ppo FourRooms-7 --agent.learning-rat 1", ["--agent.learning-rat", "--agent.learning-rate"]),
    ("train ppo FourRooms-7 --learning-rate 1", ["--learning-rate", "--agent.learning-rate"]),
    ("train ppo FourRooms-7 --agent.learning-rate -1", ["--agent.learning-rate", "-1", "positive"]),
    ("train sac Pendulum-v1 --agent.buffer-size 4", ["--agent.buffer-size", "4", "--num-envs", "8"]),
    ("train sac Pendulum-v1 --agent.buffer-size 1000000000000", ["need", "GiB", "buffer_size"]),
    ("train sac Pendulum-v1 --arm sil --agent.buffer-size 10 --sil.memory-size 1000000000000", ["need", "GiB", "memory_size"]),
    ("train ppo FourRooms-7 --agent.gamma 2", ["--agent.gamma", "2", "[0, 1]"]),
    ("train ppo FourRooms-7 --agent.net-arch 64 x", ["--agent.net-arch", "'x'", "whole number"]),
    ("train ppo FourRooms-7 --agent.target-kl x", ["--agent.target-kl", "'x'", "number"]),
    ("train ppo FourRooms-7 --recall.imitation-coefficient nan", ["--recall.imitation-coefficient", "nan", "finite"]),
    ("train ppo FourRooms-7 --recall.model.hidden 0", ["hidden", "positive", "0"]),
    ("train ppo FourRooms-7 --recall.trace-length 1000000", ["--recall.trace-length", "1000000", "memory_size"]),
    ("train ppo FourRooms-7 --recall.source best", ["--recall.source", "'best'", "novelty"]),
    ("train ppo FourRooms-7 --recall.model.kind tree", ["--recall.model.kind", "'tree'", "table"]),
    ("train ppo FourRooms-7 --sil.largest-advantage -3", ["largest", "positive"]),
    ("train ppo FourRooms-7 --bonus.kind none", ["--bonus.kind", "'none'", "visits"]),
    ("train ppo CartPole-v1 --arm recall-oracle", ["oracle", "predecessors"]),
    ("train ppo FourRooms-7 --arm recall --recall.source given", ["given"]),
    ("train ppo FourRooms-7 --arm recall --recall.source generated", ["generated", "recall+goal-gan"]),
    ("train ppo FourRooms-7 --arm goal-gan", ["goals", "PointMass-<n>", "PointMaze", "--env.random-goal"]),
    ("compare PointMaze-U --arms none recall+goal-gan", ["goals", "PointMass-<n>", "PointMaze", "--env.random-goal"]),
    ("train ppo PointMass-2 --arm goal-gan --goal-gan.replay-share 2", ["--goal-gan.replay-share", "2", "[0, 1]"]),
    ("train ppo PointMass-2 --arm goal-gan --goal-gan.goal-nose 2", ["--goal-gan.goal-nose", "--goal-gan.goal-noise"]),
    ("plot", ["plot runs/x"]),
    ("plot nowhere", ["nowhere"]),
    ("report", ["report runs/x"]),
    ("report nowhere", ["nowhere"]),
    ("report nowhere --out x.pdf", ["x.pdf", ".html"]),
    ("report nowhere --metric sucess", ["'sucess'", "success"]),
    ("plot nowhere --out x.jpg", ["x.jpg", ".png, .pdf, .svg"]),
    ("plot nowhere --metric sucess", ["'sucess'", "success"]),
    ("plot nowhere --thresh 1", ["--thresh", "--threshold"]),
    ("list arms", ["'arms'"]),
    ("doctor --jsn", ["'--jsn'", "--json"]),
    ("completion", ["bash, zsh, fish"]),
    ("completion tcsh", ["'tcsh'", "bash, zsh, fish"]),
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


@pytest.mark.parametrize("arm", ["sil", "sil+bonus", "recall", "own-traces"])
def test_what_an_arm_remembers_has_to_fit_too(arm, monkeypatch):
    words = ["FourRooms-7", "--quiet", "--sil.memory-size", "20000", "--recall.memory-size", "20000"]
    options = parse_run(words, CompareOptions(), "compare", "", ("env_id",))
    spaces = gymnasium.spaces.Discrete(49), gymnasium.spaces.Discrete(4)
    remembered = kept_bytes(arm, *spaces, options.seeds, options.arm_configs, 0)
    monkeypatch.setattr(experiment, "available_bytes", lambda device: remembered)  # so there is no room for anything besides
    experiment.rehearse(options, "FourRooms-7", ["none"], "cpu")
    with pytest.raises(UsageError, match=rf"do not fit: {re.escape(arm)} needs at least"):
        experiment.rehearse(options, "FourRooms-7", ["none", arm], "cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cuda_is_refused_where_there_is_none(capsys):
    assert call("train ppo FourRooms-7 --device cuda") == 2
    assert "no GPU" in capsys.readouterr().err


def test_a_place_that_cannot_be_written_is_bad_input(place, capsys):
    (place / "file").write_text("mine")
    assert call(f"train ppo FourRooms-7 {TINY} --out file/run") == 2
    assert "cannot write to file/run" in capsys.readouterr().err
    assert call(f"train ppo FourRooms-7 {TINY} --out file") == 2
