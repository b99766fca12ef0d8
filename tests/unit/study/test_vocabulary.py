"""Coverage counted by hand."""

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from bertpress import tasks
from bertpress.study import vocabulary
from bertpress.study.vocabulary import coverage, matching_tokens


class Words:
    """A tokenizer of a large vocabulary: a piece for every word."""

    def __len__(self):
        return 2_500

    def __call__(self, texts, *, add_special_tokens):
        assert not add_special_tokens
        return {"input_ids": [text.split() for text in texts]}


def test_the_most_frequent_pieces_come_first(monkeypatch):
    monkeypatch.setattr(vocabulary, "SIZES", (1, 2, 3_000))
    rows = tasks.texts_of(("text",), tasks.from_records([{"text": "c b a"}, {"text": "b a a a"}], split="train"))
    found = coverage(rows, Words())
    assert (found["tokens"], found["pieces"]) == (7, 3)
    assert found["coverage"] == pytest.approx({"1": 4 / 7, "2": 6 / 7})  # 3,000 is more than there are


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
