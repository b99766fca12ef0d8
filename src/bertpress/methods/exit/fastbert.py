"""Exits that learn the answers of the model's own head, from any text, with the model frozen.

Source: FastBERT, Liu et al. 2020, arXiv:2004.02178, sections 3.2 to 3.4: student classifiers behind every layer but the
last learn the distribution of the frozen teacher classifier, by the sum of their divergences KL(student || teacher); a
text leaves where the uncertainty of the answer, its entropy as a share of the largest, is at most Speed.
``divergence: teacher`` is KL(teacher || student), which the authors' code computes.
Departs from it: Speed 0 never leaves, even where an answer has no entropy at all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from bertpress.encoder.blueprint import ExitRule, ExitSpec
from bertpress.errors import RecipeError
from bertpress.methods.base import Context, Model
from bertpress.methods.distances import soft_kl
from bertpress.methods.exits import CAPTURE, FrozenExits, add_exits, refuse_scores
from bertpress.training.objectives import Objective, Step

NAME = "exit/fastbert"
Side = Literal["student", "teacher"]


def divergences(exits: tuple[Tensor, ...], head: Tensor, side: Side) -> Tensor:
    """Sum over the exits of the mean divergence from the head.

    Args:
        exits: (batch, classes) logits of each.
        head: (batch, classes) logits; gets no gradient.
        side: ``student``: KL(exit || head); ``teacher``: KL(head || exit).
    """
    target = head.detach()
    pairs = [(target, logits) if side == "student" else (logits, target) for logits in exits]
    return torch.stack([soft_kl(student=of, teacher=by, temperature=1.0) for of, by in pairs]).sum()


@dataclass
class SelfDistillation:
    """How far the exits are from the model's own head."""

    side: Side
    name: str = "exits"
    weight: float = 1.0
    captures: frozenset[str] = CAPTURE
    needs_teacher: bool = False

    def __call__(self, step: Step) -> Tensor:
        """Sum over the exits, mean over the batch; reads no label."""
        return divergences(step.student.captured["exits"], step.student.logits, self.side)


class Fastbert(FrozenExits):
    """Put small attention branches behind every layer that learn the head's answers, without labels."""

    cite: ClassVar[str] = "Liu et al., 2020"
    unsupervised: ClassVar[bool] = True

    size: int = Field(128, ge=1, le=4096, description="Width of a branch.")
    heads: int = Field(2, ge=1, le=64, description="Attention heads of a branch; they divide its width.")
    divergence: Side = Field("student", description="Whose distribution weighs the differences of the logarithms.")

    def attach(self, model: Model, ctx: Context) -> Model:
        """Put the branches."""
        refuse_scores(ctx, NAME)
        if self.size % self.heads:
            raise RecipeError(f"{NAME}: size={self.size} must be a multiple of heads={self.heads}")
        rule = ExitRule(criterion="uncertainty", speed=self.speed, drop=self.drop)
        spec = ExitSpec(kind="branch", size=self.size, heads=self.heads)
        return add_exits(model, spec, rule, ctx, name=NAME, every=self.every)

    def objectives(self, ctx: Context) -> list[Objective]:
        """The divergences."""
        return [SelfDistillation(self.divergence)]
