import torch

from recall_traces.draws import draw, draw_cumulative


def test_draws_follow_the_weights_and_say_who_has_none() -> None:
    weights = torch.zeros(2, 8)
    weights[0, 1], weights[0, 7] = 1.0, 3.0
    columns, some = draw(weights, 8000, torch.Generator().manual_seed(0))
    assert some.tolist() == [True, False]
    counts = columns[0].bincount(minlength=8)
    assert counts[[1, 7]].sum() == 8000
    assert abs(int(counts[1]) - 2000) < 250  # 6 standard deviations
    assert ((columns >= 0) & (columns < 8)).all()


def test_running_sums_give_the_same_draws() -> None:
    weights = torch.rand(3, 50, generator=torch.Generator().manual_seed(1))
    first, _ = draw(weights, 100, torch.Generator().manual_seed(2))
    second, _ = draw_cumulative(weights.double().cumsum(1), 100, torch.Generator().manual_seed(2))
    assert torch.equal(first, second)
