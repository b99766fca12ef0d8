"""Patient knowledge distillation: learn the [CLS] states between the teacher's layers.

Source: Sun et al. 2019, "Patient knowledge distillation for BERT model compression", arXiv:1908.09355, equations 7
and 8, and section 3.2 for which layers; the task's loss and the soft targets beside it are those of ``distill/logits``.
Departs from it: ``weight`` stands for the paper's beta.  With ``reduction: mean`` it has the scale of the authors' code
and of their published values (10 to 1000): there the squares are averaged over dimensions and layers, where the
equation sums.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from bertpress.errors import RecipeError
from bertpress.methods.base import Context, Method, Model, Need
from bertpress.methods.layer_maps import LayerMap, layer_pairs
from bertpress.methods.matching import Pairs, matched, pairs_in
from bertpress.training.objectives import Objective


def patience(*, student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """Squared distance of the first token's states after each is scaled to unit length, mean over the examples.

    Args:
        student: (batch, tokens, hidden).
        teacher: the same shape.
        mask: (batch, tokens); without a say, as the first token never is a pad.
    """
    difference = F.normalize(student[:, 0], dim=-1) - F.normalize(teacher[:, 0], dim=-1)
    return difference.square().sum(-1).mean()


class Pkd(Method):
    """Distil the direction of the [CLS] state behind the teacher's layers, for each of the student's but the last."""

    cite: ClassVar[str] = "Sun et al., 2019"
    requires: ClassVar[frozenset[Need]] = frozenset({Need.TEACHER, Need.TRAINING, Need.TOKENS})

    weight: float = Field(1.0, ge=0, le=100_000, description="Of the term in the loss; the paper's beta.")
    layer_map: LayerMap = Field(
        "skip",
        description="skip: every k-th of the teacher's layers; last: those below its last one; or as distill/hidden.",
    )
    reduction: Literal["sum", "mean"] = Field(
        "sum", description="Over dimensions and layers: as the equation, or as the authors' code."
    )

    def attach(self, model: Model, ctx: Context) -> Model:
        """Find out which layers meet.

        Raises:
            RecipeError: a layer is not there, or the widths differ.
        """
        assert ctx.teacher is not None
        own, other = (each.blueprint.hidden_size for each in (model, ctx.teacher))
        if own != other:
            raise RecipeError(
                f"distill/pkd: needs hidden states of {other}, not {own}; distill/hidden can project them"
            )
        places = layer_pairs("distill/pkd", self.layer_map, model, ctx)
        if not places:
            ctx.say("distill/pkd: a student of one layer has none below its last; the term is left out")
        ctx.state["pkd"] = Pairs(places)
        return model

    def objectives(self, ctx: Context) -> list[Objective]:
        """The patient term; none where no layers meet."""
        assert ctx.teacher is not None
        pairs = pairs_in(ctx, "pkd")
        numbers = ctx.teacher.blueprint.hidden_size * len(pairs.places)
        weight = self.weight / numbers if self.reduction == "mean" and numbers else self.weight
        return matched("patience", "hidden_states", patience, pairs, weight)
