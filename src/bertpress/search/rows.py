"""The rows of a search: what candidates learn from, what they are chosen on, and what is reported on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median_low
from typing import Any

import numpy as np

from bertpress import artifact, tasks
from bertpress.artifact import Artifact
from bertpress.data import Data, selection_split
from bertpress.encoder.imports import tokenizer_of
from bertpress.encoder.sources import find
from bertpress.outcome import TIMED_TEXTS
from bertpress.runfolder import RunFolder
from bertpress.runner import Say, fine_tune
from bertpress.tasks import Rows, Task
from bertpress.tasks.loading import find as find_file
from bertpress.teacher import trained_model
from bertpress.training import TrainSettings

CHOSEN_ON = 4000
"""Rows that candidates are scored on, at most: half a point of standard error where every tenth answer differs."""


@dataclass(frozen=True)
class SearchRows:
    """Rows of a search.

    Attributes:
        task: with its labels.
        fit: the train split without what was cut from it.
        chosen_on: rows cut from train, or those of a split of their own.
        validation: reads the split that is reported on; called once, at the end.
    """

    task: Task
    fit: Rows
    chosen_on: Rows
    validation: Callable[[], Rows]


def cut_rows(
    model: str | Path,
    task: Task,
    data: Path | None,
    train: Rows | None,
    validation: Rows | None,
    selection: Rows | None,
    seed: int,
) -> SearchRows:
    """Cut the train split where there is no split ``selection``; the validation split is looked up and not read.

    Raises:
        DataError: a file, column or label is not usable, or there is no validation split.
    """
    rows = train if train is not None else tasks.load(task, "train", data)
    own = find(model).config.get("id2label") if task.labels is None else None
    labelled = tasks.with_labels(task, rows, own)
    if validation is None and data is not None:
        find_file(task, "validation", data)
    if selection is None:
        selection = selection_split(labelled, data)
    if selection is None:
        fit, cut = Data(labelled, rows, rows).selection(seed)
    else:
        tasks.with_labels(labelled, selection)
        fit, cut = rows, selection

    def reported() -> Rows:
        found = validation if validation is not None else tasks.load(labelled, "validation", data)
        tasks.with_labels(labelled, found)
        return found

    return SearchRows(labelled, fit, cut.limit(CHOSEN_ON, seed), reported)


def prepared(model: str | Path, rows: SearchRows, folder: RunFolder, seconds: float, seed: int, say: Say) -> Artifact:
    """The uncompressed model as an artifact, fine-tuned first where it is not, on the rows that are learnt from.

    Args:
        model: hub name or folder.
        rows: of the search.
        folder: of the search.
        seconds: that fine-tuning may take.
        seed: of everything random.
        say: shows one line of progress.
    """
    place = folder / "teacher" / "model"
    if place.is_dir():
        return artifact.load(place)
    source = trained_model(model, rows.task)
    if source.fine_tuned:
        return artifact.save(source.model, tokenizer_of(source), rows.task, place, seed=seed)
    say(f"{model} is not fine-tuned for {rows.task.name}: making a teacher of it first")
    settings = folder.once("fine-tuning.json", lambda: TrainSettings(max_seconds=seconds).model_dump(mode="json"))
    fine_tune(
        model, rows.task, folder / "teacher", settings=TrainSettings(**settings), seed=seed, resume=True,
        train=rows.fit, validation=rows.chosen_on, say=say,
    )  # fmt: skip
    return artifact.load(place)


def median_tokens(tokenizer: Any, task: Task, rows: Rows) -> int:
    """Tokens of the middle one of these rows, as a model with this tokenizer reads them."""
    return max(1, median_low(map(int, tasks.encode(task, rows, tokenizer, training=False).lengths)))


def timed_rows(made: Artifact, task: Task, rows: Rows, tokens: int | None, seed: int) -> Rows:
    """Rows to time on, some of these at random; those that have so many tokens in the middle where that is given."""
    if tokens is None:
        return rows.limit(TIMED_TEXTS, seed)
    encoded = tasks.encode(task, rows, made.tokenizer, training=False)
    lengths = np.zeros(len(rows), np.int64)
    np.maximum.at(lengths, encoded.row_of, np.asarray(encoded.lengths))
    return rows.subset(around(lengths.tolist(), tokens, TIMED_TEXTS, seed))


def around(lengths: Sequence[int], tokens: int, count: int, seed: int) -> list[int]:
    """Positions of at most ``count``, increasing, as many at most so long as longer, drawn at random.

    Where all are shorter, or all longer, those that are nearest.

    >>> around([5, 30, 5, 5, 40], 24, 4, seed=0) in ([0, 1, 2, 4], [0, 1, 3, 4], [1, 2, 3, 4])
    True
    >>> around([5, 7, 9, 6], 24, 2, seed=0)
    [1, 2]
    """
    sides = [[i for i, n in enumerate(lengths) if (n > tokens) == longer] for longer in (False, True)]
    half = min(count // 2, *map(len, sides))
    if half == 0:
        return sorted(sorted(range(len(lengths)), key=lambda i: abs(lengths[i] - tokens))[:count])
    draw = np.random.default_rng(seed)
    return sorted(int(i) for side in sides for i in draw.choice(side, half, replace=False))
