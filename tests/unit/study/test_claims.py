"""Verdicts on made-up runs whose answer is known."""

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from bertpress.study.claims import (
    BOTTOM_LAYERS,
    FEWEST,
    HARMONY,
    LOCAL_BELOW,
    LOW_RANK,
    bottom_layers_matter,
    check,
    harmony_wins,
    local_below_hardly_hurts,
    low_rank_only_shrinks,
    matching_tokens,
)
from bertpress.tasks.bootstrap import mean_interval

BOTH = pytest.mark.parametrize(("of", "claim"), [(bottom_layers_matter, BOTTOM_LAYERS), (harmony_wins, HARMONY)])


@BOTH
def test_a_clear_difference_holds(of, claim):
    found = of([90.0, 88.0, 91.0, 85.0, 89.0, 90.0], [80.0, 79.0, 84.0, 80.0, 77.0, 83.0])
    assert (found.claim, found.pairs, found.verdict) == (claim, 6, "holds")
    assert found.value == pytest.approx(50 / 6)
    assert 5.0 < found.low < found.value < found.high < 12.0


@BOTH
def test_the_other_way_round_it_does_not(of, claim):
    assert of([80.0, 79.0, 84.0, 80.0, 77.0], [90.0, 88.0, 91.0, 85.0, 89.0]).verdict == "does not hold here"


def test_a_difference_that_may_be_chance_does_not_hold():
    found = bottom_layers_matter([90.0, 80.0, 90.0, 80.0, 86.0], [85.0, 85.0, 85.0, 85.0, 85.0])
    assert found.value == pytest.approx(0.2)
    assert found.low < 0 < found.high
    assert found.verdict == "does not hold here"


def test_pairs_count_and_not_the_spread_between_tasks():
    tasks = np.array([50.0, 60.0, 70.0, 80.0, 90.0, 95.0])
    found = check(HARMONY, tasks + np.array([0.9, 1.1, 1.0, 1.0, 0.8, 1.2]), tasks)
    assert found.verdict == "holds"
    assert found.high - found.low < 0.3


def test_few_pairs_give_no_verdict():
    found = bottom_layers_matter([90.0] * (FEWEST - 1), [10.0] * (FEWEST - 1))
    assert (found.verdict, found.value, found.low, found.high) == ("not enough runs", 80.0, None, None)
    assert bottom_layers_matter([], []).value is None
    with pytest.raises(ValueError):  # noqa: PT011
        bottom_layers_matter([1.0], [1.0, 2.0])


def test_the_interval_is_that_of_a_normal_mean_where_there_are_many():
    values = np.random.default_rng(0).normal(3.0, 2.0, 4000)
    mean, low, high = mean_interval(values.tolist())
    assert mean == pytest.approx(values.mean())
    error = 1.96 * values.std() / np.sqrt(len(values))
    assert (low, high) == (pytest.approx(mean - error, abs=0.1 * error), pytest.approx(mean + error, abs=0.1 * error))
    assert mean_interval([2.0, 2.0]) == (2.0, 2.0, 2.0)


def test_low_rank_is_smaller_and_no_faster():
    sizes = [60.0, 40.0, 60.0, 40.0, 50.0]
    found = low_rank_only_shrinks(sizes, [0.95, 1.05, 1.0, 0.9, 1.04])
    assert (found.claim, found.verdict) == (LOW_RANK, "holds")
    assert found.value == pytest.approx(1.1 - 0.988)
    assert low_rank_only_shrinks(sizes, [1.5, 1.4, 1.3, 1.6, 1.2]).verdict == "does not hold here"
    assert low_rank_only_shrinks([101.0, *sizes[1:]], [0.95, 1.05, 1.0, 0.9, 1.04]).verdict == "does not hold here"
    assert low_rank_only_shrinks([60.0], [1.0]).verdict == "not enough runs"


def test_local_attention_below_may_cost_a_point():
    full = [90.0, 85.0, 88.0, 91.0, 80.0]
    found = local_below_hardly_hurts([score - 0.5 for score in full], full)
    assert (found.claim, found.verdict) == (LOCAL_BELOW, "holds")
    assert found.value == pytest.approx(0.5)
    assert local_below_hardly_hurts([score - 1.5 for score in full], full).verdict == "does not hold here"


def pieces(*words):
    """A tokenizer of these word pieces."""
    ids = {word: i for i, word in enumerate(["[UNK]", *words])}
    backend = Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]")


def test_tokens_match_where_both_cut_alike():
    large = pieces("un", "##known", "film", "films", "a", "##s")
    small = pieces("un", "##known", "film", "##s", "a")
    # by hand: a | un ##known | films | film, of which "films" is cut in two
    assert matching_tokens(["a unknown films", "film"], large, small) == pytest.approx(100 * 4 / 5)
    assert matching_tokens(["a unknown films", "film"], large, large) == 100
    assert matching_tokens(["film", "q"], pieces("film", "q"), pieces("film")) == 50  # the unknown matches nothing
    with pytest.raises(ValueError, match="no tokens"):
        matching_tokens([""], large, small)
