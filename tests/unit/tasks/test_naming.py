import numpy as np
import pytest

from bertpress.errors import DataError
from bertpress.tasks import Rows, label_ids, references, resolve, with_labels
from bertpress.tasks.labels import as_list, raw_labels

GENERIC = "text-classification"


def rows(labels, *, split="train", names=None, column="label"):
    given = {column: tuple(names)} if names else {}
    return Rows({"text": ["x"] * len(labels), column: list(labels)}, split, "f.csv", "line", names=given)


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["pos", "neg", "pos"], ("neg", "pos")),
        ([1, 0, 1], ("0", "1")),
        (["10", "9", "9"], ("9", "10")),
        ([3, 1, 5], ("1", "3", "5")),
        ([True, False], ("false", "true")),
        ([1.0, 2.0], ("1", "2")),
    ],
)
def test_names_from_the_data(labels, names):
    task = with_labels(resolve(GENERIC), rows(labels))
    assert task.labels == names
    assert [names[i] for i in label_ids(task, rows(labels))] == [
        str(x).lower() if isinstance(x, bool) else str(int(x)) if not isinstance(x, str) else x for x in labels
    ]


def test_order_of_the_sources():
    data = rows([0, 1, 1], names=["bad", "good"])
    assert with_labels(resolve(GENERIC), data).labels == ("bad", "good")
    assert with_labels(resolve(GENERIC), data, {0: "LABEL_0", 1: "LABEL_1"}).labels == ("bad", "good")
    assert with_labels(resolve(GENERIC), data, ["x", "y"]).labels == ("bad", "good")
    assert with_labels(resolve(GENERIC, id2label=["u", "v"]), data).labels == ("u", "v")
    assert with_labels(resolve(GENERIC), rows([0, 1]), ["x", "y"]).labels == ("x", "y")
    sst2 = Rows({"sentence": ["a", "b"], "label": [0, 1]})
    assert with_labels(resolve("sst2"), sst2).labels == ("negative", "positive")
    strings = Rows({"sentence": ["a", "b"], "label": ["bad", "good"]})
    assert with_labels(resolve("sst2"), strings).labels == ("bad", "good")


def test_a_model_with_another_numbering_is_met_by_name():
    """A published NLI model numbers contradiction 0; ids of the data must follow it."""
    data = Rows({"premise": ["a"] * 3, "hypothesis": ["b"] * 3, "label": [0, 1, 2]})
    task = with_labels(resolve("mnli"), data, {0: "CONTRADICTION", 1: "ENTAILMENT", 2: "NEUTRAL"})
    assert task.labels == ("contradiction", "entailment", "neutral")
    assert references(task, data) == [1, 2, 0]


def test_a_model_with_more_labels_keeps_them():
    data = rows([0, 1], names=["negative", "positive"])
    task = with_labels(resolve(GENERIC), data, ["negative", "neutral", "positive"])
    assert label_ids(task, data) == [0, 2]


def test_new_names_for_the_same_ids():
    task = with_labels(resolve(GENERIC, id2label=["b", "c"]), rows([0, 1], names=["a", "b"]))
    assert label_ids(task, rows([0, 1], names=["a", "b"])) == [0, 1]


def test_labels_must_be_known():
    with pytest.raises(DataError, match="task text-classification: the labels are not known yet"):
        label_ids(resolve(GENERIC), rows([0]))
    with pytest.raises(DataError, match="task masked-lm has no label column"):
        raw_labels(resolve("masked-lm"), rows([0]))
    assert with_labels(resolve("masked-lm"), rows([0])) == resolve("masked-lm")


def test_types_of_other_libraries():
    task = resolve(GENERIC, id2label=["a", "b"])
    assert label_ids(task, rows([np.int64(1), np.bool_(False), "1", "a"])) == [1, 0, 1, 0]
    several = resolve(GENERIC, id2label=["a", "b"], multi_label=True)
    assert label_ids(several, rows([np.array([0, 1]), ("b",), "a"])) == [[0, 1], [1], [0]]
    with pytest.raises(DataError, match="label 'x' is neither"):
        label_ids(task, rows(["x"]))
    with pytest.raises(DataError, match=r"label 'z' is neither in train nor .* \(c0, c1, .*, c7, ... 20 in all\)"):
        label_ids(resolve(GENERIC, id2label=[f"c{i}" for i in range(20)]), rows(["z"]))


def test_artifact_labels_stay():
    task = with_labels(resolve(GENERIC), rows(["b", "a"]))
    assert with_labels(task, rows(["b", "b"], split="validation")).labels == ("a", "b")


def test_tags():
    data = Rows({"tokens": [["a", "b"], ["c"]], "ner_tags": [["B-x", "O"], ["O"]]})
    task = with_labels(resolve("token-classification"), data)
    assert task.labels == ("O", "B-x")
    assert task.metric == "entity_f1"
    assert references(task, data) == [["B-x", "O"], ["O"]]
    parts = Rows({"tokens": [["a", "b"]], "ner_tags": ["NOUN VERB"]})
    assert with_labels(resolve("token-classification"), parts).metric == "accuracy"


def test_several_labels_a_row():
    data = rows([["a", "c"], [], '["b"]', "a b"])
    task = with_labels(resolve(GENERIC, multi_label=True, class_weights="balanced"), data)
    assert task.labels == ("a", "b", "c")
    assert label_ids(task, data) == [[0, 2], [], [1], [0, 1]]
    assert task.class_weights == (1.0, 1.0, 3.0)


def test_balanced_weights_are_those_of_scikit_learn():
    from sklearn.utils.class_weight import compute_class_weight

    labels = ["a"] * 6 + ["b"] * 3 + ["c"]
    task = with_labels(resolve(GENERIC, class_weights="balanced"), rows(labels))
    assert task.class_weights == pytest.approx(
        compute_class_weight("balanced", classes=np.array(["a", "b", "c"]), y=labels)
    )


def test_lists_in_cells():
    assert as_list('["a", "b c"]') == ["a", "b c"]
    assert as_list("[ is a word") == ["[", "is", "a", "word"]
    assert as_list(None) is None


def test_range_of_scores_and_unanswerable_questions():
    scores = Rows({"sentence1": ["a"] * 2, "sentence2": ["b"] * 2, "label": ["0.5", 4]})
    assert with_labels(resolve("stsb"), scores).label_range == (0.5, 4.0)
    questions = Rows({"question": ["q"], "context": ["c"], "answers": [{"text": [], "answer_start": []}]})
    assert with_labels(resolve("squad"), questions).unanswerable


@pytest.mark.parametrize(
    ("task", "labels", "message"),
    [
        (resolve(GENERIC), ["a", "a"], "f.csv: all 2 rows have label 'a'; at least 2 labels are needed"),
        (resolve(GENERIC), [], "f.csv: no rows"),
        (resolve(GENERIC), ["a", None, "b"], "f.csv line 2, column 'label': the label is missing"),
        (resolve(GENERIC), ["a", "", "b"], "f.csv line 2, column 'label': the label is missing"),
        (resolve(GENERIC), [["a"], ["b"]], "['a'] is a list; one label a row is needed, or say multi_label"),
        (resolve(GENERIC, multi_label=True), [3], "f.csv line 1, column 'label': 3 is not a list of labels"),
        (resolve(GENERIC, id2label=["a", "b"]), ["a", "c"], "line 2, column 'label': label 'c' is neither in train"),
        (resolve(GENERIC, id2label=["a", "b"]), [0, 2], "label 2 is neither in train nor in the label list (a, b)"),
        (resolve(GENERIC, id2label=["a", "b"]), [0, -1], "label -1 is neither"),
        (resolve(GENERIC, metric="f1"), [0, 1, 2], "metric 'f1' (of class 1) needs 2 labels, not 3; take f1_macro"),
        (resolve(GENERIC, class_weights=[1, 2, 3]), [0, 1], "class_weights has 3 values for 2 labels"),
        (resolve("text-regression"), [1.0, float("nan")], "f.csv line 2, column 'label': score nan must be finite"),
        (resolve("text-regression"), ["x"], "f.csv line 1, column 'label': 'x' is not a number"),
        (resolve("text-regression"), [None], "f.csv line 1, column 'label': None is not a number"),
        (resolve("text-regression"), [2, 2], "f.csv: all 2 rows have the score 2.0"),
    ],
)
def test_bad_labels(task, labels, message):
    with pytest.raises(DataError) as caught:
        with_labels(task, rows(labels))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_label_that_train_never_had():
    task = with_labels(resolve(GENERIC), rows([1, 3]))
    with pytest.raises(DataError, match=r"v\.csv row 2, column 'label': label 0 is neither in train nor .* \(1, 3\)"):
        references(task, Rows({"text": ["a", "b"], "label": [3, 0]}, "validation", "v.csv"))
    assert with_labels(task, rows([1, 1], split="validation")).labels == ("1", "3")


@pytest.mark.parametrize("name", ["²", "--5", "٣", "9" * 5000, "1e3", " 5x"])
def test_what_only_looks_like_a_number_is_a_name(name):
    task = with_labels(resolve(GENERIC), rows(["1", name, "1"]))
    assert set(task.labels) == {"1", name}
    assert label_ids(task, rows([name])) == [task.labels.index(name)]
    with pytest.raises(DataError, match=r"column 'label': label '.*' is neither in train nor in the label"):
        label_ids(resolve(GENERIC).replace(labels=("0", "1")), rows([name]))


@pytest.mark.parametrize("spelled", [[True, False], ["True", "false"], ["TRUE", "FALSE"], [1, 0], ["1", "0"]])
def test_truth_values_are_known_however_they_are_spelled(spelled):
    task = with_labels(resolve(GENERIC), rows([False, True, True]))
    assert task.labels == ("false", "true")
    assert label_ids(task, rows(spelled)) == [1, 0]


def test_truth_values_may_be_numbers_of_other_names():
    task = resolve(GENERIC).replace(labels=("bad", "good"))
    assert label_ids(task, rows([True, False])) == [1, 0]


@pytest.mark.parametrize(
    ("label", "words"),
    [
        (0.5, "label 0.5 is no whole number; is the task a regression, or the label a text"),
        ("a \ud800", "U\\+D800 is no character"),
    ],
)
def test_a_fraction_and_half_a_character_are_no_labels(label, words):
    with pytest.raises(DataError, match=f"line 2, column 'label': {words}|row 2, column 'label': {words}"):
        with_labels(resolve(GENERIC), rows(["a", label]))
