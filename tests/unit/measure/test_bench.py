import io
import json
import os
import signal
import sys
import time

import numpy as np
import pytest
import torch
import transformers

from bertpress.encoder.imports import load_pretrained
from bertpress.errors import BertpressError, EngineError, MachineError
from bertpress.measure import worker as module
from bertpress.measure.bench import Candidate, interleave
from bertpress.measure.memory import peak_resident_bytes, resident_bytes
from bertpress.measure.process import Worker
from bertpress.measure.worker import Bench, answer, pack, serve, unpack

TEXTS = ["a b c", "d", "a a b d c e", "f g"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, write_tokenizer):
    """A tiny transformers classifier with its tokenizer."""
    path = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=20, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
        max_position_embeddings=32, id2label={0: "no", 1: "yes"}, label2id={"no": 0, "yes": 1},
    )  # fmt: skip
    model = transformers.BertForSequenceClassification(config)
    model.classifier.weight.data *= 30
    model.save_pretrained(path)
    write_tokenizer(path)
    return path


class Slow:
    """An engine that takes a known time, and gives known logits."""

    def logits(self, batch):
        time.sleep(0.01)
        return np.zeros((len(batch["input_ids"]), 2), np.float32)


@pytest.fixture
def bench(folder, monkeypatch):
    monkeypatch.setattr("bertpress.engines.load_engine", lambda *_: Slow())
    bench = Bench()
    bench.load(folder=str(folder), engine="torch", threads=1)
    return bench


def ask(bench, op, **arguments):
    return answer(bench, json.dumps({"op": op, **arguments}))


def test_the_clock_tells_the_truth(bench):
    found = bench.time(texts=[{"text": text} for text in TEXTS], warm=1)
    assert found["tokens"] == (5, 3, 8, 4)
    for total, alone in zip(found["latency_ms"], found["model_latency_ms"], strict=True):
        assert 10 <= alone <= total < 200


def test_throughput_counts_every_text(bench):
    found = bench.throughput(texts=[{"text": "a"}] * 10, batch_size=4, passes=2)
    assert len(found["per_s"]) == 2
    assert all(10 / 0.4 < rate <= 10 / 0.03 for rate in found["per_s"])  # three batches of 10 ms


def test_faults_are_answers(bench):
    assert ask(bench, "nonsense")["error"]["message"].startswith("ValueError: op='nonsense' must be one of")
    assert ask(bench, "time", texts=[{}])["error"]["type"] == "BertpressError"
    assert answer(bench, "not json")["error"]["type"] == "BertpressError"


def test_user_errors_keep_their_class(folder):
    found = ask(Bench(), "load", folder=str(folder), engine="abacus", threads=1)
    assert found["error"]["type"] == "EngineError"
    assert "abacus" in found["error"]["message"]


def test_serving_ends_with_its_input(monkeypatch):
    out = io.StringIO()
    serve(io.StringIO('{"op": "peak"}\n'), out)
    ready, peak = map(json.loads, out.getvalue().splitlines())
    assert ready == {"ready": True}
    assert peak["ok"]["peak_bytes"] >= peak["ok"]["start_bytes"] > 0


def test_arrays_come_back_bit_by_bit():
    array = np.random.default_rng(0).normal(size=(3, 2)).astype(np.float32)
    assert np.array_equal(unpack(json.loads(json.dumps(pack(array)))), array)


def test_memory_of_this_process():
    before = resident_bytes()
    ballast = bytearray(os.urandom(1)) * 80_000_000
    assert resident_bytes() - before > 60_000_000
    assert peak_resident_bytes() >= resident_bytes() - 5_000_000
    assert len(ballast) == 80_000_000


def test_processes_interleaved_and_what_they_answer(folder):
    """One run of real processes: figures, order, agreement with this process, and a clean end."""
    steps = []
    first, second = interleave(
        [Candidate("teacher", folder), Candidate("again", folder)], TEXTS, threads=1, rounds=7, block=2,
        throughput_texts=4, progress=lambda done, total: steps.append((done, total)),
    )  # fmt: skip
    assert steps == [(i, 18) for i in range(1, 19)]
    assert first["speedup"] == 1.0
    assert first["speedup_interval"] == [1.0, 1.0]
    assert second["speedup_interval"][0] <= second["speedup"] <= second["speedup_interval"][1]
    for figures in (first, second):
        assert len(figures["latency_ms"]["samples"]) == 14
        assert figures["tokens"][:4] == [5, 3, 8, 4]
        assert figures["model_latency_ms"]["median"] <= figures["latency_ms"]["median"]
        assert figures["throughput_per_s"] > 0
        assert figures["peak_memory_bytes"] >= figures["memory"]["loaded_bytes"] > figures["memory"]["start_bytes"]
    assert json.loads(json.dumps(first)) == first


def test_logits_of_a_worker_and_errors_of_its_parent(folder, tmp_path):
    with Worker("tiny", threads=1) as worker:
        with pytest.raises(EngineError, match="tiny: "):
            worker.ask("load", folder=tmp_path / "absent", engine="torch", threads=1)
        worker.ask("load", folder=folder, engine="torch", threads=1)
        found = worker.ask("logits", texts=[{"text": "a b c"}])
        model = load_pretrained(folder).model
        with torch.no_grad():
            expected = model(torch.tensor([[2, 5, 6, 7, 3]])).logits.numpy()
        np.testing.assert_allclose(unpack(found["logits"][0]), expected, atol=1e-5)
        assert found["answers"] == [["yes" if expected[0, 1] > expected[0, 0] else "no"]]
        with pytest.raises(BertpressError, match="tiny: ValueError: op='stop'"):
            worker.ask("stop")
        os.kill(worker._process.pid, signal.SIGKILL)
        with pytest.raises(MachineError, match="was killed"):
            worker.ask("peak")


def test_bad_arguments(folder):
    for change in ({"rounds": 0}, {"block": 0}, {"threads": 0}):
        with pytest.raises(ValueError, match=">= 1"):
            interleave([Candidate("x", folder)], ["a"], **{"threads": 1, **change})
    with pytest.raises(ValueError, match="needs a candidate, a text"):
        interleave([Candidate("x", folder)], [], threads=1)


def test_library_prints_do_not_reach_the_answers(monkeypatch, capfd):
    """Standard output belongs to the protocol even below Python."""
    monkeypatch.setattr(sys, "stdin", io.StringIO('{"op": "peak"}\n'))
    monkeypatch.setattr(sys, "stdout", sys.stdout)
    monkeypatch.setattr(module.signal, "signal", lambda *_: None)
    saved = os.dup(1)

    def noisy(self):
        os.write(1, b"noise from C\n")
        print("noise from Python")  # noqa: T201
        return {}

    monkeypatch.setattr(module.Bench, "peak", noisy)
    try:
        module.main()
    finally:
        os.dup2(saved, 1)
        os.close(saved)
    out, err = capfd.readouterr()
    assert [json.loads(line) for line in out.splitlines()] == [{"ready": True}, {"ok": {}}]
    assert "noise from C" in err
