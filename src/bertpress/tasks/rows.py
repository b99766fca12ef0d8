"""Rows of a data set in memory, which know where each came from."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from bertpress.errors import DataError
from bertpress.tasks.task import Task


def no_character(text: str) -> str | None:
    """Half a surrogate pair in a text, such as ``U+D83D``, which JSON can spell and nothing can read; None without."""
    half = None if text.isascii() else next((c for c in text if "\ud800" <= c <= "\udfff"), None)
    return f"U+{ord(half):04X}" if half else None


@dataclass(frozen=True)
class Rows:
    """Columns of equal length.

    Attributes:
        columns: column name to values.
        split: ``train``, ``validation`` ...
        source: the file, the hub name, or ``memory``.
        unit: what ``positions`` count: ``line`` of a text file or ``row`` (both from 1).
        positions: where in the source each row stands; None: in order.
        names: for columns of label ids, the names of ids 0, 1, 2 ... where the data tell them.
    """

    columns: dict[str, list[Any]]
    split: str = "train"
    source: str = "memory"
    unit: str = "row"
    positions: Sequence[int] | None = None
    names: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        lengths = {len(values) for values in self.columns.values()}
        if len(lengths) > 1:
            raise ValueError(f"columns of unequal length: { {k: len(v) for k, v in self.columns.items()} }")

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), ()))

    @property
    def digest(self) -> str:
        """How many rows there are, and a hash of all that is in them: what a run must find again to go on."""
        told = hashlib.sha256()
        for column in sorted(self.columns.items()):
            told.update(json.dumps(column, default=str).encode())
        return f"{len(self)} rows, {told.hexdigest()[:16]}"

    def column(self, name: str) -> list[Any]:
        """The values of one column.

        Raises:
            DataError: there is no such column; the message lists those that there are.
        """
        if name not in self.columns:
            raise DataError(f"{self.source}: no column '{name}' (available: {', '.join(self.columns) or 'none'})")
        return self.columns[name]

    def place(self, index: int) -> str:
        """Where row ``index`` stands, for error messages."""
        return f"{self.source} {self.unit} {self.positions[index] if self.positions is not None else index + 1}"

    def row(self, index: int) -> dict[str, Any]:
        """One row as a mapping."""
        return {name: values[index] for name, values in self.columns.items()}

    def subset(self, indices: Iterable[int]) -> "Rows":
        """The rows at ``indices``, in that order."""
        chosen = [int(i) for i in indices]
        places = self.positions if self.positions is not None else range(1, len(self) + 1)
        return Rows(
            columns={name: [values[i] for i in chosen] for name, values in self.columns.items()},
            split=self.split,
            source=self.source,
            unit=self.unit,
            positions=[places[i] for i in chosen],
            names=self.names,
        )

    def divided(self, count: int, seed: int = 0) -> "tuple[Rows, Rows]":
        """``count`` random rows, those that :meth:`limit` gives, and the others, both in their order."""
        order = np.random.default_rng(seed).permutation(len(self))
        return self.subset(sorted(order[:count].tolist())), self.subset(sorted(order[count:].tolist()))

    def followed_by(self, other: "Rows") -> "Rows":
        """These rows, then others with the same columns."""
        places = [rows.positions if rows.positions is not None else range(1, len(rows) + 1) for rows in (self, other)]
        columns = {name: [*values, *other.column(name)] for name, values in self.columns.items()}
        return replace(self, columns=columns, positions=[*places[0], *places[1]])

    def with_columns(self, **columns: list[Any]) -> "Rows":
        """The same rows with other values in some columns."""
        return replace(self, columns={**self.columns, **columns})

    def limit(self, count: int | None, seed: int = 0) -> "Rows":
        """``count`` random rows in their order (None: all); a smaller limit picks among those of a larger.

        The first rows of a file would be a biased sample wherever it is sorted by class or by article.
        """
        if count is None or count >= len(self):
            return self
        if count < 1:
            raise DataError(f"{self.source}: limit={count} must be at least 1")
        return self.divided(count, seed)[0]


def holdout(rows: Rows, share: float, seed: int = 0, *, group: str | None = None) -> tuple[Rows, Rows]:
    """Cut a selection split from train: ``(rest, held out)``, a pure function of the arguments.

    Args:
        rows: the train split.
        share: fraction to hold out, (0, 1); both parts get at least one row.
        seed: of the shuffle.
        group: a column whose equal values stay on one side (the ``context`` of questions, say).

    Raises:
        DataError: ``share`` is out of bounds, or there are fewer than two rows or groups.
    """
    if not 0 < share < 1:
        raise DataError(f"holdout share={share} must be in (0, 1)")
    numbers: dict[str, int] = {}
    keys = range(len(rows)) if group is None else [numbers.setdefault(str(v), len(numbers)) for v in rows.column(group)]
    members = np.asarray(keys, dtype=np.int64)
    groups = int(members.max(initial=-1)) + 1
    if groups < 2:
        raise DataError(f"{rows.source}: {len(rows)} row(s) in {groups} group(s) cannot be cut in two")
    cut = min(max(round(share * groups), 1), groups - 1)
    held = np.isin(members, np.random.default_rng(seed).permutation(groups)[:cut])
    rest, chosen = rows.subset(np.flatnonzero(~held)), rows.subset(np.flatnonzero(held))
    return rest, Rows(**{**vars(chosen), "split": "holdout"})


def from_records(records: Any, *, split: str = "train", source: str = "memory") -> Rows:
    """Rows from a ``datasets.Dataset``, a mapping of columns, or a sequence of mappings with the same keys.

    ``ClassLabel`` features hand on their names.
    """
    features = getattr(records, "features", None)
    if features is not None:
        names = {name: labels for name, feature in features.items() if (labels := _class_names(feature))}
        return Rows({name: list(records[name]) for name in features}, split, source, names=names)
    if isinstance(records, Mapping):
        return Rows({name: list(values) for name, values in records.items()}, split, source)
    listed = list(records)
    keys = list(listed[0]) if listed else []
    for i, record in enumerate(listed):
        if set(record) != set(keys):
            raise DataError(f"{source} row {i + 1}: columns {', '.join(record)} differ from row 1 ({', '.join(keys)})")
    return Rows({key: [record[key] for record in listed] for key in keys}, split, source)


def _class_names(feature: Any) -> tuple[str, ...] | None:
    """Names of a ClassLabel, also inside a list feature."""
    inner = getattr(feature, "feature", feature[0] if isinstance(feature, list) and feature else feature)
    names = getattr(inner, "names", None)
    return tuple(names) if isinstance(names, (list, tuple)) else None


def from_texts(task: Task, texts: Sequence[Any], *, source: str = "input", first: int = 1) -> Rows:
    """Unlabelled rows from what a user passes to ``predict``.

    Args:
        task: decides how many texts a row has.
        texts: a string each (words to tag are split at spaces, or given as a list); for two texts a pair, or
            a mapping with the task's column names.
        source: named in error messages.
        first: the line of the first text, for error messages.

    Raises:
        DataError: an entry has the wrong form.
    """
    columns: dict[str, list[Any]] = {name: [] for name in task.text_columns}
    for line, entry in enumerate(texts, start=first):
        if isinstance(entry, Mapping):
            missing = [name for name in task.text_columns if name not in entry]
            if missing:
                raise DataError(f"{source} line {line}: no field '{missing[0]}' (available: {', '.join(entry)})")
            values = [entry[name] for name in task.text_columns]
        elif len(task.text_columns) == 1:
            values = [entry]
        elif isinstance(entry, (list, tuple)) and len(entry) == 2:
            values = list(entry)
        else:
            raise DataError(f"{source} line {line}: needs two texts ({', '.join(task.text_columns)}), got one")
        for name, value in zip(task.text_columns, values, strict=True):
            columns[name].append(value)
    return Rows(columns, "predict", source, "line", range(first, first + len(texts)))
