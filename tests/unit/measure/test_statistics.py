from math import comb

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertpress.measure.statistics import Latency, median_interval, paired_ratio, rounded


def test_latency_of_known_samples():
    latency = Latency.of([10.0] * 8 + [20.0, 30.0])
    assert latency.median == 10.0
    assert latency.p90 == pytest.approx(21.0)  # numpy's linear rule between the 9th and 10th of 10
    assert latency.samples[-1] == 30.0


@pytest.mark.parametrize("bad", [[], [1.0, -0.1], [float("nan")], [float("inf")]])
def test_latency_refuses(bad):
    with pytest.raises(ValueError, match="finite numbers >= 0"):
        Latency.of(bad)


def test_ratio_does_not_feel_drift():
    drift = [1.0, 1.0, 4.0, 9.0, 2.0, 1.5, 7.0, 1.0]  # the machine slows down, and both with it
    ratio = paired_ratio([3.0 * d for d in drift], [1.0 * d for d in drift])
    assert (ratio.value, ratio.low, ratio.high) == (3.0, 3.0, 3.0)


def test_ratio_is_of_pairs_and_not_of_medians():
    assert paired_ratio([1.0, 10.0, 10.0], [1.0, 1.0, 10.0]).value == 1.0


def test_ratio_refuses_unpaired_and_zero():
    with pytest.raises(ValueError, match="2 and 1"):
        paired_ratio([1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="above 0"):
        paired_ratio([1.0], [0.0])


@pytest.mark.parametrize(("count", "rank"), [(6, 1), (10, 2), (20, 6), (25, 8), (50, 18)])
def test_interval_ranks_of_the_sign_test(count, rank):
    # ranks of the tables in Conover, Practical Nonparametric Statistics, for 95 %
    assert median_interval([float(i) for i in range(1, count + 1)]) == (rank, count + 1 - rank)


@given(st.integers(6, 60))
def test_interval_covers_at_least_what_it_says_and_is_the_shortest(count):
    low, high = median_interval([float(i) for i in range(1, count + 1)])
    rank = int(low)

    def outside(k):
        return 2 * sum(comb(count, i) for i in range(k)) / 2**count

    assert high == count + 1 - rank
    assert outside(rank) <= 0.05 < outside(rank + 1)


def test_interval_of_few_values_is_their_range():
    assert median_interval([3.0, 1.0, 2.0]) == (1.0, 3.0)
    assert median_interval([5.0]) == (5.0, 5.0)


def test_rounded_keeps_the_shape():
    assert rounded({"a": [1.23456789, 2], "b": ({"c": 0.1 + 0.2},)}) == {"a": [1.2346, 2], "b": [{"c": 0.3}]}
