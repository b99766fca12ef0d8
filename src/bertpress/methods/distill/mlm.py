"""Guess masked words, in a stage that trains on unlabelled text.

Source: Devlin et al. 2019, arXiv:1810.04805, section 3.1 (masked LM); as a term beside those of a teacher: DistilBERT,
Sanh et al. 2019, arXiv:1910.01108, section 3.  Departs from them: masks are drawn anew in each epoch, and a text is one
example, however short.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from bertpress.methods.base import Context, Guesser, Method, Need
from bertpress.training.objectives import Objective, TaskLoss


class Mlm(Method):
    """Learn to guess masked words, with a head that lives only while the stage trains."""

    cite: ClassVar[str] = "Devlin et al., 2019; Sanh et al., 2019"
    requires: ClassVar[frozenset[Need]] = frozenset({Need.TRAINING, Need.UNLABELLED})
    supervises: ClassVar[bool] = True

    weight: float = Field(1.0, gt=0, le=1000, description="Factor of the term, beside those of other methods.")

    def guessers(self) -> frozenset[Guesser]:
        """The student's."""
        return frozenset({"student"})

    def objectives(self, ctx: Context) -> list[Objective]:
        """Cross-entropy of the masked words."""
        return [TaskLoss(weight=self.weight, name="mlm")]
