"""How much of a batch is differentiated at once, so that a graph of gradients takes no more memory than it is allowed.

The number of examples whose graph fits depends on their length and on the encoder's shape; short texts and small
encoders are never cut.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from bertpress import tasks
from bertpress.encoder.blueprint import Blueprint

Batch = Mapping[str, Tensor]
GRAPH_BYTES = 2**30  # of one graph, unless a single example takes more
ONCE, TWICE = 75, 220  # bytes of a graph for each hidden number of each token and layer, by how often it is derived


def token_bytes(blueprint: Blueprint, number_bytes: int) -> int:
    """What a token adds to the graph; ``number_bytes`` is :data:`ONCE` or :data:`TWICE`, as measured in float32."""
    return blueprint.hidden_size * len(blueprint.layers) * number_bytes


def affordable(batch: Batch, each: int) -> int:
    """How many of its examples one graph has room for, at least one.

    Args:
        batch: padded, so that all of its examples are alike.
        each: bytes a token, see :func:`token_bytes`.
    """
    return max(1, GRAPH_BYTES * tasks.examples_of(batch) // (batch["input_ids"].numel() * each))
