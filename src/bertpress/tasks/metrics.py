"""Metrics as functions of summed per-row statistics, so that a bootstrap costs one matrix product.

A metric turns predictions and references into an array (rows, statistics); the sum over any choice of rows
decides the value.  Values are percentages, but for perplexity.  An undefined ratio (no positive at all,
constant scores) is 0.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

from bertpress.errors import DataError
from bertpress.tasks.answers import exact_match, text_f1
from bertpress.tasks.entities import entities
from bertpress.tasks.labels import has_entities
from bertpress.tasks.task import Task

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
        name: as in :data:`~bertpress.tasks.METRICS`.
        statistics: (predictions, references) to (rows, k).
        value: sums (..., k) to values (...).
        higher_is_better: False for perplexity.
    """

    name: str
    statistics: Callable[[Sequence[Any], Sequence[Any]], Array]
    value: Callable[[Array], Array]
    higher_is_better: bool = True


def _ratio(over: Array, under: Array) -> Array:
    safe = np.where(under > 0, under, 1.0)
    return np.where(under > 0, 100.0 * over / safe, 0.0)


def _array(rows: Sequence[Sequence[float]]) -> Array:
    return np.asarray(rows, np.float64)


def _share(sums: Array) -> Array:
    return _ratio(sums[..., 0], sums[..., 1])


def _f1(sums: Array) -> Array:
    """From (right, predicted, true) counts."""
    return _ratio(2 * sums[..., 0], sums[..., 1] + sums[..., 2])


def _equal(predicted: Sequence[Any], truth: Sequence[Any]) -> Array:
    return _array([[float(p == t), 1.0] for p, t in zip(predicted, truth, strict=True)])


def _one_hot(ids: Sequence[Any], labels: int) -> Array:
    """(rows, labels) from ids, or from lists of ids."""
    out = np.zeros((len(ids), labels))
    for row, found in zip(out, ids, strict=True):
        row[found] = 1.0
    return out


def _counts(predicted: Sequence[Any], truth: Sequence[Any], labels: int) -> Array:
    """(rows, 3 labels): for each label right, predicted, true."""
    p, t = _one_hot(predicted, labels), _one_hot(truth, labels)
    return np.stack([p * t, p, t], -1).reshape(len(p), -1)


def _macro(sums: Array) -> Array:
    """Mean F1 of the labels that occur in predictions or truth, as scikit-learn has it."""
    each = sums.reshape(*sums.shape[:-1], -1, 3)
    occurs = (each[..., 1] + each[..., 2]) > 0
    return np.asarray((_f1(each) * occurs).sum(-1) / np.maximum(occurs.sum(-1), 1))


def _micro(sums: Array) -> Array:
    return _f1(sums.reshape(*sums.shape[:-1], -1, 3).sum(-2))


def _matthews(sums: Array) -> Array:
    """Gorodkin's multi-class correlation; with two classes Matthews'."""
    each = sums.reshape(*sums.shape[:-1], -1, 3)
    right, predicted, true = each[..., 0].sum(-1), each[..., 1], each[..., 2]
    total = true.sum(-1)
    spread = (total**2 - (predicted**2).sum(-1)) * (total**2 - (true**2).sum(-1))
    return _ratio(right * total - (predicted * true).sum(-1), np.sqrt(np.maximum(spread, 0.0)))


def _moments(predicted: Sequence[float], truth: Sequence[float]) -> Array:
    """(rows, 6): 1, x, y, xx, yy, xy; standardised first, which changes no correlation and saves digits."""
    columns = []
    for values in (predicted, truth):
        x = np.asarray(values, np.float64)
        columns.append((x - x.mean()) / (x.std() or 1.0))
    x, y = columns
    return np.stack([np.ones_like(x), x, y, x * x, y * y, x * y], -1)


def _ranks(predicted: Sequence[float], truth: Sequence[float]) -> Array:
    """Moments of ranks in the whole sample; a resample keeps them, which is a close approximation."""
    return _moments(rankdata(predicted), rankdata(truth))


def _correlation(sums: Array) -> Array:
    n, x, y, xx, yy, xy = np.moveaxis(sums, -1, 0)
    spread = (n * xx - x * x) * (n * yy - y * y)
    tiny = 1e-20 * n**4  # rounding of a constant column, not a spread
    return np.clip(_ratio(n * xy - x * y, np.sqrt(np.where(spread > tiny, spread, 0.0))), -100.0, 100.0)


def _entity_counts(predicted: Sequence[Any], truth: Sequence[Any]) -> Array:
    rows = []
    for p, t in zip(predicted, truth, strict=True):
        found, true = set(entities(p)), set(entities(t))
        rows.append([len(found & true), len(found), len(true)])
    return _array(rows)


def _tag_counts(predicted: Sequence[Any], truth: Sequence[Any]) -> Array:
    return _array(
        [[sum(a == b for a, b in zip(p, t, strict=True)), len(t)] for p, t in zip(predicted, truth, strict=True)]
    )


def _answer(scorer: Callable[[str, list[str]], float]) -> Callable[[Sequence[Any], Sequence[Any]], Array]:
    return lambda predicted, truth: _array([[scorer(p["text"], t), 1.0] for p, t in zip(predicted, truth, strict=True)])


def _perplexity(sums: Array) -> Array:
    return np.exp(np.minimum(sums[..., 0] / np.maximum(sums[..., 1], 1.0), 700.0))


def _classification(task: Task, labels: int) -> list[Metric]:
    def counts(predicted: Sequence[Any], truth: Sequence[Any]) -> Array:
        return _counts(predicted, truth, labels)

    found = [Metric("accuracy", _equal, _share), Metric("f1_macro", counts, _macro)]
    if task.multi_label:
        return [Metric("f1_micro", counts, _micro), *found]
    if labels == 2:
        found.append(Metric("f1", lambda p, t: counts(p, t)[:, 3:], _f1))
    return [*found, Metric("matthews", counts, _matthews)]


def metrics_for(task: Task) -> dict[str, Metric]:
    """The metrics of a task, the primary one first.

    Raises:
        DataError: the task's labels are not known yet.
    """
    kind = task.kind
    if task.labels is None and (task.is_classification or kind == "token-classification"):
        raise DataError(f"task {task.name}: the labels are not known yet; load the train split first")
    if task.is_classification:
        found = _classification(task, len(task.labels or ()))
    elif task.is_regression:
        found = [Metric("pearson", _moments, _correlation), Metric("spearman", _ranks, _correlation)]
    elif kind == "token-classification":
        found = [Metric("accuracy", _tag_counts, _share)]
        if has_entities(task.labels or ()):
            found.append(Metric("entity_f1", _entity_counts, _f1))
    elif kind == "question-answering":
        found = [Metric("f1", _answer(text_f1), _share), Metric("exact_match", _answer(exact_match), _share)]
    else:
        found = [
            Metric("perplexity", lambda p, _: _array([[x["loss"], x["tokens"]] for x in p]), _perplexity, False),
            Metric("accuracy", lambda p, _: _array([[x["correct"], x["tokens"]] for x in p]), _share),
        ]
    ordered = sorted(found, key=lambda metric: (metric.name != task.metric, task.metrics.index(metric.name)))
    return {metric.name: metric for metric in ordered}
