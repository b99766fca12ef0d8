import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.functional.text import squad as scores_of_torchmetrics

from bertpress.errors import DataError
from bertpress.tasks import Rows, best_spans, encode, exact_match, predictions, references, resolve, score, text_f1
from bertpress.tasks.answers import Answer, gold_answers, normalize, span_of

CONTEXT = "The cat sat on a red mat in Paris, France. " * 3 + "Who is it? The film was good!"


def squad(*answers, context=CONTEXT):
    starts = [[context.index(text) for text in texts] for texts in answers]
    return Rows(
        {
            "question": ["who is it"] * len(answers),
            "context": [context] * len(answers),
            "answers": [{"text": list(t), "answer_start": s} for t, s in zip(answers, starts, strict=True)],
        }
    )


def oracle(encoded):
    """Logits that point at the encoded answer."""
    for i in range(len(encoded)):
        logits = np.zeros((encoded.lengths[i], 2), np.float32)
        logits[encoded[i]["start_positions"], 0] = logits[encoded[i]["end_positions"], 1] = 9
        yield logits


@pytest.mark.parametrize("length", [48, 40])
def test_gold_answers_survive_the_way_to_tokens_and_back(wordpiece, bytelevel, length):
    rows = squad(["red mat"], ["Paris"], ["film was good"], ["The cat sat on a"], ["it"], ["France"])
    task = resolve("squad", max_length=length, stride=length // 3)
    for tokenizer in (wordpiece, bytelevel):
        encoded = encode(task, rows, tokenizer, training=True)
        assert len(encoded) > len(rows)
        found = predictions(task, encoded, oracle(encoded))
        assert [answer["text"] for answer in found] == [texts[0] for texts in references(task, rows)]
        assert all(CONTEXT[a["start"] : a["end"]] == a["text"] for a in found)
        assert score(task, found, references(task, rows))["exact_match"].value == 100


def test_windows_without_the_answer_point_at_the_first_token(wordpiece):
    rows = squad(["film was good"])
    encoded = encode(resolve("squad", max_length=32, stride=8), rows, wordpiece, training=True)
    spans = [(item["start_positions"], item["end_positions"]) for item in encoded]
    assert spans[0] == (0, 0)
    assert spans[-1][0] > 0


def test_forms_of_answers():
    task = resolve("squad")
    form = {"text": ["cat"], "answer_start": [4]}
    forms = [form, json.dumps(form), [{"text": "cat", "answer_start": 4}], {"text": "cat", "answer_start": 4}]
    rows = Rows({"question": ["q"] * 4, "context": ["the cat"] * 4, "answers": forms})
    assert gold_answers(task, rows) == [[Answer("cat", 4)]] * 4
    bare = Rows(
        {
            "question": ["q"] * 3,
            "context": ["the cat"] * 3,
            "answers": ["cat", ["cat"], {"text": [], "answer_start": []}],
        }
    )
    assert gold_answers(task, bare) == [[Answer("cat", None)], [Answer("cat", None)], []]


@pytest.mark.parametrize(
    "value", ["{broken", {"text": ["a", "b"], "answer_start": [0]}, [{"answer_start": 1}], 5, None]
)
def test_what_is_no_answer(value):
    rows = Rows({"question": ["q"], "context": ["the cat"], "answers": [value]}, source="q.jsonl")
    with pytest.raises(DataError, match=r"q\.jsonl row 1, column 'answers': needs texts with answer_start, got "):
        gold_answers(resolve("squad"), rows)


def test_span_of_inexact_tokens():
    starts, ends = np.array([-1, 0, 4, 8, -1]), np.array([-1, 3, 7, 12, -1])
    assert span_of(Answer("he ca", 1), "the cat sits", starts, ends) == (1, 2)  # inside of tokens: whole tokens
    assert span_of(Answer("sits", None), "the cat sits", starts, ends) == (3, 3)
    assert span_of(Answer("dog", None), "the cat sits", starts, ends) == (0, 0)
    assert span_of(None, "the cat sits", starts, ends) == (0, 0)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 12), st.integers(1, 6), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_best_spans_against_brute_force(tokens, longest, count, seed):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(tokens, 2)).astype(np.float32)
    inside = rng.random(tokens) < 0.7
    every = [
        (float(logits[i, 0] + logits[j, 1]), i, j)
        for i in range(tokens)
        for j in range(i, min(i + longest, tokens))
        if inside[i] and inside[j]
    ]
    assert best_spans(logits, inside, longest, count) == sorted(every, reverse=True)[:count]


def test_scores_worked_by_hand():
    assert normalize("The  U.S.-led   An army!") == "usled army"
    assert exact_match("the Cat", ["a dog", "cat."]) == 1
    assert exact_match("cats", ["cat"]) == 0
    assert text_f1("the red cat sat", ["red cat", "x"]) == pytest.approx(2 * 2 / (3 + 2))
    assert text_f1("cat cat", ["cat"]) == pytest.approx(2 / 3)
    assert text_f1("", []) == exact_match("", []) == 1
    assert text_f1("cat", []) == text_f1("", ["cat"]) == exact_match("cat", []) == 0
    assert text_f1("dog", ["cat"]) == 0


def test_scores_are_those_of_torchmetrics():
    rng = np.random.default_rng(0)
    words = ["the", "a", "cat", "Cat.", "dog", "sat", "on,", "mat", "mats", "1945", "!"]
    texts = [" ".join(rng.choice(words, rng.integers(1, 6))) for _ in range(90)]
    said, truth = texts[:30], [[a, b] for a, b in zip(texts[30:60], texts[60:], strict=True)]
    truth[:8] = [[t, "x"] for t in said[:8]]
    wanted = scores_of_torchmetrics(
        [{"prediction_text": t, "id": str(i)} for i, t in enumerate(said)],
        [{"answers": {"text": t, "answer_start": [0, 0]}, "id": str(i)} for i, t in enumerate(truth)],
    )
    found = score(resolve("squad"), [{"text": t} for t in said], truth)
    assert found["exact_match"].value == pytest.approx(float(wanted["exact_match"]), abs=1e-4)
    assert found["f1"].value == pytest.approx(float(wanted["f1"]), abs=1e-4)
