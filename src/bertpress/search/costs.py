"""What a shape costs before it is made: milliseconds by a table of this machine, or bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np

from bertpress.encoder.blueprint import Blueprint, LayerSpec
from bertpress.methods.budgets import Sizes, sizes
from bertpress.methods.latency import Latencies, Timer

MULTIPLE = 64
"""Widths of feed-forward networks that are timed; between them costs are straight lines."""


class Layers(Protocol):
    """Cost of all layers of a shape."""

    def __call__(self, blueprint: Blueprint) -> float:
        """In the unit of what it counts."""


class LayerTimes:
    """Milliseconds of layers, which sub-units of some sizes were timed for; a file keeps them.

    Args:
        source: the model that all shapes are cut from.
        timer: of one sub-unit.
        folder: of the files.
    """

    def __init__(self, source: Blueprint, timer: Timer, folder: Path) -> None:
        self.tables: dict[LayerSpec, Sizes] = {}
        for layer in source.layers:
            if (kind := _kind(layer)) not in self.tables:
                latencies = Latencies(
                    source.with_layers((layer,)), timer, folder / f"latencies-{len(self.tables)}.json"
                )
                self.tables[kind] = sizes(latencies.blueprint, latencies.of, MULTIPLE)
                latencies.keep()

    def __call__(self, blueprint: Blueprint) -> float:
        """The sum over the layers."""
        return sum(self.of(layer) for layer in blueprint.layers)

    def of(self, layer: LayerSpec) -> float:
        """Milliseconds of one layer, which was cut from one of the source's.

        Raises:
            KeyError: it was not.
        """
        table, units = self.tables[_kind(layer)], {(0, j): width for j, width in enumerate(layer.ffn)}
        kept = {key: len(layer.attention.heads) if isinstance(key, int) else units[key] for key in table.counts}
        found = (np.interp(n, table.counts[key], table.costs[key]) for key, n in kept.items())
        return table.fixed + float(sum(found))


def _kind(layer: LayerSpec) -> LayerSpec:
    """A layer without what may be cut from it."""
    attention = layer.attention.model_copy(update={"heads": ()})
    changes = {"attention": attention, "ffn": (0,) * len(layer.ffn), "origin": None, "exit": None}
    return layer.model_copy(update=changes)


def parameters(blueprint: Blueprint) -> float:
    """Weights of the layers, which bytes go by."""
    return float(blueprint.total_parameters - blueprint.with_layers(()).total_parameters)


class Costs:
    """Cost of a whole artifact: what its layers cost, and the rest, which is that of one that was measured.

    Args:
        layers: cost of layers in any unit; only ratios count where ``scale`` is given.
        whole: shape of the artifact that was measured.
        measured: what it costs.
        scale: from the layers' unit to that of ``measured``.
    """

    def __init__(self, layers: Layers, whole: Blueprint, measured: float, scale: float = 1.0) -> None:
        self.layers, self.scale = layers, scale
        self.of_layers = scale * layers(whole)
        self.rest = measured - self.of_layers

    def at(self, share: float) -> float:
        """Cost where the layers are cut to this share of theirs."""
        return self.rest + share * self.of_layers

    def __call__(self, blueprint: Blueprint, saving: float = 1.0) -> float:
        """Cost of a shape; early exits run its layers ``saving`` times less."""
        return self.rest + self.scale * self.layers(blueprint) / saving
