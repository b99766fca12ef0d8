"""Learn what the teacher's attention does, head by head.

Source: ``scores``: TinyBERT, Jiao et al. 2020, arXiv:1909.10351, equation 7, squared error before the softmax;
``maps``: MobileBERT's attention transfer, Sun et al. 2020, arXiv:2004.02984, and, with ``layer_map: final``, one of
MiniLM's two terms, Wang et al. 2020, arXiv:2002.10957: KL divergence behind it.
Departs from them: pads count neither as queries nor as keys.  What single heads gather (``contexts``), their queries,
keys and values are compared by squared error, which is in none of these papers.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from bertpress.encoder.blueprint import AttentionSpec
from bertpress.errors import RecipeError
from bertpress.methods.base import Context, Method, Model, Need
from bertpress.methods.distances import Distance, attention_map_kl, attention_score_mse, head_state_mse
from bertpress.methods.layer_maps import MAP, LayerMap, attention_places, layer_pairs
from bertpress.methods.matching import Pairs, matched, pairs_in
from bertpress.training.objectives import Objective

Target = Literal["scores", "maps", "contexts", "queries", "keys", "values"]
TERMS: dict[Target, tuple[str, Distance]] = {
    "scores": ("scores", attention_score_mse),
    "maps": ("scores", attention_map_kl),
    "contexts": ("contexts", head_state_mse),
    "queries": ("queries", head_state_mse),
    "keys": ("keys", head_state_mse),
    "values": ("values", head_state_mse),
}


def width(target: Target, spec: AttentionSpec) -> int | None:
    """Width of what one head has of a target; None where it is the number of tokens."""
    if target in ("scores", "maps"):
        return None
    return spec.head_size if target in ("queries", "keys") else spec.value_size


class Attention(Method):
    """Distil attention scores or maps, or what single heads hold; student and teacher must have as many heads."""

    cite: ClassVar[str] = "Jiao et al., 2020; Sun et al., 2020"
    requires: ClassVar[frozenset[Need]] = frozenset({Need.TEACHER, Need.TRAINING, Need.TOKENS})

    weight: float = Field(1.0, ge=0, le=1000, description="Of each term in the loss, which sums over the layers.")
    layer_map: LayerMap = Field("uniform", description=MAP)
    targets: tuple[Target, ...] = Field(
        ("scores",),
        min_length=1,
        description="A term for each: scores, maps (KL divergence; the others squared error), contexts, queries, keys, "
        "values.",
    )

    def attach(self, model: Model, ctx: Context) -> Model:
        """Find out which layers meet.

        Raises:
            RecipeError: a layer is not there, or has other heads than the one that it meets.
        """
        assert ctx.teacher is not None
        pairs = layer_pairs("distill/attention", self.layer_map, model, ctx)
        ctx.state["attention"] = Pairs(attention_places("distill/attention", pairs, model, ctx.teacher))
        layers = [[layer.attention for layer in each.blueprint.layers] for each in (model, ctx.teacher)]
        for mine, theirs in pairs:
            self._check(mine, layers[0][mine - 1], theirs, layers[1][theirs - 1])
        return model

    def _check(self, mine: int, own: AttentionSpec, theirs: int, other: AttentionSpec) -> None:
        for target in self.targets:
            widths = width(target, own), width(target, other)
            if widths[0] != widths[1]:
                raise RecipeError(
                    f"distill/attention: {target} have {widths[0]} dimensions in a head of the student's layer {mine}, "
                    f"{widths[1]} in one of the teacher's layer {theirs}; compare scores or maps"
                )

    def objectives(self, ctx: Context) -> list[Objective]:
        """A term for each target."""
        pairs = pairs_in(ctx, "attention")
        return [
            term
            for target in dict.fromkeys(self.targets)
            for term in matched(f"attention_{target}", *TERMS[target], pairs, self.weight)
        ]
