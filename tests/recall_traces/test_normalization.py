import pytest
import torch

from recall_traces.normalization import NoNormalizer, RunningNormalizer


def test_batches_merge_to_the_statistics_of_all_of_them() -> None:
    generator = torch.Generator().manual_seed(0)
    shift, scale = torch.tensor([100.0, -3.0, 0.0]), torch.tensor([5.0, 0.01, 1.0])
    batches = [torch.randn(2, n, 3, generator=generator) * scale + shift + k for k, n in enumerate((1, 50, 7, 200, 3))]
    normalizer = RunningNormalizer(2, 3)
    for batch in batches:
        normalizer.update(batch)
    everything = torch.cat(batches, 1)
    # The prior has the weight of a ten-thousandth of a sample, mean 0 and variance 1, of 261 samples.
    torch.testing.assert_close(normalizer.mean, everything.mean(1, keepdim=True), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(normalizer.var, everything.var(1, keepdim=True, unbiased=False), rtol=1e-2, atol=1e-3)
    assert normalizer(everything).mean().abs() < 1e-3


def test_values_are_centred_scaled_and_clipped() -> None:
    normalizer = RunningNormalizer(1, 1, clip=3.0)
    normalizer.update(torch.tensor([8.0, 12.0]).view(1, 2, 1).repeat(1, 5000, 1))
    values = torch.tensor([10.0, 12.0, 8.0, 1000.0]).view(1, 4, 1)
    torch.testing.assert_close(normalizer(values).flatten(), torch.tensor([0.0, 1.0, -1.0, 3.0]), rtol=1e-3, atol=1e-3)
    normalizer.center = False
    torch.testing.assert_close(normalizer(values[:, :1] / 10).flatten(), torch.tensor([0.5]), rtol=1e-3, atol=1e-3)


def test_seeds_have_statistics_of_their_own() -> None:
    generator = torch.Generator().manual_seed(0)
    data = torch.randn(2, 100, 1, generator=generator) * torch.tensor([1.0, 7.0]).view(2, 1, 1)
    both, alone = RunningNormalizer(2, 1), RunningNormalizer(1, 1)
    both.update(data)
    alone.update(data[1:])
    torch.testing.assert_close(both(data)[1:], alone(data[1:]))


def test_an_empty_batch_changes_nothing() -> None:
    normalizer = RunningNormalizer(1, 2)
    normalizer.update(torch.randn(1, 10, 2, generator=torch.Generator().manual_seed(0)))
    before = {name: value.clone() for name, value in normalizer.state_dict().items()}
    normalizer.update(torch.zeros(1, 0, 2))
    for name, value in normalizer.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize("value", [0.0, 5.0])
def test_what_never_varies_stays_finite(value: float) -> None:
    normalizer = RunningNormalizer(1, 1)
    normalizer.update(torch.full((1, 10, 1), value))
    assert normalizer(torch.full((1, 3, 1), value)).isfinite().all()


def test_no_normalizer_does_nothing() -> None:
    values = torch.randn(1, 3, 2)
    nothing = NoNormalizer()
    nothing.update(values)
    assert nothing(values) is values


def test_what_is_broken_in_a_seed_that_is_left_out_does_not_count() -> None:
    normalizer = RunningNormalizer(2, 1)
    values = torch.tensor([[[1.0], [2.0]], [[torch.nan], [2.0]]])
    normalizer.update(values, torch.tensor([True, False]))
    assert normalizer.mean.flatten().tolist() == pytest.approx([1.5, 0.0], abs=1e-3)
    assert bool(normalizer.var.isfinite().all())


def test_the_root_mean_square_is_about_zero() -> None:
    normalizer = RunningNormalizer(1, 1, center=False)
    normalizer.update(torch.tensor([[[3.0], [4.0]]]))
    assert float(normalizer.root_mean_square) == pytest.approx(12.5**0.5, rel=1e-3)
