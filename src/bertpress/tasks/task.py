"""What is learnt: a task's columns, labels, lengths and metric, as frozen data.

:func:`resolve` turns a name into a :class:`Task`: one of the well-known data sets of :data:`KNOWN`, or a generic
kind (``text-classification`` ...) whose columns the user names.
"""

import difflib
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from bertpress.encoder.blueprint import HeadSpec
from bertpress.errors import DataError

Kind = Literal[
    "text-classification",
    "text-pair-classification",
    "text-regression",
    "sentence-similarity",
    "token-classification",
    "question-answering",
    "masked-lm",
]
KINDS: tuple[Kind, ...] = get_args(Kind)

METRICS: dict[str, tuple[str, ...]] = {
    "text-classification": ("accuracy", "f1", "f1_macro", "matthews"),
    "text-pair-classification": ("accuracy", "f1", "f1_macro", "matthews"),
    "multi-label": ("f1_micro", "f1_macro", "accuracy"),
    "text-regression": ("pearson", "spearman"),
    "sentence-similarity": ("pearson", "spearman"),
    "token-classification": ("entity_f1", "accuracy"),
    "question-answering": ("f1", "exact_match"),
    "masked-lm": ("perplexity", "accuracy"),
}
"""Names of the metrics of each kind; the first is the default primary one."""

_COLUMNS: dict[Kind, tuple[tuple[str, ...], str | None]] = {
    "text-classification": (("text",), "label"),
    "text-pair-classification": (("sentence1", "sentence2"), "label"),
    "text-regression": (("text",), "label"),
    "sentence-similarity": (("sentence1", "sentence2"), "label"),
    "token-classification": (("tokens",), "ner_tags"),
    "question-answering": (("question", "context"), "answers"),
    "masked-lm": (("text",), None),
}
_TEXTS: dict[Kind, tuple[int, ...]] = {
    "text-classification": (1,),
    "text-pair-classification": (2,),
    "text-regression": (1, 2),
    "sentence-similarity": (2,),
    "token-classification": (1,),
    "question-answering": (2,),
    "masked-lm": (1,),
}


class Task(BaseModel):
    """One task. ``labels`` is None until :func:`bertpress.tasks.with_labels` has seen the train split."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    kind: Kind
    text_columns: tuple[str, ...] = Field(min_length=1, max_length=2)
    label_column: str | None
    metric: str = Field(description="The primary metric, one of METRICS.")
    folder: str | None = Field(None, description="Name of the data folder where it is not the task's name.")
    multi_label: bool = Field(False, description="A row has any number of labels.")
    labels: tuple[str, ...] | None = Field(None, description="Names in the order of the model's label ids.")
    label_range: tuple[float, float] | None = Field(None, description="Lowest and highest score seen in train.")
    class_weights: Literal["balanced"] | tuple[Annotated[float, Field(ge=0, allow_inf_nan=False)], ...] | None = None
    max_length: int = Field(128, ge=8, le=32768, description="Tokens of one input, special tokens included.")
    windows: bool = Field(False, description="Cut longer texts into overlapping windows instead of truncating.")
    stride: int = Field(0, ge=0, description="Tokens that neighbouring windows share.")
    max_answer_length: int = Field(30, ge=1, le=512, description="Tokens of the longest answer span.")
    unanswerable: bool = Field(False, description="Some questions have no answer (SQuAD 2).")
    masked_share: float = Field(0.15, gt=0, le=1, description="Masked LM: share of tokens to predict.")

    @model_validator(mode="after")
    def _consistent(self) -> "Task":
        counts = _TEXTS[self.kind]
        if len(self.text_columns) not in counts:
            wanted = " or ".join(map(str, counts))
            raise ValueError(f"{self.kind} takes {wanted} text column(s), not {', '.join(self.text_columns)}")
        if self.label_column is None and self.kind != "masked-lm":
            raise ValueError(f"{self.kind} needs a label column")
        if self.multi_label and self.kind not in ("text-classification", "text-pair-classification"):
            raise ValueError(f"multi_label is for classification, not for {self.kind}")
        allowed = self.metrics
        if self.metric not in allowed:
            raise ValueError(f"metric '{self.metric}' must be one of {', '.join(allowed)}")
        if self.stride > self.max_length // 2:
            raise ValueError(f"stride={self.stride} must be at most half of max_length={self.max_length}")
        if self.class_weights is not None and self.kind not in (
            "text-classification", "text-pair-classification", "token-classification"
        ):
            raise ValueError(f"class_weights are for classification, not for {self.kind}")
        if self.labels is not None and len(set(self.labels)) != len(self.labels):
            raise ValueError("labels must be distinct")
        if self.labels and isinstance(self.class_weights, tuple) and len(self.class_weights) != len(self.labels):
            raise ValueError(f"class_weights has {len(self.class_weights)} values for {len(self.labels)} labels")
        return self

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the metrics that suit the kind."""
        return METRICS["multi-label" if self.multi_label else self.kind]

    @property
    def is_classification(self) -> bool:
        """One decision (or one set of decisions) for a whole text or pair."""
        return self.kind in ("text-classification", "text-pair-classification")

    @property
    def is_regression(self) -> bool:
        """The label is a number: a score of a text, or the similarity of two."""
        return self.kind in ("text-regression", "sentence-similarity")

    @property
    def id2label(self) -> dict[int, str] | None:
        """The labels as a transformers config writes them."""
        return None if self.labels is None else dict(enumerate(self.labels))

    def head(self, labels: int | None = None) -> HeadSpec:
        """The head that answers this task; ``labels`` overrides the number of label names."""
        if self.kind == "sentence-similarity":
            return HeadSpec(kind="embedding", pooling="mean")
        if self.kind == "question-answering":
            return HeadSpec(kind="span", labels=2)
        if self.kind == "masked-lm":
            return HeadSpec(kind="masked_lm")
        if self.kind == "text-regression":
            return HeadSpec(kind="sequence", labels=1)
        count = labels if labels is not None else len(self.labels or ())
        if count < 1:
            raise DataError(f"task {self.name}: the labels are not known yet; load the train split first")
        return HeadSpec(kind="token" if self.kind == "token-classification" else "sequence", labels=count)

    def replace(self, **changes: Any) -> "Task":
        """A validated copy with some fields changed."""
        return Task(**{**{name: getattr(self, name) for name in type(self).model_fields}, **changes})


def _known(name: str, kind: Kind, texts: tuple[str, ...], label: str = "label", metric: str | None = None,
           **more: Any) -> Task:
    spans = {"max_length": 384, "stride": 128, "windows": True} if kind == "question-answering" else {}
    return Task(name=name, kind=kind, text_columns=texts, label_column=label, metric=metric or METRICS[kind][0],
                **{**spans, **more})


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


def label_names(id2label: Mapping[Any, str] | Sequence[str]) -> tuple[str, ...]:
    """Names in the order of their ids, from a sequence or from a mapping of ids 0, 1, 2 ... (ints or their text)."""
    if not isinstance(id2label, Mapping):
        return tuple(str(name) for name in id2label)
    try:
        named = {int(key): str(value) for key, value in id2label.items()}
    except (TypeError, ValueError):
        raise DataError(f"id2label: the keys {', '.join(map(str, id2label))} must be whole numbers") from None
    if sorted(named) != list(range(len(named))):
        raise DataError(f"id2label: the ids {sorted(named)} must be 0 to {len(named) - 1} without a gap")
    return tuple(named[i] for i in range(len(named)))


def resolve(
    name: str,
    *,
    text_columns: Sequence[str] | None = None,
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
    given = {
        "text_columns": None if text_columns is None else tuple(text_columns),
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
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        value = f"{field}={first['input']!r}: " if field else ""
        raise DataError(f"task {name}: {value}{first['msg'].removeprefix('Value error, ')}") from None
