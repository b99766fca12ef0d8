"""Rows that are timed: as long as what will be served."""

from statistics import median

import numpy as np
import pytest

from bertpress.search.rows import around


def test_half_are_longer_and_half_are_not():
    lengths = np.random.default_rng(0).integers(1, 40, 1000).tolist()
    chosen = around(lengths, 30, 200, seed=1)
    assert chosen == sorted(set(chosen))
    assert len(chosen) == 200
    assert sum(lengths[i] > 30 for i in chosen) == 100
    assert 29 <= median(lengths[i] for i in chosen) <= 32
    assert around(lengths, 30, 200, seed=1) == chosen != around(lengths, 30, 200, seed=2)


def test_few_long_ones_make_few_in_all():
    assert around([5] * 50 + [60], 24, 20, seed=0)[-1] == 50
    assert len(around([5] * 50 + [60], 24, 20, seed=0)) == 2


@pytest.mark.parametrize(("tokens", "expected"), [(99, [1, 2]), (1, [0, 3])])
def test_where_all_lie_on_one_side_the_nearest_are_taken(tokens, expected):
    assert around([5, 9, 12, 4], tokens, 2, seed=0) == expected
