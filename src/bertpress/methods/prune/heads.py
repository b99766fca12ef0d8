"""Remove the attention heads that the loss depends on least.

Source: Michel, Levy & Neubig 2019, "Are sixteen heads really better than one?", arXiv:1905.10650, sections 4 and 5.
Departs from it: one shot instead of steps of 10 %; ``scope: layer`` keeps every layer the same shape.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from bertpress.encoder.surgery import keep_heads
from bertpress.methods.base import Context, Method, Model, Need, Trait
from bertpress.methods.selection import Scope, keep_best
from bertpress.training.importance import head_gates, task_importance


class Heads(Method):
    """Remove attention heads of least importance, one shot, before training."""

    cite: ClassVar[str] = "Michel et al., 2019"
    requires: ClassVar[frozenset[Need]] = frozenset({Need.LABELS, Need.CALIBRATION})
    provides: ClassVar[frozenset[Trait]] = frozenset({Trait.NARROW})

    keep: float = Field(0.5, gt=0, le=1, description="Share of the heads that stays.")
    scope: Scope = Field(
        "model", description="Rank the heads of the whole model together, or keep a share of each layer."
    )
    normalize: bool = Field(True, description="Divide importances by their l2 norm in each layer.")
    examples: int = Field(256, ge=1, le=100_000, description="Training examples that the importance is measured on.")

    def attach(self, model: Model, ctx: Context) -> Model:
        """Measure, then cut."""
        scores = task_importance(model, ctx.task, head_gates(model), ctx.batches(self.examples))
        kept = keep_best(scores, self.keep, scope=self.scope, normalize=self.normalize)
        heads = {
            layer: [model.blueprint.layers[layer].attention.heads[i] for i in positions]
            for layer, positions in kept.items()
        }
        ctx.say("prune/heads keeps " + "/".join(str(len(heads.get(i, []))) for i in range(len(model.blueprint.layers))))
        return keep_heads(model, heads)

    @classmethod
    def noop(cls) -> Heads:
        """Keeping all heads reproduces the model."""
        return cls(keep=1.0)
