"""A table of how long the sub-units of a model's layers take on this machine, at each size that a search may choose."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import lru_cache
from statistics import median
from typing import Any, Literal

import torch

from bertpress.encoder.blueprint import Blueprint, LayerSpec
from bertpress.encoder.layers import EncoderLayer
from bertpress.encoder.slots import Tape
from bertpress.encoder.subnetworks import Part, Subnetwork, subnetwork

ROUNDS = 15
WARM_UP = 3

Unit = Literal["attention", "ffn"]
UNITS: tuple[Unit, ...] = ("attention", "ffn")
Timer = Callable[[Blueprint, Part, Unit], float]
"""From a whole model's shape, what is kept of one of its layers and a sub-unit of that to milliseconds."""


class Latencies:
    """Predicted milliseconds of sub-networks: the sum of what their sub-units take, looked up in a table.

    Embeddings and head are left out, as they are the same for all.

    Args:
        blueprint: of the whole model.
        timer: fills the table, asked once for each sub-unit and size.
    """

    def __init__(self, blueprint: Blueprint, timer: Timer) -> None:
        self.blueprint, self.timer = blueprint, timer
        self.table: dict[tuple[int, Unit, tuple[int, ...]], float] = {}

    def __call__(self, parts: Subnetwork) -> float:
        """Milliseconds of all its layers."""
        return sum(self.of(part, unit) for part in parts for unit in UNITS)

    def of(self, part: Part, unit: Unit) -> float:
        """Milliseconds of one sub-unit."""
        key = (part.layer, unit, (part.heads,) if unit == "attention" else part.ffn)
        if key not in self.table:
            self.table[key] = self.timer(self.blueprint, part, unit)
        return self.table[key]

    @property
    def whole(self) -> float:
        """Milliseconds of the layers of the whole model."""
        return self(subnetwork(self.blueprint))

    def rows(self) -> list[dict[str, Any]]:
        """The table as plain data."""
        return [
            {"layer": layer, "unit": unit, "size": list(size), "ms": ms}
            for (layer, unit, size), ms in sorted(self.table.items())
        ]


def on_this_machine(tokens: int) -> Timer:
    """Times sub-units in PyTorch on one text of so many tokens; each shape once in a process."""

    def timer(blueprint: Blueprint, part: Part, unit: Unit) -> float:
        spec = part.of(blueprint.layers[part.layer])
        # ids and origin change no clock, and neither does the other sub-unit: equal work has one entry
        heads = tuple(range(part.heads)) if unit == "attention" else ()
        alone = {
            "attention": spec.attention.model_copy(update={"heads": heads}),
            "ffn": spec.ffn if unit == "ffn" else (0,),
            "origin": None,
        }
        return _measured(spec.model_copy(update=alone), blueprint.replace(layers=(), relative=None), unit, tokens)

    return timer


@lru_cache(maxsize=1024)
@torch.no_grad()
def _measured(spec: LayerSpec, blueprint: Blueprint, unit: Unit, tokens: int) -> float:
    """Median milliseconds of one sub-unit, warm."""
    with torch.random.fork_rng(devices=[]):
        layer, hidden = EncoderLayer(spec, blueprint).eval(), torch.randn(1, tokens, blueprint.hidden_size)
    tape = Tape()
    inner = layer.attend(hidden, None, tape)
    samples: list[float] = []
    for _ in range(WARM_UP + ROUNDS):
        began = time.perf_counter()
        layer.attend(hidden, None, tape) if unit == "attention" else layer.transform(inner, hidden, tape)
        samples.append(1000 * (time.perf_counter() - began))
    return median(samples[WARM_UP:])
