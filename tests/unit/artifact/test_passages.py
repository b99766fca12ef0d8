"""Kept passages: the same answers as without, one computation each; what is cut or changed is made anew."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from deformed import PASSAGES, TASK, deformed

from bertpress import tasks
from bertpress.artifact.predict import logits_of
from bertpress.engines.states import States, packed, unpacked
from bertpress.errors import ArtifactError, DataError
from bertpress.export.parity import parity
from bertpress.inputs import passages_of
from bertpress.methods.attention.deformer import Deformer

QUESTIONS = [
    {"question": "who wrote it ?", "passage": "rome"},
    {"question": "where was it ?", "passage": "paris"},
    {"question": "what was the film ?", "passage": "film"},
    {"question": "what was cold and what was bright ?", "passage": "paris"},
]
ENGINES = ["torch", "openvino", pytest.param("onnxruntime", marks=pytest.mark.slow)]


@pytest.fixture(scope="module")
def made(tmp_path_factory, tiny_model):
    """A tiny answerer of one separate layer, exported."""
    found = deformed(tmp_path_factory.mktemp("deformed") / "model", tiny_model)
    found.export("openvino")
    return found


@pytest.fixture
def reader(made, tmp_path):
    return made.reader(PASSAGES, tmp_path / "states")


def test_windows_of_a_passage_do_not_depend_on_the_question(made):
    texts = [[question["question"], PASSAGES["paris"]] for question in QUESTIONS]
    encoded = tasks.encode(TASK, tasks.from_texts(TASK, texts), made.tokenizer, training=False, apart=True)
    seconds = [[] for _ in texts]
    for i in range(len(encoded)):
        item = encoded[i]
        seconds[encoded.row_of[i]].append(item["input_ids"][item["token_type_ids"] == 1].tolist())
    assert len(seconds[0]) > 1
    assert all(each == seconds[0] for each in seconds)
    assert max(encoded.lengths) <= TASK.max_length


def test_what_fits_is_encoded_as_ever(made):
    texts = [["who wrote it ?", PASSAGES["rome"]], ["what ?", PASSAGES["film"]]]
    rows = tasks.from_texts(TASK, texts)
    plain, apart = (tasks.encode(TASK, rows, made.tokenizer, training=False, apart=a) for a in (False, True))
    for name in ("ids", "segments", "starts", "ends", "row_of", "bounds"):
        assert np.array_equal(getattr(plain, name), getattr(apart, name)), name


@pytest.mark.parametrize(
    ("question", "passage", "lengths"),
    [
        (5, 13, [21]),  # of 32 tokens 16 are the question's and 3 are special: 13 are left
        (5, 14, [21, 5 + 3 + 7]),  # the second window begins with 6 tokens of the first, half of what is left
        (16, 13, [32]),
        (20, 13, [32]),
    ],
)
def test_the_room_that_each_text_has(made, question, passage, lengths):
    texts = [[" ".join(["cat"] * question), " ".join(["dog"] * passage)]]
    encoded = tasks.encode(TASK, tasks.from_texts(TASK, texts), made.tokenizer, training=False, apart=True)
    assert encoded.lengths == lengths


@pytest.mark.parametrize("engine", ENGINES)
def test_kept_passages_answer_as_the_whole_model_does(engine, made, tmp_path):
    pytest.importorskip(engine)
    if engine == "onnxruntime":
        made.export("onnx")
    if engine != "torch":  # on random rows of two segments
        assert parity(made.model, made.path, engine, threads=1).logit_difference <= 1e-4
    kept = made.reader(PASSAGES, tmp_path / "states", engine=engine, threads=1)
    rows = kept._rows(QUESTIONS, 1)
    whole = made._predictor(engine, 1, None, None).engine
    _, expected = logits_of(TASK, rows, made.tokenizer, whole, 4, apart=True)
    for _ in range(2):  # computed, then read
        _, found = logits_of(TASK, rows, made.tokenizer, kept.engine, 4, apart=True)
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5)


def test_each_passage_is_computed_once_and_alone(reader, monkeypatch):
    calls = []
    lower = reader.engine.halves.lower
    counted = SimpleNamespace(
        lower=lambda batch: (calls.append(batch["token_type_ids"].max()), lower(batch))[1],
        upper=reader.engine.halves.upper,
    )
    monkeypatch.setattr(reader.engine, "halves", counted)
    seen = []
    windows = reader.precompute(lambda done, total: seen.append((done, total)))
    assert windows == len(calls) == len(list(reader.engine.states.folder.rglob("*.safetensors")))
    assert seen == [(i + 1, windows) for i in range(windows)]
    assert reader.precompute() == windows == len(calls)
    answers = list(reader.stream(QUESTIONS, 2))
    assert calls[windows:] == [0] * (len(calls) - windows)  # of the second segment nothing is computed any more
    assert [set(answer) for answer in answers] == [{"answer", "start", "end", "score"}] * 4
    assert all(answer["answer"] in PASSAGES[q["passage"]] for answer, q in zip(answers, QUESTIONS, strict=True))
    for again, answer in zip(reader.stream(iter(QUESTIONS), 4), answers, strict=True):
        assert again.pop("score") == pytest.approx(answer.pop("score"), abs=1e-5)
        assert again == answer


def files(reader):
    return sorted(reader.engine.states.folder.rglob("*.safetensors"))


def test_torn_and_changed_files_are_computed_again(reader):
    reader.precompute()
    before = [path.read_bytes() for path in files(reader)]
    cut, flipped, emptied = files(reader)[:3]
    cut.write_bytes(before[0][:-7])
    flipped.write_bytes(before[1][:-1] + bytes([before[1][-1] ^ 1]))
    emptied.write_bytes(b"")
    reader.precompute()
    assert [path.read_bytes() for path in files(reader)] == before


def test_other_weights_engines_texts_and_ways_to_store_have_other_files(reader, tmp_path):
    ids = np.arange(5)
    names = {
        States(tmp_path, model, store).path(text)
        for model in ("a torch", "b torch", "a openvino")
        for store in ("float32", "float16", "int8")
        for text in (ids, ids[:4], ids + 1)
    }
    assert len(names) == 27
    reader.precompute()
    before = set(files(reader))
    reader.passages["film"] = "the film was bad ."
    reader.precompute()
    assert len(set(files(reader)) - before) == 1


@pytest.mark.parametrize(("store", "width", "error"), [("float32", 4, 0), ("float16", 2, 2**-11), ("int8", 1, 1 / 254)])
def test_what_is_stored(store, width, error):
    """Half a step of the grid at most; int8 has a step for each token."""
    states = np.random.default_rng(0).normal(size=(7, 64)) * 10.0 ** np.arange(-3, 4)[:, None]
    states = states.astype(np.float32)
    arrays = packed(states, store)
    assert arrays["states"].nbytes == states.size * width
    found = unpacked(arrays)
    largest = np.abs(states).max(-1, keepdims=True)
    bound = error * (largest if store == "int8" else np.abs(states)) * (1 + 1e-5) + 2**-25 * (error > 0)
    assert (np.abs(found - states) <= bound).all()
    assert np.array_equal(unpacked(packed(np.zeros((2, 3), np.float32), store)), np.zeros((2, 3)))


def test_smaller_states_answer_nearly_alike(made, tmp_path, reader):
    rows = reader._rows(QUESTIONS, 1)
    sizes, _, expected = {}, *logits_of(TASK, rows, made.tokenizer, reader.engine, 4, apart=True)
    for store, tolerance in (("float16", 5e-3), ("int8", 5e-2)):
        small = made.reader(PASSAGES, tmp_path / store, store=store)
        _, found = logits_of(TASK, rows, made.tokenizer, small.engine, 4, apart=True)
        worst = max(np.abs(a - b).max() for a, b in zip(found, expected, strict=True))
        assert 0 < worst < tolerance
        sizes[store] = sum(path.stat().st_size for path in files(small))
    assert sizes["int8"] < sizes["float16"] < sum(path.stat().st_size for path in files(reader))


def test_the_halves_read_the_weights_of_the_whole(made):
    folder = made.path / "openvino"
    assert sorted(path.name for path in folder.iterdir()) == [
        "lower.xml", "metadata.json", "model.bin", "model.xml", "upper.xml",
    ]  # fmt: skip
    whole = sum(weight.nbytes for _, weight in made.model.unique_weights())
    assert (folder / "model.bin").stat().st_size < 1.1 * whole
    assert {name for name in made.manifest.files if name.startswith("openvino/")} == {
        f"openvino/{path.name}" for path in folder.iterdir()
    }


def test_models_that_cannot_are_refused(tmp_path, tiny_model):
    for method, reason in (
        (Deformer.noop(), "no layer keeps the two texts apart; attention/deformer makes models that do"),
        (
            Deformer(layers=1, positions="running"),
            "the second text's positions depend on the first; attention/deformer with positions: restart ends that",
        ),
    ):
        found = deformed(tmp_path / f"{method.layers}", tiny_model, method)
        with pytest.raises(ArtifactError) as refused:
            found.reader(PASSAGES, tmp_path / "states")
        assert str(refused.value) == f"{found.path}: {reason}"


def test_unknown_passages_and_wrong_entries(reader):
    with pytest.raises(DataError) as refused:
        list(reader.stream([QUESTIONS[0], {"question": "who ?", "passage": "berlin"}]))
    assert str(refused.value) == "input line 2: no passage 'berlin' among the 3 that are known"
    with pytest.raises(DataError, match="input line 1: no field 'passage'"):
        list(reader.stream([{"question": "who ?"}]))
    with pytest.raises(DataError, match="batch_size=0 must be at least 1"):
        list(reader.stream(QUESTIONS, 0))


def test_files_of_passages(tmp_path):
    plain, table = tmp_path / "passages.txt", tmp_path / "passages.jsonl"
    plain.write_text("one .\ntwo .\n", encoding="utf-8")
    assert passages_of(plain) == {"1": "one .", "2": "two ."}
    table.write_text("".join(json.dumps({"id": k, "text": v}) + "\n" for k, v in PASSAGES.items()), encoding="utf-8")
    assert passages_of(str(table)) == passages_of(PASSAGES) == PASSAGES
    table.write_text('{"id": 1, "text": "a"}\n{"id": 1, "text": "b"}\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"--passages .*passages.jsonl line 2: '1' is there twice"):
        passages_of(table)
    with pytest.raises(DataError, match="--passages .*none.txt: cannot be read"):
        passages_of(Path(tmp_path / "none.txt"))
