"""What ternary and binary models share: ternary weights, activations of 8 bits, a full-precision teacher.

Ternary weights: Li, Zhang & Liu 2016, arXiv:1605.04711, section 2.
"""

from __future__ import annotations

from functools import partial
from typing import ClassVar

import torch
from pydantic import Field, model_validator
from torch import Tensor

from bertpress.artifact.codecs import Stored
from bertpress.artifact.codecs.trits import in_trits
from bertpress.encoder.grids import (
    Block,
    Grid,
    by_block,
    spread,
    straight_through,
    symmetric_around,
    symmetric_grid,
)
from bertpress.encoder.transforms import put
from bertpress.methods.base import Context, Model, Need, Trait
from bertpress.methods.matching import TeacherLoss, attention_scores, hidden_states
from bertpress.methods.quantization import ROWS, Bits, TrainedQuantizer
from bertpress.methods.transform import FakeQuantizer, WeightTransform
from bertpress.training.objectives import Objective

THRESHOLD = 0.7  # of the mean magnitude; the best one for weights that are normally distributed, about


def mean_size(weight: Tensor, block: Block) -> Tensor:
    """Mean magnitude of each block, one number a block; all blocks must be of one size."""
    return _mean(weight.abs(), block)


def _mean(values: Tensor, block: Block) -> Tensor:
    sums = by_block(values, block, torch.sum)
    return sums / (values.numel() / sums.numel())


def survivors(sizes: Tensor, block: Block) -> Tensor:
    """Where a ternary weight is not 0, by its magnitudes: ``|w| > 0.7 mean |w|``, bool."""
    threshold = (THRESHOLD * _mean(sizes, block)).clamp(min=torch.finfo(torch.float32).tiny)
    return sizes > spread(threshold, block, sizes.shape)


def ternary(weight: Tensor, block: Block, clip: float = torch.inf) -> tuple[Tensor, Grid]:
    """The ternary weight ``-a, 0, a`` with ``a`` the mean magnitude of the survivors, and its grid.

    A block of zeros has no survivor; it stays zero, with a scale of 1.

    Args:
        weight: float32, without gradient.
        block: what shares ``a``.
        clip: larger magnitudes count as this large.
    """
    made = weight.abs().clamp_(max=clip)  # changed in place from here on: at each step, memory is what takes the time
    made.mul_(survivors(made, block))
    total = by_block(made, block, torch.sum)
    count = by_block(made.sign_(), block, torch.sum)
    grid = symmetric_around(total / count.clamp(min=1), block, 1)
    return made.mul_(spread(grid.scale, block, made.shape)).copysign_(weight), grid


class Ternarizer(WeightTransform):
    """Gives the ternary weight; gradients pass straight through for weights within ±clip, none outside.

    Args:
        block: what shares a scale.
        clip: larger weights count as this large.
    """

    def __init__(self, block: Block, clip: float) -> None:
        super().__init__()
        self.block, self.clip = block, clip
        self.grid: Grid | None = None

    def forward(self, weight: Tensor) -> Tensor:
        """Same shape as ``weight``."""
        held = weight.detach()
        value, self.grid = ternary(held, self.block, self.clip)
        beyond = float(held.max()) >= self.clip or float(held.min()) <= -self.clip
        return straight_through(weight, value, held.abs() < self.clip if beyond else None)

    def stored(self, weight: Tensor, before: Stored | None) -> Stored:
        """On the grid of the last pass, five weights to a byte."""
        assert self.grid is not None
        return in_trits(self.grid)


class LowBits(TrainedQuantizer):
    """Base of the methods that train weights of three or two values under a full-precision teacher."""

    requires: ClassVar[frozenset[Need]] = frozenset({Need.TEACHER, Need.CALIBRATION, Need.TRAINING})
    conflicts: ClassVar[frozenset[Trait]] = frozenset({Trait.INT8})
    supervises: ClassVar[bool] = True

    embedding_bits: Bits = Field(2, description="Of the token table: 2 is ternary, 3 to 8 even steps, 32 float.")
    position_bits: Bits | None = Field(32, description="Of the position table; null: as the token table.")
    segment_bits: Bits | None = Field(32, description="Of the segment table; null: as the token table.")
    clip: float = Field(2.5, gt=0, le=1000, description="Ternary weights beyond +-clip are cut and not trained.")
    decay: float = Field(0.99, ge=0, lt=1, description="Share of an activation's old range that stays at a step.")
    logits: float = Field(1.0, ge=0, le=1000, description="Weight of the soft cross-entropy with the teacher.")
    hidden_states: float = Field(1.0, ge=0, le=1000, description="Weight of the squared error of all hidden states.")
    attention_scores: float = Field(
        1.0, ge=0, le=1000, description="Weight of the squared error of attention scores; 0 where heads differ."
    )

    @model_validator(mode="after")
    def _learns(self) -> LowBits:
        if not (self.logits or self.hidden_states or self.attention_scores):
            raise ValueError("logits=0 must not go with hidden_states=0 and attention_scores=0")
        return self

    def attach(self, model: Model, ctx: Context) -> Model:
        """Put quantizers on activations, matrices and tables; the first ranges are those of the quantized weights."""
        return self.simulate(model, ctx, self.put_weights, decay=self.decay)

    def put_weights(self, model: Model) -> None:
        """Transforms on matrices and tables."""
        for name in self.matrices(model):
            self.attach_matrix(model, name)
        for name, bits in self.tables(model):
            put(model, name, self.table_transform(bits))

    def attach_matrix(self, model: Model, name: str) -> None:
        """Put the transform on the weight of one linear layer."""
        raise NotImplementedError

    def table_transform(self, bits: int) -> WeightTransform:
        """What an embedding table gets, a scale for each row."""
        return (
            Ternarizer(ROWS, self.clip) if bits == 2 else FakeQuantizer(partial(symmetric_grid, bits=bits, block=ROWS))
        )

    def objectives(self, ctx: Context) -> list[Objective]:
        """The distances to the teacher; those of weight 0 are left out."""
        terms: list[Objective] = [
            TeacherLoss("ce", 1.0, ctx.task.head().kind, weight=self.logits),
            hidden_states(weight=self.hidden_states),
            attention_scores(weight=self.attention_scores),
        ]
        return [term for term in terms if term.weight]
