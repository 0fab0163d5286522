import dataclasses

import pytest
import torch

from recall_traces import Traces, Transitions


def transitions(*leading: int) -> Transitions:
    flags = torch.zeros(leading, dtype=torch.bool)
    return Transitions(
        torch.zeros(*leading, 2), torch.zeros(leading).long(), torch.zeros(leading), torch.zeros(*leading, 2), flags, flags
    )


@pytest.mark.parametrize("field", ["obs", "actions", "next_obs", "terminated", "truncated"])
def test_a_field_with_other_leading_axes_is_named(field: str) -> None:
    good = transitions(4, 3)
    with pytest.raises(ValueError, match=rf"Transitions\.{field} has shape \(3, 4.*must start with \(4, 3\)"):
        dataclasses.replace(good, **{field: getattr(good, field).transpose(0, 1)})


def test_map_reaches_every_field_and_leaves_the_original() -> None:
    batch = transitions(4, 3)
    swapped = batch.map(lambda x: x.transpose(0, 1))
    assert [tuple(value.shape[:2]) for value in vars(swapped).values()] == [(3, 4)] * 6
    assert batch.rewards.shape == (4, 3)


def test_traces_with_unequal_axes_are_refused() -> None:
    mask = torch.ones(2, 5, 3, dtype=torch.bool)
    Traces(torch.zeros(2, 5, 3, 7), torch.zeros(2, 5, 3), mask, mask.float())
    with pytest.raises(ValueError, match=r"Traces\.actions has shape \(2, 5, 4\); it must start with \(2, 5, 3\)"):
        Traces(torch.zeros(2, 5, 3, 7), torch.zeros(2, 5, 4), mask, mask.float())
