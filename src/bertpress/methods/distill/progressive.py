"""Learn the teacher's layers one after the other, from the bottom up.

Source: MobileBERT, Sun et al. 2020, arXiv:2004.02984, section 3: feature map transfer (mean squared error of the hidden
states), attention transfer (KL divergence of the maps, mean over heads and tokens), and progressive knowledge transfer:
layer l learns while the layers below it are frozen, or have a low learning rate, and those above it wait.
Departs from it: the layers share one stage in equal times, in place of so many steps each.  Embeddings, which the paper
copies from a teacher that has the same, have a time of their own before the first layer.  A shallower student learns
from evenly spaced layers of the teacher, the last included.  Pads count neither as tokens nor as queries or keys.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from bertpress.errors import RecipeError
from bertpress.methods.base import Context, Method, Model, Need, Trait
from bertpress.methods.distances import attention_map_kl, hidden_state_mse
from bertpress.methods.layer_maps import attention_places, layer_pairs
from bertpress.methods.layerwise import Layerwise, last_layer
from bertpress.methods.matching import Pairs, pairs_in
from bertpress.training.objectives import Objective

if TYPE_CHECKING:
    from transformers import TrainerCallback

NAME, HIDDEN, ATTENTION = "distill/progressive", "progressive_hidden", "progressive_attention"


class Progressive(Method):
    """Distil hidden states and attention maps layer by layer, each while those below it are frozen."""

    cite: ClassVar[str] = "Sun et al., 2020"
    requires: ClassVar[frozenset[Need]] = frozenset({Need.TEACHER, Need.TRAINING})
    conflicts: ClassVar[frozenset[Trait]] = frozenset({Trait.SHARED})
    unsupervised: ClassVar[bool] = True

    hidden: float = Field(1.0, gt=0, le=1000, description="Weight of the squared error of the hidden states.")
    attention: float = Field(1.0, ge=0, le=1000, description="Weight of the KL between the attention maps.")
    lower_rate: float = Field(
        0.0, ge=0, le=1, description="Share of the learning rate for what lies below the layer; 0 freezes it."
    )

    def attach(self, model: Model, ctx: Context) -> Model:
        """Find out which layers meet.

        Raises:
            RecipeError: widths or heads differ, or layers share their weights.
        """
        assert ctx.teacher is not None
        mine, theirs = (each.blueprint.hidden_size for each in (model, ctx.teacher))
        if mine != theirs:
            raise RecipeError(f"{NAME}: the student's hidden_size={mine} must be the teacher's {theirs}")
        if any(spec.attention_from is not None or spec.ffn_from is not None for spec in model.blueprint.layers):
            raise RecipeError(f"{NAME}: the student must not share weights among its layers")
        pairs = layer_pairs(NAME, "uniform", model, ctx)
        ctx.state[HIDDEN] = Pairs([(0, 0), *pairs])
        ctx.state[ATTENTION] = Pairs(attention_places(NAME, pairs, model, ctx.teacher) if self.attention else [])
        return model

    def objectives(self, ctx: Context) -> list[Objective]:
        """Both distances of the layer that learns."""
        return [
            *last_layer("hidden", "hidden_states", hidden_state_mse, pairs_in(ctx, HIDDEN), self.hidden),
            *last_layer("attention", "scores", attention_map_kl, pairs_in(ctx, ATTENTION), self.attention),
        ]

    def callbacks(self, ctx: Context) -> list[TrainerCallback]:
        """One layer at a time."""
        return [Layerwise(lower_rate=self.lower_rate)]
