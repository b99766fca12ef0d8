"""Choosing: probabilities in closed form, who goes on, who wins."""

import math

import pytest

from bertpress.search.aim import Aim, Tried, best_cost, finalists, foreseen, probability, promotion
from bertpress.search.ending import front, sure, winner_of
from bertpress.tasks.bootstrap import Drop

AIM = Aim(max_drop=1.0)


def drop(value, error=0.1):
    return Drop(value=value, low=value - 1.96 * error, high=value + 1.96 * error)


def tried(name, cost, value, rung=0, trial=None, kind="student", error=0.1):
    lost = None if value is None else drop(value, error)
    return Tried(name=name, kind=kind, rung=rung, recipe={}, trial=trial, cost=cost, drop=lost)


@pytest.mark.parametrize(("deviations", "expected"), [(0, 0.5), (1, 0.8413), (-1, 0.1587), (1.96, 0.975)])
def test_probability_is_that_of_a_normal_error(deviations, expected):
    assert probability(drop(1.0 - 0.3 * deviations, error=0.3), 1.0) == pytest.approx(expected, abs=1e-4)


def test_an_interval_without_width_is_certain():
    assert [probability(Drop(value=v, low=v, high=v), 1.0) for v in (1.0, 1.1)] == [1.0, 0.0]
    assert probability(None, 1.0) == 0.0


def test_the_cheapest_that_is_sure_wins_and_a_likely_one_does_not():
    everything = [tried("bits", 10, 0.2), tried("risky", 2, 0.95), tried("good", 4, 0.5), tried("failed", None, None)]
    assert [each.name for each in finalists(everything, AIM, 2)] == ["good", "bits"]
    assert best_cost(everything, AIM) == 4
    assert best_cost([*everything, tried("good-exits", 3, 0.5, kind="compound")], AIM) == 4
    assert [each.name for each in finalists(everything, AIM.model_copy(update={"confidence": 0.6}), 1)] == ["risky"]


def test_without_a_sure_one_the_likeliest_is_returned():
    everything = [tried("far", 1, 4.0), tried("near", 5, 1.2), tried("failed", None, None)]
    assert [each.name for each in finalists(everything, AIM, 3)] == ["near"]
    assert best_cost(everything, AIM) == math.inf


def test_each_longer_run_leaves_two_thirds_of_what_is_lost():
    found = [foreseen(tried("a", 1, 5.4, rung=1), rung) for rung in (1, 2, 4)]
    assert found == pytest.approx([5.4, 3.6, 1.6])


def test_one_of_three_goes_on_the_cheapest_that_will_keep_the_limit():
    first = [tried("a", 3, 1.3, trial=0), tried("b", 2, 1.4, trial=1)]
    assert promotion(first, AIM, rungs=2) is None
    assert promotion(first, AIM, rungs=2, eager=True).name == "b"
    three = [*first, tried("c", 1, 1.6, trial=2)]
    assert promotion(three, AIM, rungs=2).name == "b"
    assert promotion(three, AIM, rungs=3).name == "c"  # loses 0.71 after two longer runs
    assert promotion(three, AIM, rungs=1) is None
    gone = [*three, tried("b-2", 2, 1.1, rung=2, trial=1)]  # a run in between was left out
    assert promotion(gone, AIM, rungs=3) is None
    assert promotion(gone, AIM, rungs=3, eager=True).name == "c"


def test_where_none_will_keep_the_limit_the_one_that_loses_least_goes_on_once_nothing_else_is_left():
    students = [tried("a", 3, 5.0, trial=0), tried("b", 2, 4.5, trial=1), tried("c", 1, 9.0, trial=2)]
    assert promotion(students, AIM, rungs=2) is None
    assert promotion(students, AIM, rungs=2, eager=True).name == "b"


def test_what_is_dearer_than_a_sure_one_does_not_go_on():
    anchor, dear = tried("bits", 4, 0.0, kind="anchor"), tried("a", 5, 1.1, trial=0)
    assert promotion([anchor, dear], AIM, rungs=2, eager=True) is None
    cheap = tried("b", 3, 1.4, trial=1)
    assert promotion([anchor, dear, cheap], AIM, rungs=2, eager=True).name == "b"


def test_the_front_is_what_nothing_beats():
    everything = [
        tried("a", 1, 5.0),
        tried("b", 2, 3.0),
        tried("c", 3, 3.0),
        tried("d", 4, 0.0),
        tried("e", None, None),
    ]
    assert front(everything) == ["a", "b", "d"]


@pytest.mark.parametrize(("target", "name"), [("latency", "b"), ("memory", "a"), ("size", "c")])
def test_the_winner_is_chosen_by_what_was_measured(target, name):
    chosen = [tried("a", 2, 0.1), tried("b", 3, 0.2), tried("c", 1, 0.3)]
    clocked = {
        each: {"latency_ms": {"median": ms}, "peak_memory_bytes": held}
        for each, ms, held in (("a", 5, 1), ("b", 4, 2), ("c", 6, 3))
    }
    assert winner_of(chosen, clocked, Aim(target=target)).name == name


@pytest.mark.parametrize(
    ("value", "words"), [(0.2, "the whole interval"), (0.9, "but its interval reaches beyond"), (1.1, "does not keep")]
)
def test_validation_has_the_last_word(value, words):
    found = sure(tried("a", 1, 0.5), {"drop": drop(value, error=0.2).model_dump()}, AIM)
    assert words in found["holds"]
    assert found["probability"] == 1.0
