"""Let each token attend to those keys alone that it scores highest.

Source: Explicit sparse Transformer, Zhao et al. 2019, arXiv:1912.11637, section 3, equations 2 to 4: of each row of
scores those at least as large as the k-th largest stay, the others are masked before the softmax; gradients flow
through what stays.
Departs from it: applied to fine-tuned encoders.  All scores are computed, so that it sharpens attention and saves
nothing, as the paper says of its own.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from bertpress.encoder.pattern_specs import TopKSpec
from bertpress.methods.base import Context, Model
from bertpress.methods.patterned import Patterned, longest, with_patterns


class TopK(Patterned):
    """Let each token attend only to the keys that it scores highest; sharper, no faster."""

    cite: ClassVar[str] = "Zhao et al., 2019"

    k: int = Field(8, ge=1, le=65_536, description="Keys that each token attends to; ties with the last stay too.")

    def attach(self, model: Model, ctx: Context) -> Model:
        """Put the choice on the layers."""
        place = "attention/top_k"
        pattern = TopKSpec(kind="top_k", k=min(self.k, longest(model, ctx)))
        return with_patterns(model, dict.fromkeys(self.chosen(model, place), pattern), place)

    @classmethod
    def noop(cls) -> TopK:
        """As many keys as any text has reproduce the model."""
        return cls(k=65_536)
