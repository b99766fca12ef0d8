import pytest
from pydantic import ValidationError

from bertpress.errors import DataError
from bertpress.tasks import KINDS, KNOWN, METRICS, Task, resolve
from bertpress.tasks.task import label_names


def test_every_task_of_the_design_is_known():
    glue = {"sst2", "cola", "mrpc", "qqp", "stsb", "mnli", "qnli", "rte"}
    assert glue | {"snli", "squad", "wnut17", "trec", "ag_news", "snips", "banking77", "subj"} <= set(KNOWN)
    assert all(resolve(name).name == name for name in [*KNOWN, *KINDS])


@pytest.mark.parametrize(
    ("name", "metric"),
    [
        ("sst2", "accuracy"),
        ("cola", "matthews"),
        ("mrpc", "f1"),
        ("stsb", "pearson"),
        ("wnut17", "entity_f1"),
        ("squad", "f1"),
        ("masked-lm", "perplexity"),
        ("snips-slots", "entity_f1"),
    ],
)
def test_primary_metric(name, metric):
    assert resolve(name).metric == metric


def test_heads():
    assert resolve("sst2", id2label=["a", "b", "c"]).head().labels == 3
    assert resolve("stsb").head().kind == "sequence"
    assert resolve("stsb").head().labels == 1
    assert resolve("wnut17").head(labels=5).kind == "token"
    assert resolve("squad").head().kind == "span"
    assert resolve("masked-lm").head().kind == "masked_lm"
    assert resolve("sentence-similarity").head().kind == "embedding"
    with pytest.raises(DataError, match="task sst2: the labels are not known yet"):
        resolve("sst2").head()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("sst-2", "task 'sst-2' is unknown; did you mean 'sst2'?"),
        ("text_clasification", "did you mean 'text-classification'?"),
        ("zzzzz", "task 'zzzzz' is unknown; known: ag_news, banking77"),
    ],
)
def test_unknown_task(name, message):
    with pytest.raises(DataError) as caught:
        resolve(name)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("sst2", {"metric": "f2"}, "task sst2: metric 'f2' must be one of accuracy, f1, f1_macro, matthews"),
        ("sst2", {"max_length": 4}, "task sst2: max_length=4: Input should be greater than or equal to 16"),
        ("sst2", {"text_columns": ["a", "b"]}, "text-classification takes 1 text column(s), not a, b"),
        ("mrpc", {"text_columns": ["a"]}, "text-pair-classification takes 2 text column(s), not a"),
        ("squad", {"stride": 300}, "stride=300 must be at most half of max_length=384"),
        ("stsb", {"class_weights": "balanced"}, "class_weights are for classification, not for text-regression"),
        ("stsb", {"multi_label": True}, "multi_label is for classification, not for text-regression"),
        ("sentence-similarity", {"windows": True}, "windows are not for sentence-similarity"),
        ("sst2", {"class_weights": [1.0], "id2label": ["a", "b"]}, "class_weights has 1 values for 2 labels"),
        ("sst2", {"class_weights": [1.0, -1.0]}, "greater than or equal to 0"),
        ("sst2", {"id2label": {0: "a", 2: "b"}}, "id2label: the ids [0, 2] must be 0 to 1 without a gap"),
        ("sst2", {"id2label": {"x": "a"}}, "id2label: the keys x must be whole numbers"),
        ("sst2", {"id2label": ["a", "a"]}, "label names a, a must be distinct"),
    ],
)
def test_bad_options(name, options, message):
    with pytest.raises(DataError) as caught:
        resolve(name, **options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_options_reach_the_task():
    task = resolve(
        "text-pair-classification",
        text_columns=["q", "a"],
        label_column="y",
        max_length=64,
        multi_label=True,
        class_weights=(1.0, 2.0),
        id2label={"0": "no", "1": "yes"},
        windows=True,
    )
    assert task.text_columns == ("q", "a")
    assert task.label_column == "y"
    assert task.labels == ("no", "yes")
    assert task.metric == "f1_micro"
    assert task.stride == 16
    assert Task.model_validate_json(task.model_dump_json()) == task
    with pytest.raises(ValidationError):
        task.name = "other"


@pytest.mark.parametrize(
    ("name", "together"),
    [("sst2", False), ("mrpc", True), ("stsb", True), ("squad", True), ("sentence-similarity", False)],
)
def test_which_texts_are_read_together(name, together):
    assert resolve(name).reads_pairs is together


def test_a_shorter_length_shortens_the_stride():
    assert resolve("squad").stride == 128
    assert resolve("squad", max_length=96).stride == 32
    fitted = resolve("squad").fitted(120)
    assert (fitted.max_length, fitted.stride) == (120, 40)
    assert resolve("sst2").fitted(512) == resolve("sst2")


def test_every_kind_has_metrics():
    assert set(METRICS) == {*KINDS, "multi-label"}
    assert label_names({1: "b", 0: "a"}) == ("a", "b")
