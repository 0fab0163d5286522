"""`recall-traces compare` and `recall-traces plot`: statistics, the table and pictures."""

import json
import weakref

from cli_helpers import TINY, call

from recall_traces.agents.replay import Replay
from recall_traces.curves import read_curves


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


def test_no_two_replays_are_held_at_once(place, monkeypatch):
    taken, allocate = [], Replay.allocate

    def allocate_alone(replay):
        assert all(reference() is None for reference in taken)
        taken.append(weakref.ref(replay))
        allocate(replay)

    monkeypatch.setattr(Replay, "allocate", allocate_alone)
    sac = "--agent sac --agent.n-steps 64 --agent.learning-starts 2000 --recall.memory-size 2000"
    assert call(f"compare PointMaze-U --arms none per recall {TINY} {sac} --quiet --out run") == 0
    assert len(taken) == 6  # of each arm one to see whether it can be, and one to train with


def test_compare_of_returns_shows_no_threshold(place, capsys):
    assert call(f"compare Breaks-v0 --arms none bonus {TINY} --agent.n-steps 64 --env.breaks 0 --out run") == 0
    out = capsys.readouterr().out
    assert "area" in out
    assert "90%" not in out


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
