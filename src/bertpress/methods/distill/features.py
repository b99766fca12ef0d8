"""Learn what each of the teacher's matrices gives.

Source: Noach & Goldberg 2020, "Compressing pre-trained language models by matrix decomposition", AACL, feature
distillation: the sum of the squared errors between the outputs of corresponding modules.
Departs from it: pads do not count; each module's error is a mean, so that wide ones weigh no more than narrow ones.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from bertpress.encoder.blueprint import Blueprint
from bertpress.errors import RecipeError
from bertpress.methods.base import Context, Method, Model, Need
from bertpress.methods.distances import Distance, head_state_mse, hidden_state_mse
from bertpress.methods.matching import matched
from bertpress.training.objectives import Objective

Module = Literal["queries", "keys", "values", "attention_outputs", "ffn_inner", "ffn_outer"]
DISTANCES: dict[Module, Distance] = {
    "queries": head_state_mse,
    "keys": head_state_mse,
    "values": head_state_mse,
    "attention_outputs": hidden_state_mse,
    "ffn_inner": hidden_state_mse,
    "ffn_outer": hidden_state_mse,
}


def shape(blueprint: Blueprint) -> tuple[object, ...]:
    """What must be equal for each module to have its counterpart."""
    layers = (
        (len(layer.attention.heads), layer.attention.head_size, layer.attention.value_size, layer.ffn)
        for layer in blueprint.layers
    )
    return blueprint.hidden_size, *layers


class Features(Method):
    """Distil the output of each matrix of the teacher into its counterpart in a student of the same shape."""

    cite: ClassVar[str] = "Noach & Goldberg, 2020"
    requires: ClassVar[frozenset[Need]] = frozenset({Need.TEACHER, Need.TRAINING, Need.TOKENS})

    weight: float = Field(1.0, ge=0, le=1000, description="Of each term in the loss, which sums over the layers.")
    modules: tuple[Module, ...] = Field(
        tuple(DISTANCES),
        min_length=1,
        description="A term for each: queries, keys, values, attention_outputs, ffn_inner, ffn_outer.",
    )

    def attach(self, model: Model, ctx: Context) -> Model:
        """Compare the shapes.

        Raises:
            RecipeError: they differ.
        """
        assert ctx.teacher is not None
        if shape(model.blueprint) != shape(ctx.teacher.blueprint):
            raise RecipeError(
                "distill/features: needs a student with the teacher's layers, heads and widths; "
                "distill/hidden and distill/attention compare others"
            )
        return model

    def objectives(self, ctx: Context) -> list[Objective]:
        """A term for each kind of matrix."""
        return [
            term
            for each in dict.fromkeys(self.modules)
            for term in matched(each, each, DISTANCES[each], None, self.weight)
        ]
