"""Remove the attention heads that the loss depends on least, in steps after which the importance is measured anew.

Source: Michel, Levy & Neubig 2019, "Are sixteen heads really better than one?", arXiv:1905.10650: sections 4 (pruning
in steps of 10 %, importance of equation 2) and 3.2 (``measure: ablation``, the loss without a head).
Departs from it: one shot by default (``step: 0.1`` is the paper's); ``scope: layer`` keeps every layer the same shape;
ablation ranks by the loss, not by the metric, which few examples cannot tell apart; small steps make it greedy.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from bertpress.encoder.surgery import keep_heads
from bertpress.methods.base import Context, Method, Model, Need, Trait
from bertpress.methods.selection import Scope, keep_best, normalized, note, shares
from bertpress.training.importance import Measure, head_gates, task_importance


class Heads(Method):
    """Remove attention heads of least importance, in one or several steps, before training."""

    cite: ClassVar[str] = "Michel et al., 2019"
    requires: ClassVar[frozenset[Need]] = frozenset({Need.LABELS, Need.CALIBRATION})
    provides: ClassVar[frozenset[Trait]] = frozenset({Trait.NARROW})

    keep: float = Field(0.5, gt=0, le=1, description="Share of the heads that stays.")
    step: float = Field(
        1.0, gt=0, le=1, description="Share of the heads, at least one, that goes before importance is measured anew."
    )
    measure: Measure = Field("gradient", description="Gradient of a gate on each head, or loss without the head.")
    scope: Scope = Field(
        "model", description="Rank the heads of the whole model together, or keep a share of each layer."
    )
    normalize: bool = Field(True, description="Gradient: divide importances by their l2 norm in each layer.")
    multiple_of: int = Field(1, ge=1, le=64, description="Round the heads of each layer to what the hardware likes.")
    examples: int = Field(256, ge=1, le=100_000, description="Training examples that the importance is measured on.")

    def attach(self, model: Model, ctx: Context) -> Model:
        """Measure and cut, step by step."""
        whole = {layer: len(model.blueprint.layers[layer].attention.heads) for layer in head_gates(model)}
        batches = ctx.batches(self.examples)
        seen: dict[int, dict[int, float]] = {layer: {} for layer in whole}
        heads: dict[int, list[int]] = {}
        for share in shares(sum(whole.values()), self.keep, self.step):
            scores = task_importance(model, ctx.task, head_gates(model), batches, self.measure)
            if self.normalize and self.measure == "gradient":
                scores = normalized(scores)
            for layer, values in scores.items():
                seen[layer] |= zip(model.blueprint.layers[layer].attention.heads, values.tolist(), strict=True)
            kept = keep_best(scores, share, scope=self.scope, multiple_of=self.multiple_of, whole=whole)
            heads = {
                layer: [model.blueprint.layers[layer].attention.heads[i] for i in positions]
                for layer, positions in kept.items()
            }
            model = keep_heads(model, heads)
        ctx.notes["heads"] = note(seen, heads)
        ctx.say("prune/heads keeps " + "/".join(str(len(heads.get(i, []))) for i in range(len(model.blueprint.layers))))
        return model

    @classmethod
    def noop(cls) -> Heads:
        """Keeping all heads reproduces the model."""
        return cls(keep=1.0)
