"""Random actions to imitate in novelty targets."""

import pytest
import torch
from gymnasium import spaces

from recall_traces import RecallConfig, RecallTraces, Transitions

PLANE, LOW, HIGH = spaces.Box(-5.0, 5.0, (2,)), torch.tensor([-1.0, 0.0]), torch.tensor([1.0, 4.0])
BOX, DISCRETE = spaces.Box(LOW.numpy(), HIGH.numpy()), spaces.Discrete(3)


def make_recall(actions: spaces.Space, **options: object) -> RecallTraces:
    config = RecallConfig(**({"trace_length": 6, "traces_per_update": 50, "memory_size": 1000} | options))
    return RecallTraces(PLANE, actions, config, num_seeds=2, num_envs=1)


def walk(actions: spaces.Space, paid: float) -> Transitions:
    """Two seeds' way of ten steps, always by the same action; seed 1 may be paid at its end."""
    obs = torch.arange(11.0)[:, None, None, None].expand(11, 2, 1, 2) / 4
    action = torch.tensor([0.5, 1.0]).expand(10, 2, 1, 2) if isinstance(actions, spaces.Box) else torch.ones(10, 2, 1).long()
    rewards, done = torch.zeros(10, 2, 1), torch.zeros(10, 2, 1, dtype=torch.bool)
    rewards[-1, 1], done[-1] = paid, True
    return Transitions(obs[:-1], action, rewards, obs[1:], done, torch.zeros_like(done))


@pytest.mark.parametrize("actions", [BOX, DISCRETE])
def test_random_actions_of_the_whole_range_are_imitated_in_novelty_targets(actions: spaces.Space):
    recall = make_recall(actions, novelty_actions=20)
    recall.observe(walk(actions, paid=0.0))
    recall.update()
    [explored] = recall.explorations
    assert bool(explored.mask.all())
    targets = recall.buffer[0].next_obs[:, :, -1]
    assert torch.equal(explored.obs, targets[:, :, None].expand_as(explored.obs))
    found = explored.actions.flatten(1, 2)
    if isinstance(actions, spaces.Box):
        assert bool(((found >= LOW) & (found <= HIGH)).all())
        torch.testing.assert_close(found.mean((0, 1)), (LOW + HIGH) / 2, atol=0.15, rtol=0)
        torch.testing.assert_close(found.std((0, 1)), (HIGH - LOW) / 12**0.5, atol=0.15, rtol=0)
    else:
        shares = torch.bincount(found.flatten(), minlength=3) / found.numel()
        torch.testing.assert_close(shares, torch.full((3,), 1 / 3), atol=0.06, rtol=0)


def test_they_are_drawn_with_the_steps_of_traces_each_alike():
    recall = make_recall(BOX, novelty_actions=3)
    recall.observe(walk(BOX, paid=0.0))
    recall.update()
    steps, random = recall.buffer[0].mask[0].sum(), recall.explorations[0].mask[0].sum()
    drawn = recall.sample(4000)
    recorded = (drawn.actions == torch.tensor([0.5, 1.0])).all(-1)[0].float().mean()
    torch.testing.assert_close(recorded, steps / (steps + random), atol=0.03, rtol=0)
    assert recall.imagine(4000) is None
    assert bool((drawn.weights == 1).all())


def test_in_states_of_high_return_there_are_none():
    recall = make_recall(BOX, novelty_floor=0.0, novelty_ceiling=0.0, rare_reward=1.0, novelty_actions=4)
    recall.observe(walk(BOX, paid=1.0))
    recall.update()
    assert recall.explorations[0].mask.any((1, 2)).tolist() == [True, False]


def test_imagined_steps_are_of_traces_alone():
    recall = make_recall(BOX, imagined_share=1.0, novelty_actions=3)
    recall.observe(walk(BOX, paid=0.0))
    recall.update()
    recall.buffer[0].mask[:] = False
    imagined = recall.imagine(500)
    assert imagined is not None
    assert not bool(imagined[1].any())


def test_they_are_kept_as_long_as_traces_and_saved_with_them():
    recall = make_recall(BOX, buffer_updates=2, novelty_actions=4)
    for _ in range(3):
        recall.observe(walk(BOX, paid=0.0))
        recall.update()
    assert len(recall.explorations) == len(recall.buffer) == 2
    same = make_recall(BOX, buffer_updates=2, novelty_actions=4)
    same.load_state_dict(recall.state_dict())
    assert torch.equal(same.sample(100).actions, recall.sample(100).actions)


def test_none_can_be_asked_for():
    recall = make_recall(BOX, novelty_actions=0)
    recall.observe(walk(BOX, paid=0.0))
    recall.update()
    drawn = recall.sample(200)
    torch.testing.assert_close(drawn.actions, torch.tensor([0.5, 1.0]).expand(2, 200, 2))
    same = make_recall(BOX, novelty_actions=0)
    same.load_state_dict(recall.state_dict())
    assert torch.equal(same.sample(100).obs, recall.sample(100).obs)
