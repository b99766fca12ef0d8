"""Recipes of candidates: what a student is cut to, and how much it sees."""

import pytest

from bertpress.search.candidates import EXAMPLES, RUNGS, Space


def space(**changes):
    common = {
        "target": "latency", "depth": 6, "engine": "openvino", "tokens": 24, "rows": 60_000, "whole": True,
        "runtime": "openvino", "trims": True, "leaves": True,
    }  # fmt: skip
    return Space(**{**common, **changes})


def cut(found):
    """Settings by method, and of training, of a student's first stage."""
    stage = found.recipe.to_dict()["stages"][0]
    return {name: settings for use in stage["use"] for name, settings in use.items()}, stage["train"]


def student(width, rung=0, layers=4, **changes):
    choices = {"layers": layers, "width": width, "keep": 0.5, "learning_rate": 1e-4}
    return space(**changes).student(choices, 7, rung)


def test_even_layers_all_keep_the_same_share():
    used, _ = cut(student("even"))
    assert used["student/transformer"]["layers"] == 4
    assert (used["student/transformer"]["heads"], used["student/transformer"]["ffn"]) == (0.5, 0.5)
    assert "prune/fisher" not in used


def test_layers_of_their_own_width_are_chosen_by_information_at_the_served_length():
    used, _ = cut(student("own"))
    assert used["student/transformer"]["heads"] is None
    chosen = used["prune/fisher"]
    assert (chosen["keep"], chosen["budget"], chosen["tokens"]) == (0.5, "latency", 24)
    assert (chosen["tune"], chosen["damping"]) == ("weights", 0.1)
    assert "student/transformer" not in cut(student("own", layers=6))[0]


def test_products_of_two_factors_get_factors():
    assert cut(student("own", whole=False))[0]["prune/fisher"]["tune"] == "factors"


@pytest.mark.parametrize("rows", [60_000, 500])
def test_a_longer_run_sees_new_rows_while_there_are_any(rows):
    for rung, times in enumerate(RUNGS):
        found = student("even", rung, rows=rows)
        _, train = cut(found)
        assert found.examples == times * min(EXAMPLES, rows)
        assert train["max_examples"] == min(found.examples, rows)
        assert train["epochs"] * train["max_examples"] == pytest.approx(found.examples)


def test_exits_begin_with_the_stages_of_what_they_are_put_on():
    below = student("even", 2)
    found = space().with_exits(below, 0.5)
    stages, before = found.recipe.to_dict()["stages"], below.recipe.to_dict()["stages"]
    assert stages[0] == before[0]
    assert [stage["name"] for stage in stages] == ["cut", "exits", "quantize"]
    assert (found.below, found.examples) == (below.name, 2 * EXAMPLES)
    assert space().with_exits(below, 0.0) is None
