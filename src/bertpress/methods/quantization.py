"""What all methods that quantize share: which weights, how many bits for each table, what they train under."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator
from torch import Tensor

from bertpress.artifact.codecs import on_grid
from bertpress.encoder.blueprint import Blueprint, Scales
from bertpress.encoder.grids import Block, Granularity, Grid, affine_grid, fitted_grid, quantize, symmetric_grid
from bertpress.encoder.surgery import rebuild
from bertpress.methods.activations import attach_activations, quantized_slots, settle_activations, start_activations
from bertpress.methods.base import Context, Method, Model
from bertpress.methods.weights import matrices, tables

FLOAT = 32
Bits = Annotated[int, Field(ge=2, le=8)] | Literal[32]
ROWS: Block = (1, 0)
"""Blocks of the embedding tables: a scale for each row, so that a lookup reads one."""


def on_grids(
    model: Model,
    grids: Mapping[str, Grid],
    *,
    blueprint: Blueprint | None = None,
    buffers: Mapping[str, Tensor] | None = None,
) -> Model:
    """A copy of the model with these weights rounded to their grids, and stored so.

    Args:
        model: stays as it is.
        grids: by the name of the weight.
        blueprint: of the copy, where activations are quantized too.
        buffers: of the quantizers that it has then.
    """
    state = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()} | dict(buffers or {})
    storage = dict(model.storage)
    for name, grid in grids.items():
        state[name] = quantize(state[name], grid)
        storage[name] = on_grid(grid)
    return rebuild(model, blueprint or model.blueprint, state, storage)


class Quantizer(Method):
    """Base of the methods that put weights on fewer values: embedding tables have bits of their own."""

    quantizes: ClassVar[bool] = True

    embedding_bits: Bits = Field(8, description="Of the token table; 32 leaves it float.")
    position_bits: Bits | None = Field(None, description="Of the position table; null: as the token table.")
    segment_bits: Bits | None = Field(None, description="Of the segment table; null: as the token table.")
    classifier: bool = Field(False, description="Quantize the last linear layer too.")

    def table_bits(self, table: str) -> int:
        """Bits of one of the embedding tables."""
        own = {"word": self.embedding_bits, "position": self.position_bits, "segment": self.segment_bits}[table]
        return self.embedding_bits if own is None else own

    def tables(self, model: Model) -> Iterator[tuple[str, int]]:
        """Name and bits of the embedding tables that shall not stay float."""
        for table, name in tables(model).items():
            if (bits := self.table_bits(table)) != FLOAT:
                yield name, bits

    def matrices(self, model: Model) -> list[str]:
        """Names of the weights of linear layers, in the order of the model."""
        return matrices(model, classifier=self.classifier)


class GridQuantizer(Quantizer):
    """Base of the methods that round once to a grid whose blocks and range are the user's choice."""

    bits: Bits = Field(8, description="Of the linear layers; 32 leaves them float.")
    granularity: Granularity = Field("channel", description="Weights that share a scale: matrix, output, or group.")
    group: int = Field(128, ge=8, le=4096, description="Consecutive inputs of an output in a group.")
    symmetric: bool = Field(True, description="Steps evenly around 0; false: from minimum to maximum, zero-point.")
    fit: Literal["max", "mse"] = Field("max", description="Range: all values, or least squared error (symmetric).")

    @model_validator(mode="after")
    def _fits(self) -> GridQuantizer:
        if self.fit == "mse" and not self.symmetric:
            raise ValueError("fit=mse must go with symmetric=true")
        return self

    def grid(self, weight: Tensor, bits: int, block: Block) -> Grid:
        """The grid of one weight."""
        if not self.symmetric:
            return affine_grid(weight, bits, block)
        return fitted_grid(weight, bits, block) if self.fit == "mse" else symmetric_grid(weight, bits, block)

    @classmethod
    def noop(cls) -> Any:
        """All bits."""
        return cls(bits=FLOAT, embedding_bits=FLOAT)


class TrainedQuantizer(Quantizer):
    """Base of the methods that train under quantized weights, and quantized activations where wanted."""

    settles: ClassVar[bool] = True

    activations: bool = Field(True, description="Matrix products read quantized activations; false: float ones.")
    activation_bits: int = Field(8, ge=2, le=8, description="Of quantized activations; engines multiply 8 bits.")
    examples: int = Field(256, ge=1, le=100_000, description="Training examples that the first ranges come from.")

    def simulate(
        self,
        model: Model,
        ctx: Context,
        put_weights: Callable[[Model], None],
        *,
        scores: bool = True,
        maps: bool = False,
        scales: Scales = "static",
        decay: float = 0.9999,
        symmetric: bool = False,
    ) -> Model:
        """Put quantizers on activations, then on weights; the first ranges are those of the quantized weights.

        Args:
            model: changed in place.
            ctx: gives the text of the first ranges.
            put_weights: puts the transforms on the weights.
            scores: see :func:`quantized_slots`.
            maps: see :func:`quantized_slots`.
            scales: see :func:`attach_activations`.
            decay: see :func:`attach_activations`.
            symmetric: see :func:`attach_activations`.
        """
        if self.activations:
            chosen = quantized_slots(model, classifier=self.classifier, scores=scores, maps=maps)
            attach_activations(
                model, chosen, bits=self.activation_bits, scales=scales, decay=decay, symmetric=symmetric
            )
        put_weights(model)
        if self.activations:
            start_activations(model, ctx, self.examples)
        return model

    def finish(self, model: Model, ctx: Context) -> Model:
        """Keep the activations' ranges as training left them."""
        return settle_activations(model) if self.activations else model
