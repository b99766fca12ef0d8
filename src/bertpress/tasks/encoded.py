"""Tokenized rows as a torch data set over flat arrays."""

from typing import Any

import numpy as np
import numpy.typing as npt
from torch.utils.data import Dataset

from bertpress.tasks.masking import IGNORED, Masking
from bertpress.tasks.rows import Rows
from bertpress.tasks.task import Task

Array = npt.NDArray[Any]


class Encoded(Dataset[dict[str, Any]]):
    """Tokenized rows; item ``i`` is one *feature*, a sequence that the model reads.

    A row has one feature, or several (windows of a long text), or two (the sides of ``sentence-similarity``:
    features 2r and 2r + 1 of row r; only the first carries the label).  An item holds ``input_ids``,
    ``token_type_ids`` where the tokenizer has them, ``index`` (the feature's stable number) and, where the
    rows have labels, ``labels`` or ``start_positions`` and ``end_positions``.

    Attributes:
        task: what the rows were encoded for.
        rows: the rows.
        row_of: (features,), the row of each feature, ascending.
        lengths: tokens of each feature.
        group: consecutive features that must stay in one batch (2 for ``sentence-similarity``).
        words: token tasks: (all tokens,), the word that starts at each token, else -1.
        starts: question answering: (all tokens,), first character in the context, -1 for other tokens.
        ends: question answering: (all tokens,), one past the last character.
        shortened: texts that did not fit: truncated, or cut into windows.
        note: one line about them, or None.
        teacher: the features as a teacher with other ids reads them: the items' ``teacher_*`` inputs.
        epoch: masked LM: selects the masks; see :meth:`set_epoch`.
    """

    def __init__(self, task: Task, rows: Rows, masking: Masking | None = None) -> None:
        self.task, self.rows, self.masking = task, rows, masking
        self.group = 2 if task.kind == "sentence-similarity" else 1
        self.row_of: npt.NDArray[np.int32] = np.zeros(0, np.int32)
        self.lengths: list[int] = []
        self.ids: Array = np.zeros(0, np.int32)
        self.segments: Array | None = None
        self.words: Array = np.zeros(0, np.int32)
        self.starts: Array = np.zeros(0, np.int32)
        self.ends: Array = np.zeros(0, np.int32)
        self.labels: list[Any] | None = None  # by row, None where unknown; (first, last token) by feature for answers
        self.shortened = 0
        self.note: str | None = None
        self.teacher: Encoded | None = None
        self.epoch = 0
        self.bounds: npt.NDArray[np.int64] = np.zeros(1, np.int64)

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def labelled(self) -> bool:
        """Whether the items carry labels."""
        return self.labels is not None or self.masking is not None

    def set_epoch(self, epoch: int) -> None:
        """Draw other masks (masked LM); epoch 0 is the one that evaluation uses."""
        self.epoch = epoch

    def tokens(self, index: int) -> slice:
        """Where feature ``index`` stands in the flat arrays."""
        return slice(int(self.bounds[index]), int(self.bounds[index + 1]))

    def inputs(self, index: int, prefix: str = "") -> dict[str, Any]:
        """What a model reads of feature ``index``, under names that begin with ``prefix``."""
        where = self.tokens(index)
        found = {f"{prefix}input_ids": self.ids[where]}
        return found if self.segments is None else found | {f"{prefix}token_type_ids": self.segments[where]}

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        where = self.tokens(index)
        item: dict[str, Any] = {**self.inputs(index), "index": index}
        if self.teacher is not None:
            item |= self.teacher.inputs(index, "teacher_")
        if self.masking is not None:
            item["input_ids"], item["labels"] = self.masking(self.ids[where], index, self.epoch)
        elif self.labels is not None:
            self._label(item, index, where)
        return item

    def _label(self, item: dict[str, Any], index: int, where: slice) -> None:
        assert self.labels is not None
        kind = self.task.kind
        if kind == "question-answering":
            item["start_positions"], item["end_positions"] = self.labels[index]
            return
        row = int(self.row_of[index])
        if self.labels[row] is None:
            self._unlabelled(item, index)
            return
        if kind == "token-classification":
            words = self.words[where]
            tags = np.asarray(self.labels[row], np.int64)
            item["labels"] = np.where(words >= 0, tags[words] if tags.size else IGNORED, IGNORED)
        elif self.task.multi_label:
            item["labels"] = np.zeros(len(self.task.labels or ()), np.float32)
            item["labels"][self.labels[row]] = 1.0
        elif self.group == 1 or index % 2 == 0:
            item["labels"] = self.labels[row]

    def _unlabelled(self, item: dict[str, Any], index: int) -> None:
        """A label that :func:`bertpress.tasks.loss` leaves out, of the form that those of the task have."""
        if self.task.kind == "token-classification":
            item["labels"] = np.full(item["input_ids"].shape, IGNORED, np.int64)
        elif self.task.multi_label:
            item["labels"] = np.full(len(self.task.labels or ()), np.nan, np.float32)
        elif self.group == 1 or index % 2 == 0:
            item["labels"] = float("nan") if self.task.is_regression else IGNORED
