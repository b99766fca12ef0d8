"""Compress keys and values along the tokens by learned matrices, so that attention costs what the text is long.

Source: Linformer, Wang et al. 2020, arXiv:2006.04768, section 4, equation 7, and its three kinds of sharing: among the
heads of a layer, between keys and values, among all layers.
Departs from it: applied to a trained model, so that the matrices start as means over neighbouring tokens (``start:
random`` draws them as the paper's proof does).  What is left of a key counts by the share of its row that lies on
tokens: at full length the paper's formula, on shorter texts no empty keys.  The longest input is the task's, and the
position table ends there.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from bertpress.encoder.pattern_specs import LinformerSpec, Sharing
from bertpress.encoder.surgery import keep_positions
from bertpress.encoder.transforms import put
from bertpress.methods.base import Context, Model
from bertpress.methods.patterned import Patterned, longest, with_patterns
from bertpress.methods.transform import WeightTransform


class Free(WeightTransform):
    """Lets a weight be: the zeros in means over few tokens are none that a pruning left, and may be trained."""

    prunes = True

    def forward(self, weight: Tensor) -> Tensor:
        """The weight."""
        return weight


class Linformer(Patterned):
    """Attend over keys and values that learned matrices have compressed to a fixed number."""

    cite: ClassVar[str] = "Wang et al., 2020b"

    size: int = Field(64, ge=1, le=65_536, description="Keys and values that are left, at most the longest input.")
    sharing: Sharing = Field(
        "heads", description="One pair of matrices for a layer's heads; keys_values: one for both; layers: one for all."
    )
    start: Literal["means", "random"] = Field(
        "means", description="Means over neighbouring tokens, or drawn at random."
    )

    def attach(self, model: Model, ctx: Context) -> Model:
        """Put the matrices into the layers, and end the positions at the task's longest input."""
        place = "attention/linformer"
        chosen = self.chosen(model, place)
        length = min(ctx.task.max_length, longest(model, ctx))
        pattern = LinformerSpec(kind="linformer", size=min(self.size, length), length=length, sharing=self.sharing)
        model = keep_positions(with_patterns(model, dict.fromkeys(chosen, pattern), place), length)
        generator = ctx.generator()
        for name, weight in list(model.unique_weights()):
            if ".compression." in name:
                if self.start == "random":
                    weight.data.copy_(torch.randn(weight.shape, generator=generator) / math.sqrt(pattern.size))
                put(model, name, Free())
        return model

    @classmethod
    def noop(cls) -> Linformer:
        """As many means as there are tokens are the tokens."""
        return cls(size=65_536)
