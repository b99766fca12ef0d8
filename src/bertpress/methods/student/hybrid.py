"""Layers of several kinds, which may work on a shortened sequence.

Source: WaLDORf, Tian et al. 2019, arXiv:1912.06638: a strided convolution makes the sequence shorter, Transformer
layers work on the short one, a transposed convolution and a skip connection give every token its state back.
With no layer at all it is the smallest student of Wasserblat et al. 2020: a dense layer on the mean word vector.
Departs from it: kernel and stride of both convolutions are the same; which layers stand between them is free, also
convolutions and LSTMs; hidden states and attention of the teacher, whose sequence is longer, are not matched.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from bertpress.encoder.blueprint import (
    NO_HEADS,
    AttentionSpec,
    ConvolutionSpec,
    LayerSpec,
    LstmSpec,
    ShorteningSpec,
)
from bertpress.errors import RecipeError
from bertpress.methods.base import Context, Model
from bertpress.methods.students import Student, Width

Kind = Literal["attention", "convolution", "lstm"]


class Hybrid(Student):
    """Build a student of attention, convolutions and LSTMs, in any order, on a shortened sequence."""

    cite: ClassVar[str] = "Tian et al., 2019"

    layers: Annotated[tuple[Kind, ...], Field(max_length=64)] = Field(
        ("attention",) * 4,
        description="What mixes the tokens of each layer: attention, convolution, lstm; no layer: a bag of words.",
    )
    shorten: int = Field(4, ge=1, le=64, description="Tokens that become one state before the layers; 1: none do.")
    hidden_size: Width | None = Field(None, description="Width of all layers; null: as the teacher's.")
    heads: Annotated[int, Field(ge=1, le=1024)] | None = Field(
        None, description="Heads of a layer with attention; null: as in the teacher's first layer."
    )
    ffn: Width | None = Field(None, description="Neurons of each feed-forward network; null: four times the width.")
    kernel: int = Field(3, ge=1, le=63, description="Tokens that each output of a convolution sees; odd.")

    def attach(self, model: Model, ctx: Context) -> Model:
        """Build it.

        Raises:
            RecipeError: the heads do not divide the width, or the kernel is even.
        """
        teacher = model.blueprint
        hidden = teacher.hidden_size if self.hidden_size is None else self.hidden_size
        heads = self.heads or len(teacher.layers[0].attention.heads) or 1
        if "attention" in self.layers and hidden % heads:
            raise RecipeError(f"student/hybrid: hidden_size={hidden} must be a multiple of heads={heads}")
        if self.kernel % 2 == 0:
            raise RecipeError(f"student/hybrid: kernel={self.kernel} must be odd")
        attention = AttentionSpec(heads=tuple(range(heads)), head_size=hidden // heads, value_size=hidden // heads)
        mixers = {
            "attention": None,
            "convolution": ConvolutionSpec(kind="convolution", kernel=self.kernel),
            "lstm": LstmSpec(kind="lstm"),
        }
        layers = [
            LayerSpec(
                attention=attention if kind == "attention" else NO_HEADS,
                mixer=mixers[kind],
                ffn=(self.ffn or 4 * hidden,),
            )
            for kind in self.layers
        ]
        shortening = ShorteningSpec(stride=self.shorten) if self.shorten > 1 else None
        return self.build(
            model, ctx, name="student/hybrid", hidden=hidden, layers=layers, pooling="mean", shortening=shortening
        )
