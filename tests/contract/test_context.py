"""What a run gives its methods: training text to measure on, and rows cut from train to score models on."""

import pytest

from bertpress import tasks
from bertpress.methods.base import Context
from bertpress.runfolder import RunFolder
from bertpress.stages import Run, context_for, in_memory_predictions


def run_of(bench, folder, metric=None):
    place = RunFolder.open(folder, {}, resume=False)
    return Run(place, bench.data, bench.tokenizer, 0, lambda line: None, bench.teacher, metric)


def test_models_are_scored_on_rows_cut_from_train(bench, tmp_path):
    run = run_of(bench, tmp_path / "run")
    task, (rest, held_out) = run.data.task, run.data.selection(run.seed)
    assert len(rest) + len(held_out) == len(run.data.train)
    found = in_memory_predictions(bench.teacher, task, held_out, bench.tokenizer)
    expected = next(iter(tasks.score(task, found, tasks.references(task, held_out)).values()))
    assert context_for(run, seed=5).score(bench.teacher, 1000) == pytest.approx(expected.value)


def test_a_users_metric_sees_as_many_rows_as_asked(bench, tmp_path):
    def count(predictions, references):
        return float(len(references))

    ctx = context_for(run_of(bench, tmp_path / "run", count), seed=0)
    assert [ctx.score(bench.teacher, rows) for rows in (1, 2, 1000)] == [1.0, 2.0, 2.0]


def test_without_data_there_is_no_score(bench):
    with pytest.raises(RuntimeError, match="needs rows to score models on"):
        Context(task=bench.data.task, tokenizer=None, seed=0).score(bench.teacher, 1)


def rows_of(batches):
    """Each feature without its pads."""
    return [
        (ids[mask.bool()].tolist(), labels.tolist())
        for batch in batches
        for ids, mask, labels in zip(batch["input_ids"], batch["attention_mask"], batch["labels"], strict=True)
    ]


def padded(batches):
    return sum(batch["attention_mask"].numel() for batch in batches)


def test_by_length_the_examples_are_the_same_and_the_pads_fewer(bench, tmp_path, monkeypatch):
    monkeypatch.setattr("bertpress.stages.CALIBRATION_BATCH", 4)
    ctx = context_for(run_of(bench, tmp_path / "run"), seed=0)
    plain, alike = ctx.batches(12), ctx.batches(12, by_length=True)
    assert len(plain) == len(alike) == 3
    assert sorted(rows_of(plain)) == sorted(rows_of(alike))
    lengths = [len(ids) for ids, _ in rows_of(alike)]
    assert lengths == sorted(lengths, reverse=True)
    assert padded(alike) < padded(plain)
