"""Learn the teacher's answers.

Source: Hinton, Vinyals & Dean 2015, arXiv:1503.02531, section 2; squared error of logits: Ba & Caruana 2014.
Departs from it: ``alpha`` weighs the teacher's term, whatever the paper calls so; terms are averaged over examples (or
tokens), never over classes too, except ``mse`` and ``mae``, which are means over the logits.  Sentence vectors are
compared by ``mse``, and where the teacher's have another width by the cosines between all texts of a batch (Tung & Mori
2019, arXiv:1907.09682, section 3).  In a stage of unlabelled text both terms are those of masked words, as in LightPAFF
(Song et al. 2020, arXiv:2004.12817, section 3).
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from bertpress.methods.base import Context, Guesser, Method, Need
from bertpress.methods.matching import TeacherLoss
from bertpress.training.objectives import Objective, TaskLoss


class Logits(Method):
    """Distil the teacher's logits: (1 - alpha) of the task's loss plus alpha of the distance to the teacher."""

    cite: ClassVar[str] = "Hinton et al., 2015"
    requires: ClassVar[frozenset[Need]] = frozenset({Need.TEACHER, Need.TRAINING})
    supervises: ClassVar[bool] = True

    alpha: float = Field(0.9, ge=0, le=1, description="Share of the teacher's term; the labels get the rest.")
    weight: float = Field(1.0, gt=0, le=1000, description="Factor of both terms, beside those of other methods.")
    temperature: float = Field(2.0, gt=0, le=100, description="Softens both distributions; for ce and kl.")
    loss: Literal["ce", "kl", "mse", "mae"] = Field(
        "kl",
        description="Distance: soft cross-entropy, KL divergence, squared or absolute error of the logits.",
    )

    def guessers(self) -> frozenset[Guesser]:
        """The student's, and the teacher's unless the labels have all the weight."""
        return frozenset({"student", "teacher"} if self.alpha > 0 else {"student"})

    def objectives(self, ctx: Context) -> list[Objective]:
        """The task's loss and the teacher's term; one of weight 0 is left out."""
        kind = "sequence" if ctx.unlabelled else ctx.task.head().kind  # guesses are rows already
        terms: list[Objective] = []
        if self.alpha < 1:
            terms.append(TaskLoss(weight=self.weight * (1 - self.alpha)))
        if self.alpha > 0:
            terms.append(TeacherLoss(self.loss, self.temperature, kind, weight=self.weight * self.alpha))
        return terms
