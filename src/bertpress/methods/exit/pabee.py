"""Exits trained together with the model; a text leaves once several exits in a row have said the same.

Source: PABEE, Zhou et al. 2020, arXiv:2006.04152, sections 3.2 and 3.3: a linear classifier behind every layer, the
loss ``sum j L_j / sum j`` over the layers j, the head being the last; a text leaves when as many answers in a row as
the patience P have agreed with the one before: the same class, or scores less than a tolerance apart.
Departs from it: P follows from the speed, P = (1 - speed) * layers, rounded, at least 1.  Texts of a batch leave one by
one (the authors' code waits until all of a batch may).  Classifiers read the model's pooling, without a dense layer.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from bertpress.encoder.blueprint import ExitRule, ExitSpec
from bertpress.methods.base import Context, Model, Need
from bertpress.methods.exits import ExitLoss, Exits, add_exits
from bertpress.training.objectives import Objective

NAME = "exit/pabee"


def by_depth(exits: int) -> list[float]:
    """The share of each exit's loss, j / sum j for the j-th; they sum to 1."""
    whole = exits * (exits + 1) / 2
    return [j / whole for j in range(1, exits + 1)]


class Pabee(Exits):
    """Train a classifier behind every layer with the model; texts leave once several in a row agree."""

    cite: ClassVar[str] = "Zhou et al., 2020b"
    requires: ClassVar[frozenset[Need]] = frozenset({Need.TRAINING, Need.LABELS})
    supervises: ClassVar[bool] = True

    tolerance: float = Field(0.5, gt=0, le=1e6, description="Scores of a regression that differ by less agree.")

    def attach(self, model: Model, ctx: Context) -> Model:
        """Put the exits."""
        rule = ExitRule(criterion="patience", tolerance=self.tolerance, speed=self.speed, drop=self.drop)
        return add_exits(model, ExitSpec(kind="linear"), rule, ctx, name=NAME)

    def objectives(self, ctx: Context) -> list[Objective]:
        """The weighted mean of all losses."""
        return [ExitLoss(by_depth)]
