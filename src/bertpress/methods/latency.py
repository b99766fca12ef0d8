"""A table of how long the sub-units of a model's layers take on this machine, at each size that a search may choose."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from functools import lru_cache, partial
from itertools import cycle
from pathlib import Path
from statistics import median
from typing import Any, Literal

import numpy as np
import torch

from bertpress.artifact.folder import write_file
from bertpress.encoder.blueprint import Blueprint, EmbeddingSpec, HeadSpec, LayerSpec
from bertpress.encoder.grids import block_of, symmetric_grid
from bertpress.encoder.layers import EncoderLayer
from bertpress.encoder.model import build_model
from bertpress.encoder.quantizers import slots
from bertpress.encoder.slots import Tape
from bertpress.encoder.subnetworks import Part, Subnetwork, subnetwork
from bertpress.engines import load_engine
from bertpress.methods.activations import static_buffers
from bertpress.methods.quantization import on_grids
from bertpress.methods.weights import matrices
from bertpress.training import distributed

ROUNDS = 15
WARM_UP = 3
APART = 1.3  # times the least: a median beyond says that the machine does something else
PATIENCE = 60  # rounds more that are taken then
COPIES = 4  # of a layer in a graph: one alone would drown in what a call costs

Unit = Literal["attention", "ffn"]
UNITS: tuple[Unit, ...] = ("attention", "ffn")
Timer = Callable[[Blueprint, Part, Unit], float]
"""From a whole model's shape, what is kept of one of its layers and a sub-unit of that to milliseconds."""
Clock = Literal["torch", "openvino"]
"""Float32 in PyTorch, or 8-bit integers in OpenVINO."""


class Latencies:
    """Predicted milliseconds of sub-networks: the sum of what their sub-units take, looked up in a table.

    Embeddings and head are left out, as they are the same for all.

    Args:
        blueprint: of the whole model.
        timer: fills the table, asked once for each sub-unit and size.
        place: a file that keeps the table, so that a run which goes on predicts what it predicted before.
    """

    def __init__(self, blueprint: Blueprint, timer: Timer, place: Path | None = None) -> None:
        self.blueprint, self.timer, self.place = blueprint, timer, place
        self.table: dict[tuple[int, Unit, tuple[int, ...]], float] = {}
        if place is not None and place.is_file():
            for row in json.loads(place.read_text(encoding="utf-8")):
                self.table[row["layer"], row["unit"], tuple(row["size"])] = row["ms"]

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

    def keep(self) -> None:
        """Write the table to its file, if it has one."""
        if self.place is not None:
            self.place.parent.mkdir(parents=True, exist_ok=True)
            write_file(self.place, json.dumps(self.rows(), indent=1) + "\n")


def alone(blueprint: Blueprint, part: Part, unit: Unit) -> tuple[LayerSpec, Blueprint]:
    """One sub-unit of what is kept of a layer, and a model of its width without any layer.

    Ids and origin change no clock, and neither does the other sub-unit: equal work gives equal shapes.
    """
    spec = part.of(blueprint.layers[part.layer])
    heads = tuple(range(part.heads)) if unit == "attention" else ()
    changes = {
        "attention": spec.attention.model_copy(update={"heads": heads}),
        "ffn": spec.ffn if unit == "ffn" else (0,) * len(spec.ffn),
        "origin": None,
    }
    return spec.model_copy(update=changes), blueprint.replace(layers=(), relative=None)


def on_this_machine(tokens: int, clock: Clock = "torch") -> Timer:
    """Times sub-units on one text of so many tokens; each shape once in a process."""
    measured = {"torch": _in_torch, "openvino": _in_openvino}[clock]

    def timer(blueprint: Blueprint, part: Part, unit: Unit) -> float:
        clock = partial(measured, *alone(blueprint, part, unit), unit, tokens)
        return distributed.same_everywhere(clock() if distributed.first() else 0.0)

    return timer


@lru_cache(maxsize=1024)
@torch.no_grad()
def _in_torch(spec: LayerSpec, blueprint: Blueprint, unit: Unit, tokens: int) -> float:
    """Milliseconds of one sub-unit, warm."""
    with torch.random.fork_rng(devices=[]):
        layer, hidden = EncoderLayer(spec, blueprint).eval(), torch.randn(1, tokens, blueprint.hidden_size)
    tape = Tape()
    inner = layer.attend(hidden, None, tape)
    return _typical_of(
        lambda: layer.attend(hidden, None, tape) if unit == "attention" else layer.transform(inner, hidden, tape)
    )


@lru_cache(maxsize=1024)
def _in_openvino(spec: LayerSpec, blueprint: Blueprint, unit: Unit, tokens: int) -> float:
    """Milliseconds of one sub-unit, warm: those of a graph with some of them less those of one without any."""
    rest = bare(blueprint)
    return max(0.0, of_graph(rest.with_layers((spec,) * COPIES), tokens) - _of_known_graph(rest, tokens)) / COPIES


def bare(blueprint: Blueprint) -> Blueprint:
    """The same layers with the least before and behind them."""
    return blueprint.replace(
        embeddings=EmbeddingSpec(vocabulary=8, size=blueprint.hidden_size, positions=0, segments=0),
        shortening=None,
        elastic=None,
        head=HeadSpec(kind="sequence", labels=1, dense=False),
    )


@torch.no_grad()
def of_model(blueprint: Blueprint, tokens: int) -> float:
    """Milliseconds of random weights in this shape, in float32 in PyTorch."""
    with torch.random.fork_rng(devices=[]):
        model = build_model(blueprint).eval()
    ids = torch.zeros(1, tokens, dtype=torch.long)
    return _typical_of(lambda: model(ids, torch.ones_like(ids)))


def of_graph(blueprint: Blueprint, tokens: int) -> float:
    """Milliseconds of random weights in this shape, with 8-bit weights and activations.

    Texts have so many tokens and one less by turns, as OpenVINO prepares every operation anew where a text has another
    length than the one before, which is what texts do; a graph that repeats one length would hide what that costs.
    """
    from bertpress.export.openvino import export

    with torch.random.fork_rng(devices=[]):
        model = build_model(blueprint).eval()
    weights = {name: model.get_parameter(name).detach() for name in matrices(model)}
    grids = {name: symmetric_grid(weight, 8, block_of(weight.shape, "channel")) for name, weight in weights.items()}
    quantized = blueprint.replace(activation_bits=8)
    buffers = static_buffers(model, dict.fromkeys(slots(model), (-4.0, 4.0)))
    with tempfile.TemporaryDirectory() as folder:
        export(on_grids(model, grids, blueprint=quantized, buffers=buffers), Path(folder))
        engine = load_engine("openvino", folder)
    texts = cycle([_text(tokens), _text(tokens - 1 or 2)])
    return _typical_of(lambda: engine.logits(next(texts)))


_of_known_graph = lru_cache(maxsize=1024)(of_graph)  # timed once in a process


def _text(tokens: int) -> dict[str, Any]:
    """Any text of so many tokens."""
    ids = np.zeros((1, tokens), np.int64)
    return {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": ids}


def _typical_of(run: Callable[[], Any]) -> float:
    """Milliseconds: the median; on a machine that does something else too, which only ever adds, the least of many.

    Medians would then jump by several times from one size to the next, and lead to another shape.
    """

    def timed() -> float:
        began = time.perf_counter()
        run()
        return 1000 * (time.perf_counter() - began)

    samples = [timed() for _ in range(WARM_UP + ROUNDS)][WARM_UP:]
    if (middle := median(samples)) <= APART * min(samples):
        return middle
    return min(*samples, *(timed() for _ in range(PATIENCE)))
