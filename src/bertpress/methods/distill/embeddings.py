"""Learn what the teacher's embeddings give.

Source: TinyBERT, Jiao et al. 2020, arXiv:1909.10351, equation 9: the squared error of ``E_S W`` and ``E_T``.
Departs from it: pads do not count; W is there only where the widths differ, starts orthogonal, and may stand on the
teacher's side instead.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from bertpress.methods.base import Context, Method, Model, Need
from bertpress.methods.distances import hidden_state_mse
from bertpress.methods.matching import Side, matched, pairs_in, projected_pairs
from bertpress.training.objectives import Objective


class Embeddings(Method):
    """Distil the outputs of the teacher's embeddings, through a linear map where the widths differ."""

    cite: ClassVar[str] = "Jiao et al., 2020"
    requires: ClassVar[frozenset[Need]] = frozenset({Need.TEACHER, Need.TRAINING, Need.TOKENS})

    weight: float = Field(1.0, ge=0, le=1000, description="Of the term in the loss.")
    project: Side = Field("student", description="Whose vectors are mapped to the other's width, where they differ.")

    def attach(self, model: Model, ctx: Context) -> Model:
        """Make the map, which trains beside the model."""
        ctx.state["embeddings"] = projected_pairs([(0, 0)], model, ctx, side=self.project)
        return model

    def objectives(self, ctx: Context) -> list[Objective]:
        """The distance of the embeddings' outputs."""
        pairs = pairs_in(ctx, "embeddings")
        return matched("embeddings", "hidden_states", hidden_state_mse, pairs, self.weight)
