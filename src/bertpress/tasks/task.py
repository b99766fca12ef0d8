"""What is learnt: a task's columns, labels, lengths and metric, as frozen data."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

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
    max_length: int = Field(128, ge=16, le=32768, description="Tokens of one input, special tokens included.")
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
        if self.windows and self.kind == "sentence-similarity":
            raise ValueError("windows are not for sentence-similarity, which has one vector a text")
        if self.stride > self.max_length // 2:
            raise ValueError(f"stride={self.stride} must be at most half of max_length={self.max_length}")
        if self.class_weights is not None and self.kind not in (
            "text-classification",
            "text-pair-classification",
            "token-classification",
        ):
            raise ValueError(f"class_weights are for classification, not for {self.kind}")
        return self

    @model_validator(mode="after")
    def _labelled(self) -> "Task":
        if self.label_column in self.text_columns:
            raise ValueError(f"label_column={self.label_column} must not be one of the text columns")
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
    def reads_pairs(self) -> bool:
        """A row's two texts are read together; a similarity reads one, then the other."""
        return len(self.text_columns) == 2 and self.kind != "sentence-similarity"

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

    def fitted(self, positions: int) -> "Task":
        """The task for a model that takes at most ``positions`` tokens."""
        if positions >= self.max_length:
            return self
        return self.replace(max_length=positions, stride=min(self.stride, positions // 3))

    def replace(self, **changes: Any) -> "Task":
        """A validated copy with some fields changed."""
        return Task(**{**{name: getattr(self, name) for name in type(self).model_fields}, **changes})


def label_names(id2label: Mapping[Any, str] | Sequence[str]) -> tuple[str, ...]:
    """Names in the order of their ids, from a sequence or a mapping of ids 0, 1, 2 ... (ints or text)."""
    if not isinstance(id2label, Mapping):
        names = tuple(str(name) for name in id2label)
        if len(set(names)) != len(names):
            raise DataError(f"label names {', '.join(names)} must be distinct")
        return names
    try:
        named = {int(key): str(value) for key, value in id2label.items()}
    except (TypeError, ValueError):
        raise DataError(f"id2label: the keys {', '.join(map(str, id2label))} must be whole numbers") from None
    if sorted(named) != list(range(len(named))):
        raise DataError(f"id2label: the ids {sorted(named)} must be 0 to {len(named) - 1} without a gap")
    return label_names([named[i] for i in range(len(named))])
