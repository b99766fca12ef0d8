"""Planted distributions, their ranges recovered; the order of the batches does not matter."""

import pytest
import torch

from bertpress.encoder.observers import Histogram


def of(*tensors):
    histogram = Histogram()
    for tensor in tensors:
        histogram(tensor)
    return histogram


def test_minmax_is_exact_and_holds_zero():
    assert of(torch.tensor([0.5, 3.0]), torch.tensor([1.0])).range("minmax") == (0.0, 3.0)
    assert of(torch.tensor([-2.0, -1.0])).range("minmax") == (-2.0, 0.0)


@pytest.mark.parametrize("rule", ["minmax", "percentile", "mse"])
def test_nothing_seen_constants_and_zeros(rule):
    assert of().range(rule) == (0.0, 0.0)
    assert of(torch.zeros(0)).range(rule) == (0.0, 0.0)
    assert of(torch.zeros(9)).range(rule) == (0.0, 0.0)
    low, high = of(torch.full((9,), 2.5)).range(rule)
    assert low == 0
    assert high == 2.5


def test_percentile_of_a_uniform_distribution():
    low, high = of(torch.linspace(-1, 3, 400_001)).range("percentile", 90.0)
    assert low == pytest.approx(-0.8, abs=2e-3)
    assert high == pytest.approx(2.8, abs=2e-3)
    assert of(torch.linspace(-1, 3, 401)).range("percentile", 100.0) == (-1.0, 3.0)


def test_percentile_cuts_a_lonely_outlier_and_mse_does_too():
    values = torch.randn(1_000_000, generator=torch.Generator().manual_seed(0))
    values[0] = 30.0
    seen = of(values)
    assert seen.range("minmax")[1] == 30.0
    assert 3.0 < seen.range("percentile", 99.9)[1] < 4.0
    assert seen.range("mse")[1] < 10.0


def test_mse_keeps_the_whole_range_where_cutting_costs_more():
    spread = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    assert of(spread, torch.tensor([30.0])).range("mse")[1] == 30.0
    assert of(torch.linspace(-1, 1, 10_001)).range("mse") == pytest.approx((-1, 1), abs=6e-3)


def test_counts_survive_doubling_and_order_does_not_matter():
    small = torch.linspace(-0.001, 0.001, 999)
    large = torch.linspace(-50, 70, 1001)
    one, other = of(small, large), of(large, small)
    assert one.seen == other.seen == 2000 == int(one.counts.sum())
    assert one.limit == other.limit >= 70
    assert one.range("percentile", 99.0) == pytest.approx(other.range("percentile", 99.0), abs=0.05)


def test_values_that_are_no_numbers_are_refused():
    with pytest.raises(ValueError, match="not finite"):
        of(torch.tensor([1.0, float("nan")]))
    with pytest.raises(ValueError, match="bins=6 must be"):
        Histogram(6)
