"""What all methods that quantize share: which weights, how many bits for each table, what activations reach."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from bertpress.encoder.grids import Block, affine_range
from bertpress.encoder.observers import Histogram, RangeRule
from bertpress.encoder.quantizers import is_symmetric, observing, slots
from bertpress.methods.base import Method, Model
from bertpress.training.teacher import model_inputs

FLOAT = 32
Bits = Annotated[int, Field(ge=2, le=8)] | Literal[32]
Table = Literal["word", "position", "segment"]
ROWS: Block = (1, 0)
"""Blocks of the embedding tables: a scale for each row, so that a lookup reads one."""
TABLES: tuple[Table, ...] = ("word", "position", "segment")


class Quantizer(Method):
    """Base of the methods that put weights on fewer values: embedding tables have bits of their own (sheet Q7)."""

    embedding_bits: Bits = Field(8, description="Of the token table; 32 leaves it float.")
    position_bits: Bits | None = Field(None, description="Of the position table; null: as the token table.")
    segment_bits: Bits | None = Field(None, description="Of the segment table; null: as the token table.")
    classifier: bool = Field(False, description="Quantize the last linear layer too.")

    def table_bits(self, table: Table) -> int:
        """Bits of one of the embedding tables."""
        own = {"word": self.embedding_bits, "position": self.position_bits, "segment": self.segment_bits}[table]
        return self.embedding_bits if own is None else own

    def tables(self, model: Model) -> Iterator[tuple[str, int]]:
        """Name and bits of the embedding tables that shall not stay float."""
        held = {name for name, _ in model.unique_weights()}
        for table in TABLES:
            name, bits = f"encoder.embeddings.{table}.weight", self.table_bits(table)
            if name in held and bits != FLOAT:
                yield name, bits

    def matrices(self, model: Model) -> list[str]:
        """Names of the weights of linear layers, in the order of the model."""
        return [
            name
            for name, weight in model.unique_weights()
            if weight.ndim == 2
            and weight.numel()
            and isinstance(model.get_submodule(name.rpartition(".")[0]), nn.Linear)
            and (self.classifier or name != "head.classifier.weight")
        ]


def activation_ranges(
    model: Model,
    batches: Sequence[dict[str, Tensor]],
    chosen: Callable[[str], bool],
    rule: RangeRule,
    percentile: float,
) -> dict[str, tuple[float, float]]:
    """The range of every chosen slot that calibration text reaches; pads never count.

    Args:
        model: float; its mode and weights stay as they are.
        batches: padded, on the model's device.
        chosen: says of a slot's name whether it is observed.
        rule: see :meth:`Histogram.range`.
        percentile: for that rule.
    """
    observers = {name: Histogram() for name in slots(model) if chosen(name)}
    training = model.training
    model.eval()
    try:
        with torch.no_grad(), observing(model, observers):
            for batch in batches:
                model(**model_inputs(batch))
    finally:
        model.train(training)
    return {name: seen.range(rule, percentile) for name, seen in observers.items() if seen.seen}


def slot_buffers(model: Model, ranges: Mapping[str, tuple[float, float]]) -> dict[str, Tensor]:
    """Scale and zero-point of every slot's quantizer, by their names in the state dict of a model that has them.

    Args:
        model: whose slots they are; stays as it is.
        ranges: of the slots that are quantized; queries and keys get grids without zero-point.
    """
    buffers: dict[str, Tensor] = {}
    for name in slots(model):
        scale, zero = 0.0, 0  # a scale of 0 leaves an activation float
        if name in ranges:
            low, high = ranges[name]
            scale, zero = (max(-low, high, 0.0) / 127 or 1.0, 0) if is_symmetric(name) else affine_range(low, high)
        buffers[f"{name}.quantizer.scale"] = torch.tensor(scale)
        buffers[f"{name}.quantizer.zero_point"] = torch.tensor(zero, dtype=torch.int32)
    return buffers
