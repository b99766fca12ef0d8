import json

import pytest
import torch
from sample_run import make_data, make_model

from bertpress.tasks import BucketSampler
from bertpress.training import Teacher, collate_for
from bertpress.training.teacher import weights_digest


@pytest.fixture(params=["text-classification", "token-classification", "question-answering"])
def setting(request):
    task, data, _, tokenizer = make_data(request.param, count=150)
    return data, make_model(task, tokenizer, seed=5), collate_for(tokenizer)


def some_batches(data, collate):
    for rows in BucketSampler(data.lengths, 7, seed=3):
        yield collate([data[row] for row in rows])


def test_cached_logits_are_the_live_ones(tmp_path, setting):
    data, model, collate = setting
    live, cached = Teacher(model), Teacher(model, cache=tmp_path)
    for teacher in (live, cached):
        teacher.place(torch.device("cpu"), "float32")
    assert not live.prepare(data, range(len(data)), collate)
    assert cached.prepare(data, range(len(data)), collate)
    before = weights_digest(model)
    for batch in some_batches(data, collate):
        mine, theirs = cached(batch), live(batch)
        real = batch["attention_mask"].bool() if theirs.logits.ndim == 3 else slice(None)
        torch.testing.assert_close(mine.logits[real], theirs.logits[real], atol=1e-5, rtol=0)
        assert not mine.logits.requires_grad
        assert not theirs.logits.requires_grad
        if theirs.start_logits is not None:
            real = batch["attention_mask"].bool()
            torch.testing.assert_close(mine.start_logits[real], theirs.start_logits[real], atol=1e-5, rtol=0)
    assert weights_digest(model) == before
    assert not model.training


def counting(model):
    calls = []
    model.register_forward_hook(lambda *_: calls.append(1))
    return calls


def prepared(model, data, collate, folder, **more):
    teacher = Teacher(model, cache=folder, **more)
    teacher.place(torch.device("cpu"), "float32")
    return teacher, teacher.prepare(data, range(len(data)), collate)


def test_a_full_cache_is_used_again_and_a_torn_one_is_mended(tmp_path, setting):
    data, model, collate = setting
    prepared(model, data, collate, tmp_path)
    (path,) = tmp_path.glob("*.f32")
    whole = path.read_bytes()
    calls = counting(model)
    prepared(model, data, collate, tmp_path)
    assert not calls
    torn = bytearray(whole)
    torn[len(torn) * 2 // 3] ^= 1
    for damaged in (bytes(torn), whole[:100], b""):
        path.write_bytes(damaged)
        assert prepared(model, data, collate, tmp_path)[1]
        assert calls
        assert path.read_bytes() == whole
        calls.clear()
    header = json.loads(path.with_suffix(".json").read_text())
    path.with_suffix(".json").write_text(json.dumps(header | {"key": "another"}))
    prepared(model, data, collate, tmp_path)
    assert calls
    assert path.read_bytes() == whole


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
    assert len(list(tmp_path.glob("*.f32"))) == 3


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


def test_beyond_the_cap_and_for_captures_the_teacher_runs_live(tmp_path, setting):
    data, model, collate = setting
    teacher, ready = prepared(model, data, collate, tmp_path, cache_bytes=100)
    assert not ready
    assert not list(tmp_path.glob("*.f32"))
    teacher, ready = prepared(model, data, collate, tmp_path)
    assert ready
    output = teacher(next(some_batches(data, collate)), frozenset({"hidden_states"}))
    assert len(output.captured["hidden_states"]) == 3


def test_masks_that_change_are_never_cached(tmp_path):
    task, data, _, tokenizer = make_data("masked-lm", count=20)
    assert not prepared(make_model(task, tokenizer), data, collate_for(tokenizer), tmp_path)[1]
