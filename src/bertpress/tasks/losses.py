"""The task's own loss, what the labels alone teach: a mean over examples (over labelled tokens for tags)."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from bertpress.errors import DataError
from bertpress.tasks.masking import IGNORED
from bertpress.tasks.task import Task


def cosines(vectors: Tensor) -> Tensor:
    """(2 batch, hidden) sentence vectors, the two sides of a row as neighbours, to (batch,) cosines."""
    return F.cosine_similarity(vectors[0::2].float(), vectors[1::2].float(), dim=-1)


def _weights(task: Task, logits: Tensor) -> Tensor | None:
    if task.class_weights is None:
        return None
    if task.class_weights == "balanced":
        raise DataError(f"task {task.name}: balanced class weights need the train split; call with_labels first")
    return torch.tensor(task.class_weights, dtype=torch.float32, device=logits.device)


def _token_loss(logits: Tensor, labels: Tensor, weights: Tensor | None) -> Tensor:
    """Cross-entropy over tokens with a label; 0 (not NaN) in a batch that has none."""
    targets = labels.flatten() if logits.ndim == 3 else labels[labels != IGNORED]
    flat = logits.flatten(0, -2).float()
    if not bool((targets != IGNORED).any()):
        return flat.sum() * 0.0
    return F.cross_entropy(flat, targets, weight=weights, ignore_index=IGNORED)


def _known(labels: Tensor) -> Tensor:
    """(batch,) whether a row has a label."""
    known = ~labels.isnan() if labels.is_floating_point() else labels != IGNORED
    return known if known.ndim == 1 else known.all(-1)


def _score_targets(task: Task, labels: Tensor) -> Tensor:
    """Similarities as cosines: the range seen in train becomes 0 to 1; scores within -1 to 1 stay."""
    low, high = task.label_range or (0.0, 1.0)
    if low >= -1.0 and high <= 1.0:
        return labels
    return (labels - low) / (high - low)


def _span_loss(task: Task, logits: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
    """The mean of the cross-entropies of start and end, pads excluded."""
    if "start_positions" not in batch:
        raise DataError(f"task {task.name}: the rows have no answers, so there is no task loss")
    start, end = batch["start_positions"], batch["end_positions"]
    if not bool((start != IGNORED).any()):
        return logits.float().sum() * 0.0
    scores = logits.float().masked_fill(batch["attention_mask"].unsqueeze(-1) == 0, torch.finfo(torch.float32).min)
    return (F.cross_entropy(scores[..., 0], start) + F.cross_entropy(scores[..., 1], end)) / 2


def loss(task: Task, logits: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
    """The loss of one batch, computed in float32.

    Classification: cross-entropy, with class weights normalised by their sum over the batch.  Several labels
    a row: binary cross-entropy, the mean over rows and labels, class weights multiplying the positive term.
    Scores: squared error.  Similarity: squared error of the cosine against the score scaled to [0, 1].  Tags
    and masked LM: cross-entropy over labelled tokens.  Answers: the mean of the cross-entropies of start and
    end.  Rows without a label are left out; a batch of nothing else has a loss of 0.

    Args:
        task: the task.
        logits: (batch, labels), (batch, tokens, labels), (batch, tokens, 2) or (2 batch, hidden); of masked LM also
            (guesses, vocabulary), the labelled tokens alone.
        batch: from :class:`~bertpress.tasks.Collate`.

    Raises:
        DataError: the batch has no labels.
    """
    if task.kind == "question-answering":
        return _span_loss(task, logits, batch)
    if "labels" not in batch:
        raise DataError(f"task {task.name}: the rows have no labels, so there is no task loss")
    labels = batch["labels"]
    if task.kind in ("token-classification", "masked-lm"):
        return _token_loss(logits, labels, _weights(task, logits))
    if not bool((known := _known(labels)).all()):
        logits, labels = logits[known.repeat_interleave(len(logits) // len(labels))], labels[known]
        if not len(labels):
            return logits.float().sum() * 0.0
    if task.kind == "sentence-similarity":
        return F.mse_loss(cosines(logits), _score_targets(task, labels.float()))
    if task.kind == "text-regression":
        return F.mse_loss(logits.float().squeeze(-1), labels.float())
    if task.multi_label:
        return F.binary_cross_entropy_with_logits(logits.float(), labels.float(), pos_weight=_weights(task, logits))
    return F.cross_entropy(logits.float(), labels, weight=_weights(task, logits))
