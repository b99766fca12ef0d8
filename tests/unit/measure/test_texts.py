import json

import numpy as np
import pytest

from bertpress.errors import ModelError
from bertpress.measure.texts import Answers, Reader, from_wire, to_wire


@pytest.fixture
def write_model(tmp_path, write_tokenizer):
    def write(**config):
        write_tokenizer(tmp_path)
        fields = {"architectures": ["BertForSequenceClassification"], **config}
        (tmp_path / "config.json").write_text(json.dumps(fields))
        return tmp_path

    return write


@pytest.mark.parametrize("text", ["a b", ("a", "b c"), ["a", "b"]])
def test_the_wire_keeps_texts_pairs_and_words_apart(text):
    assert from_wire(json.loads(json.dumps(to_wire(text)))) == text


def test_ids_segments_and_padding(write_model):
    reader = Reader(write_model(type_vocab_size=2))
    short, pair = reader.encode("a b"), reader.encode(("a", "b x"))
    assert short == {"input_ids": [2, 5, 6, 3], "attention_mask": [1] * 4, "token_type_ids": [0] * 4}
    assert pair["token_type_ids"] == [0, 0, 0, 1, 1, 1]
    assert reader.encode(["a", "b"]) == short
    batch = reader.collate([short, pair])
    assert batch["input_ids"].tolist() == [[2, 5, 6, 3, 0, 0], [2, 5, 3, 6, 1, 3]]
    assert batch["attention_mask"].sum(1).tolist() == [4, 6]


def test_pads_are_the_models_own(write_model):
    reader = Reader(write_model(pad_token_id=4, type_vocab_size=1))
    batch = reader.collate([reader.encode("a"), reader.encode("a b")])
    assert batch["input_ids"].tolist() == [[2, 5, 3, 4], [2, 5, 6, 3]]
    assert "token_type_ids" not in batch


@pytest.mark.parametrize(
    "config",
    [{"max_position_embeddings": 5}, {"blueprint": {"embeddings": {"positions": 7, "first_position": 2}}}],
)
def test_no_text_is_longer_than_the_model(write_model, config):
    reader = Reader(write_model(**config), max_length=100)
    assert reader.encode("a b c d e f g h")["input_ids"] == [2, 5, 6, 7, 3]


def test_a_question_is_kept_whole(write_model):
    reader = Reader(write_model(architectures=["BertForQuestionAnswering"]), max_length=7)
    assert reader.encode(("a b c", "d e f g"))["input_ids"] == [2, 5, 6, 7, 3, 8, 3]


def test_texts_of_a_pair_are_embedded_one_by_one(write_model):
    reader = Reader(write_model(blueprint={"head": {"kind": "embedding"}, "embeddings": {}}))
    assert [one["input_ids"] for one in reader.features(("a", "b"))] == [[2, 5, 3], [2, 6, 3]]


def test_bad_folders(write_model):
    folder = write_model()
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(ModelError, match=r"tokenizer.json: is no tokenizer"):
        Reader(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(ModelError, match=r"config.json: is not JSON"):
        Reader(folder)


ONES = np.ones((2, 3), np.int64)


@pytest.mark.parametrize(
    ("config", "logits", "expected"),
    [
        ({"id2label": {"0": "bad", "1": "good"}}, [[0.1, 0.2], [2, 1]], ["good", "bad"]),
        ({}, [[0.5], [-2.0]], [0.5, -2.0]),
        (
            {"problem_type": "multi_label_classification", "id2label": {"0": "x", "1": "y"}},
            [[1, 1], [-1, 1]],
            [["x", "y"], ["y"]],
        ),
        ({"architectures": ["BertForQuestionAnswering"]}, [[[0, 1], [2, 0], [1, 3]]] * 2, [[1, 2], [1, 2]]),
        ({"blueprint": {"head": {"kind": "embedding"}}}, [[1, 2], [3, 4]], [[1, 2], [3, 4]]),
    ],
)
def test_answers(write_model, config, logits, expected):
    answers = Answers(write_model(**config))
    assert answers.of(np.array(logits, np.float32), ONES) == expected


def test_tags_of_real_tokens_only(write_model):
    folder = write_model(architectures=["BertForTokenClassification"], id2label={"0": "O", "1": "B"})
    mask = np.array([[1, 1, 0]])
    assert Answers(folder).of(np.array([[[0, 1], [1, 0], [0, 1]]], np.float32), mask) == [["B", "O"]]
