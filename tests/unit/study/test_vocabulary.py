"""Coverage counted by hand."""

import pytest

from bertpress import tasks
from bertpress.study import vocabulary
from bertpress.study.vocabulary import coverage


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
