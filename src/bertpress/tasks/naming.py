"""Which labels a task has, in which order: from the user, the data, the model."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from bertpress.errors import DataError
from bertpress.tasks.answers import gold_answers
from bertpress.tasks.labels import (
    flat,
    has_entities,
    label_ids,
    label_scores,
    name_of,
    names_of,
    raw_labels,
    unknown_label,
    whole_number,
)
from bertpress.tasks.rows import Rows, no_character
from bertpress.tasks.task import Task, label_names


def _names_in(task: Task, rows: Rows, values: Iterable[Any]) -> tuple[str, ...]:
    """The distinct labels of the data as names: numbers in order, texts sorted, the tag O first."""
    distinct = {name_of(value): value for value in values}
    for name, value in distinct.items():
        missing, half = name in ("None", "nan", ""), no_character(name)
        if missing or half or (isinstance(value, float) and not value.is_integer()):
            index = next(i for i, v in enumerate(raw_labels(task, rows)) if name in {name_of(x) for x in flat([v])})
            if half:
                raise DataError(f"{rows.place(index)}, column '{task.label_column}': {half} is no character")
            raise unknown_label(task, rows, index, None if missing else value)
    if all(whole_number(name) is not None for name in distinct):
        return tuple(sorted(distinct, key=int))
    return tuple(sorted(distinct, key=lambda name: (name != "O", name)))


def is_generic(names: Sequence[str]) -> bool:
    """Whether these are the names that transformers makes up: ``LABEL_0``, ``LABEL_1`` ..."""
    return all(name == f"LABEL_{i}" for i, name in enumerate(names))


def _choose(task: Task, rows: Rows, model: tuple[str, ...]) -> tuple[str, ...]:
    """The names in id order; see :func:`with_labels`."""
    if task.labels is not None:
        return task.labels
    told = names_of(task, rows)
    names = told or _names_in(task, rows, flat(raw_labels(task, rows)))
    if not model:
        return names
    spelled = {name.casefold(): name for name in names}
    if len(spelled) == len(names) and spelled.keys() <= {name.casefold() for name in model}:
        return tuple(spelled.get(name.casefold(), name) for name in model)
    if told is None and all(whole_number(name) in range(len(model)) for name in names):
        return model
    return names


def _weights(task: Task, ids: list[Any], count: int) -> tuple[float, ...]:
    """Balanced class weights; for several labels a row, how much rarer each is present than absent."""
    occurrences = np.bincount(np.fromiter(flat(ids), dtype=np.int64), minlength=count)
    if task.multi_label:
        weights = (len(ids) - occurrences) / np.maximum(occurrences, 1)
    else:
        weights = occurrences.sum() / (count * np.maximum(occurrences, 1))
    return tuple(float(w) for w in np.where(occurrences > 0, weights, 1.0))


def _check_scores(task: Task, train: Rows) -> Task:
    scores = label_scores(task, train)
    if train.split == "train" and min(scores) == max(scores):
        raise DataError(
            f"{train.source}: all {len(train)} rows have the score {scores[0]}; two different ones are needed"
        )
    return task.replace(label_range=(min(scores), max(scores)))


def with_labels(task: Task, train: Rows, model_labels: Mapping[Any, str] | Sequence[str] | None = None) -> Task:
    """The task with its labels fixed, after every label of ``train`` has been checked.

    Names come from the user's ``id2label``; else from ``labels.json`` or the ``ClassLabel`` names that came
    with the rows (the well-known tasks know theirs); else from the data.  A model that already knows these
    names (in any letter case) keeps its own order of ids, and the data's ids are translated by name, so that
    a classifier trained with another numbering is scored right.

    Args:
        task: as resolved; one that has labels (of an artifact, say) keeps them.
        train: rows to learn the labels from, or to check them against.
        model_labels: the model's ``id2label``; names such as ``LABEL_0`` are ignored.

    Raises:
        DataError: a label is missing or unknown, a score not finite, or the train split has one class only.
    """
    if not len(train):
        raise DataError(f"{train.source}: no rows")
    if task.is_regression:
        return _check_scores(task, train)
    if task.kind == "question-answering":
        return task.replace(unanswerable=any(not answers for answers in gold_answers(task, train)))
    if task.kind == "masked-lm":
        return task
    model = label_names(model_labels) if model_labels else ()
    labels = _choose(task, train, () if is_generic(model) else model)
    if isinstance(task.class_weights, tuple) and len(task.class_weights) != len(labels):
        raise DataError(
            f"task {task.name}: class_weights has {len(task.class_weights)} values for {len(labels)} labels"
        )
    task = task.replace(labels=labels)
    ids = label_ids(task, train)
    seen = set(flat(ids))
    if train.split == "train" and (not seen or (len(seen) < 2 and not task.multi_label)):
        only = f"label '{labels[next(iter(seen))]}'" if seen else "no label at all"
        raise DataError(f"{train.source}: all {len(train)} rows have {only}; at least 2 labels are needed")
    if task.metric == "f1" and len(labels) != 2:
        raise DataError(f"task {task.name}: metric 'f1' (of class 1) needs 2 labels, not {len(labels)}; take f1_macro")
    if task.metric == "entity_f1" and not has_entities(labels):
        task = task.replace(metric="accuracy")
    if task.class_weights == "balanced":
        task = task.replace(class_weights=_weights(task, ids, len(labels)))
    return task
