"""Where the tests of the command line run; it also lets them import the helpers beside them."""

import shutil
import sys
from pathlib import Path

import gymnasium
import pytest
import torch

import recall_traces.envs as envs
from recall_traces.cli import saved
from recall_traces.envs import registry
from recall_traces.envs.interface import Step

sys.path.append(str(Path(__file__).parent))


class Breaks:
    """Walks along a line; the second seed's first environment gives NaN from its 70th step on."""

    success_return = None

    def __init__(self, num_envs, device, seed, breaks=1, fails_at=-1, unseen=False):
        self.num_envs, self.device, self.breaks, self.fails_at = num_envs, torch.device(device), breaks, fails_at
        self.unseen = unseen  # whether the evaluation's environments break too: two seeds with 2 * 5 episodes, the 13th of them
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
        if self.unseen and self.num_envs == 20 and self.steps >= 18:
            rewards[12] = torch.nan
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


@pytest.fixture
def run(trained, place, monkeypatch):
    """A copy of the run that a test file calls `trained`."""
    monkeypatch.setattr(saved, "draw_without_screen", lambda: None)  # it changes the environment of the process
    shutil.copytree(trained, place / "run")
    return place / "run"
