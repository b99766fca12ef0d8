"""What can be advised: recipes with the shape that they leave, and what they lost where they were measured here."""

from __future__ import annotations

from typing import NamedTuple

from bertpress.advice.facts import TaskFacts
from bertpress.encoder.blueprint import Blueprint
from bertpress.encoder.subnetworks import subnetwork

FLOAT_BITS = 32.0
CNN_ENCODER = 0.64e6
"""Weights of ``chia-cnn`` beside its table, of which it has as many columns as the teacher."""


class Option(NamedTuple):
    """A recipe that may be advised.

    Attributes:
        recipe: its name.
        saves: in words.
        drop: points lost by MiniLM-L6 on ``sst2``, in results/table1 or, of what is not there, in the nearest table.
        depth: share of the layers that stays.
        width: of the heads and neurons.
        bits: of a weight of the encoder.
        table_bits: of one of the embeddings.
        integers: whether engines multiply integers.
        trains: whether it takes training.
        trims: whether tokens that the training texts never use go.
        by_token: whether it leaves a state for each token and keeps a tokenizer that the teacher shares.
        exits: whether texts leave early.
        transformer: whether the student is one.
    """

    recipe: str
    saves: str
    drop: float | None
    depth: float = 1.0
    width: float = 1.0
    bits: float = FLOAT_BITS
    table_bits: float = FLOAT_BITS
    integers: bool = False
    trains: bool = False
    trims: bool = False
    by_token: bool = True
    exits: bool = False
    transformer: bool = True

    def suits(self, facts: TaskFacts) -> bool:
        """Whether the task is one for it."""
        return (self.by_token or not facts.by_token) and (facts.leaves or not self.exits)

    def shape(self, blueprint: Blueprint) -> Blueprint:
        """What is left of a model's layers."""
        parts = subnetwork(blueprint, width=self.width, depth=self.depth)
        return blueprint.with_layers(tuple(part.of(blueprint.layers[part.layer]) for part in parts))

    def macs(self, blueprint: Blueprint, tokens: int) -> float:
        """Multiply-accumulates of a text."""
        if not self.transformer:
            return CNN_ENCODER * tokens
        return float(sum(self.shape(blueprint).macs(tokens).values()))

    def layers(self, blueprint: Blueprint) -> int:
        """Of a Transformer."""
        return len(self.shape(blueprint).layers) if self.transformer else 0

    def bytes(self, blueprint: Blueprint, pieces: int | None = None) -> float:
        """Of the file, without what scales and headers take; ``pieces`` as in :class:`TaskFacts`."""
        table = blueprint.parameters()["embeddings"]
        if self.trims and pieces is not None:
            table -= max(0, blueprint.embeddings.vocabulary - pieces) * blueprint.embeddings.size
        encoder = self.shape(blueprint).parameters_without_embeddings if self.transformer else CNN_ENCODER
        return (table * self.table_bits + encoder * self.bits) / 8


OPTIONS = (
    Option("int8", "integers for weights and activations", 0.3, bits=8, table_bits=8, integers=True),
    Option("linear-ptq", "8-bit weights", 0.0, bits=8, table_bits=8),
    Option("gobo", "dictionaries of 3 bits, tables of 4", -0.3, bits=3, table_bits=4),
    Option("ternarybert", "weights of three values", 1.8, bits=2, table_bits=2, trains=True),
    Option("tiny", "dictionaries of 4 bits, unused tokens gone", 0.1, bits=4, table_bits=4, trims=True, by_token=False),
    Option("balanced", "under half of the heads and neurons, then integers", 0.1, width=0.45, bits=8, table_bits=8,
           integers=True, trains=True),
    Option("fast", "a third of the heads and neurons, exits, then integers", 1.3, width=0.38, bits=8, table_bits=8,
           integers=True, trains=True, by_token=False, exits=True),
    Option("quick", "two thirds of the depth, a third of the width, then integers", 0.9, depth=0.67, width=0.34,
           bits=8, table_bits=8, integers=True, trains=True),
    Option("chia-cnn", "convolutions in place of the Transformer", 7.5, trains=True, by_token=False,
           transformer=False),
)  # fmt: skip
