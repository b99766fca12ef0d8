"""Answers about passages that are known beforehand: what the lower layers say of them is computed once and kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from bertpress.artifact.predict import Answer, logits_of
from bertpress.encoder.blueprint import Blueprint
from bertpress.encoder.halves import uncacheable
from bertpress.engines import load_halves
from bertpress.engines.passages import Passages
from bertpress.engines.states import States, Store
from bertpress.errors import ArtifactError, DataError
from bertpress.tasks import Rows, Task, describe, encode, from_texts

PASSAGE = "passage"


class Reader:
    """A model whose lower layers read the two texts apart, with passages that it knows by name.

    Args:
        folder: of the artifact.
        blueprint: of its model.
        weights: hash of its weights.
        task: of two texts; the second one is the passage.
        tokenizer: of the artifact.
        passages: texts by name.
        states: folder of what is kept; another artifact's may lie there too.
        engine: torch, onnxruntime or openvino.
        threads: of the engine; all cores when None.
        store: how states are kept: float32, float16, or int8 with a scale for each token.

    Raises:
        ArtifactError: the model lets the texts meet, or its task has but one.
        EngineError: the engine cannot run it.
    """

    def __init__(
        self,
        folder: Path,
        blueprint: Blueprint,
        weights: str,
        task: Task | None,
        tokenizer: Any,
        passages: Mapping[str, str],
        states: Path,
        *,
        engine: str = "torch",
        threads: int | None = None,
        store: Store = "float32",
    ) -> None:
        if (reason := uncacheable(blueprint)) is not None:
            raise ArtifactError(f"{folder}: {reason}")
        if task is None or len(task.text_columns) != 2:
            raise ArtifactError(f"{folder}: passages need a task of two texts")
        self.task, self.tokenizer, self.passages = task, tokenizer, dict(passages)
        self.engine = Passages(load_halves(engine, folder, threads), States(states, f"{weights} {engine}", store))

    def precompute(self, report: Callable[[int, int], None] = lambda done, total: None) -> int:
        """Compute what is not kept yet; ``report`` is told windows done and windows in all.

        Returns:
            How many windows there are.
        """
        texts = [["", text] for text in self.passages.values()]
        windows = encode(self.task, from_texts(self.task, texts), self.tokenizer, training=False, apart=True)
        for i in range(len(windows)):
            item = windows[i]
            self.engine.of(np.asarray(item["input_ids"], np.int64)[item["token_type_ids"] == 1])
            report(i + 1, len(windows))
        return len(windows)

    def stream(self, questions: Iterable[Any], batch_size: int = 32) -> Iterator[Answer]:
        """Answers in the order of the questions, ``batch_size`` of which are read ahead.

        Args:
            questions: a pair of a text and a passage's name each, or a mapping with the first text's column and
                ``passage``.
            batch_size: at least 1.

        Raises:
            DataError: an entry has another form, or there is no such passage; the message has its number.
        """
        if batch_size < 1:
            raise DataError(f"batch_size={batch_size} must be at least 1")
        entries, seen = iter(questions), 0
        while chunk := list(islice(entries, batch_size)):
            rows = self._rows(chunk, seen + 1)
            yield from self.answers(rows, batch_size)
            seen += len(chunk)

    def answers(self, rows: Rows, batch_size: int = 32) -> list[Answer]:
        """Answers of rows that have both texts."""
        encoded, logits = logits_of(self.task, rows, self.tokenizer, self.engine, batch_size, apart=True)
        return list(describe(self.task, encoded, logits))

    def _rows(self, chunk: list[Any], first: int) -> Rows:
        asked = self.task.replace(text_columns=(self.task.text_columns[0], PASSAGE))
        rows = from_texts(asked, chunk, first=first)
        names = [str(name) for name in rows.column(PASSAGE)]
        for i, name in enumerate(names):
            if name not in self.passages:
                raise DataError(f"{rows.place(i)}: no passage {name!r} among the {len(self.passages)} that are known")
        return rows.with_columns(**{self.task.text_columns[1]: [self.passages[name] for name in names]})
