"""Extractive answers: gold answers as token spans, the best span of a window, SQuAD's text scores."""

import json
import re
import string
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bertpress.errors import DataError
from bertpress.tasks.rows import Rows
from bertpress.tasks.task import Task

Array = npt.NDArray[Any]
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


@dataclass(frozen=True)
class Answer:
    """A text and the character of the context at which it starts (None: not told)."""

    text: str
    start: int | None


def _unzipped(value: dict[str, Any]) -> list[Any] | None:
    """``{"text": [...], "answer_start": [...]}`` as a list of ``{"text", "answer_start"}``."""
    texts, starts = value.get("text"), value.get("answer_start")
    if isinstance(texts, str):
        texts, starts = [texts], None if starts is None else [starts]
    if not isinstance(texts, list) or not (starts is None or (isinstance(starts, list) and len(starts) == len(texts))):
        return None
    starts = starts if starts is not None else [None] * len(texts)
    return [{"text": text, "answer_start": start} for text, start in zip(texts, starts, strict=True)]


def _parse(value: Any) -> list[Answer] | None:
    """``{"text": [...], "answer_start": [...]}``, a list of ``{"text", "answer_start"}``, or JSON text."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return None
    if isinstance(value, str):
        return [Answer(value, None)] if value else []
    if isinstance(value, dict):
        value = _unzipped(value)
    if not isinstance(value, list):
        return None
    found = []
    for entry in value:
        if isinstance(entry, str):
            entry = {"text": entry}
        if not isinstance(entry, dict) or not isinstance(entry.get("text"), str):
            return None
        start = entry.get("answer_start")
        if not (start is None or isinstance(start, int) or (isinstance(start, float) and start.is_integer())):
            return None
        found.append(Answer(entry["text"], None if start is None else int(start)))
    return [answer for answer in found if answer.text]


def gold_answers(task: Task, rows: Rows) -> list[list[Answer]]:
    """The reference answers of each question; an empty list where it has none.

    Raises:
        DataError: a value is no answer, or an offset does not point at the answer's text in the context.
    """
    if task.label_column is None:
        raise DataError(f"task {task.name} has no answer column")
    contexts = rows.column(task.text_columns[1])
    found = []
    for i, (value, context) in enumerate(zip(rows.column(task.label_column), contexts, strict=True)):
        answers = _parse(value)
        where = f"{rows.place(i)}, column '{task.label_column}'"
        if not isinstance(context, str):
            raise DataError(f"{rows.place(i)}, column '{task.text_columns[1]}': {str(context)[:60]!r} is not a text")
        if answers is None:
            raise DataError(f"{where}: needs texts with answer_start, got {str(value)[:80]!r}")
        for answer in answers:
            if answer.start is not None and context[max(answer.start, 0) :][: len(answer.text)] != answer.text:
                raise DataError(
                    f"{where}: answer {answer.text[:40]!r} is not at character {answer.start} of the context "
                    f"({len(context)} characters)"
                )
        found.append(answers)
    return found


def span_of(answer: Answer | None, context: str, starts: Array, ends: Array) -> tuple[int, int]:
    """First and last token of an answer in one window; (0, 0), the first special token, if it is not inside.

    Args:
        answer: its offset, or else its first occurrence in ``context``, counts.
        context: the whole context.
        starts: (tokens,), first character of each token of the context in this window; -1 for other tokens.
        ends: (tokens,), one past its last character.
    """
    inside = np.flatnonzero(starts >= 0)
    if answer is None or not inside.size:
        return 0, 0
    begin = answer.start if answer.start is not None else context.find(answer.text)
    end = begin + len(answer.text)
    if begin < 0 or starts[inside[0]] > begin or ends[inside[-1]] < end:
        return 0, 0
    first = inside[np.argmax(ends[inside] > begin)]
    last = inside[::-1][np.argmax(starts[inside[::-1]] < end)]
    return (int(first), int(last)) if first <= last else (0, 0)


def best_spans(logits: Array, inside: Array, max_length: int, count: int = 1) -> list[tuple[float, int, int]]:
    """The ``count`` best (score, first token, last token) of one window, best first; exact, not a beam.

    Args:
        logits: (tokens, 2), scores of starting and of ending at each token.
        inside: (tokens,) bool, the tokens of the context.
        max_length: most tokens of an answer.
        count: how many spans to return.
    """
    where = np.flatnonzero(inside)
    if not where.size:
        return []
    low, high = where[0], where[-1] + 1
    start = np.where(inside[low:high], logits[low:high, 0], -np.inf)
    end = np.where(inside[low:high], logits[low:high, 1], -np.inf)
    width = min(max_length, high - low)
    padded = np.concatenate([end, np.full(width - 1, -np.inf, end.dtype)])
    scores = start[:, None] + np.lib.stride_tricks.sliding_window_view(padded, width)  # (first token, length - 1)
    flat = scores.ravel()
    top = np.argpartition(-flat, min(count, flat.size) - 1)[:count] if count > 1 else np.array([flat.argmax()])
    top = top[np.argsort(-flat[top], kind="stable")]
    return [
        (float(flat[k]), int(low + k // width), int(low + k // width + k % width)) for k in top if np.isfinite(flat[k])
    ]


def normalize(text: str) -> str:
    """SQuAD's normalisation: lower case, without punctuation and articles, single spaces."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(prediction: str, references: list[str]) -> float:
    """1.0 where the normalised prediction equals a reference; no reference means that no answer is right."""
    return float(any(normalize(prediction) == normalize(text) for text in references or [""]))


def text_f1(prediction: str, references: list[str]) -> float:
    """Largest F1 of bags of normalised words over the references; an empty text matches an empty one only."""
    best = 0.0
    words = normalize(prediction).split()
    for reference in references or [""]:
        truth = normalize(reference).split()
        if not words or not truth:
            best = max(best, float(words == truth))
            continue
        common = sum((Counter(words) & Counter(truth)).values())
        best = max(best, 2 * common / (len(words) + len(truth)))
    return best
