"""Distances between a student and its teacher, as terms of the loss: logits, hidden states, attention scores.

Pads never count.  Each term is a mean over what it compares within a layer, summed over the layers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from bertpress.errors import RecipeError
from bertpress.training.objectives import Step


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


def logit_mse(*, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Mean squared difference of the logits; the temperature has no say."""
    return F.mse_loss(student, teacher)


def logit_mae(*, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Mean absolute difference of the logits; the temperature has no say."""
    return F.l1_loss(student, teacher)


LOSSES: dict[str, Callable[..., Tensor]] = {
    "ce": soft_cross_entropy,
    "kl": soft_kl,
    "mse": logit_mse,
    "mae": logit_mae,
}


def comparable_rows(kind: str, logits: Tensor, batch: dict[str, Tensor]) -> list[Tensor]:
    """What is compared, as (rows, classes) tensors whose losses are averaged.

    Sequences: the examples.  Tokens: those that are no pads.  Spans: start and end scores, pads excluded.  Masked LM:
    the positions to predict.
    """
    if kind == "token":
        return [logits[batch["attention_mask"].bool()]]
    if kind == "span":
        pads = batch["attention_mask"] == 0
        return [logits[..., i].masked_fill(pads, -1e4) for i in (0, 1)]
    if kind == "masked_lm":
        return [logits[batch["labels"] != -100]]
    return [logits]


@dataclass
class TeacherLoss:
    """The distance between the student's and the teacher's logits."""

    loss: str
    temperature: float
    kind: str
    weight: float = 1.0
    name: str = "logits"
    captures: frozenset[str] = frozenset()
    needs_teacher: bool = True

    def __call__(self, step: Step) -> Tensor:
        """Mean over what the task compares."""
        assert step.teacher is not None
        own = comparable_rows(self.kind, step.student.logits, step.batch)
        target = comparable_rows(self.kind, step.teacher.logits, step.batch)
        distance = LOSSES[self.loss]
        if self.loss in ("ce", "kl") and self.kind == "sequence":
            if step.task.is_regression:
                distance = logit_mse
            elif step.task.multi_label:
                distance = soft_binary
        elif self.kind == "embedding":
            distance = logit_mse
        terms = [distance(student=a, teacher=b, temperature=self.temperature) for a, b in zip(own, target, strict=True)]
        return torch.stack(terms).mean()


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


def captured(step: Step, name: str, term: str) -> list[tuple[Tensor, Tensor]]:
    """What student and teacher put on the tape under ``name``, layer by layer.

    Raises:
        RecipeError: they have different numbers of layers, or shapes; or nothing for each token.
    """
    own, target = (list(model.captured[name]) for model in (step.student, step.teacher) if model is not None)
    if [each.shape for each in own] != [each.shape for each in target]:
        shapes = " and ".join(_shapes(side) for side in (own, target))
        raise RecipeError(f"{term}: student and teacher must have the same shapes, not {shapes}; leave the term out")
    if not own or (own[0].shape[0], own[0].shape[-2]) != step.batch["attention_mask"].shape:
        why = "layers without attention, on a shortened sequence or under a siamese head have none for each token"
        raise RecipeError(f"{term}: {why}; leave the term out")
    return list(zip(own, target, strict=True))


def _shapes(tensors: Sequence[Tensor]) -> str:
    return f"{len(tensors)} of {tuple(tensors[-1].shape)}" if tensors else "none"


@dataclass
class HiddenStates:
    """Squared distance of all hidden states, that of the embeddings included, layer by layer."""

    weight: float = 1.0
    name: str = "hidden_states"
    captures: frozenset[str] = frozenset({"hidden_states"})
    needs_teacher: bool = True

    def __call__(self, step: Step) -> Tensor:
        """Sum over the layers."""
        mask = step.batch["attention_mask"]
        pairs = captured(step, "hidden_states", self.name)
        return torch.stack([hidden_state_mse(student=a, teacher=b, mask=mask) for a, b in pairs]).sum()


@dataclass
class AttentionScores:
    """Squared distance of all attention scores, head by head: student and teacher must have the same heads."""

    weight: float = 1.0
    name: str = "attention_scores"
    captures: frozenset[str] = frozenset({"scores"})
    needs_teacher: bool = True

    def __call__(self, step: Step) -> Tensor:
        """Sum over the layers."""
        mask = step.batch["attention_mask"]
        pairs = captured(step, "scores", self.name)
        return torch.stack([attention_score_mse(student=a, teacher=b, mask=mask) for a, b in pairs]).sum()
