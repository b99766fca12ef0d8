"""Exits as DeeBERT's, and a table that bounds the layer by which a text has left, from its first answer.

Source: EdgeBERT, Tambe et al. 2020, arXiv:2011.14203, sections 3.3 and 5.1: exits are trained on the frozen, fine-tuned
model; a table fitted on training data gives, from the entropy of the first exit, the layer by which the text leaves, so
that hardware can be slowed down to what is needed; every exit up to there is still looked at.
Departs from it: a reconstruction.  The table is made of quantiles of that entropy, one for each of several speeds: with
``conservative`` a bin says the latest layer of its training texts, so that none of them leaves earlier than by entropy
alone; otherwise their mean.  There is no clock or voltage to set: the bound is what speed needs.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from pydantic import Field

from bertpress.encoder.blueprint import ExitRule, ExitSpec
from bertpress.encoder.exit_specs import ExitTable
from bertpress.encoder.leaving import Array, chosen_exits, speeds, uncertainty
from bertpress.encoder.surgery import rebuild
from bertpress.methods.base import Context, Model, Need
from bertpress.methods.exits import ExitLoss, FrozenExits, add_exits, equally, refuse_scores
from bertpress.training.objectives import Objective
from bertpress.training.teacher import model_inputs

NAME = "exit/edgebert"


def fit_table(speed: float, unsure: Array, layers: Array, *, bins: int, conservative: bool) -> ExitTable:
    """A table from the first exit's uncertainty to the layer; its layers never fall.

    Args:
        speed: at which the texts left.
        unsure: (texts,) uncertainties of the first exit.
        layers: (texts,) layers, from 1, behind which they left.
        bins: equally full ones, at most.
        conservative: the latest layer in each bin; otherwise the mean, rounded.
    """
    edges = np.unique(np.quantile(unsure, np.arange(1, bins) / bins, method="higher")) if bins > 1 else np.empty(0)
    edges = edges[edges > unsure.min()]  # so that every bin holds a text
    places = np.searchsorted(edges, unsure, side="right")
    inside = [layers[places == place] for place in range(len(edges) + 1)]
    found = [each.max() if conservative else np.floor(each.mean() + 0.5) for each in inside]
    return ExitTable(speed=speed, edges=tuple(edges.tolist()), layers=tuple(map(int, np.maximum.accumulate(found))))


class Edgebert(FrozenExits):
    """Put exits on a model, and bound the layer by which a text leaves by the entropy of its first answer."""

    cite: ClassVar[str] = "Tambe et al., 2020"
    requires: ClassVar[frozenset[Need]] = frozenset({Need.TRAINING, Need.LABELS, Need.CALIBRATION})
    supervises: ClassVar[bool] = True

    predictor: bool = Field(True, description="Fit the tables; false: leave by entropy alone.")
    conservative: bool = Field(True, description="A bound is the latest layer among like training texts, or the mean.")
    bins: int = Field(16, ge=1, le=256, description="Intervals of the first exit's entropy.")
    examples: int = Field(1024, ge=1, le=1_000_000, description="Training examples that the tables are fitted on.")

    def attach(self, model: Model, ctx: Context) -> Model:
        """Put the exits."""
        refuse_scores(ctx, NAME)
        rule = ExitRule(criterion="entropy", speed=self.speed, drop=self.drop)
        return add_exits(model, ExitSpec(kind="pooled"), rule, ctx, name=NAME, every=self.every)

    def objectives(self, ctx: Context) -> list[Objective]:
        """The sum of the exits' losses; the frozen head has none."""
        return [ExitLoss(equally)]

    def finish(self, model: Model, ctx: Context) -> Model:
        """Fit the tables."""
        blueprint, rule = model.blueprint, model.blueprint.exit
        assert rule is not None
        if not self.predictor:
            return model
        answers = []
        with torch.no_grad():
            for batch in ctx.batches(self.examples):
                device = next(model.parameters()).device
                out = model(**{name: value.to(device) for name, value in model_inputs(batch).items()})
                answers.append(torch.stack([*out.captured["exits"], out.logits], dim=1).float().cpu().numpy())
        logits, layers = np.concatenate(answers), np.asarray(blueprint.exits)
        first = uncertainty(logits[:, 0])
        tables = tuple(
            fit_table(
                speed,
                first,
                layers[chosen_exits(rule, speed, blueprint.exits, logits)],
                bins=self.bins,
                conservative=self.conservative,
            )
            for speed in speeds(rule, len(blueprint.layers))
            if 0 < speed < 1
        )
        shape = blueprint.replace(exit=rule.model_copy(update={"tables": tables}))
        return rebuild(model, shape, dict(model.state_dict()), model.storage)
