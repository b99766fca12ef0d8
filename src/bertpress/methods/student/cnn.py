"""Residual convolutions over word vectors, and the maximum over the text.

Source: Chia, Witteveen & Andrews 2018, arXiv:1909.03508: embeddings, convolutions of kernel 3 with skip connections,
global max-pooling, a dense layer; trained on the teacher's outputs.
Departs from it: skips are summed where the paper concatenates them, since all layers of an encoder have one width, so
that each may be dropped, and any head may read the last; a norm follows each sum; the word vectors are the teacher's.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from bertpress.encoder.blueprint import NO_HEADS, ConvolutionSpec, LayerSpec
from bertpress.errors import RecipeError
from bertpress.methods.base import Context, Model
from bertpress.methods.students import Student, Width


class Cnn(Student):
    """Build a student of residual convolutions upon the teacher's word vectors."""

    cite: ClassVar[str] = "Chia et al., 2018"

    layers: int = Field(3, ge=1, le=64, description="Convolutions, one upon the other.")
    hidden_size: Width = Field(256, description="Width of all layers.")
    kernel: int = Field(3, ge=1, le=63, description="Tokens that each output sees; odd.")

    def attach(self, model: Model, ctx: Context) -> Model:
        """Build it.

        Raises:
            RecipeError: the kernel is even.
        """
        if self.kernel % 2 == 0:
            raise RecipeError(f"student/cnn: kernel={self.kernel} must be odd")
        mixer = ConvolutionSpec(kind="convolution", kernel=self.kernel)
        layers = (LayerSpec(attention=NO_HEADS, mixer=mixer, ffn=(), activation="relu"),) * self.layers
        return self.build(model, ctx, name="student/cnn", hidden=self.hidden_size, layers=layers, pooling="max")
