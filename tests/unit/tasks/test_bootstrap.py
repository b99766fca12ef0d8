import numpy as np
import pytest

from bertpress.errors import DataError
from bertpress.tasks import drop, resolve, score

TASK = resolve("sst2", id2label=["no", "yes"])
RNG = np.random.default_rng(0)


def test_interval_is_that_of_the_binomial():
    truth = [1] * 872
    said = [1] * 785 + [0] * 87
    found = score(TASK, said, truth)["accuracy"]
    assert found.value == pytest.approx(100 * 785 / 872)
    error = 196 * np.sqrt(0.9 * 0.1 / 872)
    assert found.value - found.low == pytest.approx(error, rel=0.12)
    assert found.high - found.value == pytest.approx(error, rel=0.12)
    assert score(TASK, said, truth) == score(TASK, said, truth)
    assert score(TASK, said, truth, seed=1)["accuracy"] != found


def test_a_certain_score_has_no_width():
    found = score(TASK, [1, 0, 1], [1, 0, 1])["accuracy"]
    assert (found.value, found.low, found.high) == (100, 100, 100)


def test_fast_resampling_equals_resampling_rows():
    """The same draws, by sums and by picking rows: Matthews is no mean, so the two would part if sums were wrong."""
    from bertpress.tasks.bootstrap import resample_counts
    from bertpress.tasks.metrics import metrics_for

    truth, said = RNG.integers(0, 2, 60).tolist(), RNG.integers(0, 2, 60).tolist()
    metric = metrics_for(TASK)["matthews"]
    statistics = metric.statistics(said, truth)
    (counts,) = resample_counts(60, seed=5, resamples=20)
    assert (counts.sum(1) == 60).all()
    fast = metric.value(counts @ statistics)
    for row, value in zip(counts.astype(int), fast, strict=True):
        chosen = np.repeat(np.arange(60), row)
        slow = metric.value(metric.statistics([said[i] for i in chosen], [truth[i] for i in chosen]).sum(0))
        assert value == pytest.approx(float(slow))


def test_blocks_do_not_change_the_rows_drawn(monkeypatch):
    from bertpress.tasks import bootstrap

    whole = np.concatenate(list(bootstrap.resample_counts(50, 3, 40)))
    monkeypatch.setattr(bootstrap, "_BLOCK", 350)
    parts = list(bootstrap.resample_counts(50, 3, 40))
    assert len(parts) == 6
    np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_drop_of_itself_is_zero_and_pairing_narrows():
    truth = RNG.integers(0, 2, 500).tolist()
    teacher = [t if RNG.random() < 0.8 else 1 - t for t in truth]
    student = [1 - p if i % 100 == 0 else p for i, p in enumerate(teacher)]
    nothing = drop(TASK, teacher, teacher, truth)
    assert (nothing.value, nothing.low, nothing.high) == (0, 0, 0)
    found = drop(TASK, teacher, student, truth)
    scores = [score(TASK, p, truth)["accuracy"] for p in (teacher, student)]
    assert found.value == pytest.approx(scores[0].value - scores[1].value)
    assert found.low <= found.value <= found.high
    assert found.high - found.low < 0.5 * (scores[0].high - scores[0].low)


def test_a_worse_perplexity_is_a_drop():
    task = resolve("masked-lm")
    teacher, student = ([{"loss": loss, "tokens": 1.0, "correct": 0.0}] * 4 for loss in (np.log(2), np.log(5)))
    found = drop(task, teacher, student, [None] * 4)
    assert (found.value, found.low, found.high) == pytest.approx((3, 3, 3))


def recall(predicted, truth):
    return sum(p == t == 1 for p, t in zip(predicted, truth, strict=True)) / max(sum(truth), 1)


def test_the_users_own_metric():
    truth = [1, 1, 1, 1, 0, 0, 0, 0] * 20
    teacher, student = [1, 1, 1, 0, 0, 0, 0, 1] * 20, [1, 1, 0, 0, 0, 0, 0, 0] * 20
    found = score(TASK, teacher, truth, metric=recall)
    assert list(found)[:2] == ["recall", "accuracy"]
    assert found["recall"].value == 0.75
    assert 0.6 < found["recall"].low < 0.75 < found["recall"].high < 0.9
    lost = drop(TASK, teacher, student, truth, metric=recall)
    assert lost.value == 0.25
    assert 0.1 < lost.low < 0.25 < lost.high < 0.4


def test_a_users_metric_that_is_no_number():
    def broken(predicted, truth):
        return float("nan") if truth else "x"

    def wordy(predicted, truth):
        return {"a": 1}

    with pytest.raises(DataError, match="metric broken: returned nan, which must be finite"):
        score(TASK, [1], [1], metric=broken)
    with pytest.raises(DataError, match=r"metric wordy: returned \{'a': 1\}, not a number"):
        drop(TASK, [1], [1], [1], metric=wordy)


def test_unequal_lists_are_our_fault():
    with pytest.raises(ValueError, match=r"of equal, positive length are needed, not \[1, 2\]"):
        score(TASK, [1], [1, 0])
    with pytest.raises(ValueError, match="positive length"):
        score(TASK, [], [])
