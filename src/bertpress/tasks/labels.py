"""Labels: from whatever a data file holds to the ids, tags or scores that a model is trained on."""

import json
import math
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from bertpress.errors import DataError
from bertpress.tasks.known import NAMES
from bertpress.tasks.rows import Rows
from bertpress.tasks.task import Task

_SHOWN = 8
_WHOLE = re.compile("-?[0-9]{1,1000}")


def _listed(names: Sequence[str]) -> str:
    more = f", ... {len(names)} in all" if len(names) > _SHOWN else ""
    return ", ".join(map(str, names[:_SHOWN])) + more


def as_list(value: Any) -> list[Any] | None:
    """A list cell: a list as it is, JSON text, or words between spaces (CSV); None for anything else."""
    if isinstance(value, str):
        if value.lstrip().startswith("["):
            try:
                parsed = json.loads(value)
            except (ValueError, RecursionError):
                return value.split()
            return parsed if isinstance(parsed, list) else None
        return value.split()
    if isinstance(value, (list, tuple, np.ndarray)):
        return list(value)
    return None


def whole_number(text: str) -> int | None:
    """The number that a text spells with ASCII digits alone; None for any other text."""
    return int(text) if _WHOLE.fullmatch(text) else None


def name_of(raw: Any) -> str:
    """A raw label as a name: truth values are ``true`` and ``false``, as JSON spells them."""
    return str(bool(raw)).lower() if isinstance(raw, (bool, np.bool_)) else str(plain(raw))


def plain(raw: Any) -> Any:
    """A raw label as a whole number or a text, where it is one."""
    if isinstance(raw, (bool, np.bool_)):
        return int(raw)
    if isinstance(raw, np.generic):
        raw = raw.item()
    if isinstance(raw, float) and raw.is_integer():
        return int(raw)
    return raw


def raw_labels(task: Task, rows: Rows) -> list[Any]:
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


def flat(values: Iterable[Any]) -> Iterable[Any]:
    """The values, and those inside of lists."""
    for value in values:
        if isinstance(value, list):
            yield from value
        else:
            yield value


def names_of(task: Task, rows: Rows) -> tuple[str, ...] | None:
    """Names of the label ids in ``rows``: those that came with the data, else those of a well-known task."""
    told = rows.names.get(task.label_column or "")
    if told or task.label_column != "label" or task.name not in NAMES:
        return told
    found = {str(plain(value)) for value in flat(raw_labels(task, rows))}
    known = NAMES[task.name]
    return known if all(whole_number(name) is not None or name in known for name in found) else None


def _to_id(task: Task, rows: Rows) -> Callable[[Any], int | None]:
    """From a raw label to its id in ``task.labels``; None where it has none."""
    labels = task.labels or ()
    ids = {name: i for i, name in enumerate(labels)}
    names = names_of(task, rows) or ()
    by_name = bool(names) and set(names) <= ids.keys()  # else the labels are new names for the same ids
    numeric = all(whole_number(name) is not None for name in labels)
    truths = {"true", "false"} == {name.casefold() for name in labels}

    def lookup(raw: Any) -> int | None:
        if truths and (spelled := _truth(raw)) is not None:
            return next(i for name, i in ids.items() if name.casefold() == spelled)
        raw = plain(raw)
        if isinstance(raw, str):
            if raw in ids:
                return ids[raw]
            raw = whole_number(raw.strip())
        if not isinstance(raw, int):
            return None
        if by_name:
            return ids[names[raw]] if 0 <= raw < len(names) else None
        if str(raw) in ids or numeric:
            return ids.get(str(raw))
        return raw if 0 <= raw < len(labels) else None

    return lookup


def _truth(raw: Any) -> str | None:
    """``true`` or ``false`` where a label says so, as a truth value or in letters of any case."""
    if isinstance(raw, (bool, np.bool_)):
        return name_of(raw)
    return raw.casefold() if isinstance(raw, str) and raw.casefold() in ("true", "false") else None


def unknown_label(task: Task, rows: Rows, index: int, raw: Any) -> DataError:
    """The error for a label that is missing, a list, or in no list of labels."""
    where = f"{rows.place(index)}, column '{task.label_column}'"
    if raw is None or raw == "":
        return DataError(f"{where}: the label is missing")
    if isinstance(raw, float) and not raw.is_integer():
        return DataError(f"{where}: label {raw!r} is no whole number; is the task a regression, or the label a text?")
    if isinstance(raw, (list, dict)):
        return DataError(f"{where}: {raw!r} is a list; one label a row is needed, or say multi_label")
    return DataError(f"{where}: label {raw!r} is neither in train nor in the label list ({_listed(task.labels or ())})")


def label_ids(task: Task, rows: Rows) -> list[Any]:
    """Ids of the labels of each row: an int, a sorted list (several labels), or a list, one a word (tags).

    Raises:
        DataError: a label is missing or unknown; the message has file, line, column and labels.
    """
    if task.labels is None:
        raise DataError(f"task {task.name}: the labels are not known yet; load the train split first")
    values, lookup = raw_labels(task, rows), _to_id(task, rows)
    cache: dict[Any, int] = {}

    def one(index: int, raw: Any) -> int:
        try:
            return cache[raw]
        except KeyError:
            found = lookup(raw)
        except TypeError:
            found = None
        if found is None:
            raise unknown_label(task, rows, index, raw)
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
    for i, raw in enumerate(raw_labels(task, rows)):
        try:
            score = float(raw)
        except (TypeError, ValueError):
            raise DataError(f"{rows.place(i)}, column '{task.label_column}': {raw!r} is not a number") from None
        if not math.isfinite(score):
            raise DataError(f"{rows.place(i)}, column '{task.label_column}': score {score} must be finite")
        scores.append(score)
    return scores


def has_entities(labels: Sequence[str]) -> bool:
    """Whether tags are of the form O, B-x, I-x."""
    return all(name == "O" or name[:2] in ("B-", "I-") for name in labels)
