import json
import weakref

import numpy as np
import pytest
import torch

from bertpress.artifact import load, save
from bertpress.encoder.model import build_model
from bertpress.errors import DataError, EngineError
from bertpress.tasks import from_records, resolve

TAGS = ("O", "B-person", "I-person")


def artifact_for(task, shape, tokenizer, folder):
    torch.manual_seed(1)
    model = build_model(shape.replace(head=task.head()))
    if getattr(model.head, "classifier", None) is not None:
        model.head.classifier.weight.data.mul_(40)
    return save(model, tokenizer, task, folder)


def logits(artifact, *texts):
    inputs = artifact.tokenizer(*texts, return_tensors="pt")
    with torch.no_grad():
        return artifact.model(**inputs).logits[0]


@pytest.fixture
def classifier(shape, tokenizer, task, tmp_path):
    return artifact_for(task, shape, tokenizer, tmp_path / "classifier")


def test_classes(classifier):
    texts = ["good film", "the plot is not very good", "bad"]
    answers = list(classifier.predict(texts, threads=1))
    for text, answer in zip(texts, answers, strict=True):
        expected = logits(classifier, text).softmax(-1).tolist()
        assert answer["scores"] == pytest.approx({"bad": expected[0], "good": expected[1]}, abs=1e-5)
        assert answer["label"] == ("good" if expected[1] > expected[0] else "bad")
        assert answer["score"] == max(answer["scores"].values())
        json.dumps(answer)


def test_several_labels(shape, tokenizer, tmp_path):
    task = resolve("text-classification", multi_label=True, id2label=["x", "y", "z"], max_length=32)
    artifact = artifact_for(task, shape, tokenizer, tmp_path / "a")
    (answer,) = artifact.predict(["good film"], threads=1)
    chances = logits(artifact, "good film").sigmoid().tolist()
    assert answer["scores"] == pytest.approx(dict(zip("xyz", chances, strict=True)), abs=1e-5)
    assert answer["labels"] == [name for name, chance in zip("xyz", chances, strict=True) if chance > 0.5]


def test_a_number(shape, tokenizer, tmp_path):
    artifact = artifact_for(resolve("stsb", max_length=32), shape, tokenizer, tmp_path / "a")
    (answer,) = artifact.predict([("good film", "bad plot")], threads=1)
    assert answer == {"score": pytest.approx(float(logits(artifact, "good film", "bad plot")), abs=1e-5)}


def test_tags_know_their_characters(shape, tokenizer, tmp_path):
    task = resolve("wnut17", id2label=TAGS, max_length=32)
    artifact = artifact_for(task, shape, tokenizer, tmp_path / "a")
    text = "anna  wrote the the plot"
    (answer, listed) = artifact.predict([text, text.split()], threads=1)
    assert [text[a["start"] : a["end"]] for a in answer] == [a["word"] for a in answer] == text.split()
    assert {a["label"] for a in answer} <= set(TAGS)
    best = logits(artifact, " ".join(text.split())).argmax(-1).tolist()[1:-1]
    assert [a["label"] for a in answer] == [TAGS[i] for i in best]
    assert [(a["word"], a["label"]) for a in listed] == [(a["word"], a["label"]) for a in answer]
    assert [a["start"] for a in listed] == [0, 5, 11, 15, 19]


def test_answers_know_their_characters(shape, tokenizer, tmp_path):
    artifact = artifact_for(resolve("squad", max_length=32), shape, tokenizer, tmp_path / "a")
    context = "anna wrote the plot in rome ."
    (answer,) = artifact.predict([{"question": "who wrote it ?", "context": context}], threads=1)
    assert context[answer["start"] : answer["end"]] == answer["answer"] != ""
    assert set(answer) == {"answer", "score", "start", "end"}


def test_vectors_and_cosines(shape, tokenizer, tmp_path):
    task = resolve("sentence-similarity", max_length=32)
    artifact = artifact_for(task, shape, tokenizer, tmp_path / "a")
    a, b = (np.array(answer["embedding"]) for answer in artifact.predict(["good film", "bad"], threads=1))
    assert np.linalg.norm(a) == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(a, logits(artifact, "good film").numpy(), atol=1e-5)
    (pair,) = artifact.predict([("good film", "bad")], threads=1)
    assert pair["score"] == pytest.approx(float(a @ b), abs=1e-5)


def test_order_does_not_depend_on_batches(classifier):
    texts = [" ".join(["good", "bad", "film", "plot"][: 1 + i % 4]) for i in range(23)]
    one, many = (list(classifier.predict(texts, batch_size=size, threads=1)) for size in (1, 8))
    assert [a["label"] for a in one] == [a["label"] for a in many]
    assert [a["score"] for a in one] == pytest.approx([a["score"] for a in many], abs=1e-5)


def test_texts_are_read_as_they_are_answered(classifier):
    read = []

    def texts():
        for i in range(100):
            read.append(i)
            yield "good film"

    answers = classifier.predict(texts(), batch_size=4, threads=1)
    assert read == []
    next(answers)
    assert len(read) == 4


def test_texts_are_forgotten_when_they_are_answered(classifier):
    class Text(str):  # a str has no weak references, a subclass has
        pass

    alive = weakref.WeakSet()

    def texts():
        for i in range(200):
            text = Text(f"good film {i}")
            alive.add(text)
            yield text

    most = 0
    for _ in classifier.predict(texts(), batch_size=8, threads=1):
        most = max(most, len(alive))
    assert most <= 2 * 8


def test_wrong_questions_are_one_line(classifier, shape, tokenizer, tmp_path):
    with pytest.raises(DataError, match="put a single one into a list"):
        classifier.predict("good film")
    with pytest.raises(DataError, match="batch_size=0 must be at least 1"):
        classifier.predict(["good"], batch_size=0)
    with pytest.raises(DataError, match="input line 34, column 'sentence'"):
        list(classifier.predict([*["good"] * 33, 5], threads=1))
    with pytest.raises(EngineError, match="engine=tpu must be one of"):
        classifier.predict(["good"], engine="tpu")
    with pytest.raises(EngineError, match="bertpress export"):
        classifier.predict(["good"], engine="openvino")
    bare = save(build_model(shape), tokenizer, None, tmp_path / "bare")
    with pytest.raises(DataError, match="bare: the artifact has no task"):
        bare.predict(["good"])
    with pytest.raises(DataError, match="bare: the artifact has no task"):
        bare.evaluate()
    masked = artifact_for(resolve("masked-lm", max_length=32), shape, tokenizer, tmp_path / "masked")
    with pytest.raises(DataError, match="masked language model has no answers"):
        masked.predict(["good"])


def test_it_is_scored_from_disk(classifier, tmp_path):
    texts = ["good film", "bad plot", "the very good", "not good", "rome"]
    labels = [answer["label"] for answer in classifier.predict(texts, threads=1)]
    labels[0] = {"good": "bad", "bad": "good"}[labels[0]]
    rows = [{"sentence": text, "label": label} for text, label in zip(texts, labels, strict=True)]
    scores = load(classifier.path).evaluate(from_records(rows), threads=1)
    assert next(iter(scores)) == "accuracy"
    assert scores["accuracy"].value == 80.0
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "validation.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    again = classifier.evaluate(tmp_path / "data", batch_size=2, threads=1)
    assert again["accuracy"].value == 80.0


def test_measured_figures_are_entered(classifier):
    metric = {"name": "accuracy", "value": 91.5, "low": 90.0, "high": 93.0}
    classifier.record({"artifact": {"metric": metric, "speedup": float("inf")}})
    classifier.record({"environment": {"cpu": {"name": "Some CPU"}}})
    found = load(classifier.path)
    assert found.manifest == classifier.manifest
    assert found.manifest.metrics["artifact"] == {"metric": metric, "speedup": None}
    assert "accuracy 91.50 (90.00 to 93.00)" in (classifier.path / "README.md").read_text()
    found.verify()


def test_its_name_is_its_place(classifier):
    assert repr(classifier) == f"Artifact({str(classifier.path)!r})"
