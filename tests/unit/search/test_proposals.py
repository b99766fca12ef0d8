"""The sampler: what was enqueued comes first, what is open is asked again, what went on is the same."""

import pytest

from bertpress.errors import UserError
from bertpress.search import proposals
from bertpress.search.proposals import Proposals

FIRST = [
    {"layers": 6, "width": "own", "keep": 0.5, "learning_rate": 1e-4},
    {"layers": 4, "width": "even", "keep": 0.35, "learning_rate": 1e-4},
]


def anything(_):
    return True


def told(found, answers):
    """Ask and answer; returns what was proposed."""
    seen = []
    for _ in range(answers):
        number, choices = found.next(anything)
        found.answer(number, choices["layers"] * choices["keep"], 10 * (1 - choices["keep"]))
        seen.append(choices)
    return seen


def test_the_first_come_first_and_the_others_lie_in_the_space(tmp_path):
    seen = told(Proposals(tmp_path, 6, 0, FIRST), 6)
    assert seen[:2] == FIRST
    for choices in seen:
        assert 2 <= choices["layers"] <= 6
        assert 0.1 <= choices["keep"] <= 0.9
        assert choices["width"] in ("even", "own")
    assert len({tuple(choices.values()) for choices in seen}) == 6


def test_one_that_goes_on_proposes_the_same(tmp_path):
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    whole.mkdir()
    parted.mkdir()
    undisturbed = told(Proposals(whole, 6, 7, FIRST), 6)
    seen = told(Proposals(parted, 6, 7, FIRST), 3)
    open_one = Proposals(parted, 6, 7, FIRST).next(anything)  # asked, and killed before an answer
    again = Proposals(parted, 6, 7, FIRST)
    assert again.next(anything) == open_one
    assert [*seen, *told(again, 3)] == undisturbed


def test_what_is_too_dear_is_not_proposed(tmp_path):
    found = Proposals(tmp_path, 6, 0, FIRST)
    assert found.next(lambda choices: choices["layers"] <= 4).choices == FIRST[1]
    found.answer(1, 1.4, float("inf"))  # a failure
    assert found.next(lambda choices: False) is None


def test_it_says_what_is_missing(monkeypatch):
    monkeypatch.setattr(proposals, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"^search: optuna is not installed; pip install 'bertpress\[search\]'$"):
        proposals.check_installed()
