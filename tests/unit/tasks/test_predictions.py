import numpy as np
import pytest
import torch

from bertpress.tasks import (
    BucketSampler,
    Collate,
    Rows,
    describe,
    encode,
    from_texts,
    keep,
    predictions,
    references,
    resolve,
    row_scores,
)

SST2 = resolve("sst2", id2label=["no", "yes"])


def test_classes_scores_and_several_labels(wordpiece):
    logits = [np.array([2.0, -1.0]), np.array([0.0, 1.0])]
    encoded = encode(SST2, from_texts(SST2, ["the cat", "a dog"]), wordpiece, training=False)
    assert predictions(SST2, encoded, logits) == [0, 1]
    several = resolve("sst2", id2label=["a", "b"], multi_label=True)
    assert predictions(several, encode(several, encoded.rows, wordpiece, training=False), logits) == [[0], [1]]
    stsb = resolve("stsb")
    encoded = encode(stsb, from_texts(stsb, [("a", "b")]), wordpiece, training=False)
    assert predictions(stsb, encoded, iter([np.array([2.5])])) == [2.5]


def test_cosines(wordpiece):
    task = resolve("sentence-similarity")
    encoded = encode(task, from_texts(task, [("a", "b"), ("c", "d")]), wordpiece, training=False)
    vectors = [np.array(v, np.float32) for v in ([2, 0], [3, 0], [1, 1], [0, 0])]
    assert predictions(task, encoded, vectors) == pytest.approx([1.0, 0.0])


def test_windows_are_averaged(wordpiece):
    task = resolve("sst2", max_length=16, windows=True, stride=4, id2label=["no", "yes"])
    encoded = encode(task, from_texts(task, ["the cat", "a b c d e f g h i j k l " * 2]), wordpiece, training=False)
    logits = [np.array([0.0, 1.0]), np.array([3.0, 0.0]), np.array([0.0, 1.0])]
    assert predictions(task, encoded, logits) == [1, 0]
    np.testing.assert_allclose(row_scores(task, encoded, logits)[1], [1.5, 0.5])
    for wrong in (logits[:2], [*logits, logits[0]]):
        with pytest.raises(ValueError, match="zip"):
            predictions(task, encoded, wrong)


@pytest.mark.parametrize("windows", [False, True])
def test_tags_of_long_texts(wordpiece, windows):
    """Windows tag every word; truncation leaves O behind."""
    tokens = [*"abcdefghijkl", "playing", "in", "paris", ",", *"abcd"]
    task = resolve(
        "token-classification", id2label=["O", "B-x"], max_length=16, windows=windows, stride=6 if windows else 0
    )
    encoded = encode(task, from_texts(task, [tokens]), wordpiece, training=False)
    logits = []
    for i in range(len(encoded)):  # tag the words at even places
        words = encoded.words[encoded.tokens(i)]
        logits.append(np.stack([np.zeros(len(words)), np.where(words % 2 == 0, 1.0, -1.0)], -1))
    (tags,) = predictions(task, encoded, logits)
    known = 20 if windows else 13
    assert tags == ["B-x" if k % 2 == 0 and k < known else "O" for k in range(20)]


def test_the_window_with_more_context_decides(wordpiece):
    task = resolve("token-classification", id2label=["O", "B-x"], max_length=16, windows=True, stride=6)
    encoded = encode(task, from_texts(task, [[*"abcdefghijklabcdefgh"]]), wordpiece, training=False)
    assert len(encoded) == 2
    first, second = (encoded.words[encoded.tokens(i)] for i in range(2))
    shared = sorted(set(first[first >= 0]) & set(second[second >= 0]))
    assert shared == [8, 9, 10, 11, 12, 13]
    logits = [np.tile([0.0, s], (16, 1)) for s in (1.0, -1.0)]  # the first window says B-x, the second O
    (tags,) = predictions(task, encoded, logits)
    assert tags == ["B-x"] * 11 + ["O"] * 9


def test_answers_over_windows_and_n_best(wordpiece):
    task = resolve("squad", max_length=32, stride=8)
    context = "the cat sat on a red mat in paris , france . " * 2 + "who is it ? the film was good !"
    encoded = encode(task, from_texts(task, [("who", context)]), wordpiece, training=False)
    logits = [np.zeros((n, 2), np.float32) for n in encoded.lengths]
    last = encoded.lengths[-1] - 2
    logits[-1][last - 3, 0] = logits[-1][last, 1] = 3
    logits[0][4, 0] = logits[0][5, 1] = 2
    logits[0][0] = 50  # the first special token is no part of the context
    (answer,) = predictions(task, encoded, logits, n_best=3)
    assert answer["text"] == "film was good !"
    assert context[answer["start"] : answer["end"]] == answer["text"]
    assert answer["score"] == 6
    scores = [a["score"] for a in answer["n_best"]]
    assert scores == sorted(scores, reverse=True)
    assert len({(a["start"], a["end"]) for a in answer["n_best"]}) == 3


def test_longest_answer_and_no_answer(wordpiece):
    task = resolve("squad")
    encoded = encode(task, from_texts(task, [("who", "the cat sat on a red mat")]), wordpiece, training=False)
    logits = np.zeros((encoded.lengths[0], 2), np.float32)
    logits[3, 0] = logits[9, 1] = 5
    assert predictions(task, encoded, [logits])[0]["text"] == "the cat sat on a red mat"
    short = task.replace(max_answer_length=3)
    encoded.task = short
    assert len(predictions(short, encoded, [logits])[0]["text"].split()) <= 3
    encoded.task = task.replace(unanswerable=True)
    logits[0] = 6
    assert predictions(encoded.task, encoded, [logits])[0]["text"] == ""
    empty = encode(task, from_texts(task, [("who", "")]), wordpiece, training=False)
    assert predictions(task, empty, [np.zeros((empty.lengths[0], 2))])[0] == {
        "text": "",
        "start": 0,
        "end": 0,
        "score": 0.0,
    }


@pytest.mark.parametrize("name", ["sst2", "wnut17", "squad"])
def test_batches_in_any_order_give_the_same_answers(wordpiece, name):
    """keep() undoes padding: logits computed from ids alone, batched and shuffled, predict as one by one."""
    columns = {
        "sst2": {"sentence": ["the cat", "a red dog sat", "film", "who is it ?"]},
        "wnut17": {"tokens": [["the", "cats"], ["playing"], ["a", "red", "dog"], ["it"]]},
        "squad": {"question": ["who"] * 4, "context": ["the cat sat", "a dog", "the film was good", "it"]},
    }[name]
    task = resolve(name, id2label=["O", "B-x"]) if name != "squad" else resolve(name)
    encoded = encode(task, Rows(columns), wordpiece, training=False)
    table = torch.randn(len(wordpiece), 2, generator=torch.Generator().manual_seed(0))

    def run(batches):
        kept = [None] * len(encoded)
        for batch in (Collate(0, multiple_of=8)([encoded[i] for i in chosen]) for chosen in batches):
            scores = table[batch["input_ids"]]
            logits = scores.mul(batch["attention_mask"][..., None]).sum(1) if name == "sst2" else scores
            for i, array in zip(batch["index"].tolist(), keep(task, batch, logits), strict=True):
                kept[i] = array
        return predictions(task, encoded, kept)

    assert run(BucketSampler(encoded.lengths, 3)) == run([[i] for i in range(4)])


def test_masked_language_model(wordpiece):
    task = resolve("masked-lm").replace(masked_share=0.5)
    encoded = encode(task, Rows({"text": ["the cat sat on a red mat", "dog"]}), wordpiece, training=False)
    batch = Collate(0)([encoded[0], encoded[1]])
    certain = torch.nn.functional.one_hot(batch["labels"].clamp(min=0), len(wordpiece)).float() * 100
    uniform = torch.zeros_like(certain)
    right, chance = (predictions(task, encoded, keep(task, batch, x)) for x in (certain, uniform))
    masked = (batch["labels"] != -100).sum(1).tolist()
    assert masked == [4, 1]
    assert [row["tokens"] for row in right] == [row["correct"] for row in right] == masked
    assert [row["loss"] for row in right] == pytest.approx([0, 0], abs=1e-5)
    assert [row["loss"] for row in chance] == pytest.approx([n * np.log(len(wordpiece)) for n in masked], rel=1e-5)
    assert references(task, encoded.rows) == [None, None]


def test_references():
    assert references(SST2, Rows({"sentence": ["a", "b"], "label": ["yes", 0]})) == [1, 0]
    answers = {
        "question": ["q"] * 2,
        "context": ["the cat"] * 2,
        "answers": [{"text": ["cat", "the"], "answer_start": [4, 0]}, {"text": [], "answer_start": []}],
    }
    assert references(resolve("squad"), Rows(answers)) == [["cat", "the"], []]
    assert references(resolve("stsb"), Rows({"sentence1": ["a"], "sentence2": ["b"], "label": ["2.5"]})) == [2.5]


def test_what_users_read(wordpiece):
    encoded = encode(SST2, from_texts(SST2, ["the cat"]), wordpiece, training=False)
    assert describe(SST2, encoded, [np.array([0.0, np.log(3.0)])]) == [
        {"label": "yes", "score": 0.75, "scores": {"no": 0.25, "yes": 0.75}}
    ]
    several = resolve("sst2", id2label=["a", "b"], multi_label=True)
    encoded = encode(several, encoded.rows, wordpiece, training=False)
    assert describe(several, encoded, [np.array([0.0, np.log(3.0)])]) == [
        {"labels": ["b"], "scores": {"a": 0.5, "b": 0.75}}
    ]
    tagger = resolve("token-classification", id2label=["O", "B-x", "I-x"])
    encoded = encode(tagger, from_texts(tagger, ["in red paris"]), wordpiece, training=False)
    (said,) = describe(tagger, encoded, [np.eye(3)[[0, 0, 1, 2, 0]]])
    assert said["tags"] == ["O", "B-x", "I-x"]
    assert said["entities"] == [{"type": "x", "text": "red paris", "start": 1, "end": 3}]
    squad = resolve("squad")
    encoded = encode(squad, from_texts(squad, [("who", "the cat")]), wordpiece, training=False)
    logits = np.zeros((encoded.lengths[0], 2))
    logits[4] = 1
    assert describe(squad, encoded, [logits]) == [{"answer": "cat", "start": 4, "end": 7, "score": 2.0}]
