"""Weights of 2 to 4 bits, a range for each group of rows, more bits for the layers where the loss curves most.

Source: Shen et al. 2020, "Q-BERT: Hessian based ultra low precision quantization of BERT", arXiv:1909.05840,
section 3: mixed precision (equation 2) and group-wise quantization (figure 4).  A layer's sensitivity is
Omega = |mean| + standard deviation of the top Hessian eigenvalue over random samples of the training data.

Departs from it: a number of groups that does not divide the heads' rows is raised until it does (128 groups of a
BERT-base query matrix become 192 of 4 rows); eigenvalues come from 64 sentences a sample instead of a tenth of the
data; embedding tables have a range for each row.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from bertpress import tasks
from bertpress.encoder.blueprint import Blueprint
from bertpress.encoder.grids import Block, affine_grid
from bertpress.encoder.transforms import put
from bertpress.methods import graphs
from bertpress.methods.base import Context, Model, Need, Trait
from bertpress.methods.bits import chosen_bits, note_bits
from bertpress.methods.hessian import hessian_product, random_vector, top_eigenvalue
from bertpress.methods.quantization import ROWS, TrainedQuantizer
from bertpress.methods.transform import FakeQuantizer
from bertpress.tasks import Task
from bertpress.training.frozen import frozen_but
from bertpress.training.teacher import model_inputs

PIECE = 8  # examples that are differentiated together; samples are made of pieces from all over the data


def omega(eigenvalues: Sequence[float]) -> float:
    """``|mean| + standard deviation`` (of the population) of a layer's top eigenvalues: equation 2."""
    values = torch.tensor(eigenvalues, dtype=torch.float64)
    return float(values.mean().abs() + values.std(correction=0))


def layer_bits(omegas: Mapping[int, float], bits: int, low_bits: int, sensitive: float) -> dict[int, int]:
    """``bits`` for the share ``sensitive`` of the layers with the largest Omega, rounded up; ``low_bits`` for others.

    On ties the lower layer is the more sensitive one.
    """
    order = sorted(omegas, key=lambda layer: (-omegas[layer], layer))
    count = math.ceil(round(sensitive * len(order), 6))
    return {layer: bits if layer in order[:count] else low_bits for layer in sorted(omegas)}


def group_block(shape: Sequence[int], groups: int, *, head_rows: int = 0, head_columns: int = 0) -> Block:
    """The blocks of a matrix that share a range: consecutive rows, none across two heads.

    Args:
        shape: (outputs, inputs).
        groups: at least so many, where there are as many rows; 1: the whole matrix.
        head_rows: rows of a head (queries, keys, values); 0: rows belong to no head.
        head_columns: columns of a head (the attention output); 0: columns belong to no head.
    """
    if groups == 1:
        return (0, 0)
    rows, columns = shape
    across = columns // head_columns if head_columns else 1
    size = max(1, rows // -(-groups // across))
    if head_rows:
        size = max(divisor for divisor in range(1, head_rows + 1) if head_rows % divisor == 0 and divisor <= size)
    return (size, head_columns)


def block_by_name(blueprint: Blueprint, name: str, shape: Sequence[int], groups: int) -> Block:
    """The blocks of the matrix of that name."""
    parts = name.split(".")
    if parts[1] != "layers" or parts[3] != "attention":
        return group_block(shape, groups)
    layer, unit = blueprint.layers[int(parts[2])], parts[4]
    ends = layer.reader if unit == "output" else layer.writer
    if not name.endswith(f".{ends(f'attention.{unit}')}.weight"):  # the factor that has no heads
        return group_block(shape, groups)
    spec = layer.attention
    if unit == "output":
        return group_block(shape, groups, head_columns=spec.value_size)
    return group_block(shape, groups, head_rows=spec.value_size if unit == "value" else spec.head_size)


def draw_samples(
    batches: Sequence[graphs.Batch], samples: int, examples: int, generator: torch.Generator
) -> list[list[graphs.Batch]]:
    """Disjoint random samples of the examples, each as pieces of at most :data:`PIECE`.

    Args:
        batches: padded; tensors with several rows an example (sentence pairs) have them as neighbours.
        samples: at most so many, fewer where the data ends; at least one.
        examples: in a sample, rounded up to whole pieces.
        generator: decides which pieces form a sample.
    """
    size = min(PIECE, examples)
    pieces = [piece for batch in batches for piece in tasks.pieces_of(batch, size)]
    order = torch.randperm(len(pieces), generator=generator).tolist()
    width = -(-examples // size)
    count = max(1, min(samples, len(pieces) // width))
    return [[pieces[i] for i in order[at * width : (at + 1) * width]] for at in range(count)]


def layer_weights(model: Model) -> dict[int, list[nn.Parameter]]:
    """The weights that each encoder layer owns, by its number; layers that borrow all of theirs are absent."""
    found: dict[int, list[nn.Parameter]] = {}
    for name, weight in model.unique_weights():
        if name.startswith("encoder.layers."):
            found.setdefault(int(name.split(".")[2]), []).append(weight)
    return found


def layer_eigenvalues(
    model: Model,
    task: Task,
    sample: Sequence[graphs.Batch],
    generator: torch.Generator,
    *,
    iterations: int,
    tolerance: float,
) -> dict[int, float]:
    """The top eigenvalue of the mean task loss of a sample by each layer's weights; no dropout, float32.

    Args:
        model: its mode and its weights stay as they are.
        task: whose loss.
        sample: pieces.
        generator: of the random start vectors.
        iterations: see :func:`top_eigenvalue`.
        tolerance: see :func:`top_eigenvalue`.
    """
    device = next(model.parameters()).device
    each = graphs.token_bytes(model.blueprint, graphs.TWICE)
    small = [part for piece in sample for part in tasks.pieces_of(piece, graphs.affordable(piece, each))]
    pieces = [{name: tensor.to(device) for name, tensor in piece.items()} for piece in small]
    total = sum(tasks.examples_of(piece) for piece in pieces)
    keep = sum(piece["input_ids"].numel() for piece in pieces) * each <= graphs.GRAPH_BYTES

    def loss(piece: dict[str, Tensor]) -> Tensor:
        # scores are asked for as fused attention, which never forms them, cannot be differentiated twice
        out = model(**model_inputs(piece), capture=frozenset({"scores"}))
        return tasks.loss(task, out.logits, piece) * (tasks.examples_of(piece) / total)

    losses = [lambda piece=piece: loss(piece) for piece in pieces]
    found: dict[int, float] = {}
    for layer, weights in layer_weights(model).items():
        with frozen_but(model, weights):
            product = hessian_product(losses, weights, keep=keep)
            start = random_vector(weights, generator)
            found[layer] = top_eigenvalue(product, start, iterations=iterations, tolerance=tolerance)
    return found


class QBert(TrainedQuantizer):
    """Train on few bits a weight, with a range for each group of rows, and more bits for sensitive layers."""

    cite: ClassVar[str] = "Shen et al., 2020"
    requires: ClassVar[frozenset[Need]] = frozenset({Need.LABELS, Need.CALIBRATION, Need.TRAINING})
    provides: ClassVar[frozenset[Trait]] = frozenset({Trait.INT8})
    conflicts: ClassVar[frozenset[Trait]] = frozenset({Trait.INT8})

    bits: int = Field(4, ge=2, le=8, description="Of the sensitive layers, and of matrices outside of the layers.")
    low_bits: int | None = Field(2, ge=2, le=8, description="Of the other layers; null: all have the same.")
    sensitive: float = Field(0.5, ge=0, le=1, description="Share of the layers that is sensitive, rounded up.")
    groups: int = Field(128, ge=1, le=4096, description="Ranges of a matrix, at least; 1: one for all of it.")
    samples: int = Field(10, ge=1, le=100, description="Random samples that the sensitivity is taken over.")
    sentences: int = Field(64, ge=1, le=10_000, description="Training examples in a sample.")
    iterations: int = Field(20, ge=2, le=1000, description="Most steps of a power iteration.")
    tolerance: float = Field(1e-3, gt=0, lt=1, description="Relative change that ends a power iteration.")

    @model_validator(mode="after")
    def _ordered(self) -> QBert:
        if self.low_bits is not None and self.low_bits > self.bits:
            raise ValueError(f"low_bits={self.low_bits} must be at most bits={self.bits}")
        return self

    def attach(self, model: Model, ctx: Context) -> Model:
        """Choose each layer's bits, then simulate them."""
        layers = self.choose(model, ctx)
        return self.simulate(model, ctx, partial(self.put_weights, layers=layers))

    def put_weights(self, model: Model, layers: Mapping[int, int]) -> None:
        """Fake quantizers, by the bits of the layers."""
        for name in self.matrices(model):
            parts = name.split(".")
            bits = layers.get(int(parts[2]), self.bits) if parts[1] == "layers" else self.bits
            block = block_by_name(model.blueprint, name, model.get_parameter(name).shape, self.groups)
            put(model, name, FakeQuantizer(partial(affine_grid, bits=bits, block=block)))
        for name, bits in self.tables(model):
            put(model, name, FakeQuantizer(partial(affine_grid, bits=bits, block=ROWS)))

    def choose(self, model: Model, ctx: Context) -> dict[int, int]:
        """Bits of the layers by sensitivity; empty where all have the same."""
        if self.low_bits is None or self.low_bits == self.bits:
            return {}
        eigenvalues = _read(found) if (found := chosen_bits(ctx)) else self.measure(model, ctx)
        omegas = {layer: omega(values) for layer, values in eigenvalues.items()}
        bits = layer_bits(omegas, self.bits, self.low_bits, self.sensitive)
        content = {
            str(layer): {"omega": omegas[layer], "bits": bits[layer], "eigenvalues": eigenvalues[layer]}
            for layer in bits
        }
        note_bits(ctx, "bits", content)
        shown = ", ".join(f"{layer}: {bits[layer]} (Omega {omegas[layer]:.3g})" for layer in bits)
        ctx.say(f"quantize/qbert, bits of the layers: {shown}")
        return bits

    def measure(self, model: Model, ctx: Context) -> dict[int, list[float]]:
        """Top eigenvalues of every layer, one a sample."""
        generator = ctx.generator()
        batches = ctx.batches(self.samples * self.sentences)
        eigenvalues: dict[int, list[float]] = {}
        for sample in draw_samples(batches, self.samples, self.sentences, generator):
            found = layer_eigenvalues(
                model, ctx.task, sample, generator, iterations=self.iterations, tolerance=self.tolerance
            )
            for layer, value in found.items():
                eigenvalues.setdefault(layer, []).append(value)
        return eigenvalues


def _read(found: Mapping[str, Mapping[str, Any]]) -> dict[int, list[float]]:
    return {int(layer): entry["eigenvalues"] for layer, entry in found.items()}
