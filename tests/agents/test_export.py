"""A policy as a plain torch module, and as a file that loads without this library."""

import subprocess
import sys

import pytest
import torch
from gymnasium import spaces
from ppo_helpers import BOX, BOX_ACTION, Spaces

from recall_traces.agents.export import export_policy, plain_policy
from recall_traces.agents.ppo import PPO, PPOConfig
from recall_traces.agents.sac import SAC, SACConfig
from recall_traces.spaces import tensor_dtype

SEEDS = 3
GRID = spaces.MultiDiscrete([4, 5])


def make(kind, observation_space, action_space, activation):
    env = Spaces(observation_space, action_space, SEEDS)
    config = {"net_arch": (8, 6), "activation": activation, "normalize_observations": True}
    learner = (PPO if kind == "ppo" else SAC)(
        env, PPOConfig(**config) if kind == "ppo" else SACConfig(**config, buffer_size=10), num_seeds=SEEDS
    )
    if isinstance(observation_space, spaces.Box):
        learner.obs_normalizer.update(3 + 2 * torch.randn(SEEDS, 50, 3, generator=torch.Generator().manual_seed(0)))
    # Actions that reach their bounds.
    with torch.no_grad():
        for parameter in learner.policy.parameters():
            parameter.mul_(3)
    return learner


def observations(space, count=20):
    space.seed(0)
    return torch.stack([torch.as_tensor(space.sample()) for _ in range(count)]).to(tensor_dtype(space))


CASES = [
    ("ppo", BOX, BOX_ACTION, "tanh"),
    ("ppo", BOX, spaces.Discrete(3), "relu"),
    ("ppo", spaces.Discrete(7), spaces.Discrete(3), "elu"),
    ("ppo", GRID, spaces.Discrete(3), "silu"),
    ("sac", BOX, spaces.Box(-2, 3, (2,)), "relu"),
    ("sac", GRID, BOX_ACTION, "tanh"),
]


@pytest.mark.parametrize(("kind", "observation_space", "action_space", "activation"), CASES)
def test_the_plain_module_does_what_the_fleet_does(kind, observation_space, action_space, activation):
    learner = make(kind, observation_space, action_space, activation)
    obs = observations(observation_space)
    expected = learner.act(obs.expand(SEEDS, *obs.shape), greedy=True)
    for seed in range(SEEDS):
        actions, distribution = plain_policy(learner, seed)(obs)
        torch.testing.assert_close(actions, expected[seed])
        found = learner.policy(learner.obs_normalizer(obs.expand(SEEDS, *obs.shape)))
        if isinstance(action_space, spaces.Discrete):
            torch.testing.assert_close(distribution, found.logits[seed])
        else:
            torch.testing.assert_close(distribution[:, 0], found.mean[seed])
            torch.testing.assert_close(distribution[:, 1], found.log_std[seed].expand(len(obs), -1))


def test_a_seed_that_there_is_not_is_refused(tmp_path):
    learner = make(*CASES[0])
    with pytest.raises(ValueError, match="no seed 3; there are 3"):
        plain_policy(learner, 3)
    with pytest.raises(ValueError, match=r"must end in \.pt2"):
        export_policy(learner, 0, tmp_path / "policy.pt")


@pytest.mark.filterwarnings("default")  # torch's own, while it exports
@pytest.mark.parametrize("case", [CASES[0], CASES[3]], ids=["box", "grid"])
def test_the_file_loads_without_this_library_and_takes_any_batch(case, tmp_path):
    learner = make(*case)
    obs = observations(case[1])
    export_policy(learner, 1, tmp_path / "policy.pt2")
    torch.save({"obs": obs, "actions": plain_policy(learner, 1)(obs)[0]}, tmp_path / "expected.pt")
    code = (
        "import sys, torch; policy = torch.export.load('policy.pt2').module(); expected = torch.load('expected.pt')\n"
        "for rows in (slice(0, 1), slice(0, 20)):\n"
        "    torch.testing.assert_close(policy(expected['obs'][rows])[0], expected['actions'][rows])\n"
        "sys.exit('recall_traces' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.filterwarnings("default")
def test_onnx_gives_the_same(tmp_path):
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    for number, case in enumerate(CASES):
        learner, path = make(*case), tmp_path / f"{number}.onnx"
        export_policy(learner, 2, path)
        session = runtime.InferenceSession(path)
        for obs in (observations(case[1]), observations(case[1], 1)):
            for found, expected in zip(session.run(None, {"obs": obs.numpy()}), plain_policy(learner, 2)(obs), strict=True):
                torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("default")
def test_what_onnx_needs_is_named_where_it_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ValueError, match=r"recall-traces\[onnx\]"):
        export_policy(make(*CASES[0]), 0, tmp_path / "policy.onnx")
