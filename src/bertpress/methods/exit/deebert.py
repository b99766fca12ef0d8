"""Exits on a fine-tuned model that stays as it is; a text leaves where its exit is sure enough.

Source: DeeBERT, Xin et al. 2020, arXiv:2004.12993, sections 2.1 and 2.2: off-ramps (pooler and classifier) behind every
layer but the last are trained by the sum of their losses on the labels, everything else frozen; a text leaves where the
entropy of the answer is below a threshold S.  Each pooler starts as the one of the fine-tuned model, as in the authors'
code.
Departs from it: the threshold is a share of the largest entropy, S = speed * ln(classes), and may be chosen on rows cut
from train.
"""

from __future__ import annotations

from typing import ClassVar

from bertpress.encoder.blueprint import ExitRule, ExitSpec
from bertpress.methods.base import Context, Model, Need
from bertpress.methods.exits import ExitLoss, FrozenExits, add_exits, equally, refuse_scores
from bertpress.training.objectives import Objective

NAME = "exit/deebert"


class Deebert(FrozenExits):
    """Put a pooler and a classifier behind every layer; texts leave where the entropy of the answer is low."""

    cite: ClassVar[str] = "Xin et al., 2020"
    requires: ClassVar[frozenset[Need]] = frozenset({Need.TRAINING, Need.LABELS})
    supervises: ClassVar[bool] = True

    def attach(self, model: Model, ctx: Context) -> Model:
        """Put the exits."""
        refuse_scores(ctx, NAME)
        rule = ExitRule(criterion="entropy", speed=self.speed, drop=self.drop)
        return add_exits(model, ExitSpec(kind="pooled"), rule, ctx, name=NAME, every=self.every)

    def objectives(self, ctx: Context) -> list[Objective]:
        """The sum of the exits' losses; the frozen head has none."""
        return [ExitLoss(equally)]
