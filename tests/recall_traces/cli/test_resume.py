"""`recall-traces resume`: a run that was stopped goes on as if it had not been."""

import json
import multiprocessing
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from cli_helpers import TINY, call, record, rows

from recall_traces.cli import compare, recorder
from recall_traces.cli.interruption import Interruption
from recall_traces.runs import RunFolder
from recall_traces.saving import flatten, load_tree

EVERY = "--checkpoint-every 0 --quiet"
FORK = multiprocessing.get_context("fork")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(compare, "summarize", lambda folder: {})  # which takes longer than these runs


def stop_after(monkeypatch, number, error=KeyboardInterrupt):
    """Stop with the checkpoint of that number, counted over all arms, just written."""
    count, real = 0, recorder.Recorder.write

    def write(self, learner, at_the_end=False):
        nonlocal count
        written = real(self, learner, at_the_end)
        count += 1
        if count == number:
            raise error
        return written

    monkeypatch.setattr(recorder.Recorder, "write", write)


def assert_same_run(found, expected, arms):
    assert (found / "curves.csv").read_bytes() == (expected / "curves.csv").read_bytes()
    assert [r["env_steps"] for r in rows(found, "timings.csv")] == [r["env_steps"] for r in rows(expected, "timings.csv")]
    for arm in arms:
        ours, theirs = (dict(flatten(load_tree(run / f"{arm}.safetensors", "cpu")[0])) for run in (found, expected))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs if isinstance(theirs[name], torch.Tensor))
        assert record(found)["arms"][arm]["status"] == "finished"
        assert record(found)["arms"][arm]["best"] == record(expected)["arms"][arm]["best"]
        assert best_on_disk(found, arm) == record(found)["arms"][arm]["best"]["env_steps"]


def best_on_disk(run, arm):
    """After how many environment steps the best policies were saved."""
    return load_tree(run / "checkpoints" / arm / "best.safetensors", "cpu")[1]["env_steps"]


@pytest.mark.parametrize("number", [1, 4, 6, 7, 10])
def test_a_comparison_goes_on_from_any_checkpoint(place, capsys, monkeypatch, number):
    """Four rollouts and the end make five checkpoints of each arm."""
    command = f"compare FourRooms-7 --arms recall sil+bonus {TINY} --env.slip 0.1 {EVERY} --out"
    assert call(f"{command} whole") == 0
    with monkeypatch.context() as patch:
        stop_after(patch, number)
        assert call(f"{command} run") == 130
    assert "`recall-traces resume run` goes on" in capsys.readouterr().err
    assert call("resume run --quiet") == 0
    assert capsys.readouterr().out == "run\n"
    assert_same_run(place / "run", place / "whole", ["recall", "sil+bonus"])


def test_calling_compare_again_goes_on_too_and_says_so(place, capsys, monkeypatch):
    command = f"compare FourRooms-7 --arms none recall {TINY} --checkpoint-every 0 --out run"
    with monkeypatch.context() as patch:
        stop_after(patch, 7)
        assert call(command) == 130
    monkeypatch.setattr(compare, "print_table", lambda comparison: None)
    capsys.readouterr()
    assert call(command) == 0
    out = capsys.readouterr().out
    assert "none: finished before" in out
    assert "recall: goes on after 1,024 steps" in out
    assert "recall: goes on after 1,024 steps" in (place / "run" / "log.txt").read_text()


def test_before_the_first_checkpoint_a_run_begins_anew(place, capsys, monkeypatch):
    command = f"train ppo FourRooms-7 {TINY} --out"
    assert call(f"{command} whole --quiet") == 0

    def interrupted(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(recorder, "evaluate", interrupted)
        assert call(f"{command} run --quiet") == 130
    capsys.readouterr()
    assert call("resume run") == 0
    captured = capsys.readouterr().out
    assert "none: begins anew" in captured
    assert captured.splitlines()[-1] == "run"
    assert_same_run(place / "run", place / "whole", ["none"])
    calls = record(place / "run")["calls"]
    assert [(made["command"], made["arms"]) for made in calls] == [("train", ["none"])] * 2
    assert calls[1]["command_line"] == "recall-traces resume run"


def test_a_finished_run_says_so(place, capsys):
    assert call(f"train ppo FourRooms-7 {TINY} --out run --quiet") == 0
    before = sorted((path.name, path.stat().st_mtime_ns) for path in (place / "run").rglob("*"))
    capsys.readouterr()
    assert call("resume run") == 0
    assert capsys.readouterr().out == "run is finished: there is nothing to go on with\n"
    assert before == sorted((path.name, path.stat().st_mtime_ns) for path in (place / "run").rglob("*"))


def test_a_torn_checkpoint_is_told_of_and_the_one_before_is_used(place, capsys, monkeypatch):
    command = f"train sac PointMass-2 --arm recall+per {TINY} --agent.n-steps 32 --agent.learning-starts 40 --agent.net-arch 8"
    command += f" --agent.buffer-size 800 --agent.gradient-steps 1 {EVERY} --out"
    assert call(f"{command} whole") == 0
    with monkeypatch.context() as patch:
        stop_after(patch, 5)
        assert call(f"{command} run") == 130
    folder = place / "run" / "checkpoints" / "recall+per"
    assert sorted(path.name for path in folder.iterdir()) == ["1024.safetensors", "1280.safetensors", "best.safetensors"]
    torn = folder / "1280.safetensors"
    torn.write_bytes(torn.read_bytes()[:-100])
    capsys.readouterr()
    assert call("resume run --quiet --checkpoint-every 0") == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("run/checkpoints/recall+per/1280.safetensors is not used: ")
    assert_same_run(place / "run", place / "whole", ["recall+per"])


def test_a_checkpoint_that_does_not_fit_is_not_used(place, capsys, monkeypatch):
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        assert call(f"train ppo FourRooms-9 {TINY} {EVERY} --out other") == 130
        stop_after(patch, 1)
        assert call(f"train ppo FourRooms-7 {TINY} {EVERY} --out run") == 130
    shutil.copy("other/checkpoints/none/1024.safetensors", "run/checkpoints/none/1024.safetensors")
    capsys.readouterr()
    assert call("resume run") == 0
    captured = capsys.readouterr()
    assert "1024.safetensors is not used: the state does not fit this environment" in captured.err
    assert "goes on after 512 steps" in captured.out


def test_an_environment_that_cannot_be_put_back_begins_other_episodes(place, capsys, monkeypatch):
    command = f"train ppo gymnasium/CartPole-v1 {TINY} --agent.n-steps 64 --checkpoint-every 0 --out run"
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        assert call(f"{command} --quiet") == 130
    assert call("resume run") == 0
    out = capsys.readouterr().out
    assert "none: the environments cannot be put back, so new episodes begin there" in out
    assert [row["env_steps"] for row in rows(place / "run")] == ["0", "0", "1024", "1024", "2048", "2048"]


@pytest.mark.parametrize(("last", "best"), [(1024, [0.0, 1024.0, 1024]), (1536, [0.0, -2048.0, 2048])])
def test_the_best_policies_of_a_lost_attempt_are_parted_with(place, monkeypatch, last, best):
    """Evaluations get better until the run is killed, and worse from the last checkpoint on, as other episodes may have it."""
    keep, write, sign = recorder.Recorder.keep_best, recorder.Recorder.write, 1

    def keep_best(self, learner):
        self.latest = (float(sign * learner.env_steps), 0.0)
        keep(self, learner)
        if learner.env_steps == 2048 and sign > 0:
            raise KeyboardInterrupt  # after the policies, before the checkpoint

    monkeypatch.setattr(recorder.Recorder, "keep_best", keep_best)
    with monkeypatch.context() as patch:
        patch.setattr(recorder.Recorder, "write", lambda self, learner: learner.env_steps <= last and write(self, learner))
        command = "train ppo gymnasium/CartPole-v1 --seeds 2 --steps 3072 --eval-every 1024 --eval-episodes 1"
        assert call(f"{command} --agent.n-steps 64 {EVERY} --out run") == 130
    assert best_on_disk(place / "run", "none") == 2048
    sign = -1
    assert call("resume run --quiet") == 0
    found = record(place / "run")["arms"]["none"]["best"]
    assert list(found.values()) == best
    assert best_on_disk(place / "run", "none") == found["env_steps"]


def test_what_is_kept_at_the_end(place):
    command = f"train sac PointMass-2 --arm none {TINY} --agent.n-steps 64 --agent.net-arch 8 --agent.buffer-size 800 {EVERY}"
    command += " --agent.gradient-steps 1"
    assert call(f"{command} --out run") == 0
    assert call(f"{command} --out kept --keep-checkpoints") == 0
    assert sorted(path.name for path in (place / "run/checkpoints/none").iterdir()) == ["2048.safetensors", "best.safetensors"]
    small, _ = load_tree("run/checkpoints/none/2048.safetensors", "cpu")
    assert not {"replay", "sampling", "recall"} & set(small["learner"])
    names = ["1536.safetensors", "2048.safetensors", "best.safetensors"]
    assert sorted(path.name for path in (place / "kept/checkpoints/none").iterdir()) == names
    assert len(load_tree("kept/checkpoints/none/2048.safetensors", "cpu")[0]["learner"]["replay"]["steps"]["obs"][0]) == 800


def test_tensorboard_hides_what_was_written_after_the_checkpoint(place, monkeypatch):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    real = recorder.Recorder.measure

    def measure(self, learner, metrics):
        real(self, learner, metrics)
        if learner.env_steps == 1024:
            raise KeyboardInterrupt  # after the rows, before the checkpoint

    with monkeypatch.context() as patch:
        patch.setattr(recorder.Recorder, "measure", measure)
        assert call(f"train ppo FourRooms-7 {TINY} {EVERY} --out run") == 130
    assert [row["env_steps"] for row in rows(place / "run")] == ["0", "0", "1024", "1024"]
    assert call("resume run --quiet") == 0
    assert [row["env_steps"] for row in rows(place / "run")] == ["0", "0", "1024", "1024", "2048", "2048"]
    events = EventAccumulator("run/tensorboard/none")
    events.Reload()
    assert [event.step for event in events.Scalars("evaluation/success")] == [0, 1024, 2048]


# Ctrl-C ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def listening():
    """Ctrl-C means what it means in a terminal; a background job ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_the_first_ctrl_c_waits_and_the_second_does_not(listening):
    said = []
    with Interruption(said.append) as interruption:
        os.kill(os.getpid(), signal.SIGINT)
        assert interruption.asked
        assert len(said) == 1
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_that_is_ignored_stays_so():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    with Interruption(print) as interruption:
        os.kill(os.getpid(), signal.SIGINT)
    assert not interruption.asked
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_writes_a_checkpoint_at_the_end_of_the_rollout(place, capsys, monkeypatch, listening):
    real = recorder.Recorder.measure

    def measure(self, learner, metrics):
        real(self, learner, metrics)
        if learner.env_steps == 1024:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(recorder.Recorder, "measure", measure)
        assert call(f"train ppo FourRooms-7 {TINY} --quiet --out run") == 130
    assert (place / "run/checkpoints/none/1024.safetensors").exists()
    assert "Ctrl-C once more" in capsys.readouterr().err
    assert call("resume run") == 0
    assert "goes on after 1,024 steps" in capsys.readouterr().out


# kill -9 --------------------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
def test_kill_9_at_any_moment(place):
    command = f"compare FourRooms-7 --arms recall bonus --seeds 2 --steps 4096 --eval-every 512 --eval-episodes 3 {EVERY} --out"
    began = time.monotonic()
    assert call(f"{command} whole") == 0
    whole = time.monotonic() - began
    killed = 0
    for k in range(5):
        words = f"{command} run" if not (place / "run" / "config.json").exists() else "resume run --quiet --checkpoint-every 0"
        process = FORK.Process(target=call, args=(words,))
        process.start()
        process.join(whole * (0.1 + 0.15 * k))
        if process.exitcode is None:
            os.kill(process.pid, signal.SIGKILL)
            killed += 1
        process.join()
    assert killed
    assert call("resume run --quiet") == 0
    assert_same_run(place / "run", place / "whole", ["recall", "bonus"])


# What goes wrong ------------------------------------------------------------------------------------------------------------


def test_a_checkpoint_that_cannot_be_written_is_told_of_and_the_run_goes_on(place, capsys, monkeypatch):
    def full(*arguments, **keywords):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("recall_traces.checkpoints.save_tree", full)
        assert call(f"train ppo FourRooms-7 {TINY} {EVERY} --out run") == 0
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "none: no checkpoint after 512 steps, the last good one is kept: [Errno 28] No space left on device"
    assert record(place / "run")["arms"]["none"]["status"] == "finished"


def test_the_last_good_checkpoint_outlives_a_disk_that_is_full_at_the_end(place, capsys, monkeypatch):
    from recall_traces import checkpoints

    real = checkpoints.save_tree

    def full_at_the_end(path, tree, header):
        if header["env_steps"] == 2048:
            raise OSError(28, "No space left on device")
        real(path, tree, header)

    def full(*arguments, **keywords):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "save_tree", full_at_the_end)
        patch.setattr("recall_traces.agents.ppo.PPO.save", full)
        assert call(f"train ppo FourRooms-7 {TINY} {EVERY} --out run") == 1
    assert "none failed: OSError: [Errno 28] No space left on device" in capsys.readouterr().err
    assert sorted(path.name for path in (place / "run/checkpoints/none").iterdir()) == ["1024.safetensors", "1536.safetensors"]
    assert call("resume run") == 0
    assert "goes on after 1,536 steps" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["add_curves", "add_timing", "synchronize", "end_arm", "continue_arm"])
def test_a_disk_that_is_full_for_a_while_loses_nothing(place, capsys, monkeypatch, name):
    command = f"train ppo FourRooms-7 {TINY} {EVERY} --out"
    assert call(f"{command} whole") == 0
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        assert call(f"{command} run") == 130
    capsys.readouterr()

    def full(*arguments, **keywords):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, name, full)
        code = call("resume run --quiet --checkpoint-every 0")
    lines = capsys.readouterr().err.splitlines()
    assert lines
    assert all("No space left on device" in line for line in lines)
    assert code == (0 if name == "synchronize" else 1)
    assert call("resume run --quiet") == 0
    assert_same_run(place / "run", place / "whole", ["none"])


@pytest.mark.parametrize("where", ["recall_traces.checkpoints.load_tree", "recall_traces.agents.ppo.PPO.load_training_state"])
def test_memory_that_is_short_for_a_while_loses_nothing(place, capsys, monkeypatch, where):
    command = f"train ppo FourRooms-7 {TINY} {EVERY} --out"
    assert call(f"{command} whole") == 0
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        assert call(f"{command} run") == 130
    capsys.readouterr()

    def short(*arguments):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    kept = sorted((place / "run/checkpoints/none").iterdir())
    before = (place / "run/curves.csv").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(where, short)
        assert call("resume run --quiet") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "1536.safetensors is kept, but could not be loaded now: CUDA out of memory" in line
    assert sorted((place / "run/checkpoints/none").iterdir()) == kept
    assert (place / "run/curves.csv").read_bytes() == before
    assert call("resume run --quiet") == 0
    assert_same_run(place / "run", place / "whole", ["none"])


@pytest.mark.parametrize("name", ["curves.csv", "timings.csv"])
def test_a_disk_that_is_full_from_the_start_leaves_nothing_torn(place, capsys, monkeypatch, name):
    """It may let a file be made that it has no room to fill."""
    real = Path.open

    def full(path, mode="r", *arguments, **more):
        file = real(path, mode, *arguments, **more)
        if name in path.name and "w" in mode:
            file.close()
            raise OSError(28, "No space left on device")
        return file

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", full)
        assert call(f"train ppo FourRooms-7 {TINY} --out run --quiet") == 2
    assert "No space left on device" in capsys.readouterr().err
    assert call("resume run --quiet") == 0
    assert len(rows(place / "run")) == 6


def test_a_line_that_was_cut_off_by_a_full_disk_is_taken_back(place):
    import resource

    folder = RunFolder(place / "run")
    folder.start("Task", {}, {})
    folder.add_curves([("none", 0, 5, 0.5, 0.5, 0.5, 0.5)])
    before = (place / "run" / "curves.csv").read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 30, hard))
    try:
        with pytest.raises(OSError, match="space"):
            folder.add_curves([("none", seed, 10, 0.5, 0.5, 0.5, 0.5) for seed in range(8)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (place / "run" / "curves.csv").read_bytes() == before


def test_a_folder_that_cannot_be_written_is_bad_input(place, capsys, monkeypatch):
    with monkeypatch.context() as patch:
        stop_after(patch, 1)
        assert call(f"train ppo FourRooms-7 {TINY} {EVERY} --out run") == 130
    capsys.readouterr()

    def read_only(*arguments, **keywords):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("recall_traces.runs.os.replace", read_only)
    assert call("resume run") == 2
    assert capsys.readouterr().err == "recall-traces: cannot write to run: Read-only file system\n"


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("config.json", "{", "config.json cannot be read"),
        ("config.json", '{"configuration": {}, "arms": {"none": 3}}', "config.json cannot be read"),
        ("config.json", '{"configuration": {}, "arms": {}}', "names no environment"),
        ("curves.csv", "arm,seed\n", "lacks the column"),
        ("curves.csv", "\xff", "curves.csv"),
        ("timings.csv", "arm,env_steps,seconds,steps_per_second,collect,update,recall,evaluate\nnone,x,1,1,1,1,1,1\n", "'x'"),
    ],
)
def test_a_spoilt_folder_is_told_of_in_one_line(place, capsys, monkeypatch, name, text, words):
    with monkeypatch.context() as patch:
        stop_after(patch, 1)
        assert call(f"train ppo FourRooms-7 {TINY} {EVERY} --out run") == 130
    capsys.readouterr()
    (place / "run" / name).write_text(text, encoding="latin-1")
    assert call("resume run") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line
    assert ".;" not in line


def test_changed_versions_are_told_of(place, capsys, monkeypatch):
    with monkeypatch.context() as patch:
        stop_after(patch, 1)
        assert call(f"train ppo FourRooms-7 {TINY} {EVERY} --out run") == 130
    old = record(place / "run")
    old["calls"][0]["versions"]["torch"] = "1.0"
    del old["calls"][0]["versions"]["numpy"]  # was not recorded then, and is not known to have changed
    (place / "run" / "config.json").write_text(json.dumps(old))
    capsys.readouterr()
    assert call("resume run") == 0
    out = capsys.readouterr().out
    assert "versions have changed, so numbers may: torch 1.0 then, " in out
    assert "numpy" not in out


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_run_of_a_gpu_goes_on_without_one(place, capsys, monkeypatch):
    with monkeypatch.context() as patch:
        stop_after(patch, 1)
        assert call(f"train ppo FourRooms-7 {TINY} {EVERY} --out run") == 130
    old = record(place / "run")
    old["configuration"]["device"] = "cuda"
    (place / "run" / "config.json").write_text(json.dumps(old))
    capsys.readouterr()
    assert call("resume run") == 0
    assert "it goes on on the CPU" in capsys.readouterr().out
    assert record(place / "run")["configuration"]["device"] == "cuda"


def test_two_processes_do_not_write_into_one_folder(place, capsys, monkeypatch):
    with monkeypatch.context() as patch:
        stop_after(patch, 1)
        assert call(f"train ppo FourRooms-7 {TINY} {EVERY} --out run") == 130
    other = RunFolder("run")
    other.claim()
    capsys.readouterr()
    assert call("resume run") == 2
    assert "another process is writing into run" in capsys.readouterr().err
    other.release()
    assert call("resume run --quiet") == 0


def test_resume_needs_one_run(capsys):
    for command, words in (("resume", "resume runs/x"), ("resume a b", "'b'"), ("resume nowhere", "nowhere/config.json")):
        assert call(command) == 2
        assert words in capsys.readouterr().err
