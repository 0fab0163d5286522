"""Runs that break, crash or are interrupted keep what was measured, and a comparison goes on where it stopped."""

import json

from cli_helpers import TINY, call, record, rows

from recall_traces.cli import compare, recorder
from recall_traces.envs.mujoco.cpu_engine import CPUEngine

# What goes wrong on the way -------------------------------------------------------------------------------------------------


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


def test_an_evaluation_with_nan_is_named_and_leaves_a_gap(place, capsys):
    command = f"train ppo Breaks-v0 {TINY} --agent.n-steps 64 --env.breaks 0 --env.unseen --out run"
    assert call(command) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert "none on Breaks-v0: seed 1: evaluation environment 2 gave a value that is not finite after 1024 steps" in line
    assert list(record(place / "run")["arms"]["none"]["failures"]) == ["1"]
    found = {(row["seed"], row["env_steps"]): row for row in rows(place / "run")}
    assert [found["1", steps]["episode_return"] == "" for steps in ("0", "1024", "2048")] == [False, True, True]
    assert all(row["greedy_episode_return"] for row in found.values())  # the copy is one of those with sampled actions


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


def test_a_full_disk_stops_tensorboard_without_a_traceback(place, capsys, monkeypatch):
    """That of its thread, which is a warning here, and so an error."""

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tensorboard.summary.writer.record_writer.RecordWriter.write", full)
    assert call(f"train ppo FourRooms-7 {TINY} --quiet --out run") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "No space left on device" in line
    assert "Traceback" not in line


def test_too_many_worlds_for_the_memory_are_one_sentence(place, capsys, monkeypatch):
    """As MuJoCo Warp's engine refuses them, which is tried with one world before."""
    real = CPUEngine.__init__

    def refuse(self, model, num_worlds, *arguments, **more):
        if num_worlds > 1:
            raise MemoryError(f"{num_worlds} worlds do not fit into the 1.0 GiB that are free on cuda:0; about 7 would")
        real(self, model, num_worlds, *arguments, **more)

    monkeypatch.setattr(CPUEngine, "__init__", refuse)
    assert call(f"train ppo Reacher-v5 {TINY} --quiet --out run") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(
        "recall-traces: none failed: 16 worlds do not fit into the 1.0 GiB that are free on cuda:0; about 7 would; "
        "fewer --seeds, --num-envs or --eval-episodes need less (details in "
    )
    for command in ("resume run --quiet", "train ppo Reacher-v5 --quiet --out other"):
        assert call(command) == 1
        assert "Error" not in capsys.readouterr().err


# Ctrl-C, and going on -------------------------------------------------------------------------------------------------------


def interrupt_at(monkeypatch, number):
    """Ctrl-C in the evaluation of that number."""
    count, real = 0, recorder.evaluate

    def evaluate(*arguments):
        nonlocal count
        count += 1
        if count == number:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(recorder, "evaluate", evaluate)


def test_ctrl_c_keeps_what_was_measured_and_the_run_goes_on_later(place, capsys, monkeypatch):
    command = f"compare FourRooms-7 --arms none recall {TINY} --out run"
    with monkeypatch.context() as patch:
        interrupt_at(patch, 6)  # the last of the second arm
        assert call(command) == 130
    captured = capsys.readouterr()
    said = "interrupted; what was measured so far is in run, and `recall-traces resume run` goes on"
    assert captured.err.splitlines() == [f"recall-traces: {said}"]
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


def test_a_stop_before_the_comparison_was_written_is_made_up_for(place, monkeypatch):
    command = f"compare FourRooms-7 --arms none {TINY} --out run --quiet"
    assert call(command) == 0

    def stop(folder):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(compare, "summarize", stop)
        assert call(command.replace("--arms none", "--arms none sil")) == 130
    assert call("resume run --quiet") == 0
    assert list(json.loads((place / "run" / "comparison.json").read_text())["arms"]) == ["none", "sil"]


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


def test_a_run_recorded_before_a_field_existed_goes_on(place, capsys, monkeypatch):
    monkeypatch.setattr(compare, "summarize", lambda folder: {})  # which takes longer than these runs
    command = f"compare FourRooms-7 --arms none {TINY} --out run --quiet"
    assert call(command) == 0
    old = record(place / "run")
    for group, name in (("recall", "trace_length"), ("agent", "gae_lambda"), ("env", "slip"), ("eval_env", "slip")):
        del old["configuration"][group][name]
    del old["configuration"]["goal_gan"]
    (place / "run" / "config.json").write_text(json.dumps(old))
    assert call(command) == 0
    capsys.readouterr()
    assert call(f"{command} --recall.trace-length 7") == 2
    assert "recall.trace_length is 60 there and 7 here" in capsys.readouterr().err


def test_a_broken_seed_is_told_again_when_the_run_goes_on(place, capsys):
    command = f"compare Breaks-v0 --arms none {TINY} --agent.n-steps 64 --agent.batch-size 64 --out run"
    told = []
    for _ in range(2):
        assert call(command) == 0
        captured = capsys.readouterr()
        told.append(captured.err)
        assert "none: 1 of 2 seeds stopped early" in captured.out
    assert "none on Breaks-v0: seed 1: environment 0 gave a value that is not finite at step 560" in told[0]
    assert told[1] == told[0]
