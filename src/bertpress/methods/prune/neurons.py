"""Remove the inner neurons of the feed-forward networks that the loss depends on least.

Source: the importance of Michel et al. 2019 (arXiv:1905.10650, equation 2), applied to a gate on each neuron, as
Hou et al. 2020 (DynaBERT, arXiv:2004.04037, section 2.1) do.  Departs from them: absolute value per example.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from bertpress.encoder.surgery import keep_neurons
from bertpress.methods.base import Context, Method, Model, Need, Trait
from bertpress.methods.selection import Scope, keep_best, normalized, note
from bertpress.training.importance import neuron_gates, task_importance


class Neurons(Method):
    """Remove feed-forward neurons of least importance, one shot, before training."""

    cite: ClassVar[str] = "Michel et al., 2019; Hou et al., 2020"
    requires: ClassVar[frozenset[Need]] = frozenset({Need.LABELS, Need.CALIBRATION})
    provides: ClassVar[frozenset[Trait]] = frozenset({Trait.NARROW})

    keep: float = Field(0.5, gt=0, le=1, description="Share of the neurons that stays.")
    scope: Scope = Field(
        "layer", description="Keep a share of each layer, or rank the neurons of the whole model together."
    )
    normalize: bool = Field(True, description="Divide importances by their l2 norm in each layer.")
    multiple_of: int = Field(1, ge=1, le=1024, description="Round widths to what the hardware likes.")
    examples: int = Field(256, ge=1, le=100_000, description="Training examples that the importance is measured on.")

    def attach(self, model: Model, ctx: Context) -> Model:
        """Measure, then cut."""
        scores = task_importance(model, ctx.task, neuron_gates(model), ctx.batches(self.examples))
        scores = normalized(scores) if self.normalize else scores
        kept = keep_best(scores, self.keep, scope=self.scope, multiple_of=self.multiple_of)
        ctx.notes["neurons"] = note({key: dict(enumerate(value.tolist())) for key, value in scores.items()}, kept)
        ctx.say("prune/neurons keeps " + "/".join(str(len(kept[key])) for key in sorted(kept)))
        return keep_neurons(model, kept)

    @classmethod
    def noop(cls) -> Neurons:
        """Keeping all neurons reproduces the model."""
        return cls(keep=1.0)
