"""What a run reads: the rows of its task, within a budget of labels, and text without any."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from bertpress import tasks
from bertpress.encoder.sources import find
from bertpress.errors import DataError
from bertpress.methods.base import Trait
from bertpress.tasks import Rows, Task
from bertpress.tasks.loading import has

if TYPE_CHECKING:
    from bertpress.runner import Request

HELD_OUT = 0.1
SPEED_ROWS = 2000
"""Rows on which the speed of early exits is chosen, at most."""
SELECTION = "selection"
"""A split of rows that something is chosen on, for a model that has seen all of train."""


@dataclass(frozen=True)
class Data:
    """The task with its labels, and the rows of both splits.

    Attributes:
        task: what is learnt.
        train: rows whose labels may be read.
        validation: rows that are scored.
        rest: rows of the train split beyond the budget of labels, with None in place of theirs.
        held_out: rows that no stage reads, on which the speed of early exits is chosen; None where there are no exits.
    """

    task: Task
    train: Rows
    validation: Rows
    rest: Rows | None = None
    held_out: Rows | None = None

    def selection(self, seed: int, share: float = HELD_OUT) -> tuple[Rows, Rows]:
        """Training rows and rows cut from them, on which weights and rounds are chosen; questions keep together."""
        group = self.task.text_columns[-1] if self.task.kind == "question-answering" else None
        return tasks.holdout(self.train, share, seed, group=group)


def with_budget(data: Data, labels: int, seed: int) -> Data:
    """The same data where only ``labels`` rows, chosen by the seed, keep their label.

    Raises:
        DataError: there are fewer rows, or those that were chosen have one label only.
    """
    if data.task.label_column is None:
        raise DataError(f"task {data.task.name}: has no labels, so labels={labels} means nothing")
    if labels > len(data.train):
        raise DataError(f"{data.train.source}: labels={labels} must be at most its {len(data.train)} rows")
    known, rest = data.train.divided(labels, seed)
    tasks.with_labels(data.task, known)
    return replace(data, train=known, rest=rest.with_columns(**{data.task.label_column: [None] * len(rest)}))


def load_data(request: Request) -> Data:
    """Rows of both splits, and the task with its labels.

    Raises:
        DataError: a file, column or label is not usable; named in one line.
    """
    splits = {}
    for name, given, limit in (
        ("train", request.train, request.train_limit),
        ("validation", request.validation, request.validation_limit),
    ):
        rows = given.limit(limit) if given is not None else tasks.load(request.task, name, request.data, limit)
        splits[name] = rows
    own = find(request.model).config.get("id2label") if request.task.labels is None else None
    task = tasks.with_labels(request.task, splits["train"], own)
    for rows in splits.values():
        tasks.check_texts(task, rows)
    tasks.with_labels(task, splits["validation"])  # a label never seen in train is found now, not after training
    data = Data(task, splits["train"], splits["validation"])
    if request.recipe.labels is not None:
        data = with_budget(data, request.recipe.labels, request.seed)
    return with_held_out(data, request) if leaves_early(request) else data


def selection_split(task: Task, data: Path | None) -> Rows | None:
    """The split ``selection`` of a folder; None where it has none.

    Raises:
        DataError: it cannot be read.
    """
    return tasks.load(task, SELECTION, data) if data is not None and has(task, SELECTION, data) else None


def leaves_early(request: Request) -> bool:
    """Whether the artifact will have early exits: the recipe puts some, or the model that is handed in has them."""
    made = any(Trait.EXITS in method.provides for _, _, method in request.recipe.methods())
    return made or bool((find(request.model).config.get("blueprint") or {}).get("exit"))


def with_held_out(data: Data, request: Request) -> Data:
    """The same data with rows that no stage reads: those that are given, a split ``selection``, or some of train's.

    Raises:
        DataError: such a split cannot be read, or there are too few rows to cut some.
    """
    if request.held_out is not None:
        return replace(data, held_out=request.held_out)
    own = selection_split(data.task, request.data) if request.train is None else None
    if own is not None:
        tasks.with_labels(data.task, own)
        return replace(data, held_out=own.limit(SPEED_ROWS, request.seed))
    rest, cut = data.selection(request.seed, min(HELD_OUT, SPEED_ROWS / max(len(data.train), 1)))
    return replace(data, train=rest, held_out=cut)


def load_unlabelled(request: Request, data: Data) -> Rows | None:
    """Text for the stages that train without labels; None where there is no such stage.

    Raises:
        DataError: a file cannot be read, or there is no text.
    """
    if all(stage.data == "task" for stage in request.recipe.stages):
        return None
    if isinstance(request.unlabelled, Path):
        return tasks.load_texts(request.unlabelled)
    train = data.train if data.rest is None else data.train.followed_by(data.rest)
    return request.unlabelled or tasks.train_texts(request.task, train, request.data)
