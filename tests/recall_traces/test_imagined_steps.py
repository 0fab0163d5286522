"""Recalled steps for the critics of an off-policy learner."""

import dataclasses
from typing import Any

import pytest
import torch
from recall_helpers import SMALL, make_recall, walk

from recall_traces import BacktrackingConfig, Transitions


@pytest.mark.parametrize("terminal", [False, True])
def test_imagined_steps_lead_on_pay_and_end_as_the_recorded_ones(terminal: bool) -> None:
    """A way of 6 steps that is always the same: the model knows it by heart."""
    # What pays is arriving in state 6; the model is asked for rewards of its own draws, which a fit this long gets right.
    options: dict[str, Any] = {"source": "return", "candidates": 1, "model_updates": 400}
    recall = make_recall(imagined_share=0.25, model=BacktrackingConfig(kind="network", hidden=(32,)), **options)
    way = walk(0, 1, 2, 3, 4, 5, 6, reward=1.0)
    if not terminal:
        way = dataclasses.replace(way, terminated=torch.zeros_like(way.terminated), truncated=way.terminated)
    for _ in range(4):
        recall.observe(way)
    assert make_recall().imagine(400) is None
    recall.update()
    found = recall.imagine(400)
    assert found is not None
    steps, known = found
    assert steps.rewards.shape == known.shape == (1, 100)
    assert bool(known.all())
    right = steps.next_obs == steps.obs + 1
    assert right.float().mean() > 0.9
    last = right & (steps.next_obs == 6)
    assert bool(last.any())
    expected = (steps.next_obs == 6).float()
    assert (steps.rewards - expected)[right].abs().mean() < 0.1
    assert torch.equal(steps.terminated[last], torch.full_like(steps.terminated[last], terminal))
    assert not bool(steps.terminated[right & ~last].any())
    assert not bool(steps.truncated.any())


def test_steps_into_states_that_were_never_recorded_are_not_imagined() -> None:
    """They might end an episode; the steps before them do not."""
    model = BacktrackingConfig(kind="network", hidden=(8,))
    recall = make_recall(source="given", given=torch.tensor([6]), imagined_share=0.5, model=model, candidates=1)
    recall.observe(walk(0, 1, 2, 3, 4, 5, 6, reward=1.0))
    recall.update()
    [traces] = recall.buffer
    assert not bool(traces.known_end[..., -1].any())
    assert bool(traces.known_end[..., :-1].all())
    assert bool(traces.mask[..., -1].any())
    traces.obs[..., -1] = -1
    steps, known = recall.imagine(400)
    assert bool(known.all())
    assert not bool((steps.obs == -1).any())


def test_a_seed_without_traces_imagines_nothing() -> None:
    recall = make_recall(num_seeds=2, source="return", imagined_share=0.5, model=SMALL)
    without = walk(0, 1, 2, 3)
    both = (
        torch.cat([a, b], 1) for a, b in zip(vars(walk(0, 1, 2, 3, reward=1.0)).values(), vars(without).values(), strict=True)
    )
    recall.observe(Transitions(*both))
    recall.update()
    found = recall.imagine(10)
    assert found is not None
    assert found[1].tolist() == [[True] * 5, [False] * 5]
