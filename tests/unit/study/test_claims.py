"""Verdicts on made-up runs whose answer is known."""

from functools import partial

import numpy as np
import pytest

from bertpress.study.claims import BOTTOM_LAYERS, FEWEST, HARMONY, check, decide, settled
from bertpress.tasks.bootstrap import mean_interval

BOTH = pytest.mark.parametrize(
    ("of", "claim"), [(partial(check, BOTTOM_LAYERS), BOTTOM_LAYERS), (partial(check, HARMONY), HARMONY)]
)


@BOTH
def test_a_clear_difference_holds(of, claim):
    found = of([90.0, 88.0, 91.0, 85.0, 89.0, 90.0], [80.0, 79.0, 84.0, 80.0, 77.0, 83.0])
    assert (found.claim, found.pairs, found.verdict) == (claim, 6, "holds")
    assert found.value == pytest.approx(50 / 6)
    assert 5.0 < found.low < found.value < found.high < 12.0


@BOTH
def test_the_other_way_round_it_does_not(of, claim):
    assert of([80.0, 79.0, 84.0, 80.0, 77.0], [90.0, 88.0, 91.0, 85.0, 89.0]).verdict == "does not hold here"


def test_a_difference_that_may_be_chance_decides_nothing():
    found = check(BOTTOM_LAYERS, [90.0, 80.0, 90.0, 80.0, 86.0], [85.0, 85.0, 85.0, 85.0, 85.0])
    assert found.value == pytest.approx(0.2)
    assert found.low < 0 < found.high
    assert found.verdict == "not enough runs"


def test_pairs_count_and_not_the_spread_between_tasks():
    tasks = np.array([50.0, 60.0, 70.0, 80.0, 90.0, 95.0])
    found = check(HARMONY, tasks + np.array([0.9, 1.1, 1.0, 1.0, 0.8, 1.2]), tasks)
    assert found.verdict == "holds"
    assert found.high - found.low < 0.3


def test_few_pairs_give_no_verdict():
    found = check(BOTTOM_LAYERS, [90.0] * (FEWEST - 1), [10.0] * (FEWEST - 1))
    assert (found.verdict, found.value, found.low, found.high) == ("not enough runs", 80.0, None, None)
    assert check(BOTTOM_LAYERS, [], []).value is None
    with pytest.raises(ValueError):  # noqa: PT011
        check(BOTTOM_LAYERS, [1.0], [1.0, 2.0])


def test_the_interval_is_that_of_a_normal_mean_where_there_are_many():
    values = np.random.default_rng(0).normal(3.0, 2.0, 4000)
    mean, low, high = mean_interval(values.tolist())
    assert mean == pytest.approx(values.mean())
    error = 1.96 * values.std() / np.sqrt(len(values))
    assert (low, high) == (pytest.approx(mean - error, abs=0.1 * error), pytest.approx(mean + error, abs=0.1 * error))
    assert mean_interval([2.0, 2.0]) == (2.0, 2.0, 2.0)


def test_a_margin_and_a_wider_interval_change_the_verdict():
    lost = [-0.5, -0.4, -0.6, -0.5, -0.3, -0.7]
    assert decide(HARMONY, lost).verdict == "does not hold here"
    assert decide(HARMONY, lost, above=-1.0).verdict == "holds"
    narrow, wide = (decide(HARMONY, lost, confidence=level) for level in (0.8, 0.999))
    assert wide.low < narrow.low < narrow.value < narrow.high < wide.high


def test_what_follows_from_a_shape_has_no_interval():
    found = settled(HARMONY, 21.8, True, unit="percent", evidence=["BERT-base"])
    assert (found.low, found.value, found.high, found.verdict) == (21.8, 21.8, 21.8, "holds")
    assert settled(HARMONY, 0.0, False, unit="percent").verdict == "does not hold here"
