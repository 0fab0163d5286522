import numpy as np
import pytest
import torch
from gymnasium import spaces

from recall_traces.cells import MAX_CELLS, Cells


def make_cells(space: spaces.Space, seeds: int = 2, bins: int = 12) -> Cells:
    return Cells(space, seeds, bins, 0, "cpu")


def test_a_small_finite_space_has_a_cell_per_state() -> None:
    cells = make_cells(spaces.MultiDiscrete([5, 7]))
    states = torch.stack(torch.meshgrid(torch.arange(5), torch.arange(7), indexing="ij"), -1).view(1, 35, 2).expand(2, -1, -1)
    assert cells.num_cells == 35
    assert cells(states).tolist() == [list(range(35))] * 2


@pytest.mark.parametrize("space", [spaces.Discrete(10**6), spaces.MultiDiscrete([625, 625]), spaces.MultiDiscrete([1000] * 10)])
def test_a_large_finite_space_is_spread_over_all_cells(space: spaces.Space) -> None:
    cells = make_cells(space)
    generator = torch.Generator().manual_seed(0)
    sizes = torch.tensor(space.nvec if isinstance(space, spaces.MultiDiscrete) else [space.n])
    states = (torch.rand(1, 50_000, len(sizes), generator=generator) * sizes).long()
    states = states if isinstance(space, spaces.MultiDiscrete) else states[..., 0]
    hashed = cells(states.expand(2, *states.shape[1:]))
    counts = hashed[0].bincount(minlength=MAX_CELLS)
    assert torch.equal(hashed[0], hashed[1])
    assert len(counts) == MAX_CELLS
    assert int(counts.max()) < 20  # 3 on average


@pytest.mark.parametrize("factor", range(10))
def test_every_factor_of_a_large_space_matters(factor: int) -> None:
    cells = make_cells(spaces.MultiDiscrete([256] * 10), seeds=1)
    states = torch.zeros(1, 256, 10, dtype=torch.int64)
    states[0, :, factor] = torch.arange(256)
    assert len(cells(states).unique()) > 200


@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_a_bounded_box_is_cut_into_bins_that_are_told_apart(dimensions: int) -> None:
    cells = make_cells(spaces.Box(-2.0, 4.0, (dimensions,)), seeds=1)
    middle = -2 + 0.5 * (torch.arange(12) + 0.5)
    states = torch.cartesian_prod(*[middle] * dimensions).view(1, -1, dimensions)
    numbers = cells(states)
    assert torch.equal(cells(states + 0.24), numbers)
    assert torch.equal(cells(states - 0.24), numbers)
    assert ((numbers >= 0) & (numbers < cells.num_cells)).all()
    assert len(numbers.unique()) == 12**dimensions


def test_the_grid_of_an_unbounded_box_is_fixed_by_the_first_states_per_seed() -> None:
    cells = make_cells(spaces.Box(-np.inf, np.inf, (1,)))
    generator = torch.Generator().manual_seed(0)
    first = torch.randn(2, 500, 1, generator=generator) * torch.tensor([1.0, 100.0]).view(2, 1, 1)
    cells.calibrate(first)
    before = cells(first)
    for row in before:
        assert 8 <= len(row.unique()) <= 14
    cells.calibrate(first * 50 + 7)
    assert torch.equal(cells(first), before)


def test_a_box_with_a_dimension_that_cannot_vary_is_calibrated_once() -> None:
    cells = make_cells(spaces.Box(np.float32([0, -np.inf]), np.float32([0, np.inf])), seeds=1)
    first = torch.randn(1, 100, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([0.0, 1.0])
    cells.calibrate(first)
    before = cells(first)
    cells.calibrate(first * 50 + 7)
    assert torch.equal(cells(first), before)


def test_a_single_first_state_is_enough_to_calibrate() -> None:
    cells = make_cells(spaces.Box(-np.inf, np.inf, (2,)))
    cells.calibrate(torch.randn(2, 1, 2, generator=torch.Generator().manual_seed(0)))
    assert cells.width.isfinite().all()
    assert (cells.width > 0).all()


@pytest.mark.parametrize("size", [2, 17])
def test_far_away_states_still_have_a_cell(size: int) -> None:
    cells = make_cells(spaces.Box(-np.inf, np.inf, (size,)))
    cells.calibrate(torch.randn(2, 100, size, generator=torch.Generator().manual_seed(0)))
    numbers = cells(torch.tensor([0.0, 1e6, -1e6, 1e30, torch.inf, torch.nan]).view(1, 6, 1).expand(2, 6, size))
    assert ((numbers >= 0) & (numbers < MAX_CELLS)).all()


def test_many_dimensions_are_projected_so_that_near_is_same_and_far_is_not() -> None:
    cells = make_cells(spaces.Box(-1.0, 1.0, (17,)), seeds=1)
    states = torch.rand(1, 1000, 17, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert (cells(states) == cells(states + 1e-5)).float().mean() > 0.99
    assert len(cells(states).unique()) > 100


def test_a_saved_grid_comes_back() -> None:
    space = spaces.Box(-np.inf, np.inf, (2,))
    cells, other = make_cells(space), make_cells(space)
    states = torch.randn(2, 100, 2, generator=torch.Generator().manual_seed(0))
    cells.calibrate(states)
    other.load_state_dict(cells.state_dict())
    assert torch.equal(cells(states), other(states))
