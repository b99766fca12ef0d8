"""From texts to answers through an engine, in order and in constant memory."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt
from torch import Tensor

from bertpress.errors import DataError, ModelError
from bertpress.tasks import BucketSampler, Collate, Encoded, Rows, Task, describe, encode, from_texts, keep

if TYPE_CHECKING:
    from bertpress.engines import Speed

Array = npt.NDArray[Any]
Answer = dict[str, Any] | list[dict[str, Any]]


class Engine(Protocol):
    """What runs a model: a padded batch in, logits out."""

    def logits(self, batch: dict[str, Tensor]) -> Array | Tensor:
        """(batch, ...) for ``input_ids``, ``attention_mask`` and perhaps ``token_type_ids``, (batch, tokens) each."""


def logits_of(
    task: Task, rows: Rows, tokenizer: Any, engine: Engine, batch_size: int, *, apart: bool = False
) -> tuple[Encoded, list[Array]]:
    """Tokenize and run rows, batched by length; one array of logits a feature, in the order of the features.

    Raises:
        ModelError: a logit is not finite, so that no answer can be read from it.
    """
    encoded = encode(task, rows, tokenizer, training=False, apart=apart)
    collate = Collate(tokenizer.pad_token_id or 0)
    found: dict[int, Array] = {}
    for indices in BucketSampler(encoded.lengths, batch_size, shuffle=False, group=encoded.group):
        batch = collate([encoded[i] for i in indices])
        found.update(zip(indices, keep(task, batch, engine.logits(batch)), strict=True))
        if broken := [i for i in indices if not np.isfinite(found[i]).all()]:
            place = rows.place(int(encoded.row_of[broken[0]]))
            raise ModelError(f"{place}: the model answers with values that are not finite")
    return encoded, [found[i] for i in range(len(encoded))]


class Predictor:
    """An artifact's task, tokenizer and engine, ready to answer."""

    def __init__(
        self,
        folder: Path,
        task: Task | None,
        tokenizer: Any,
        engine: str,
        threads: int | None,
        speed: "Speed | None" = None,
        lengths: Sequence[int] = (),
    ) -> None:
        from bertpress.engines import load_engine

        self.folder, self.task, self.tokenizer = folder, task, tokenizer
        self.engine: Engine = load_engine(engine, folder, threads, speed, lengths)

    def stream(self, texts: Iterable[Any], batch_size: int) -> Iterator[Answer]:
        """Answers in the order of the texts, ``batch_size`` of which are read ahead."""
        if isinstance(texts, str):
            raise DataError("predict takes many texts: put a single one into a list")
        if batch_size < 1:
            raise DataError(f"batch_size={batch_size} must be at least 1")
        task = self._task()
        return self._stream(task, iter(texts), batch_size)

    def _stream(self, task: Task, texts: Iterator[Any], batch_size: int) -> Iterator[Answer]:
        seen = 0
        while chunk := list(islice(texts, batch_size)):
            yield from self._answers(task, chunk, seen)
            seen += len(chunk)

    def _task(self) -> Task:
        if self.task is None:
            raise DataError(f"{self.folder}: the artifact has no task, so its answers have no meaning; use .model")
        if self.task.kind == "masked-lm":
            raise DataError(f"{self.folder}: a masked language model has no answers to predict; use .model")
        if self.task.labels is None and (self.task.is_classification or self.task.kind == "token-classification"):
            raise DataError(f"{self.folder}: its task names no labels, so its answers have no meaning; use .model")
        return self.task

    def _answers(self, task: Task, chunk: list[Any], seen: int) -> list[Answer]:
        if task.kind == "sentence-similarity" and isinstance(chunk[0], str):
            return self._embeddings(task, chunk, seen)
        entries = [_words(entry) for entry in chunk] if task.kind == "token-classification" else chunk
        rows = from_texts(task, entries, first=seen + 1)
        encoded, logits = logits_of(task, rows, self.tokenizer, self.engine, len(chunk))
        answers = describe(task, encoded, logits)
        if task.kind == "token-classification":
            return [_tagged(entry, answer["tags"]) for entry, answer in zip(chunk, answers, strict=True)]
        return list(answers)

    def _embeddings(self, task: Task, chunk: Sequence[Any], seen: int) -> list[Answer]:
        """Single texts of a model that embeds: each is its own pair here, and the first side is kept."""
        pairs = [[text, text] if isinstance(text, str) else text for text in chunk]
        _, logits = logits_of(task, from_texts(task, pairs, first=seen + 1), self.tokenizer, self.engine, len(chunk))
        return [{"embedding": np.asarray(vector, np.float32).ravel().tolist()} for vector in logits[::2]]


def _words(entry: Any) -> Any:
    return entry.split() if isinstance(entry, str) else entry


def _tagged(entry: Any, tags: Sequence[str]) -> list[dict[str, Any]]:
    """Each word with its tag and its characters in the text; words given as a list count as joined by spaces."""
    if not isinstance(entry, str):
        words = list(next(iter(entry.values())) if isinstance(entry, dict) else entry)
        entry = " ".join(words)
    else:
        words = entry.split()
    found, start = [], 0
    for word, tag in zip(words, tags, strict=True):
        start = entry.index(word, start)
        found.append({"word": word, "label": tag, "start": start, "end": start + len(word)})
        start += len(word)
    return found
