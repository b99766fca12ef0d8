"""A bidirectional LSTM that learns the teacher's answers.

Source: Tang et al. 2019, arXiv:1903.12136, section 3.1: word vectors, one bidirectional LSTM, the last states of both
directions, a dense layer with ReLU, the classifier; of a pair both sides by the same weights (a siamese network),
compared as [h1, h2, h1 h2, |h1 - h2|].  The loss is ``distill/logits`` with ``loss: mse`` and ``alpha: 1``.
Departs from it: word vectors are the teacher's (word pieces, not word2vec), normalised and mapped linearly to the width
of both directions; several layers are possible, each reading the states of the one before; one bias for each gate.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from bertpress.encoder.blueprint import NO_HEADS, LayerSpec, LstmSpec
from bertpress.methods.base import Context, Model
from bertpress.methods.students import Student


class Bilstm(Student):
    """Build a student of bidirectional LSTMs upon the teacher's word vectors."""

    cite: ClassVar[str] = "Tang et al., 2019"

    layers: int = Field(1, ge=1, le=64, description="LSTMs, one upon the other.")
    units: int = Field(150, ge=1, le=8192, description="Width of each direction.")
    pairs: Literal["joint", "siamese"] = Field(
        "siamese", description="Pairs of texts are read as one, or apart by the same weights and then compared."
    )

    def attach(self, model: Model, ctx: Context) -> Model:
        """Build it."""
        mixer = LstmSpec(kind="lstm", residual=False, norm="none")
        layer = LayerSpec(attention=NO_HEADS, mixer=mixer, ffn=())
        layers = (layer,) * self.layers
        return self.build(model, ctx, name="student/bilstm", hidden=2 * self.units, layers=layers, pooling="ends")
