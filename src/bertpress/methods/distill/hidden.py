"""Learn the teacher's hidden states, layer by layer.

Source: ``mse``: TinyBERT, Jiao et al. 2020, arXiv:1909.10351, equation 8, with its map of layers; ``cosine``:
DistilBERT, Sanh et al. 2019, arXiv:1910.01108, section 3, which compares the last layers alone (``layer_map: final``).
Departs from them: pads do not count; the linear maps W are there only where the widths differ, start orthogonal, and
may stand on the teacher's side instead or be one for each layer.  ``layer_map: joint`` with ``reduction: mean`` is the
term of DeFormer, Cao et al. 2020, arXiv:2005.00697, section 3.

The maps are dropped after training.  They cannot be folded into the student's next matrices: what reads a state there
reads it as it is, next to the residual, and never the projected one.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from bertpress.methods.base import Context, Method, Model, Need
from bertpress.methods.distances import Distance, hidden_state_cosine, hidden_state_mse
from bertpress.methods.layer_maps import MAP, LayerMap, layer_pairs
from bertpress.methods.matching import Side, matched, pairs_in, projected_pairs
from bertpress.training.objectives import Objective

DISTANCES: dict[str, Distance] = {"mse": hidden_state_mse, "cosine": hidden_state_cosine}


class Hidden(Method):
    """Distil the hidden states behind the teacher's layers, through linear maps where the widths differ."""

    cite: ClassVar[str] = "Jiao et al., 2020; Sanh et al., 2019"
    requires: ClassVar[frozenset[Need]] = frozenset({Need.TEACHER, Need.TRAINING, Need.TOKENS})

    weight: float = Field(1.0, ge=0, le=1000, description="Of the term in the loss.")
    reduction: Literal["sum", "mean"] = Field("sum", description="Over the layers.")
    layer_map: LayerMap = Field("uniform", description=MAP)
    loss: Literal["mse", "cosine"] = Field("mse", description="Distance: mean squared error, or one minus the cosine.")
    project: Side = Field("student", description="Whose states are mapped to the other's width, where they differ.")
    shared: bool = Field(True, description="One linear map for all layers, instead of one for each.")

    def attach(self, model: Model, ctx: Context) -> Model:
        """Find out which layers meet, and make the maps, which train beside the model.

        Raises:
            RecipeError: a layer is not there.
        """
        places = layer_pairs("distill/hidden", self.layer_map, model, ctx)
        ctx.state["hidden"] = projected_pairs(places, model, ctx, side=self.project, shared=self.shared)
        return model

    def objectives(self, ctx: Context) -> list[Objective]:
        """The distance of the hidden states, summed or averaged over the layers."""
        pairs = pairs_in(ctx, "hidden")
        weight = self.weight / (max(1, len(pairs.places)) if self.reduction == "mean" else 1)
        return matched("hidden", "hidden_states", DISTANCES[self.loss], pairs, weight)
