"""Scores that learn which weights, or blocks of weights, move away from zero: the mathematics of movement pruning.

Sources: Sanh, Wolf & Rush 2020, arXiv:2005.07683, sections 3 and 4; blocks: Lagunas et al. 2021, arXiv:2109.04838,
section 3.  A block of (1, 1) is a single weight; sizes are as in :data:`bertpress.encoder.grids.Block`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from bertpress.encoder.grids import Block, blocks, spread, straight_through
from bertpress.methods.masks import largest
from bertpress.training.schedules import cubic


def zero_scores(shape: Sequence[int], block: Block) -> Tensor:
    """One score a block, all 0, where movement pruning begins."""
    return torch.zeros(blocks(shape, block))


def above(scores: Tensor, threshold: float, floor: float) -> Tensor:
    """Soft pruning's choice: bool, where ``sigmoid(S) > threshold``.

    Args:
        scores: one a block.
        threshold: [0, 1).
        floor: share of the blocks that stays whatever the threshold, those of the largest scores; rounded up.
    """
    kept = scores.detach().sigmoid() > threshold
    least = math.ceil(floor * scores.numel())
    return kept if int(kept.sum()) >= least else largest(scores, least)


def masked(weight: Tensor, scores: Tensor, kept: Tensor, block: Block) -> Tensor:
    """``W' = W * M(S)``; through the mask, the gradient of a block's score is the sum of ``W * dL/dW'`` in it.

    Args:
        weight: what is trained.
        scores: one a block.
        kept: bool, the shape of ``scores``.
        block: what shares a score.
    """
    mask = straight_through(scores, kept.to(scores.dtype))
    return weight * spread(mask, block, weight.shape)


def mean_activity(scores: Sequence[Tensor]) -> Tensor:
    """Mean of ``sigmoid(S)`` within each matrix, averaged over the matrices: what soft pruning's penalty pulls down."""
    return torch.stack([value.sigmoid().mean() for value in scores]).mean()


def ramped(step: int, total: int, *, initial: float, final: float, warmup: float, cooldown: float) -> float:
    """A threshold, or a share that is kept: constant, cubic, constant.

    Args:
        step: of the training run, from 0.
        total: steps of the run.
        initial: value during the warm-up.
        final: value during the cool-down.
        warmup: share of the steps before the value moves.
        cooldown: share of the steps at the end in which it stays.
    """
    begin = warmup * total
    return cubic(step, initial=initial, final=final, begin=begin, end=max(begin, (1 - cooldown) * total))
