"""Scores with bootstrap intervals, and the paired bootstrap of a drop."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from bertpress.errors import DataError
from bertpress.tasks.metrics import Metric, metrics_for
from bertpress.tasks.task import Task

Array = npt.NDArray[np.float64]
UserMetric = Callable[[list[Any], list[Any]], float]
_RESAMPLES = 2000
_RESAMPLES_OF_CALLABLE = 200  # each calls the user's function on as many rows as there are
_BLOCK = 4_000_000  # counts held at once


class Score(BaseModel):
    """A metric's value with its 95 % interval; percent, but for perplexity and a user's own metric."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str
    value: float
    low: float
    high: float


class Drop(BaseModel):
    """Teacher minus student in points (the reverse where lower is better), with its 95 % interval."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    value: float
    low: float
    high: float


def resample_counts(rows: int, seed: int, resamples: int = _RESAMPLES) -> Iterator[Array]:
    """Blocks (resamples, rows) of how often each row is drawn when ``rows`` are drawn with replacement."""
    rng = np.random.default_rng(seed)
    block = max(1, _BLOCK // rows)
    for low in range(0, resamples, block):
        count = min(block, resamples - low)
        drawn = rng.integers(0, rows, (count, rows)) + rows * np.arange(count)[:, None]
        yield np.bincount(drawn.ravel(), minlength=count * rows).reshape(count, rows).astype(np.float64)


def _interval(values: Array, confidence: float = 0.95) -> tuple[float, float]:
    outside = 50 * (1 - confidence)
    low, high = np.percentile(values, [outside, 100 - outside])
    return float(low), float(high)


def mean_interval(values: Sequence[float], *, seed: int = 0, confidence: float = 0.95) -> tuple[float, float, float]:
    """The mean of some values, with the bounds of its percentile bootstrap interval."""
    array = np.asarray(values, np.float64)
    means = [counts @ array / len(array) for counts in resample_counts(_check(values), seed)]
    return float(array.mean()), *_interval(np.concatenate(means), confidence)


def _check(*lists: Sequence[Any]) -> int:
    sizes = {len(x) for x in lists}
    if len(sizes) != 1 or 0 in sizes:
        raise ValueError(
            f"predictions and references of equal, positive length are needed, not {[len(x) for x in lists]}"
        )
    return sizes.pop()


def _called(metric: UserMetric, predictions: list[Any], references: list[Any]) -> float:
    name = getattr(metric, "__name__", type(metric).__name__)
    value = metric(predictions, references)
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise DataError(f"metric {name}: returned {value!r}, not a number") from None
    if not math.isfinite(number):
        raise DataError(f"metric {name}: returned {number}, which must be finite")
    return number


def _drawn(rows: int, seed: int) -> Iterator[npt.NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    for _ in range(_RESAMPLES_OF_CALLABLE):
        yield rng.integers(0, rows, rows)


def _pick(values: Sequence[Any], chosen: npt.NDArray[np.int64]) -> list[Any]:
    return [values[i] for i in chosen]


def _own(metric: UserMetric, predictions: list[Any], references: list[Any], seed: int) -> Score:
    value = _called(metric, predictions, references)
    values = [
        _called(metric, _pick(predictions, chosen), _pick(references, chosen))
        for chosen in _drawn(len(predictions), seed)
    ]
    low, high = _interval(np.asarray(values))
    return Score(name=getattr(metric, "__name__", type(metric).__name__), value=value, low=low, high=high)


def score(
    task: Task,
    predictions: Sequence[Any],
    references: Sequence[Any],
    *,
    seed: int = 0,
    metric: UserMetric | None = None,
) -> dict[str, Score]:
    """All metrics of the task with percentile bootstrap intervals over rows, the primary one first.

    Args:
        task: with its labels known.
        predictions: from :func:`bertpress.tasks.predictions`.
        references: from :func:`bertpress.tasks.references`.
        seed: of the resamples; the same rows are drawn for all metrics.
        metric: the user's own function of (predictions, references), a number, higher is better; it comes
            first, under its own name.

    Raises:
        DataError: the user's metric does not return a finite number.
    """
    rows = _check(predictions, references)
    known = metrics_for(task)
    statistics = {name: m.statistics(predictions, references) for name, m in known.items()}
    values: dict[str, list[Array]] = {name: [] for name in known}
    for counts in resample_counts(rows, seed):
        for name, m in known.items():
            values[name].append(m.value(counts @ statistics[name]))
    found: dict[str, Score] = {}
    if metric is not None:
        own = _own(metric, list(predictions), list(references), seed)
        found[own.name] = own
    for name, m in known.items():
        low, high = _interval(np.concatenate(values[name]))
        found.setdefault(name, Score(name=name, value=float(m.value(statistics[name].sum(0))), low=low, high=high))
    return found


def drop(
    task: Task,
    teacher_predictions: Sequence[Any],
    student_predictions: Sequence[Any],
    references: Sequence[Any],
    *,
    seed: int = 0,
    metric: UserMetric | None = None,
) -> Drop:
    """How many points of the primary metric the student loses: both are scored on the same resampled rows.

    Raises:
        DataError: the user's metric does not return a finite number.
    """
    rows = _check(teacher_predictions, student_predictions, references)
    if metric is not None:
        return _own_drop(metric, list(teacher_predictions), list(student_predictions), list(references), seed)
    primary: Metric = next(iter(metrics_for(task).values()))
    sign = 1.0 if primary.higher_is_better else -1.0
    teacher, student = (primary.statistics(p, references) for p in (teacher_predictions, student_predictions))
    differences = [
        sign * (primary.value(counts @ teacher) - primary.value(counts @ student))
        for counts in resample_counts(rows, seed)
    ]
    low, high = _interval(np.concatenate(differences))
    value = sign * float(primary.value(teacher.sum(0)) - primary.value(student.sum(0)))
    return Drop(value=value, low=low, high=high)


def _own_drop(metric: UserMetric, teacher: list[Any], student: list[Any], references: list[Any], seed: int) -> Drop:
    differences = []
    for chosen in _drawn(len(references), seed):
        truth = _pick(references, chosen)
        differences.append(
            _called(metric, _pick(teacher, chosen), truth) - _called(metric, _pick(student, chosen), truth)
        )
    low, high = _interval(np.asarray(differences))
    value = _called(metric, teacher, references) - _called(metric, student, references)
    return Drop(value=value, low=low, high=high)
