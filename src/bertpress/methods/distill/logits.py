"""Learn the teacher's answers.

Source: Hinton, Vinyals & Dean 2015, arXiv:1503.02531, section 2; squared error of logits: Ba & Caruana 2014.
Departs from it: ``alpha`` weighs the teacher's term, whatever the paper calls so; terms are averaged over examples (or
tokens), never over classes too, except ``mse`` and ``mae``, which are means over the logits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from bertpress.methods.base import Context, Method, Need
from bertpress.training.objectives import Objective, Step, TaskLoss


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


class Logits(Method):
    """Distil the teacher's logits: (1 - alpha) of the task's loss plus alpha of the distance to the teacher."""

    cite: ClassVar[str] = "Hinton et al., 2015"
    requires: ClassVar[frozenset[Need]] = frozenset({Need.TEACHER, Need.TRAINING})
    supervises: ClassVar[bool] = True

    alpha: float = Field(0.9, ge=0, le=1, description="Weight of the teacher's term; the labels get the rest.")
    temperature: float = Field(2.0, gt=0, le=100, description="Softens both distributions; for ce and kl.")
    loss: Literal["ce", "kl", "mse", "mae"] = Field(
        "kl",
        description="Distance: soft cross-entropy, KL divergence, squared or absolute error of the logits.",
    )

    def objectives(self, ctx: Context) -> list[Objective]:
        """The task's loss and the teacher's term; one of weight 0 is left out."""
        head = ctx.task.head()
        terms: list[Objective] = []
        if self.alpha < 1:
            terms.append(TaskLoss(weight=1 - self.alpha))
        if self.alpha > 0:
            terms.append(TeacherLoss(self.loss, self.temperature, head.kind, weight=self.alpha))
        return terms
