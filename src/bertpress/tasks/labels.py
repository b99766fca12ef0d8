"""Labels: from whatever a data file holds to the ids, tags or scores that a model is trained on."""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from bertpress.errors import DataError
from bertpress.tasks.rows import Rows
from bertpress.tasks.task import Task, label_names

_SHOWN = 8


def _listed(names: Sequence[str]) -> str:
    more = f", ... {len(names)} in all" if len(names) > _SHOWN else ""
    return ", ".join(map(str, names[:_SHOWN])) + more


def as_list(value: Any) -> list[Any] | None:
    """A list cell: a list as it is, JSON text, or words between spaces (CSV); None for anything else."""
    if isinstance(value, str):
        if value.lstrip().startswith("["):
            try:
                parsed = json.loads(value)
            except json.JSONDecodeError:
                return value.split()
            return parsed if isinstance(parsed, list) else None
        return value.split()
    if isinstance(value, (list, tuple, np.ndarray)):
        return list(value)
    return None


def _plain(raw: Any) -> Any:
    """A raw label as a whole number or a text, where it is one."""
    if isinstance(raw, (bool, np.bool_)):
        return int(raw)
    if isinstance(raw, np.generic):
        raw = raw.item()
    if isinstance(raw, float) and raw.is_integer():
        return int(raw)
    return raw


def _raw(task: Task, rows: Rows) -> list[Any]:
    """The label column; each value a list for tags and for several labels a row."""
    if task.label_column is None:
        raise DataError(f"task {task.name} has no label column")
    values = rows.column(task.label_column)
    if task.kind != "token-classification" and not task.multi_label:
        return values
    lists = []
    for i, value in enumerate(values):
        found = as_list(value)
        if found is None:
            raise DataError(f"{rows.place(i)}, column '{task.label_column}': {value!r} is not a list of labels")
        lists.append(found)
    return lists


def _to_id(task: Task, rows: Rows) -> Callable[[Any], int | None]:
    """From a raw label to its id in ``task.labels``; None where it has none."""
    labels = task.labels or ()
    ids = {name: i for i, name in enumerate(labels)}
    names = rows.names.get(task.label_column or "", ())
    by_name = bool(names) and set(names) <= ids.keys()  # else the labels are new names for the same ids

    def lookup(raw: Any) -> int | None:
        raw = _plain(raw)
        if isinstance(raw, str):
            if raw in ids:
                return ids[raw]
            if not raw.strip().lstrip("-").isdigit():
                return None
            raw = int(raw)
        if not isinstance(raw, int):
            return None
        if by_name:
            return ids[names[raw]] if 0 <= raw < len(names) else None
        if str(raw) in ids:
            return ids[str(raw)]
        return raw if 0 <= raw < len(labels) else None

    return lookup


def _unknown(task: Task, rows: Rows, index: int, raw: Any) -> DataError:
    where = f"{rows.place(index)}, column '{task.label_column}'"
    if raw is None or raw == "":
        return DataError(f"{where}: the label is missing")
    if isinstance(raw, (list, dict)):
        return DataError(f"{where}: {raw!r} is a list; one label a row is needed, or say multi_label")
    return DataError(f"{where}: label {raw!r} is neither in train nor in the label list ({_listed(task.labels or ())})")


def label_ids(task: Task, rows: Rows) -> list[Any]:
    """Ids of the labels of each row: an int, a sorted list (several labels a row), or a list, one a word (tags).

    Raises:
        DataError: a label is missing or unknown; the message has the file, the line, the column and the labels.
    """
    values, lookup = _raw(task, rows), _to_id(task, rows)
    cache: dict[Any, int] = {}

    def one(index: int, raw: Any) -> int:
        try:
            return cache[raw]
        except KeyError:
            found = lookup(raw)
        except TypeError:
            found = None
        if found is None:
            raise _unknown(task, rows, index, raw)
        cache[raw] = found
        return found

    if task.kind == "token-classification":
        return [[one(i, raw) for raw in value] for i, value in enumerate(values)]
    if task.multi_label:
        return [sorted({one(i, raw) for raw in value}) for i, value in enumerate(values)]
    return [one(i, raw) for i, raw in enumerate(values)]


def label_scores(task: Task, rows: Rows) -> list[float]:
    """The score of each row.

    Raises:
        DataError: a score is missing, no number, or not finite.
    """
    scores = []
    for i, raw in enumerate(_raw(task, rows)):
        try:
            score = float(raw)
        except (TypeError, ValueError):
            raise DataError(f"{rows.place(i)}, column '{task.label_column}': {raw!r} is not a number") from None
        if not math.isfinite(score):
            raise DataError(f"{rows.place(i)}, column '{task.label_column}': score {score} must be finite")
        scores.append(score)
    return scores


def _flat(values: Iterable[Any]) -> Iterable[Any]:
    for value in values:
        if isinstance(value, list):
            yield from value
        else:
            yield value


def _names_in(task: Task, rows: Rows, values: Iterable[Any]) -> tuple[str, ...]:
    """The distinct labels of the data as names: numbers in order, texts sorted, the tag O first."""
    distinct = {str(_plain(value)) for value in values}
    for bad in ("None", "nan", ""):
        if bad in distinct:
            index = next(i for i, v in enumerate(_raw(task, rows)) if bad in {str(_plain(x)) for x in _flat([v])})
            raise _unknown(task, rows, index, None)
    if all(name.lstrip("-").isdigit() for name in distinct):
        return tuple(sorted(distinct, key=int))
    return tuple(sorted(distinct, key=lambda name: (name != "O", name)))


def is_generic(names: Sequence[str]) -> bool:
    """Whether these are the names that transformers makes up: ``LABEL_0``, ``LABEL_1`` ..."""
    return all(name == f"LABEL_{i}" for i, name in enumerate(names))


def _choose(task: Task, rows: Rows, model: tuple[str, ...]) -> tuple[str, ...]:
    """The names in id order; see :func:`with_labels`."""
    if task.labels is not None:
        return task.labels
    told = rows.names.get(task.label_column or "")
    names = told or _names_in(task, rows, _flat(_raw(task, rows)))
    if not model:
        return names
    spelled = {name.casefold(): name for name in names}
    if len(spelled) == len(names) and spelled.keys() <= {name.casefold() for name in model}:
        return tuple(spelled.get(name.casefold(), name) for name in model)
    if told is None and all(name.isdigit() and int(name) < len(model) for name in names):
        return model
    return names


def _weights(task: Task, ids: list[Any], count: int) -> tuple[float, ...]:
    """Balanced class weights; for several labels a row, how much rarer a label's presence is than its absence."""
    occurrences = np.bincount(np.fromiter(_flat(ids), dtype=np.int64), minlength=count)
    if task.multi_label:
        weights = (len(ids) - occurrences) / np.maximum(occurrences, 1)
    else:
        weights = occurrences.sum() / (count * np.maximum(occurrences, 1))
    return tuple(float(w) for w in np.where(occurrences > 0, weights, 1.0))


def _check_scores(task: Task, train: Rows) -> Task:
    scores = label_scores(task, train)
    if train.split == "train" and min(scores) == max(scores):
        raise DataError(f"{train.source}: all {len(train)} rows have the score {scores[0]}; two different ones are needed")
    return task.replace(label_range=(min(scores), max(scores)))


def with_labels(
    task: Task, train: Rows, model_labels: Mapping[Any, str] | Sequence[str] | None = None
) -> Task:
    """The task with its labels fixed, after every label of ``train`` has been checked.

    Names come from the user's ``id2label``; else from ``labels.json`` or the ``ClassLabel`` names that came with the
    rows (the well-known tasks know theirs); else from the data.  A model that already knows these names (in any
    letter case) keeps its own order of ids, and the data's ids are translated by name, so that a classifier trained
    with another numbering is scored right.

    Args:
        task: as resolved; one that has labels (of an artifact, say) keeps them.
        train: rows to learn the labels from, or to check them against.
        model_labels: the model's ``id2label``; names such as ``LABEL_0`` are ignored.

    Raises:
        DataError: a label is missing or unknown, a score is no finite number, the train split has one class only.
    """
    if not len(train):
        raise DataError(f"{train.source}: no rows")
    if task.is_regression:
        return _check_scores(task, train)
    if task.kind == "question-answering":
        from bertpress.tasks.answers import gold_answers

        return task.replace(unanswerable=any(not answers for answers in gold_answers(task, train)))
    if task.kind == "masked-lm":
        return task
    model = label_names(model_labels) if model_labels else ()
    labels = _choose(task, train, () if is_generic(model) else model)
    task = task.replace(labels=None).replace(labels=labels, class_weights=_fitting(task, labels))
    ids = label_ids(task, train)
    seen = set(_flat(ids))
    if train.split == "train" and (len(seen) < 2 and not task.multi_label or not seen):
        only = f"label '{labels[next(iter(seen))]}'" if seen else "no label at all"
        raise DataError(f"{train.source}: all {len(train)} rows have {only}; at least 2 labels are needed")
    if task.metric == "f1" and len(labels) != 2:
        raise DataError(f"task {task.name}: metric 'f1' (of class 1) needs 2 labels, not {len(labels)}; take f1_macro")
    if task.metric == "entity_f1" and not has_entities(labels):
        task = task.replace(metric="accuracy")
    if task.class_weights == "balanced":
        task = task.replace(class_weights=_weights(task, ids, len(labels)))
    return task


def _fitting(task: Task, labels: tuple[str, ...]) -> Any:
    """The class weights, checked against the number of labels."""
    if isinstance(task.class_weights, tuple) and len(task.class_weights) != len(labels):
        raise DataError(f"task {task.name}: class_weights has {len(task.class_weights)} values for {len(labels)} labels")
    return task.class_weights


def has_entities(labels: Sequence[str]) -> bool:
    """Whether tags are of the form O, B-x, I-x."""
    return all(name == "O" or name[:2] in ("B-", "I-") for name in labels)
