"""Skip random layers while training, so that whole layers can go afterwards without training again.

Source: Fan, Grave & Joulin 2020, "Reducing Transformer depth on demand with structured dropout", arXiv:1909.11556,
sections 3.2 (LayerDrop) and 3.3 (every other layer).  A layer is skipped for the whole batch, with probability p, and
what is left is not rescaled.
Departs from it: nowhere in the algorithm; other choices of the layers that stay are offered beside "every other".
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from pydantic import Field, model_validator

from bertpress.encoder.depth import Strategy, kept_layers
from bertpress.encoder.layers import EncoderLayer
from bertpress.encoder.model import Encoder, all_layers
from bertpress.encoder.surgery import keep_layers
from bertpress.errors import RecipeError
from bertpress.methods.base import Context, Method, Model, Need, Trait
from bertpress.methods.layer_plan import LayerPlan

if TYPE_CHECKING:
    from transformers import TrainerCallback


def surviving(encoder: Encoder, p: float) -> Iterator[EncoderLayer]:
    """The layers of one pass: each is left out with probability ``p``, by torch's global generator."""
    skipped = (torch.rand(len(encoder.layers)) < p).tolist()
    return (layer for layer, skip in zip(all_layers(encoder), skipped, strict=True) if not skip)


def every_other(depth: int, share: float) -> list[int]:
    """Layers that stay when each floor(1 / share)-th goes: of 12 layers and 0.5 the first, third, fifth...

    Args:
        depth: number of layers there are.
        share: of them that shall go, [0, 0.5]; as every second, third, fourth... goes, not every share can be met.
    """
    period = int(1 / share + 1e-9) if share else depth + 1
    return [layer for layer in range(depth) if (layer + 1) % period]


class Layerdrop(Method):
    """Skip random layers in each training step, then drop some for good."""

    cite: ClassVar[str] = "Fan et al., 2020"
    requires: ClassVar[frozenset[Need]] = frozenset({Need.TRAINING})
    provides: ClassVar[frozenset[Trait]] = frozenset({Trait.SHALLOW})
    reshapes: ClassVar[bool] = True

    p: float = Field(0.5, ge=0, le=1, description="Probability that a layer is skipped in a step; 0.2 for small drops.")
    drop: float = Field(0.5, ge=0, lt=1, description="Share of the layers that goes after training.")
    strategy: Literal["every_other", Strategy] = Field("every_other", description="Which layers go.")

    @model_validator(mode="after")
    def _possible(self) -> Layerdrop:
        if self.strategy == "every_other" and self.drop > 0.5:
            raise ValueError(f"drop={self.drop:g} must be at most 0.5 with strategy=every_other")
        return self

    def attach(self, model: Model, ctx: Context) -> Model:
        """Find out before training whether the depth can be cut so."""
        kept = self._kept(model)
        ctx.say(f"prune/layerdrop will keep {kept} of {len(model.blueprint.layers)}")
        return model

    def callbacks(self, ctx: Context) -> list[TrainerCallback]:
        """Skip layers."""
        return [LayerPlan(lambda encoder: surviving(encoder, self.p))]

    def finish(self, model: Model, ctx: Context) -> Model:
        """Cut."""
        return keep_layers(model, self._kept(model))

    def _kept(self, model: Model) -> list[int]:
        depth = len(model.blueprint.layers)
        if self.strategy == "every_other":
            return every_other(depth, self.drop)
        try:
            return kept_layers(self.strategy, depth, round(self.drop * depth))
        except ValueError as fault:
            raise RecipeError(f"prune/layerdrop: {fault}") from None

    @classmethod
    def noop(cls) -> Layerdrop:
        """Skipping and dropping none is plain fine-tuning."""
        return cls(p=0.0, drop=0.0)
