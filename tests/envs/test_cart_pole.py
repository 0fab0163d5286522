import gymnasium
import numpy as np
import pytest
import torch

from recall_traces.envs.cart_pole import CartPole

ROWS = [0, 2, 1, 3]
"""Gymnasium's order (position, velocity, angle, angular velocity) in the order of `CartPole.state`, and back."""


def put(env: CartPole, states: np.ndarray) -> None:
    """Place every cart; `states` is `(num_envs, 4)` in Gymnasium's order."""
    env.state.copy_(torch.from_numpy(states).T[ROWS])


def test_every_step_is_gymnasiums() -> None:
    theirs = gymnasium.make("CartPole-v1").unwrapped
    generator = np.random.default_rng(0)
    limits = np.array([2.6, 3.0, 0.25, 3.5])
    states = generator.uniform(-limits, limits, (3000, 4))
    played = generator.integers(0, 2, 3000)
    env = CartPole(3000)
    env.reset()
    put(env, states)
    step = env.step(torch.from_numpy(played))
    theirs.reset(seed=0)
    ended = []
    for row in range(3000):
        theirs.state, theirs.steps_beyond_terminated = states[row], None
        obs, reward, terminated, _, _ = theirs.step(played[row])
        assert step.final_obs[row].numpy() == pytest.approx(obs, rel=1e-6, abs=1e-7)
        assert float(step.rewards[row]) == reward
        assert bool(step.terminated[row]) == terminated
        ended.append(terminated)
    assert 300 < sum(ended) < 2700


def test_whole_episodes_are_gymnasiums() -> None:
    """The same controller keeps both poles up for 500 steps; they part by less than rounding explains."""
    theirs = gymnasium.make("CartPole-v1")
    theirs.reset(seed=1)
    env = CartPole(2)
    env.reset()
    put(env, np.stack([theirs.unwrapped.state] * 2))
    for age in range(1, 501):
        position, velocity, angle, turn = theirs.unwrapped.state
        action = int(angle + 0.5 * turn + 0.02 * position + 0.05 * velocity > 0)
        obs, _, terminated, truncated, _ = theirs.step(action)
        step = env.step(torch.tensor([action, action]))
        if age <= 250:  # rounding errors double every nine steps
            assert step.final_obs[1].numpy() == pytest.approx(obs, abs=1e-5)
        assert not terminated
        assert step.terminated.tolist() == [False, False], age
        assert step.truncated.tolist() == [truncated] * 2
    assert truncated
    assert env.step(torch.tensor([0, 1])).truncated.tolist() == [False, False]


def test_falling_starts_again_and_keeps_the_final_observation() -> None:
    env = CartPole(3, seed=4)
    env.reset()
    put(env, np.array([[0.0, 0.0, 0.2, 3.0], [0.0, 0.0, 0.0, 0.0], [2.39, 3.0, 0.0, 0.0]]))
    step = env.step(torch.tensor([0, 0, 1]))
    assert step.terminated.tolist() == [True, False, True]
    assert step.rewards.tolist() == [1.0, 1.0, 1.0]
    assert step.final_obs[0, 2].item() == pytest.approx(0.26)
    assert step.final_obs[2, 0].item() == pytest.approx(2.45)
    assert step.obs[[0, 2]].abs().max() <= 0.05
    assert torch.equal(step.obs[1], step.final_obs[1])
    assert step.obs.is_contiguous()


def test_later_steps_leave_returned_tensors_alone() -> None:
    env = CartPole(5)
    first = env.reset()
    step = env.step(torch.ones(5, dtype=torch.int64))
    kept = [tensor.clone() for tensor in (first, step.obs, step.final_obs, step.rewards)]
    for _ in range(300):
        env.step(torch.ones(5, dtype=torch.int64))
    for tensor, copy in zip((first, step.obs, step.final_obs, step.rewards), kept, strict=True):
        assert torch.equal(tensor, copy)


def test_first_states_fill_their_range_and_follow_the_seed() -> None:
    obs = CartPole(20_000, seed=1).reset()
    assert obs.dtype == torch.float32
    assert obs.abs().max() <= 0.05
    assert obs.std(0) == pytest.approx(torch.full((4,), 0.1 / 12**0.5), rel=0.03)
    assert torch.equal(obs, CartPole(20_000, seed=1).reset())
    assert not torch.equal(obs, CartPole(20_000, seed=2).reset())


def test_spaces_and_success_are_gymnasiums() -> None:
    theirs = gymnasium.make("CartPole-v1")
    env = CartPole(1)
    assert env.observation_space == theirs.observation_space
    assert env.action_space == theirs.action_space
    assert env.success_return == theirs.spec.reward_threshold


def test_render_shows_a_pole_that_leans_right() -> None:
    env = CartPole(1)
    put(env, np.array([[0.0, 0.0, 0.2, 0.0]]))
    pole = (env.render() == (200, 150, 100)).all(-1)
    rows, columns = pole.nonzero()
    assert columns[rows == rows.min()].mean() > columns[rows == rows.max()].mean() + 5
    assert pole.sum() > 200
