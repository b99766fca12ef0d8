"""The lines of the table: published beside measured, never mixed; means over seeds, then over tasks."""

import json

import pytest
from studied import entry, repeated, stage

from bertpress.study.published import ROWS
from bertpress.study.table import lines, setup


def test_a_published_row_stands_above_the_measured_one():
    runs = [*repeated("gobo", "quantize/gobo", size=20_000), *repeated("own", "prune/heads", size=60_000)]
    found = lines(runs, {"own": None, "gobo": "GOBO"})
    assert [(line["method"], line["origin"]) for line in found] == [
        ("BERT-base", "published"), ("minilm", "measured"), ("GOBO", "published"), ("gobo", "measured"),
        ("own", "measured"),
    ]  # fmt: skip
    published, measured = found[2:4]
    assert published["scores"] == {"mnli": 83.7}
    assert (published["size"], published["peak_memory_bytes"]) == (10.2, None)
    assert measured["scores"] == pytest.approx({"sst2": 90.1, "mrpc": 93.1, "ag_news": 96.1})
    assert measured["size"] == 20.0
    assert measured["group"] == published["group"] == "Quantization"
    assert found[4]["group"] == "Other recipes"
    assert measured["runs"] == 9
    assert json.loads(json.dumps(found)) == found


def test_no_published_figure_enters_a_measured_row():
    with_it, without = (lines(repeated("gobo", "quantize/gobo"), {"gobo": name})[-1] for name in ("GOBO", None))
    with_it["group"] = without["group"]
    assert with_it == without


def test_seeds_are_averaged_before_tasks():
    runs = [entry("a", "prune/heads", score=score, task=task, seed=seed) for score, task, seed in
            ((91.0, "sst2", 0), (81.0, "sst2", 1), (91.0, "mrpc", 0))]  # fmt: skip
    assert lines(runs, {"a": None})[-1]["drop"] == pytest.approx((5.0 + 0.0) / 2)


def test_means_are_over_the_tasks_that_the_study_names():
    runs = [entry("a", "prune/heads", score=score, task=task, size=size) for score, task, size in
            ((91.0, "sst2", 20_000), (81.0, "subj", 60_000))]  # fmt: skip
    own = entry("b", "prune/heads", score=86.0, task="subj")
    _, teacher, line, other = lines([*runs, own], {"a": None, "b": None}, ("sst2", "mrpc"))
    assert (line["drop"], line["size"], line["scores"]) == (0.0, 20.0, {"sst2": 91.0, "subj": 81.0})
    assert teacher["scores"] == {"sst2": 91.0, "subj": 91.0}
    assert other["drop"] == 5.0, "one that has run on none of them"


def test_what_was_not_timed_is_missing():
    runs = [entry("a", "prune/heads", seed=0, speedups=[2.0] * 3, peak=3e8), entry("a", "prune/heads", seed=1)]
    line = lines(runs, {"a": None})[-1]
    assert (line["cpu"], line["gpu"], line["peak_memory_bytes"]) == (2.0, None, 3e8)


def test_models_have_lines_of_their_own():
    runs = [entry("a", "prune/heads", model=model) for model in ("one", "two")]
    assert [line["method"] for line in lines(runs, {"a": None})] == ["BERT-base", "one", "two", "a, one", "a, two"]


def test_the_setup_follows_from_what_stages_learn_from():
    def of(*stages):
        return setup({"recipe": {"stages": list(stages)}})

    general, task = stage("distill/hidden", data="unlabelled", train={"epochs": 1}), stage("a", train={"epochs": 1})
    assert [of(general), of(task), of(general, task), of(stage("quantize/gobo"))] == ["A", "S", "A,S", "S"]
    assert {row.setup for row in ROWS} == {"A", "S", "A,S"}
