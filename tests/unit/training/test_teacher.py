import json
import re
import shutil
from types import SimpleNamespace

import pytest
import torch
from sample_run import make_data, make_model

from bertpress.encoder.slots import Tape
from bertpress.methods.distances import hidden_state_mse
from bertpress.methods.matching import Matching
from bertpress.tasks import BucketSampler
from bertpress.training import Teacher, TrainSettings, collate_for, train
from bertpress.training.teacher import weights_digest


@pytest.fixture(params=["text-classification", "token-classification", "question-answering"])
def setting(request):
    task, data, _, tokenizer = make_data(request.param, count=150)
    return data, make_model(task, tokenizer, seed=5), collate_for(tokenizer)


def some_batches(data, collate):
    for rows in BucketSampler(data.lengths, 7, seed=3):
        yield collate([data[row] for row in rows])


READS = {"hidden_states": frozenset({0, 2}), "scores": None, "values": frozenset({1}), "ffn_inner": None}


@pytest.mark.parametrize("reads", [{}, READS], ids=["logits", "tape"])
def test_cached_outputs_are_the_live_ones(tmp_path, setting, reads):
    data, model, collate = setting
    live, cached = Teacher(model), Teacher(model, cache=tmp_path)
    for teacher in (live, cached):
        teacher.place(torch.device("cpu"), "float32")
    assert not live.prepare(data, range(len(data)), collate, reads=reads)
    assert cached.prepare(data, range(len(data)), collate, reads=reads)
    before, calls = weights_digest(model), counting(model)
    for batch in some_batches(data, collate):
        mine = cached(batch, frozenset(reads))
        assert not calls
        theirs = live(batch, frozenset(reads))
        calls.clear()
        mask = batch["attention_mask"].bool()
        real = mask if theirs.logits.ndim == 3 else slice(None)
        torch.testing.assert_close(mine.logits[real], theirs.logits[real], atol=1e-6, rtol=0)
        assert not mine.logits.requires_grad
        assert not theirs.logits.requires_grad
        if theirs.start_logits is not None:
            torch.testing.assert_close(mine.start_logits[mask], theirs.start_logits[mask], atol=1e-6, rtol=0)
        for name, places in reads.items():
            for place, tensor in enumerate(mine.captured[name]):
                if places is not None and place not in places:
                    assert tensor is None
                else:
                    expected = without_pads(name, theirs.captured[name][place], mask)
                    torch.testing.assert_close(tensor, expected, atol=1e-6, rtol=0)
    assert weights_digest(model) == before
    assert not model.training


def without_pads(name, tensor, mask):
    """The tensor with zeros wherever one of its axes is a pad."""
    for axis in Tape.TOKEN_AXES[name]:
        shape = [1] * tensor.ndim
        shape[0], shape[axis] = mask.shape
        tensor = tensor.masked_fill(~mask.reshape(shape), 0)
    return tensor


def counting(model):
    calls = []
    model.register_forward_hook(lambda *_: calls.append(1))
    return calls


def prepared(model, data, collate, folder, reads=None, say=str, **more):
    teacher = Teacher(model, cache=folder, **more)
    teacher.place(torch.device("cpu"), "float32")
    return teacher, teacher.prepare(data, range(len(data)), collate, reads=reads, say=say)


@pytest.mark.parametrize("reads", [{}, READS], ids=["logits", "tape"])
def test_a_full_cache_is_used_again_and_a_torn_one_is_mended(tmp_path, setting, reads):
    data, model, collate = setting
    prepared(model, data, collate, tmp_path, reads)
    (path,) = tmp_path.glob("*.f32")
    whole = path.read_bytes()
    calls = counting(model)
    prepared(model, data, collate, tmp_path, reads)
    assert not calls
    torn = bytearray(whole)
    torn[len(torn) * 2 // 3] ^= 1
    for damaged in (bytes(torn), whole[:100], b""):
        path.write_bytes(damaged)
        assert prepared(model, data, collate, tmp_path, reads)[1]
        assert calls
        assert path.read_bytes() == whole
        calls.clear()
    header = json.loads(path.with_suffix(".json").read_text())
    for change in ({"key": "another"}, {"pieces": [["logits", 0, [9, 9]]]}, {"pieces": "gone"}):
        path.with_suffix(".json").write_text(json.dumps(header | change))
        prepared(model, data, collate, tmp_path, reads)
        assert calls
        assert path.read_bytes() == whole
        calls.clear()


def test_other_weights_or_other_text_do_not_find_it(tmp_path, setting):
    data, model, collate = setting
    prepared(model, data, collate, tmp_path)
    with torch.no_grad():
        next(model.parameters())[5] += 1e-4
    calls = counting(model)
    prepared(model, data, collate, tmp_path)
    assert calls
    calls.clear()
    data.ids = data.ids.copy()
    data.ids[1] = 7 if data.ids[1] != 7 else 8
    prepared(model, data, collate, tmp_path)
    assert calls
    calls.clear()
    for reads in ({"hidden_states": None}, {"hidden_states": frozenset({1})}):
        prepared(model, data, collate, tmp_path, reads)
        assert calls
    assert len(list(tmp_path.glob("*.f32"))) == 5


def test_an_interrupted_cache_goes_on_and_ends_with_the_same_bits(tmp_path, setting, monkeypatch):
    data, model, collate = setting
    monkeypatch.setattr("bertpress.training.cache._SYNC_SECONDS", 0.0)
    prepared(model, data, collate, tmp_path / "undisturbed")
    teacher = Teacher(model, cache=tmp_path / "killed")
    teacher.place(torch.device("cpu"), "float32")

    def stop(done, total):
        if done >= 128:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        teacher.prepare(data, range(len(data)), collate, stop)
    calls = counting(model)
    assert prepared(model, data, collate, tmp_path / "killed")[1]
    assert len(calls) == 1
    (one,), (other,) = ((tmp_path / name).glob("*.f32") for name in ("undisturbed", "killed"))
    assert one.read_bytes() == other.read_bytes()


def test_beyond_the_cap_the_teacher_runs_live_and_says_so(tmp_path, setting):
    data, model, collate = setting
    said = []
    teacher, ready = prepared(model, data, collate, tmp_path, READS, said.append, cache_bytes=1000)
    assert not ready
    assert not list(tmp_path.glob("*.f32"))
    assert re.fullmatch(r"the teacher runs live: its outputs would take \d{6,} of 1000 bytes on disk", said[0])
    output = teacher(next(some_batches(data, collate)), frozenset(READS))
    assert len(output.captured["hidden_states"]) == 3
    assert all(tensor is not None for tensor in output.captured["hidden_states"])


def test_what_is_not_cached_is_computed(tmp_path, setting):
    data, model, collate = setting
    teacher, ready = prepared(model, data, collate, tmp_path)
    assert ready
    output = teacher(next(some_batches(data, collate)), frozenset({"hidden_states"}))
    assert len(output.captured["hidden_states"]) == 3


def test_a_run_caches_the_tape_where_it_is_told_to(tmp_path):
    task, data, _, tokenizer = make_data(count=40)
    term = Matching("hidden_states", "hidden_states", hidden_state_mse)
    losses = {}
    for kept, forwards in (("logits", 5), ("all", 1)):
        model = make_model(task, tokenizer, dropout=0.0)
        teacher = Teacher(make_model(task, tokenizer, seed=5), cache=tmp_path / kept)
        calls, said = counting(teacher.model), []
        settings = TrainSettings(epochs=1, batch_size=8, cache_teacher=kept, precision="float32", learning_rate=1e-3)
        result = train(
            model, task=task, data=data, tokenizer=tokenizer, settings=settings, folder=tmp_path / kept / "run",
            objectives=[term], teacher=teacher, report=said.append, progress="none",
        )  # fmt: skip
        assert len(calls) == forwards
        assert any(line.startswith("teacher's logits, hidden_states cached") for line in said) == (kept == "all")
        losses[kept] = [entry["terms"]["hidden_states"] for entry in result.log]
    assert losses["all"] == pytest.approx(losses["logits"], rel=1e-4)


def test_masks_that_change_are_never_cached(tmp_path):
    task, data, _, tokenizer = make_data("masked-lm", count=20)
    assert not prepared(make_model(task, tokenizer), data, collate_for(tokenizer), tmp_path)[1]


def test_a_cache_takes_half_of_what_the_disk_has_free_at_most(tmp_path, setting, monkeypatch):
    data, model, collate = setting
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=2000))
    said = []
    assert not prepared(model, data, collate, tmp_path, READS, said.append)[1]
    assert said[0].endswith("of 1000 bytes on disk")
    monkeypatch.undo()
    assert prepared(model, data, collate, tmp_path, READS)[1]
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=0))
    assert prepared(model, data, collate, tmp_path, READS)[1]  # one that is there takes no more
