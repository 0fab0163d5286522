import os
import pickle
import resource

import pytest
import torch

from recall_traces.checkpoints import Checkpoints
from recall_traces.saving import load_tree, save_tree


class Exploits:
    def __reduce__(self):
        return os.mkdir, ("exploited",)


@pytest.fixture
def checkpoints(tmp_path):
    said = []
    found = Checkpoints(tmp_path / "none", said.append)
    found.said = said
    return found


def tree(number):
    return {"weights": torch.full((3,), float(number)), "nested": {"number": number, "name": "x", "empty": {}, "list": [1, None]}}


def newest(checkpoints):
    return next(checkpoints.read("cpu"), None)


def test_what_is_written_is_read_back(checkpoints):
    checkpoints.write(5, tree(5))
    found = newest(checkpoints)
    assert (found.env_steps, found.path.name) == (5, "5.safetensors")
    assert found.tree["nested"] == {"number": 5, "name": "x", "empty": {}, "list": [1, None]}
    assert found.tree["weights"].tolist() == [5.0] * 3
    assert checkpoints.said == []


def test_the_newest_two_are_kept_and_the_best(checkpoints):
    save_tree(checkpoints.best, {}, {})
    for steps in (5, 10, 100):  # by number, not by name
        checkpoints.write(steps, tree(steps))
    assert sorted(path.name for path in checkpoints.folder.iterdir()) == ["10.safetensors", "100.safetensors", "best.safetensors"]
    assert [found.env_steps for found in checkpoints.read("cpu")] == [100, 10]


def test_what_a_kill_left_half_written_is_removed_with_the_next(checkpoints):
    checkpoints.write(5, tree(5))
    (checkpoints.folder / ".10.safetensors.new").write_bytes(b"half")
    checkpoints.write(15, tree(15))
    assert sorted(path.name for path in checkpoints.folder.iterdir()) == ["15.safetensors", "5.safetensors"]


def test_there_is_nothing_in_a_folder_that_does_not_exist(checkpoints):
    assert newest(checkpoints) is None


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-5]),
        lambda path: path.write_bytes(path.read_bytes()[:100]),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(pickle.dumps(Exploits())),
        lambda path: torch.save({"weights": torch.ones(3)}, path),
        lambda path: path.write_bytes(os.urandom(1000)),
        lambda path: save_tree(path, {"weights": torch.ones(3)}, {}),
        lambda path: save_tree(path, {"weights": torch.ones(3)}, {"checkpoint": 99, "env_steps": 10}),
        lambda path: save_tree(path, {"weights": torch.ones(3)}, {"checkpoint": 1, "env_steps": 7}),
        lambda path: (path.unlink(), path.mkdir()),
    ],
    ids=["torn", "torn header", "empty", "pickle", "torch.save", "noise", "foreign", "of the future", "renamed", "folder"],
)
def test_a_spoilt_one_is_told_of_and_the_one_before_is_used(checkpoints, spoil, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    checkpoints.write(5, tree(5))
    checkpoints.write(10, tree(10))
    spoil(checkpoints.path(10))
    assert newest(checkpoints).env_steps == 5
    (line,) = checkpoints.said
    assert line.startswith(f"{checkpoints.path(10)} is not used: ")
    assert not (tmp_path / "exploited").exists()
    # It is kept under another name, and does not push out good ones.
    assert checkpoints.path(10).with_name("10.safetensors.unreadable").exists()
    checkpoints.write(6, tree(6))
    assert checkpoints.steps() == [6, 5]


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (OSError(5, "Input/output error"), OSError),
        (PermissionError(13, "Permission denied"), OSError),
        (MemoryError(), MemoryError),
        (torch.cuda.OutOfMemoryError("CUDA out of memory"), MemoryError),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"), MemoryError),
    ],
)
@pytest.mark.parametrize("rename", [True, False])
def test_a_machine_that_fails_in_reading_says_nothing_about_the_file(checkpoints, monkeypatch, error, kind, rename):
    def fail(*arguments):
        raise error

    checkpoints.rename = rename
    for steps in (5, 10):
        checkpoints.write(steps, tree(steps))
    with monkeypatch.context() as patch:
        patch.setattr("recall_traces.checkpoints.load_tree", fail)
        with pytest.raises(kind, match=r"10\.safetensors is kept, but could not be loaded now: "):
            newest(checkpoints)
    assert checkpoints.said == []
    assert newest(checkpoints).env_steps == 10


def test_a_disk_that_is_full_leaves_the_last_good_one(checkpoints):
    """The limit on the size of files fails in the middle of a file, as a full disk does."""
    checkpoints.write(5, tree(5))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(OSError, match=r"10\.safetensors"):
            checkpoints.write(10, {"weights": torch.ones(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in checkpoints.folder.iterdir()] == ["5.safetensors"]
    assert newest(checkpoints).tree["nested"]["number"] == 5


@pytest.mark.parametrize("step", ["replace", "fsync", "open"])
def test_whatever_fails_in_writing_leaves_the_last_good_one(checkpoints, monkeypatch, step):
    checkpoints.write(5, tree(5))

    def fail(*arguments, **keywords):
        raise OSError(30, "Read-only file system")

    with monkeypatch.context() as patch:
        patch.setattr(f"recall_traces.saving.os.{step}", fail)
        with pytest.raises(OSError, match="Read-only"):
            checkpoints.write(10, tree(10))
    assert newest(checkpoints).env_steps == 5
    assert not list(checkpoints.folder.glob(".*"))


def test_a_file_that_is_being_written_has_another_name(checkpoints, monkeypatch):
    """So whatever is there under its own name is whole."""
    checkpoints.write(5, tree(5))
    seen = []
    monkeypatch.setattr("recall_traces.saving.save_file", lambda tensors, path, metadata: seen.append(path))
    checkpoints.write(5, tree(6))
    assert seen == [str(checkpoints.folder / ".5.safetensors.new")]


def test_tensors_that_share_memory_are_written_each(tmp_path):
    one = torch.arange(6.0)
    save_tree(tmp_path / "x", {"a": one, "b": one, "c": one[2:4], "d": one.view(2, 3).T}, {})
    found, _ = load_tree(tmp_path / "x", "cpu")
    assert found["a"].tolist() == found["b"].tolist() == one.tolist()
    assert found["c"].tolist() == [2.0, 3.0]
    assert found["d"].tolist() == one.view(2, 3).T.tolist()
