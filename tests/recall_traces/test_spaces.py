import itertools

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.wrappers import TransformAction

from recall_traces.spaces import (
    UnsupportedSpaceError,
    check_action_space,
    check_observation_space,
    factor_sizes,
    num_states,
    state_at,
    state_index,
    tensor_dtype,
    tensor_shape,
)

BOX = spaces.Box(-1, 1, (3,))


def test_states_are_numbered_in_mixed_radix_and_back() -> None:
    space = spaces.MultiDiscrete([3, 2, 4])
    values = torch.tensor(list(itertools.product(range(3), range(2), range(4))))
    torch.testing.assert_close(state_index(values, space), torch.arange(24))
    torch.testing.assert_close(state_at(torch.arange(24), space), values)
    assert num_states(space) == 24
    batch = values.view(2, 3, 4, 3)
    assert torch.equal(state_at(state_index(batch, space), space), batch)


def test_a_discrete_value_is_its_own_number() -> None:
    values = torch.randint(7, (2, 5))
    assert state_index(values, spaces.Discrete(7)) is values
    assert state_at(values, spaces.Discrete(7)) is values
    assert factor_sizes(spaces.Discrete(7)) == [7]


@pytest.mark.parametrize(
    ("space", "dtype", "shape"),
    [(BOX, torch.float32, (3,)), (spaces.Discrete(4), torch.int64, ()), (spaces.MultiDiscrete([4, 5]), torch.int64, (2,))],
)
def test_tensor_of_a_space(space: spaces.Space, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    assert check_observation_space(space) is space
    assert (tensor_dtype(space), tensor_shape(space)) == (dtype, shape)


@pytest.mark.parametrize(
    ("space", "wrapper"),
    [
        (spaces.Dict({"x": BOX}), "FlattenObservation"),
        (spaces.Tuple([BOX]), "FlattenObservation"),
        (spaces.MultiBinary(3), "FlattenObservation"),
        (spaces.Box(0, 255, (8, 8, 3), np.uint8), "FlattenObservation"),
        (spaces.MultiDiscrete([[2, 2], [2, 2]]), "FlattenObservation"),
        (spaces.Text(5), "TransformObservation"),
        (spaces.Sequence(BOX), "no fixed size.*TransformObservation"),
        (spaces.Dict({"x": spaces.Graph(BOX, None)}), "no fixed size.*TransformObservation"),
    ],
)
def test_an_unsupported_observation_space_is_named_with_the_wrapper_that_helps(space: spaces.Space, wrapper: str) -> None:
    with pytest.raises(UnsupportedSpaceError, match=wrapper) as error:
        check_observation_space(space)
    assert str(space) in str(error.value)


@pytest.mark.parametrize(
    ("space", "wrapper"),
    [
        (spaces.Box(-np.inf, np.inf, (2,)), "TransformAction"),
        (spaces.Box(-1, 1, (2, 2)), "TransformAction"),
        (spaces.MultiDiscrete([3, 3]), "TransformAction"),
        (spaces.MultiBinary(3), "TransformAction"),
    ],
)
def test_an_unsupported_action_space_is_named_with_the_wrapper_that_helps(space: spaces.Space, wrapper: str) -> None:
    with pytest.raises(UnsupportedSpaceError, match=wrapper) as error:
        check_action_space(space)
    assert str(space) in str(error.value)


@pytest.mark.parametrize("check", [check_observation_space, check_action_space])
def test_values_that_do_not_count_from_zero_are_refused(check) -> None:
    """They would index past a table's or an embedding's rows, into those of the next seed."""
    with pytest.raises(UnsupportedSpaceError, match="start"):
        check(spaces.Discrete(3, start=5))


class Acts(gymnasium.Env):
    """Keeps the action that it was given."""

    observation_space = BOX

    def __init__(self, action_space: spaces.Box) -> None:
        self.action_space = action_space

    def reset(self, *, seed=None, options=None):
        return self.observation_space.sample(), {}

    def step(self, action):
        self.action = action
        return self.observation_space.sample(), 0.0, False, False, {}


def test_the_wrapper_for_actions_without_bounds_gives_them_some() -> None:
    env = Acts(spaces.Box(-np.inf, np.inf, (2,)))
    with pytest.raises(UnsupportedSpaceError, match=r"TransformAction\(env, lambda action: action, Box\(-1, 1, \(2,\)\)\)"):
        check_action_space(env.action_space)
    wrapped = TransformAction(env, lambda action: action, spaces.Box(-1, 1, (2,)))
    assert check_action_space(wrapped.action_space) == spaces.Box(-1, 1, (2,))
    wrapped.reset()
    wrapped.step(np.array([0.25, -1.0]))
    assert env.action.tolist() == [0.25, -1.0]


def test_the_wrapper_for_a_dimension_without_a_choice_leaves_it_out() -> None:
    env = Acts(spaces.Box(np.float32([-1, 3]), np.float32([1, 3])))
    with pytest.raises(UnsupportedSpaceError, match=r"action dimension 1 has low == high \(3\).*TransformAction"):
        check_action_space(env.action_space)
    wrapped = TransformAction(env, lambda action: np.insert(action, 1, 3), spaces.Box(-1, 1, (1,)))
    check_action_space(wrapped.action_space)
    wrapped.reset()
    wrapped.step(np.array([0.5]))
    assert env.action.tolist() == [0.5, 3.0]
