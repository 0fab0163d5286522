"""`recall-traces train`: the folder of a run, and that the same command gives the same."""

import re

import torch
from cli_helpers import TINY, call, record, rows

import recall_traces.envs as envs
from recall_traces.agents.ppo import PPO
from recall_traces.cli import recorder


def test_train_writes_a_run_folder(place, capsys):
    assert call(f"train ppo FourRooms-7 --arm recall {TINY} --out run --recall.model.hidden 3 4") == 0
    out = capsys.readouterr().out.splitlines()
    assert out[-1] == "run"
    assert out[-2].startswith("recall: 2,048 of 2,048 steps, return ")
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
    assert "mujoco-warp" in made["versions"]
    assert made["hardware"]["cores"] >= 1
    assert (made["command"], made["arms"]) == ("train", ["recall"])
    assert set(made) == {"date", "command_line", "command", "arms", "versions", "git_commit", "hardware"}
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


def test_it_is_said_once_that_evaluation_takes_longer_than_training(place, capsys, monkeypatch):
    monkeypatch.setattr(recorder, "LONG", 0.0)
    size = "--seeds 1 --num-envs 1 --agent.n-steps 16 --steps 64 --eval-every 16"
    call(f"train ppo FourRooms-7 {size} --eval-episodes 200 --out much")
    [said] = [line for line in capsys.readouterr().out.splitlines() if "goes into evaluation" in line]
    assert re.fullmatch(r"none: [5-9]\d% of the time goes into evaluation \(--eval-every, --eval-episodes\)", said)
    call(f"train ppo FourRooms-7 {TINY} --eval-episodes 1 --agent.n-epochs 200 --out little")
    assert "goes into evaluation" not in capsys.readouterr().out


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


def test_it_is_said_that_nothing_is_imitated_where_rewards_are_not_rare(place, capsys):
    call(f"compare CartPole-v1 --arms none recall {TINY} --out paid")
    call(f"compare FourRooms-7 --arms none recall {TINY} --out rare")
    said = "recall: nothing is imitated where more than 20% of the steps pay (--recall.rare-reward 0.1)"
    assert capsys.readouterr().out.count(said) == 1
    assert said in (place / "paid" / "log.txt").read_text()


def test_it_is_said_that_there_was_nothing_to_recall(place, capsys):
    call(f"compare FourRooms-15 --arms recall-return recall {TINY} --out none")
    assert capsys.readouterr().out.count("recall-return: there were no states to recall from") == 1


def test_it_is_said_that_no_way_is_known(place, capsys):
    """In 17 dimensions hardly a step begins near where another one of a few has arrived."""
    call(f"train ppo SparseHalfCheetah-v5 --arm recall {TINY} --out far")
    call(f"train ppo SparseHalfCheetah-v5 --arm recall {TINY} --out off --recall.imitation-ratio 0")
    assert capsys.readouterr().out.count("recall: the model knew ways into too few of the states to recall") == 1


def test_it_is_said_that_only_novelty_is_imitated_where_every_step_costs_something(place, capsys):
    call(f"train ppo Pendulum-v1 --arm recall {TINY} --out costs")
    call(f"train ppo FourRooms-7 --arm recall {TINY} --out pays")
    assert capsys.readouterr().out.count("recall: no goal was reached and most steps cost, so only ways to novel states") == 1
