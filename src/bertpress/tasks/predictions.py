"""From logits to one prediction a row, and the references that they are scored against."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from bertpress.tasks.answers import best_spans, gold_answers
from bertpress.tasks.encoded import Encoded
from bertpress.tasks.encoding import words_of
from bertpress.tasks.entities import entities
from bertpress.tasks.labels import label_ids, label_scores
from bertpress.tasks.masking import IGNORED
from bertpress.tasks.rows import Rows
from bertpress.tasks.task import Task

Array = npt.NDArray[Any]


def keep(task: Task, batch: Mapping[str, Tensor], logits: Tensor | Array) -> list[Array]:
    """What :func:`predictions` needs of a batch's logits, one array a sequence, without padding.

    Masked LM keeps (masked tokens, 2): log-probability of the right token and whether it is the likeliest,
    since a vocabulary of scores for each token would not fit in memory.  Everything else keeps its logits in
    float32.
    """
    scores = torch.as_tensor(logits).detach().float().cpu()
    if task.kind == "masked-lm":
        labels = batch["labels"].cpu()
        kept: list[Array] = []
        for row, targets in zip(scores, labels, strict=True):
            where = targets != IGNORED
            chosen, right = row[: len(targets)][where], targets[where]
            logs = -F.cross_entropy(chosen, right, reduction="none")
            kept.append(torch.stack([logs, (chosen.argmax(-1) == right).float()], -1).numpy())
        return kept
    if task.kind in ("token-classification", "question-answering"):
        sizes = batch["attention_mask"].sum(1).tolist()
        return [row[:size].numpy() for row, size in zip(scores, sizes, strict=True)]
    return list(scores.numpy())


def _by_row(encoded: Encoded, logits: Iterable[Array]) -> Iterator[tuple[int, list[tuple[int, Array]]]]:
    """Rows with their (feature, logits); the logits are read once, in order."""
    group: list[tuple[int, Array]] = []
    count = 0
    for count, (feature, scores) in enumerate(zip(range(len(encoded)), logits, strict=True), 1):
        group.append((feature, np.asarray(scores, np.float32)))
        if count == len(encoded) or encoded.row_of[count] != encoded.row_of[feature]:
            yield int(encoded.row_of[feature]), group
            group = []


def _softmax(scores: Array) -> Array:
    shifted = np.exp(scores - scores.max(-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(-1, keepdims=True))


def _tags(encoded: Encoded, row: int, features: list[tuple[int, Array]], count: int) -> list[str]:
    """A tag for each of ``count`` words; where windows overlap, the one with more context decides."""
    names = encoded.task.labels or ()
    tags = ["O" if "O" in names else names[0]] * count  # a word that has no token, or was truncated
    room = [-1] * count
    for feature, scores in features:
        words = encoded.words[encoded.tokens(feature)]
        best = scores[: len(words)].argmax(-1)
        for position in np.flatnonzero(words >= 0):
            word, context = words[position], min(position, len(words) - 1 - position)
            if context > room[word]:
                room[word], tags[word] = context, names[best[position]]
    return tags


def _answer(encoded: Encoded, row: int, features: list[tuple[int, Array]], count: int) -> dict[str, Any]:
    """The best span over all windows; ``n_best`` holds the next ones too where ``count`` > 1."""
    task = encoded.task
    context: str = encoded.rows.column(task.text_columns[1])[row]
    found: dict[tuple[int, int], float] = {}
    null = np.inf
    for feature, scores in features:
        where = encoded.tokens(feature)
        starts, ends = encoded.starts[where], encoded.ends[where]
        scores = scores[: len(starts)]
        null = min(null, float(scores[0].sum()))
        for score, first, last in best_spans(scores, starts >= 0, task.max_answer_length, count):
            span = int(starts[first]), int(ends[last])
            found[span] = max(score, found.get(span, -np.inf))
    ranked = sorted(found.items(), key=lambda entry: (-entry[1], entry[0]))[:count]
    answers = [_span(context, start, end, score) for (start, end), score in ranked]
    nothing = {"text": "", "start": 0, "end": 0, "score": null if np.isfinite(null) else 0.0}
    if not answers or (task.unanswerable and null > answers[0]["score"]):
        answers.insert(0, nothing)
    return {**answers[0], "n_best": answers[:count]} if count > 1 else answers[0]


def _span(context: str, start: int, end: int, score: float) -> dict[str, Any]:
    text = context[start:end]
    start += len(text) - len(text.lstrip())  # some tokenizers count the space before a word as part of it
    text = text.strip()
    return {"text": text, "start": start, "end": start + len(text), "score": score}


def predictions(task: Task, encoded: Encoded, logits: Iterable[Array], *, n_best: int = 1) -> list[Any]:
    """One prediction a row, in the order of the rows.

    Args:
        task: as encoded.
        encoded: the features.
        logits: one array a feature, in order (masked LM: from :func:`keep`); an iterator is read once.
        n_best: question answering: how many answers to list under ``n_best``.

    Returns:
        Class ids; sorted lists of ids (several labels); scores or cosines; lists of tags, one a word; answers
        ``{"text", "start", "end", "score"}`` with characters of the context; for masked LM the sums
        ``{"loss", "tokens", "correct"}``.  Windows of one text are averaged.

    Raises:
        ValueError: there are more or fewer arrays than features.
    """
    if task.kind == "token-classification":
        sizes = [len(words) for words in words_of(task, encoded.rows)]
        return [_tags(encoded, row, features, sizes[row]) for row, features in _by_row(encoded, logits)]
    if task.kind == "question-answering":
        return [_answer(encoded, row, features, n_best) for row, features in _by_row(encoded, logits)]
    if task.kind == "masked-lm":
        return [_sums(features) for _, features in _by_row(encoded, logits)]
    means = row_scores(task, encoded, logits)
    if task.is_regression:
        return [float(score) for score in means[:, 0]]
    if task.multi_label:
        return [np.flatnonzero(scores > 0).tolist() for scores in means]
    return [int(i) for i in means.argmax(-1)]


def row_scores(task: Task, encoded: Encoded, logits: Iterable[Array]) -> Array:
    """(rows, labels) logits, the mean over a row's windows; (rows, 1) cosines for ``sentence-similarity``."""
    rows = []
    for _, features in _by_row(encoded, logits):
        if task.kind == "sentence-similarity":
            a, b = (vector.ravel().astype(np.float64) for _, vector in features)
            rows.append(np.array([a @ b / max(float(np.linalg.norm(a) * np.linalg.norm(b)), 1e-12)]))
        else:
            rows.append(np.mean([scores.ravel() for _, scores in features], axis=0))
    return np.stack(rows)


def _sums(features: list[tuple[int, Array]]) -> dict[str, float]:
    kept = np.concatenate([scores.reshape(-1, 2) for _, scores in features])
    return {"loss": float(-kept[:, 0].sum()), "tokens": float(len(kept)), "correct": float(kept[:, 1].sum())}


def references(task: Task, rows: Rows) -> list[Any]:
    """What :func:`predictions` should be: class ids, lists of ids, scores, tags, lists of answer texts, None.

    Raises:
        DataError: a label is missing or unknown.
    """
    if task.kind == "masked-lm":
        return [None] * len(rows)
    if task.is_regression:
        return list(label_scores(task, rows))
    if task.kind == "question-answering":
        return [[answer.text for answer in answers] for answers in gold_answers(task, rows)]
    ids = label_ids(task, rows)
    if task.kind == "token-classification":
        names = task.labels or ()
        return [[names[i] for i in row] for row in ids]
    return ids


def describe(task: Task, encoded: Encoded, logits: Sequence[Array]) -> list[dict[str, Any]]:
    """Predictions as a user reads them: JSON objects with label names, probabilities, entities or answers."""
    names = task.labels or ()
    if task.is_classification:
        return [_described(task, names, scores) for scores in row_scores(task, encoded, logits)]
    found = predictions(task, encoded, logits)
    if task.kind == "token-classification":
        said = []
        for words, tags in zip(words_of(task, encoded.rows), found, strict=True):
            spans = [{"type": t, "text": " ".join(words[a:b]), "start": a, "end": b} for t, a, b in entities(tags)]
            said.append({"tokens": words, "tags": tags, "entities": spans})
        return said
    if task.kind == "question-answering":
        return [{"answer": a["text"], "start": a["start"], "end": a["end"], "score": a["score"]} for a in found]
    return [{"score": score} for score in found] if task.is_regression else found


def _described(task: Task, names: Sequence[str], scores: Array) -> dict[str, Any]:
    chances = 1 / (1 + np.exp(-scores)) if task.multi_label else _softmax(scores)
    listed = {name: round(float(chance), 6) for name, chance in zip(names, chances, strict=True)}
    if task.multi_label:
        return {
            "labels": [name for name, score in zip(names, scores, strict=True) if score > 0],
            "scores": listed,
        }
    best = names[int(scores.argmax())]
    return {"label": best, "score": listed[best], "scores": listed}
