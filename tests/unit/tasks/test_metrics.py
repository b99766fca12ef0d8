import warnings

import numpy as np
import pytest
import sklearn.metrics as sk
from scipy import stats

from bertpress.errors import DataError
from bertpress.tasks import metrics_for, resolve, score

RNG = np.random.default_rng(4)


def values(task, predicted, truth):
    return {name: s.value for name, s in score(task, predicted, truth).items()}


@pytest.mark.parametrize("labels", [2, 3, 7])
def test_classification_is_that_of_scikit_learn(labels):
    truth = RNG.integers(0, labels, 300).tolist()
    said = [t if RNG.random() < 0.6 else int(RNG.integers(labels)) for t in truth]
    found = values(resolve("cola", id2label=list("abcdefg")[:labels]), said, truth)
    assert found["accuracy"] == pytest.approx(100 * sk.accuracy_score(truth, said))
    assert found["matthews"] == pytest.approx(100 * sk.matthews_corrcoef(truth, said))
    assert found["f1_macro"] == pytest.approx(100 * sk.f1_score(truth, said, average="macro"))
    assert ("f1" in found) == (labels == 2)
    if labels == 2:
        assert found["f1"] == pytest.approx(100 * sk.f1_score(truth, said))


def test_f1_by_hand():
    found = values(resolve("mrpc", id2label=["n", "y"]), [1, 1, 1, 0], [1, 1, 0, 1])
    assert next(iter(found)) == "f1"
    assert found["f1"] == pytest.approx(200 / 3)
    assert found["accuracy"] == 50


def test_several_labels_are_those_of_scikit_learn():
    truth, said = (RNG.random((80, 4)) < 0.4 for _ in range(2))
    lists = [[np.flatnonzero(row).tolist() for row in x] for x in (said, truth)]
    found = values(resolve("sst2", id2label=list("abcd"), multi_label=True), *lists)
    assert list(found) == ["f1_micro", "f1_macro", "accuracy"]
    assert found["f1_micro"] == pytest.approx(100 * sk.f1_score(truth, said, average="micro"))
    assert found["f1_macro"] == pytest.approx(100 * sk.f1_score(truth, said, average="macro"))
    assert found["accuracy"] == pytest.approx(100 * sk.accuracy_score(truth, said))


@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_correlations_are_those_of_scipy(offset):
    truth = RNG.integers(0, 6, 200).astype(float)
    said = truth + RNG.normal(size=200) + offset
    found = values(resolve("stsb"), said.tolist(), truth.tolist())
    assert found["pearson"] == pytest.approx(100 * stats.pearsonr(said, truth).statistic, abs=1e-6)
    assert found["spearman"] == pytest.approx(100 * stats.spearmanr(said, truth).statistic, abs=1e-6)


@pytest.mark.parametrize(
    ("task", "predicted", "truth", "zero"),
    [
        (resolve("cola", id2label=["a", "b"]), [1, 1, 1], [1, 0, 1], "matthews"),
        (resolve("mrpc", id2label=["a", "b"]), [0, 0], [0, 0], "f1"),
        (resolve("stsb"), [0.1, 0.1, 0.1], [1.0, 2.0, 3.0], "pearson"),
        (resolve("stsb"), [0.1, 0.1, 0.1], [1.0, 2.0, 3.0], "spearman"),
        (resolve("wnut17", id2label=["O", "B-x"]), [["O"]], [["O"]], "entity_f1"),
    ],
)
def test_undefined_is_zero_without_warning(task, predicted, truth, zero):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = score(task, predicted, truth)[zero]
    assert (found.value, found.low, found.high) == (0, 0, 0)


def test_tags_that_are_no_entities_have_accuracy_only():
    task = resolve("wnut17", id2label=["NOUN", "VERB"], metric="accuracy")
    assert values(task, [["NOUN", "VERB"], ["NOUN"]], [["NOUN", "NOUN"], ["NOUN"]]) == {
        "accuracy": pytest.approx(200 / 3)
    }


def test_labels_must_be_known():
    with pytest.raises(DataError, match="task sst2: the labels are not known yet"):
        metrics_for(resolve("sst2"))


def test_perplexity_by_hand():
    rows = [{"loss": 2 * np.log(8), "tokens": 2.0, "correct": 1.0}, {"loss": 0.0, "tokens": 1.0, "correct": 1.0}]
    found = values(resolve("masked-lm"), rows, [None, None])
    assert found["perplexity"] == pytest.approx(4)
    assert found["accuracy"] == pytest.approx(200 / 3)
    assert not metrics_for(resolve("masked-lm"))["perplexity"].higher_is_better
