"""Fixed-point weights: measure what each group of weights can bear, share out the bits, retrain on fixed steps.

Source: Boo & Sung 2020, "Fixed-point optimization of transformer neural network", ICASSP; its four phases are
sensitivity analysis, word-length assignment, retraining with straight-through gradients, and a last phase of training
for generalisation (``grids: keep`` in a second stage with a low learning rate).
A reconstruction: the paper is known here by its abstract.  Chosen by us are the groups, the quantizer (symmetric, the
step that minimises the squared error), and the assignment: among all that never give a more sensitive group fewer bits
it minimises the sum of rises, each scaled by the power of the rounding noise, which a bit divides by four.

All operands of products are quantized: the inputs of linear maps, queries and keys, and, with ``maps``, attention maps
(unsigned, in [0, 1], so that maps whose every entry lies below half a step vanish) and values.

Departs from it: by default these have 8 bits, not 6 (``activation_bits: 6``); the last phase averages no weights;
embedding tables have a step for each row.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from itertools import accumulate, combinations_with_replacement
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from bertpress import tasks
from bertpress.encoder.grids import Block, Grid, fitted_grid, quantize
from bertpress.encoder.transforms import put
from bertpress.errors import RecipeError
from bertpress.methods.base import Context, Model, Need, Trait
from bertpress.methods.bits import chosen_bits, note_bits
from bertpress.methods.quantization import ROWS, TrainedQuantizer
from bertpress.methods.transform import FakeQuantizer
from bertpress.tasks import Task
from bertpress.training.teacher import model_inputs

MATRIX: Block = (0, 0)
ATTENTION_IN = ("query", "key", "value")
Spans = list[tuple[int, int, int]]  # from, to (exclusive), bits


def group_of(name: str) -> str:
    """The group of a weight: its widths go together, as operands of one product must.

    ``embeddings``, ``head``, and for each layer ``attention_in`` (queries, keys, values), ``attention_out``, ``ffn``,
    and ``bottleneck`` where it has one.
    """
    parts = name.split(".")
    if parts[0] == "head":
        return "head"
    if parts[1] == "embeddings":
        return "embeddings"
    layer, unit = ".".join(parts[1:3]), parts[3]
    if unit == "attention":
        return f"{layer}.attention_in" if parts[4] in ATTENTION_IN else f"{layer}.attention_out"
    return f"{layer}.ffn" if unit == "ffn" else f"{layer}.bottleneck"


def fitted(weight: Tensor, bits: int, block: Block) -> Grid:
    """The symmetric grid of least squared error; a few outliers may make its range a fiftieth of the full one."""
    return fitted_grid(weight, bits, block, steps=50, smallest=0.02)


def assign_bits(
    rises: Mapping[str, float], sizes: Mapping[str, int], widths: Sequence[int], average_bits: float
) -> dict[str, int]:
    """Bits for each group; no group gets fewer than a less sensitive one.

    Args:
        rises: of the loss when a group alone is quantized; a group where it falls gets the least width.
        sizes: numbers of weights.
        widths: the choices, increasing.
        average_bits: most bits a weight, over all groups.

    Returns:
        Of all such assignments the one with the least sum of ``rise * 4^-bits``; on ties the smallest.

    Raises:
        ValueError: the average lies below the least width.
    """
    if average_bits < widths[0]:
        raise ValueError(f"average_bits={average_bits} must be at least the least of widths={list(widths)}")
    names = list(rises)
    order = sorted(names, key=lambda name: (-rises[name], names.index(name)))
    counts = [0, *accumulate(sizes[name] for name in order)]
    burdens = [0.0, *accumulate(rises[name] for name in order)]
    best: tuple[float, int, Spans] | None = None
    for cuts in combinations_with_replacement(range(len(order) + 1), len(widths) - 1):
        # the most sensitive groups, at the front of the order, get the largest width
        spans = list(zip((0, *cuts), (*cuts, len(order)), reversed(widths), strict=True))
        bits = sum((counts[end] - counts[begin]) * width for begin, end, width in spans)
        error = sum((burdens[end] - burdens[begin]) * 4.0**-width for begin, end, width in spans)
        if bits <= average_bits * counts[-1] * (1 + 1e-9) and (best is None or (error, bits) < best[:2]):
            best = (error, bits, spans)
    assert best is not None
    return {name: width for begin, end, width in best[2] for name in order[begin:end]}


def task_loss(model: Model, task: Task, batches: Iterable[dict[str, Tensor]]) -> float:
    """Mean loss over the examples, without dropout."""
    device = next(model.parameters()).device
    total, count = 0.0, 0
    with torch.no_grad():
        for batch in batches:
            batch = {name: tensor.to(device) for name, tensor in batch.items()}
            examples = len(batch["input_ids"])
            total += float(tasks.loss(task, model(**model_inputs(batch)).logits, batch)) * examples
            count += examples
    return total / count


def rises_of_loss(
    model: Model, task: Task, batches: Sequence[dict[str, Tensor]], groups: Mapping[str, Mapping[str, Block]], bits: int
) -> dict[str, float]:
    """How much the loss rises when one group alone is quantized.

    Args:
        model: in evaluation mode; its weights are the same afterwards.
        task: whose loss.
        batches: padded.
        groups: group -> weight -> its blocks.
        bits: of the quantized group.
    """
    before = task_loss(model, task, batches)
    rises: dict[str, float] = {}
    for group, weights in groups.items():
        kept = {name: model.get_parameter(name).detach().clone() for name in weights}
        try:
            for name, block in weights.items():
                model.get_parameter(name).data.copy_(quantize(kept[name], fitted(kept[name], bits, block)))
            rises[group] = task_loss(model, task, batches) - before
        finally:
            for name, weight in kept.items():
                model.get_parameter(name).data.copy_(weight)
    return rises


def fixed(weight: Tensor, grid: Grid) -> Grid:
    """``grid``, wherever the weight lies."""
    return Grid(grid.scale.to(weight.device), grid.zero_point.to(weight.device), grid.block, grid.low, grid.high)


class FixedPoint(TrainedQuantizer):
    """Train on fixed steps of few bits, more of them for the groups of weights that the loss depends on most."""

    cite: ClassVar[str] = "Boo & Sung, 2020"
    requires: ClassVar[frozenset[Need]] = frozenset({Need.LABELS, Need.CALIBRATION, Need.TRAINING})
    provides: ClassVar[frozenset[Trait]] = frozenset({Trait.INT8})

    grids: Literal["fit", "keep"] = Field(
        "fit", description="Analyse, share out the bits and fit the steps; or keep those of the stage before."
    )
    widths: tuple[Annotated[int, Field(ge=2, le=8)], ...] = Field(
        (3, 4, 6), min_length=1, max_length=4, description="Bits that a group may get, increasing."
    )
    average_bits: float = Field(4.0, ge=2, le=8, description="Most bits a weight, over all groups.")
    probe_bits: int = Field(3, ge=2, le=8, description="Bits of the one group that the analysis quantizes.")
    tables_too: bool = Field(
        True, description="Share out bits to the embedding tables that are not float; false: embedding_bits decides."
    )
    maps: bool = Field(True, description="Attention maps and values are quantized as the other activations are.")
    examples: int = Field(128, ge=1, le=100_000, description="Training examples of the analysis and the first ranges.")

    @model_validator(mode="after")
    def _choices(self) -> FixedPoint:
        if list(self.widths) != sorted(set(self.widths)):
            raise ValueError(f"widths={list(self.widths)} must increase")
        if self.average_bits < self.widths[0]:
            raise ValueError(
                f"average_bits={self.average_bits} must be at least the least of widths={list(self.widths)}"
            )
        return self

    def attach(self, model: Model, ctx: Context) -> Model:
        """Find the grids, then simulate them."""
        grids = self.kept(model, ctx) if self.grids == "keep" else self.fitted(model, ctx)

        def put_weights(model: Model) -> None:
            for name, grid in grids.items():
                put(model, name, FakeQuantizer(partial(fixed, grid=grid)))

        return self.simulate(model, ctx, put_weights, maps=self.maps)

    def kept(self, model: Model, ctx: Context) -> dict[str, Grid]:
        """The grids on which the stage before left the weights.

        Raises:
            RecipeError: there are none.
        """
        names = [*self.matrices(model), *(name for name, _ in self.tables(model))]
        grids = {name: ctx.stored[name].grid() for name in names if name in ctx.stored}
        found = {name: grid for name, grid in grids.items() if grid is not None}
        if not found:
            raise RecipeError("quantize/fixed_point: grids=keep must follow a stage that left weights on grids")
        return found

    def fitted(self, model: Model, ctx: Context) -> dict[str, Grid]:
        """Grids of least squared error, of the bits that the analysis gives."""
        tables = dict(self.tables(model))
        blocks = dict.fromkeys(self.matrices(model), MATRIX) | dict.fromkeys(tables, ROWS)
        groups: dict[str, dict[str, Block]] = {}
        for name, block in blocks.items():
            if self.tables_too or name not in tables:
                groups.setdefault(group_of(name), {})[name] = block
        bits = {name: width for group, width in self.choose(model, ctx, groups).items() for name in groups[group]}
        return {
            name: fitted(model.get_parameter(name), bits.get(name) or tables[name], block)
            for name, block in blocks.items()
        }

    def choose(self, model: Model, ctx: Context, groups: Mapping[str, Mapping[str, Block]]) -> dict[str, int]:
        """Bits of every group; without analysis where there is one width."""
        if len(self.widths) == 1:
            return dict.fromkeys(groups, self.widths[0])
        if found := chosen_bits(ctx):
            rises = {group: float(found[group]["rise"]) for group in groups}
        else:
            rises = rises_of_loss(model, ctx.task, ctx.batches(self.examples), groups, self.probe_bits)
        sizes = {group: sum(model.get_parameter(name).numel() for name in names) for group, names in groups.items()}
        bits = assign_bits(rises, sizes, self.widths, self.average_bits)
        note_bits(ctx, "groups", {group: {"rise": rises[group], "bits": bits[group]} for group in groups})
        average = sum(bits[group] * sizes[group] for group in groups) / sum(sizes.values())
        ctx.say(f"quantize/fixed_point gives {average:.2f} bits a weight: {_summary(bits)}")
        return bits


def _summary(bits: Mapping[str, int]) -> str:
    """``6: embeddings, layers.0.ffn; 4: ...``."""
    widths = sorted(set(bits.values()), reverse=True)
    return "; ".join(f"{width}: {', '.join(group for group in bits if bits[group] == width)}" for width in widths)
