"""`recall-traces evaluate` and `recall-traces export`: what the policies of a run do, and taking them elsewhere."""

import json

import pytest
import torch
from cli_helpers import TINY, call

import recall_traces.envs as envs
from recall_traces.agents.ppo import PPO


@pytest.fixture
def run(place, capsys):
    assert call(f"train ppo FourRooms-7 --arm recall {TINY} --out run --quiet") == 0
    capsys.readouterr()
    return place / "run"


def test_evaluate_tells_every_seed_and_the_mean(run, capsys):
    assert call("evaluate run --episodes 10") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "recall on FourRooms-7 after 2,048 steps: 10 episodes, drawn actions"
    assert [line.split()[0] for line in lines[3:] if line.strip()] == ["0", "1", "mean"]
    assert call("evaluate run --episodes 10 --greedy --json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["arm"], found["env_steps"], found["greedy"]) == ("recall", 2048, True)
    assert [seed["seed"] for seed in found["seeds"]] == [0, 1]
    mean = sum(seed["success"] for seed in found["seeds"]) / 2
    assert found["success"]["mean"] == pytest.approx(mean)
    low, high = found["success"]["interval"]
    assert low <= mean <= high


def test_evaluate_measures_the_policies_that_were_saved(run, capsys):
    """Greedy episodes in four rooms are all the same, so a single one, played by hand, says what the success must be."""
    assert call("evaluate run --episodes 3 --greedy --json") == 0
    found = [seed["episode_return"] for seed in json.loads(capsys.readouterr().out)["seeds"]]
    env = envs.make("FourRooms-7", num_envs=2)
    ppo = PPO.load(run / "recall.safetensors", env)
    obs, returns, running = env.reset(), torch.zeros(2), torch.ones(2)
    for _ in range(70):
        step = env.step(ppo.predict(obs, deterministic=True)[0])
        returns += running * step.rewards
        running *= ~(step.terminated | step.truncated)
        obs = step.obs
    assert found == returns.tolist()


def test_evaluate_refuses_what_is_not_there(run, capsys):
    for words, told in (
        ("evaluate", "evaluate runs/x"),
        ("evaluate nowhere", "nowhere/config.json"),
        ("evaluate run --arm sil", "'sil'"),
        ("evaluate run --episodes 0", "--episodes"),
        ("export run --seed 2", "seed 2"),
        ("export run --out policy.txt", "policy.txt"),
        ("export run --seed x", "--seed"),
    ):
        assert call(words) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert told in line


@pytest.mark.filterwarnings("default")  # torch's own, while it exports
def test_export_writes_a_file_that_torch_loads(run, capsys):
    assert call("export run --seed 1") == 0
    assert capsys.readouterr().out == "run/recall-1.pt2\n"
    policy = torch.export.load(run / "recall-1.pt2").module()
    obs = torch.arange(49)
    ppo = PPO.load(run / "recall.safetensors", envs.make("FourRooms-7", num_envs=2))
    expected = ppo.act(obs.expand(2, 49), greedy=True)
    assert torch.equal(policy(obs)[0], expected[1])


@pytest.mark.filterwarnings("default")  # torch's own, while it exports
def test_export_tells_where_it_cannot_write(run, capsys):
    (run / "taken.pt2").mkdir()
    assert call("export run --out run/taken.pt2") == 2
    assert capsys.readouterr().err == "recall-traces: cannot write run/taken.pt2: Is a directory\n"
