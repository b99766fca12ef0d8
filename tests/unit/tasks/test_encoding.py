import logging

import numpy as np
import pytest

from bertpress.errors import DataError, ModelError
from bertpress.tasks import Rows, encode, from_texts, resolve, with_labels

SST2 = resolve("sst2", id2label=["no", "yes"])


def sst2(*sentences, labels=None):
    columns = {"sentence": list(sentences)}
    return Rows({**columns, "label": labels} if labels else columns, source="s.csv")


def words(tokenizer, item):
    return tokenizer.convert_ids_to_tokens(item["input_ids"].tolist())


def test_ids_are_those_of_the_tokenizer(wordpiece):
    texts = ["the cat sat", "a dogs playing film , good !", ""]
    encoded = encode(SST2, sst2(*texts, labels=[0, 1, 1]), wordpiece, training=True)
    for i, text in enumerate(texts):
        wanted = wordpiece(text)
        assert encoded[i]["input_ids"].tolist() == wanted["input_ids"]
        assert encoded[i]["token_type_ids"].tolist() == wanted["token_type_ids"]
    assert [item["labels"] for item in encoded] == [0, 1, 1]
    assert [item["index"] for item in encoded] == [0, 1, 2]
    assert encoded.lengths == [5, 11, 2]


def test_pairs_and_tokenizers_without_segments(wordpiece, bytelevel):
    rows = from_texts(resolve("mrpc"), [("the cat", "a red cat sat"), ("is it", "good")])
    for tokenizer in (wordpiece, bytelevel):
        encoded = encode(resolve("mrpc"), rows, tokenizer, training=False)
        for i, pair in enumerate([("the cat", "a red cat sat"), ("is it", "good")]):
            wanted = tokenizer(*pair)
            wanted.pop("attention_mask")
            item = encoded[i]
            assert item.pop("index") == i
            assert {k: v.tolist() for k, v in item.items()} == dict(wanted)


def test_truncation_is_that_of_the_tokenizer_and_reported_once(wordpiece, caplog):
    long, short = "the cat sat on a red mat " * 5, "the cat"
    task = resolve("mrpc", max_length=16)
    rows = Rows({"sentence1": [long, short, long], "sentence2": [short, short, long]}, "train")
    with caplog.at_level(logging.WARNING):
        encoded = encode(task, rows, wordpiece, training=True)
    for i in range(3):
        wanted = wordpiece(rows.columns["sentence1"][i], rows.columns["sentence2"][i], truncation=True, max_length=16)
        assert encoded[i]["input_ids"].tolist() == wanted["input_ids"]
    assert encoded.shortened == 2
    assert [r.message for r in caplog.records] == ["mrpc train: 2 of 3 texts exceed 16 tokens; truncated"]
    assert encoded.note == caplog.records[0].message


def test_the_tokenizers_own_settings_survive(wordpiece):
    backend = wordpiece.backend_tokenizer
    backend.enable_truncation(5)
    backend.enable_padding(length=7)
    try:
        before = backend.truncation, backend.padding
        encoded = encode(SST2, sst2("the cat sat on the red mat"), wordpiece, training=False)
        assert encoded.lengths == [9]
        assert (backend.truncation, backend.padding) == before
    finally:
        backend.no_truncation()
        backend.no_padding()


def test_the_model_bounds_the_length(wordpiece):
    wordpiece.model_max_length, before = 6, wordpiece.model_max_length
    try:
        assert encode(SST2, sst2("the cat sat on the red mat"), wordpiece, training=False).lengths == [6]
    finally:
        wordpiece.model_max_length = before


def test_windows_cover_the_text_with_the_stride(wordpiece):
    text = "a b c d e f g h i j k l a b c d e f g h i j k l"
    task = resolve("sst2", max_length=16, windows=True, stride=4, id2label=["no", "yes"])
    encoded = encode(task, sst2("the cat", text, labels=[1, 0]), wordpiece, training=True)
    assert encoded.row_of.tolist() == [0, 1, 1]
    pieces = [words(wordpiece, encoded[i])[1:-1] for i in (1, 2)]
    assert pieces[0][-4:] == pieces[1][:4]
    assert pieces[0] + pieces[1][4:] == text.split()
    assert [item["labels"] for item in encoded] == [1, 0, 0]
    assert encoded.note == "sst2 train: 1 of 2 texts exceed 16 tokens; cut into windows"


def test_tags_sit_on_first_sub_tokens(wordpiece):
    rows = Rows(
        {"tokens": [["cats", "playing", "in", "paris", "."], ["don't", "slow"]], "ner_tags": [[0, 0, 0, 1, 0], [0, 2]]}
    )
    task = with_labels(resolve("token-classification", id2label=["O", "B-l", "I-l"]), rows)
    encoded = encode(task, rows, wordpiece, training=True)
    assert words(wordpiece, encoded[0]) == ["[CLS]", "cats", "play", "##ing", "in", "paris", ".", "[SEP]"]
    assert encoded[0]["labels"].tolist() == [-100, 0, 0, -100, 0, 1, 0, -100]
    assert words(wordpiece, encoded[1])[-2] == "slow"
    assert encoded[1]["labels"].tolist() == [-100, 0, -100, -100, 2, -100]


def test_tags_match_word_ids_of_transformers(wordpiece, bytelevel):
    """Oracle: is_split_into_words and word_ids(), where the tokenizer can; words as a reader sees them, elsewhere."""
    tokens = [["the", "cats", "sat", ",", "it's", "1945", "PARIS"], ["mat"], ["", "dog", "\u200b", "é"]]
    rows = Rows({"tokens": tokens, "ner_tags": [[0] * len(t) for t in tokens]})
    task = resolve("token-classification", id2label=["O", "B-l"])
    encoded = encode(task, rows, wordpiece, training=True)
    for i, words_ in enumerate(tokens):
        ids = wordpiece(words_, is_split_into_words=True).word_ids()
        first = [w is not None and (k == 0 or ids[k - 1] != w) for k, w in enumerate(ids)]
        assert (encoded[i]["labels"] == 0).tolist() == first
    encoded = encode(task, rows, bytelevel, training=True)
    for i, words_ in enumerate(tokens):
        where = encoded.words[encoded.tokens(i)]
        found = {int(w): k for k, w in enumerate(where) if w >= 0}
        assert set(found) == {k for k, word in enumerate(words_) if word}
        for word, position in found.items():
            piece = bytelevel.convert_ids_to_tokens([int(encoded[i]["input_ids"][position])])[0].removeprefix("Ġ")
            assert words_[word].startswith(piece) or not words_[word].isascii()


def test_sides_of_similarity_are_neighbours(wordpiece):
    rows = Rows({"sentence1": ["the cat", "a dog"], "sentence2": ["is it", "who"], "label": [1.0, 0.25]})
    encoded = encode(resolve("sentence-similarity"), rows, wordpiece, training=True)
    assert encoded.group == 2
    assert encoded.row_of.tolist() == [0, 0, 1, 1]
    assert [words(wordpiece, encoded[i])[1:-1] for i in range(4)] == [
        ["the", "cat"],
        ["is", "it"],
        ["a", "dog"],
        ["who"],
    ]
    assert [item.get("labels") for item in encoded] == [1.0, None, 0.25, None]


def test_several_labels(wordpiece):
    rows = sst2("the", "cat", labels=[["a", "c"], []])
    task = resolve("sst2", multi_label=True, id2label=["a", "b", "c"])
    assert [item["labels"].tolist() for item in encode(task, rows, wordpiece, training=True)] == [[1, 0, 1], [0, 0, 0]]


def test_a_question_longer_than_the_window_leaves_room(wordpiece):
    rows = Rows(
        {
            "question": ["who " * 60],
            "context": ["the cat sat on the mat " * 8],
            "answers": [{"text": ["cat"], "answer_start": [4]}],
        }
    )
    task = resolve("squad", max_length=32, stride=8)
    encoded = encode(task, rows, wordpiece, training=True)
    assert max(encoded.lengths) == 32
    assert words(wordpiece, encoded[0]).count("who") == 10  # (32 - 8 - 3 special tokens) // 2
    assert encoded.ends.max() >= len("the cat sat on the mat " * 8) - 1
    assert encoded[0]["start_positions"] > 0


def test_masks_of_training_and_evaluation(wordpiece):
    rows = Rows({"text": ["the cat sat on a red mat in paris , france ."] * 3})
    task = resolve("masked-lm")
    training, evaluation = (encode(task, rows, wordpiece, training=t) for t in (True, False))
    assert training.labelled
    first = training[0]["labels"].tolist()
    assert first == training[0]["labels"].tolist()
    training.set_epoch(1)
    assert first != training[0]["labels"].tolist()
    assert any(evaluation[i]["labels"].tolist() != evaluation[0]["labels"].tolist() for i in (1, 2))


@pytest.mark.parametrize(
    ("task", "columns", "message"),
    [
        (SST2, {"sentence": ["a", 7]}, "s.csv row 2, column 'sentence': the text must be a text, not int 7"),
        (SST2, {"sentence": [None]}, "s.csv row 1, column 'sentence': the text is missing"),
        (SST2, {"sentence": []}, "s.csv: no rows"),
        (SST2, {"sentence": ["a"], "label": [2]}, "s.csv row 1, column 'label': label 2 is neither"),
        (
            resolve("wnut17", id2label=["O", "B-x"]),
            {"tokens": [["a", "b"]], "ner_tags": [[0]]},
            "s.csv row 1, column 'ner_tags': 1 tags for 2 words",
        ),
        (resolve("wnut17", id2label=["O"]), {"tokens": [["a", 3]]}, "is not a list of words"),
        (
            resolve("squad"),
            {"question": ["q"], "context": ["the cat"], "answers": [{"text": ["cat"], "answer_start": [3]}]},
            "s.csv row 1, column 'answers': answer 'cat' is not at character 3 of the context (7 characters)",
        ),
        (
            resolve("squad"),
            {"question": ["q"], "context": ["c"], "answers": [7]},
            "s.csv row 1, column 'answers': needs texts with answer_start, got '7'",
        ),
        (resolve("stsb"), {"sentence1": ["a"], "sentence2": ["b"], "label": ["inf"]}, "score inf must be finite"),
    ],
)
def test_bad_rows(wordpiece, task, columns, message):
    with pytest.raises(DataError) as caught:
        encode(task, Rows(columns, source="s.csv"), wordpiece, training=True)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_bad_tokenizers(wordpiece):
    with pytest.raises(ModelError, match="a fast tokenizer"):
        encode(SST2, sst2("a"), type("Slow", (), {"model_max_length": 9})(), training=False)
    wordpiece.mask_token, before = None, wordpiece.mask_token
    try:
        with pytest.raises(DataError, match="masked-lm: the tokenizer has no mask token"):
            encode(resolve("masked-lm"), Rows({"text": ["a"]}), wordpiece, training=False)
    finally:
        wordpiece.mask_token = before


def test_order_does_not_matter_to_a_row(wordpiece):
    texts = [f"the {w} sat" for w in ["cat", "dog", "mat", "film"]]
    forward = encode(SST2, sst2(*texts), wordpiece, training=False)
    backward = encode(SST2, sst2(*texts[::-1]), wordpiece, training=False)
    for i in range(4):
        np.testing.assert_array_equal(forward[i]["input_ids"], backward[3 - i]["input_ids"])
