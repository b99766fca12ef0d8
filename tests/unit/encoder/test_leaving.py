"""The rules by which texts leave, against answers worked out by hand."""

import math

import numpy as np
import pytest

from bertpress.encoder.exit_specs import ExitRule, ExitTable
from bertpress.encoder.leaving import (
    Leaving,
    agree,
    bound,
    chosen_exits,
    entropy,
    patience,
    speeds,
    table_for,
    uncertainty,
)

EXITS = (1, 2, 3, 4)
ENTROPY, UNCERTAINTY, PATIENCE = (ExitRule(criterion=name) for name in ("entropy", "uncertainty", "patience"))


def answers(rows=200, classes=3, seed=0):
    """(rows, exits, classes), surer from exit to exit on the whole."""
    drawn = np.random.default_rng(seed).normal(size=(rows, 4, classes))
    return (drawn * np.array([0.5, 1.0, 2.0, 4.0])[None, :, None]).astype(np.float32)


def said(labels):
    """Logits of one row that says these classes, exit by exit: (1, exits, 3)."""
    return np.eye(3, dtype=np.float32)[np.array(labels)][None] * 5


def test_entropy_by_hand():
    found = entropy(np.log(np.array([[0.5, 0.25, 0.25], [0.9, 0.05, 0.05]])))
    expected = [1.5 * math.log(2), -(0.9 * math.log(0.9) + 0.1 * math.log(0.05))]
    assert found == pytest.approx(expected, abs=1e-12)
    assert uncertainty(np.zeros((1, 7)))[0] == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("size", [1e4, -1e4])
def test_entropy_of_large_logits_is_a_number(size):
    logits = np.array([[size, 0, 0], [size, size, 0], [size, size, size]], np.float32)
    chances = {1e4: [0, math.log(2), math.log(3)], -1e4: [math.log(2), 0, math.log(3)]}[size]
    assert entropy(logits) == pytest.approx(chances, abs=1e-9)
    assert (entropy(logits) >= 0).all()


@pytest.mark.parametrize("rule", [ENTROPY, UNCERTAINTY, PATIENCE])
def test_speed_0_leaves_nowhere_even_without_any_entropy(rule):
    sure = np.tile(np.array([1e4, 0, 0], np.float32), (5, 4, 1))
    assert (entropy(sure[:, 0]) == 0).all()
    assert (chosen_exits(rule, 0.0, EXITS, sure) == 3).all()


@pytest.mark.parametrize("rule", [ENTROPY, UNCERTAINTY])
def test_speed_1_leaves_at_the_first_exit(rule):
    assert (chosen_exits(rule, 1.0, EXITS, np.zeros((5, 4, 3), np.float32)) == 0).all()


@pytest.mark.parametrize("rule", [ENTROPY, UNCERTAINTY, PATIENCE])
def test_more_speed_leaves_no_later(rule):
    found = np.stack([chosen_exits(rule, speed, EXITS, answers()) for speed in speeds(rule, 4)])
    assert (np.diff(found.astype(int), axis=0) <= 0).all()
    assert len(np.unique(found)) > 1


def test_entropy_must_be_below_and_uncertainty_at_most_the_threshold():
    even = np.log(np.array([[[0.5, 0.5]]] * 1)).repeat(4, axis=1)  # uncertainty 1 at every exit
    half = chosen_exits(ENTROPY, 0.999, EXITS, even)
    assert half[0] == 3
    exact = float(uncertainty(np.array([[3.0, 1.0]]))[0])
    row = np.tile(np.array([3.0, 1.0]), (1, 4, 1))
    assert chosen_exits(ENTROPY, exact, EXITS, row)[0] == 3
    assert chosen_exits(UNCERTAINTY, exact, EXITS, row)[0] == 0


def test_a_text_leaves_by_entropy_at_the_first_exit_below_the_threshold():
    everything, speed = answers(), 0.4
    below = np.stack([entropy(everything[:, i]) < speed * math.log(3) for i in range(4)], axis=1)
    below[:, 3] = True
    assert np.array_equal(chosen_exits(ENTROPY, speed, EXITS, everything), below.argmax(1))


@pytest.mark.parametrize(
    ("labels", "streak", "layer"),
    [
        ([0, 0, 0, 0], 1, 2),  # the earliest layer is patience + 1
        ([0, 0, 0, 0], 2, 3),
        ([0, 1, 1, 1], 1, 3),
        ([0, 1, 0, 0], 1, 4),
        ([0, 0, 1, 1], 2, 4),
        ([0, 0, 0, 0], 4, 4),
    ],
)
def test_patience_by_hand(labels, streak, layer):
    speed = (4 - streak) / 4
    assert patience(speed, 4) == streak
    assert EXITS[chosen_exits(PATIENCE, speed, EXITS, said(labels))[0]] == layer


def test_disagreement_starts_the_count_anew():
    exits, labels = (1, 2, 3, 4, 5, 6), [0, 0, 1, 1, 1, 0]  # counts 0, 1, 0, 1, 2
    assert exits[chosen_exits(PATIENCE, 4 / 6, exits, said(labels))[0]] == 5


def test_patience_with_scores():
    scores = np.array([[[1.0], [1.4], [2.0], [2.1]]])
    rule = ExitRule(criterion="patience", tolerance=0.5)
    assert EXITS[chosen_exits(rule, 0.75, EXITS, scores)[0]] == 2
    strict = ExitRule(criterion="patience", tolerance=0.3)
    assert EXITS[chosen_exits(strict, 0.75, EXITS, scores)[0]] == 4
    assert agree(np.array([[1.0]]), np.array([[1.5]]), 0.5).tolist() == [False]


@pytest.mark.parametrize("rule", [ENTROPY, UNCERTAINTY, PATIENCE])
def test_rows_that_left_change_nothing_for_those_that_stay(rule):
    everything, speed = answers(), 0.5
    rows, leaving = np.arange(len(everything)), Leaving(rule, speed, EXITS)
    found = np.zeros(len(everything), int)
    for number in range(4):
        done = leaving.rows(everything[rows, number])
        found[rows[done]] = number
        rows = rows[~done]
        leaving.stay(~done)
    assert np.array_equal(found, chosen_exits(rule, speed, EXITS, everything))


def test_a_table_bounds_the_layer():
    table = ExitTable(speed=0.2, edges=(0.1, 0.6), layers=(1, 2, 4))
    assert bound(table, np.array([0.0, 0.1, 0.5, 0.6, 0.9])).tolist() == [1, 2, 2, 4, 4]
    rule = ExitRule(criterion="entropy", tables=(table, table.model_copy(update={"speed": 0.4, "layers": (1, 1, 2)})))
    assert table_for(rule, 0.1) is None
    assert table_for(rule, 0.3) == table
    assert table_for(rule, 0.5).layers == (1, 1, 2)
    unsure = np.log(np.array([[[0.9, 0.1]]])).repeat(4, axis=1)  # uncertainty 0.47: never below 0.2
    assert EXITS[chosen_exits(rule, 0.2, EXITS, unsure)[0]] == 2
    assert EXITS[chosen_exits(rule, 0.1, EXITS, unsure)[0]] == 4


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"edges": (0.1,), "layers": (1,)}, "layers must be one more than the 1 edges, not 1"),
        ({"edges": (0.1, 0.05), "layers": (1, 2, 3)}, "edges must not fall"),
        ({"edges": (0.1,), "layers": (2, 1)}, "layers must not fall"),
    ],
)
def test_tables_are_checked(fields, message):
    with pytest.raises(ValueError, match=message):
        ExitTable(speed=0.5, **fields)
