"""Sparse and delayed rewards on trajectories made by hand, and in whole episodes."""

from typing import Any

import pytest
import torch

from recall_traces import envs
from recall_traces.envs.mujoco.payout import DELAY, Delayed, Dense, Sparse

CPU, DOUBLE = torch.device("cpu"), torch.float64
NONE = torch.zeros(2, dtype=torch.bool)


def walk(payout: Sparse, *places: tuple[float, float]) -> list[list[float]]:
    """What two torsos get that go through these x."""
    return [
        payout.pay(torch.full((2,), 9.0), {"qpos": torch.tensor([[x, 7.0] for x in both])}, torch.ones(2), NONE).tolist()
        for both in places
    ]


def test_sparse_pays_each_new_metre_once() -> None:
    payout = Sparse(2, CPU, DOUBLE)
    assert walk(payout, (0.0, -0.2), (0.9, 0.99), (1.0, -3.0), (0.5, 1.0), (1.2, 1.9), (0.9, 1.0)) == [
        [0, 0],
        [0, 0],
        [1, 0],
        [0, 1],
        [0, 0],
        [0, 0],
    ]
    assert walk(payout, (2.1, 4.5), (3.0, 4.9), (2.9, 5.0)) == [[1, 3], [1, 0], [0, 1]]
    payout.begin(torch.tensor([True, False]), {"qpos": torch.tensor([[-0.1], [5.5]])})
    assert walk(payout, (0.1, 5.5), (1.5, 6.5)) == [[0, 0], [1, 1]]
    assert payout.counters["furthest"].tolist() == [1, 6]


def test_sparse_pays_no_metre_that_an_episode_began_beyond() -> None:
    """As where an observation with x says where, or a model of one's own."""
    env: Any = envs.make("SparseHopper-v5", 2, exclude_current_positions_from_observation=False)
    obs = env.reset()
    obs[0, 0], obs[1, 0] = 5.3, -5.3
    env.set_obs(obs)
    assert env.step(torch.zeros(2, 3)).rewards.tolist() == [0, 0]
    assert env.payout.counters["furthest"].tolist() == [5, 0]


def test_delayed_pays_sums_and_the_remainder() -> None:
    payout = Delayed(2, CPU, DOUBLE)
    paid = []
    for k in range(1, 51):  # the first episode ends at step 47, and its next step is the first of another
        ages = torch.tensor([k if k <= 47 else k - 47, k])
        done = torch.tensor([k == 47, False])
        paid.append(payout.pay(torch.tensor([float(k), 1.0], dtype=DOUBLE), {}, ages, done).tolist())
        payout.begin(done, {})
    expected = {20: [sum(range(1, 21)), 20.0], 40: [sum(range(21, 41)), 20.0], 47: [sum(range(41, 48)), 0.0]}
    assert paid == [expected.get(k, [0.0, 0.0]) for k in range(1, 51)]
    assert payout.counters["owed"].tolist() == [48 + 49 + 50, 10]


def test_what_counts_as_success() -> None:
    assert [payout(1, CPU, DOUBLE).success_return(5.0) for payout in (Dense, Sparse, Delayed)] == [5.0, None, 5.0]


@pytest.mark.parametrize("task", ["Hopper", "HalfCheetah", "Walker2d", "Ant", "Humanoid"])
def test_the_same_task_paid_otherwise(task: str) -> None:
    """Observations, ends and terms of the reward are the dense task's; returns of delayed episodes too."""
    num_envs, steps = 4, 70
    versions: list[Any] = [envs.make(f"{kind}{task}-v5", num_envs, seed=2, dtype="float64") for kind in ("", "Sparse", "Delayed")]
    generator = torch.Generator().manual_seed(0)
    owed, ages, furthest = torch.zeros(num_envs, dtype=DOUBLE), torch.zeros(num_envs), torch.zeros(num_envs, dtype=DOUBLE)
    for env in versions:
        env.horizon = 45
    for _ in range(steps):
        actions = torch.rand(num_envs, versions[0].action_space.shape[0], generator=generator) * 2 - 1
        dense, sparse, delayed = (env.step(actions) for env in versions)
        for other in (sparse, delayed):
            assert torch.equal(other.final_obs, dense.final_obs)
            assert torch.equal(other.obs, dense.obs)
            assert torch.equal(other.terminated, dense.terminated)
            assert torch.equal(other.truncated, dense.truncated)
            assert torch.equal(other.info["reward_ctrl"], dense.info["reward_ctrl"])
        done, ages, owed = dense.terminated | dense.truncated, ages + 1, owed + dense.rewards
        due = done | (ages % DELAY == 0)
        torch.testing.assert_close(delayed.rewards, owed * due, rtol=0, atol=1e-12)
        new = (dense.info["x_position"].floor() - furthest).clamp(min=0)
        assert sparse.rewards.tolist() == new.tolist()
        furthest = (furthest + new) * ~done
        owed, ages = owed * ~due, ages * ~done
