"""Distances between what a student and its teacher compute, as pure functions.

Pads never count.  Those of logits take (rows, classes); those of layers a mask (batch, tokens), 1 for tokens and 0 for
pads, and are means over all that they compare.
"""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

Distance = Callable[..., Tensor]
"""Of one pair of tensors, handed over as ``student``, ``teacher`` and ``mask``; a scalar."""


def soft_cross_entropy(*, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of the softened student under the softened teacher, times temperature squared.

    Args:
        student: (rows, classes) logits.
        teacher: (rows, classes) logits.
        temperature: > 0.

    Returns:
        Mean over the rows.
    """
    target = (teacher / temperature).softmax(-1)
    return -(target * (student / temperature).log_softmax(-1)).sum(-1).mean() * temperature**2


def soft_kl(*, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """KL(teacher || student) of the softened distributions, times temperature squared: 0 where both agree."""
    own, target = (student / temperature).log_softmax(-1), (teacher / temperature).log_softmax(-1)
    return (target.exp() * (target - own)).sum(-1).mean() * temperature**2


def soft_binary(*, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Binary cross-entropy under the teacher's probabilities, for labels that do not exclude each other."""
    target = (teacher / temperature).sigmoid()
    loss = F.binary_cross_entropy_with_logits(student / temperature, target, reduction="none")
    return loss.sum(-1).mean() * temperature**2


def soft_binary_kl(*, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """KL(teacher || student) label by label, for labels that do not exclude each other: 0 where both agree."""
    least = soft_binary(student=teacher, teacher=teacher, temperature=temperature)
    return soft_binary(student=student, teacher=teacher, temperature=temperature) - least


def logit_mse(*, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Mean squared difference of the logits; the temperature has no say."""
    return F.mse_loss(student, teacher)


def logit_mae(*, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Mean absolute difference of the logits; the temperature has no say."""
    return F.l1_loss(student, teacher)


def cosine_mse(*, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Mean squared difference of the cosines between all rows: what vectors of other widths have in common.

    Source: similarity-preserving distillation, Tung & Mori 2019, arXiv:1907.09682, section 3.  Departs from it: rows
    are normalised before they are multiplied, not the matrix of products after, as it is cosines that are served.

    Args:
        student: (rows, features).
        teacher: (rows, other features).
        temperature: has no say.
    """
    own, target = (F.normalize(vectors, dim=-1) for vectors in (student, teacher))
    return F.mse_loss(own @ own.T, target @ target.T)


def logit_distance(logits: Tensor, target: Tensor, batch: dict[str, Tensor]) -> Tensor:
    """Mean squared difference of the logits of a batch; of token scores, pads do not count."""
    if logits.ndim == 3:
        real = batch["attention_mask"].bool()
        logits, target = logits[real], target[real]
    return F.mse_loss(logits, target)


LOSSES: dict[str, Callable[..., Tensor]] = {
    "ce": soft_cross_entropy,
    "kl": soft_kl,
    "mse": logit_mse,
    "mae": logit_mae,
}


def hidden_state_mse(*, student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """Mean squared difference over real tokens and dimensions.

    Args:
        student: (batch, tokens, hidden).
        teacher: the same shape.
        mask: (batch, tokens), 1 for tokens and 0 for pads.
    """
    by_token = (student - teacher).square().mean(-1)
    return (by_token * mask).sum() / mask.sum()


def attention_score_mse(*, student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """Mean squared difference over the heads and the pairs of real tokens, before the softmax.

    Args:
        student: (batch, heads, tokens, tokens); columns of pads may hold anything finite.
        teacher: the same shape.
        mask: (batch, tokens), 1 for tokens and 0 for pads.
    """
    real = mask.bool()
    pairs = real[:, None, :, None] & real[:, None, None, :]
    # taken out before the square: masked scores lie at the end of what a float can hold
    difference = (student - teacher).masked_fill(~pairs, 0.0)
    return difference.square().sum() / (pairs.sum() * student.shape[1])


def hidden_state_cosine(*, student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """One minus the cosine, mean over real tokens.

    Args:
        student: (batch, tokens, hidden).
        teacher: the same shape.
        mask: (batch, tokens), 1 for tokens and 0 for pads.
    """
    by_token = 1 - F.cosine_similarity(student, teacher, dim=-1)
    return (by_token * mask).sum() / mask.sum()


def attention_map_kl(*, student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """KL(teacher || student) of the attention maps over real keys, mean over the heads and the real queries.

    Args:
        student: (batch, heads, tokens, tokens) scores before the softmax; columns of pads may hold anything finite.
        teacher: the same shape.
        mask: (batch, tokens), 1 for tokens and 0 for pads.
    """
    real = mask.bool()
    keys = real[:, None, None, :]
    own, target = (scores.masked_fill(~keys, -1e4).log_softmax(-1) for scores in (student, teacher))
    by_query = (target.exp() * (target - own)).sum(-1)
    queries = real[:, None, :]
    return (by_query * queries).sum() / (queries.sum() * student.shape[1])


def head_state_mse(*, student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """Mean squared difference of what single heads hold (queries, keys, values, contexts).

    Args:
        student: (batch, heads, tokens, width).
        teacher: the same shape.
        mask: (batch, tokens), 1 for tokens and 0 for pads.
    """
    by_token = (student - teacher).square().mean((1, 3))
    return (by_token * mask).sum() / mask.sum()
