"""The well-known tasks and the generic kinds, by name.

:func:`resolve` turns a name into a :class:`Task`: one of the well-known data sets of :data:`KNOWN`, or a
generic kind (``text-classification`` ...) whose columns the user names.
"""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import ValidationError

from bertpress.errors import DataError
from bertpress.tasks.task import KINDS, METRICS, Kind, Task, label_names

_COLUMNS: dict[Kind, tuple[tuple[str, ...], str | None]] = {
    "text-classification": (("text",), "label"),
    "text-pair-classification": (("sentence1", "sentence2"), "label"),
    "text-regression": (("text",), "label"),
    "sentence-similarity": (("sentence1", "sentence2"), "label"),
    "token-classification": (("tokens",), "ner_tags"),
    "question-answering": (("question", "context"), "answers"),
    "masked-lm": (("text",), None),
}


def _known(
    name: str,
    kind: Kind,
    texts: tuple[str, ...],
    label: str = "label",
    metric: str | None = None,
    **more: Any,
) -> Task:
    spans = {"max_length": 384, "stride": 128, "windows": True} if kind == "question-answering" else {}
    return Task(
        name=name,
        kind=kind,
        text_columns=texts,
        label_column=label,
        metric=metric or METRICS[kind][0],
        **{**spans, **more},
    )


_PAIR: Kind = "text-pair-classification"
KNOWN: dict[str, Task] = {
    task.name: task
    for task in (
        _known("ag_news", "text-classification", ("text",)),
        _known("banking77", "text-classification", ("text",)),
        _known("cola", "text-classification", ("sentence",), metric="matthews"),
        _known("mnli", _PAIR, ("premise", "hypothesis")),
        _known("mrpc", _PAIR, ("sentence1", "sentence2"), metric="f1"),
        _known("qnli", _PAIR, ("question", "sentence")),
        _known("qqp", _PAIR, ("question1", "question2"), metric="f1"),
        _known("rte", _PAIR, ("sentence1", "sentence2")),
        _known("snips", "text-classification", ("text",)),
        _known("snips-slots", "token-classification", ("tokens",), "slot_tags", folder="snips"),
        _known("snli", _PAIR, ("premise", "hypothesis")),
        _known("squad", "question-answering", ("question", "context"), "answers"),
        _known("sst2", "text-classification", ("sentence",)),
        _known("stsb", "text-regression", ("sentence1", "sentence2")),
        _known("subj", "text-classification", ("text",)),
        _known("trec", "text-classification", ("text",)),
        _known("wnut17", "token-classification", ("tokens",), "ner_tags"),
    )
}
"""The well-known tasks by name, with the columns that the ``datasets`` library uses for them."""

_NLI = ("entailment", "neutral", "contradiction")
NAMES: dict[str, tuple[str, ...]] = {
    "ag_news": ("World", "Sports", "Business", "Sci/Tech"),
    "cola": ("unacceptable", "acceptable"),
    "mnli": _NLI,
    "mrpc": ("not_equivalent", "equivalent"),
    "qnli": ("entailment", "not_entailment"),
    "qqp": ("not_duplicate", "duplicate"),
    "rte": ("entailment", "not_entailment"),
    "snli": _NLI,
    "sst2": ("negative", "positive"),
    "subj": ("objective", "subjective"),
    "trec": ("ABBR", "ENTY", "DESC", "HUM", "LOC", "NUM"),
}
"""What bare label ids mean, in the numbering of GLUE and of the ``datasets`` library."""


def _base(name: str) -> Task:
    if name in KNOWN:
        return KNOWN[name]
    if name in KINDS:
        columns, label = _COLUMNS[name]
        spans = {"max_length": 384, "stride": 128, "windows": True} if name == "question-answering" else {}
        return Task(name=name, kind=name, text_columns=columns, label_column=label, metric=METRICS[name][0], **spans)
    names = [*sorted(KNOWN), *KINDS]
    near = difflib.get_close_matches(name.lower().replace("_", "-"), [n.replace("_", "-") for n in names], n=1)
    match = next((n for n in names if near and n.replace("_", "-") == near[0]), None)
    hint = f"did you mean '{match}'?" if match else f"known: {', '.join(names)}"
    raise DataError(f"task '{name}' is unknown; {hint}")


def resolve(
    name: str,
    *,
    text_columns: str | Sequence[str] | None = None,
    label_column: str | None = None,
    max_length: int | None = None,
    metric: str | None = None,
    id2label: Mapping[Any, str] | Sequence[str] | None = None,
    multi_label: bool | None = None,
    class_weights: Literal["balanced"] | Sequence[float] | None = None,
    windows: bool | None = None,
    stride: int | None = None,
) -> Task:
    """The task of that name with the user's changes.

    Args:
        name: a key of :data:`KNOWN` or a generic kind.
        text_columns: one or two column names, in the order in which the model reads them.
        label_column: the column of labels, scores, tags or answers.
        max_length: tokens of one input; 128, or 384 for question answering.
        metric: the primary metric, one of :data:`METRICS` for the kind.
        id2label: the names of the labels by id; they win over those that the data or the model carries.
        multi_label: a row has a list of labels.
        class_weights: a factor on the loss of each label, or ``balanced``.
        windows: cut long texts into windows (question answering does) instead of truncating them.
        stride: tokens that windows share; 128 for question answering, else a quarter of ``max_length``.

    Raises:
        DataError: the name is unknown (with a suggestion), or a value does not fit the kind.
    """
    task = _base(name)
    columns = (text_columns,) if isinstance(text_columns, str) else text_columns
    given = {
        "text_columns": None if columns is None else tuple(columns),
        "label_column": label_column,
        "max_length": max_length,
        "metric": metric,
        "labels": None if id2label is None else label_names(id2label),
        "multi_label": multi_label,
        "class_weights": tuple(class_weights) if isinstance(class_weights, (list, tuple)) else class_weights,
        "windows": windows,
        "stride": stride,
    }
    changes = {key: value for key, value in given.items() if value is not None}
    if multi_label and metric is None:
        changes["metric"] = METRICS["multi-label"][0]
    length = changes.get("max_length", task.max_length)
    if stride is None and isinstance(length, int) and changes.get("windows", task.windows):
        changes["stride"] = min(task.stride or length // 4, length // 3)
    try:
        return task.replace(**changes)
    except ValidationError as error:
        found = error.errors()[-1]
        field = ".".join(str(part) for part in found["loc"][:1])
        value = f"{field}={found['input']!r}: " if field else ""
        raise DataError(f"task {name}: {value}{found['msg'].removeprefix('Value error, ')}") from None
