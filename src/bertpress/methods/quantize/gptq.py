"""Weights rounded column by column, where the columns that are left make up for the errors so far.

Source: GPTQ, Frantar et al. 2023, arXiv:2210.17323, algorithm 1 and section 3.3 (steps 1 to 3); one transformer layer
after the other on inputs that the quantized layers before it give (section 4).  Zeros of a pruning mask stay zeros and
their error is made up for as well (SparseGPT, Frantar & Alistarh 2023, arXiv:2301.00774, section 3.4).  Embedding
tables are rounded to the nearest, a scale for each row.
Departs from it: the factor of the inverse Hessian comes from one Cholesky decomposition in reverse order, without
inverting; with ``act_order`` the scales of groups are chosen before anything moves, on neighbouring columns, so that no
index map is stored; inputs that calibration text never moves are rounded to the nearest, not set to zero.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from bertpress.artifact.codecs import on_grid
from bertpress.encoder.grids import (
    Block,
    Granularity,
    Grid,
    block_of,
    from_integers,
    quantize,
    symmetric_grid,
    to_integers,
)
from bertpress.encoder.observers import observing
from bertpress.encoder.surgery import rebuild
from bertpress.methods.activations import calibration
from bertpress.methods.base import Context, Model, Need
from bertpress.methods.quantization import FLOAT, ROWS, Bits, GridQuantizer
from bertpress.methods.relay import Enough, Relay

_LAZY = 128  # columns whose errors reach the columns behind them in one product

GridOf = Callable[[Tensor, Block], Grid]


def inverse_factor(hessian: Tensor, damping: float) -> Tensor:
    """U, upper triangular, with ``inverse(H + λI) = Uᵀ U``; ``λ = damping * mean(diagonal(H))``.

    Args:
        hessian: (n, n), symmetric, positive semidefinite; of zeros, it counts as the identity.
        damping: > 0; raised tenfold as often as float32 needs it.

    Raises:
        ValueError: a number of the Hessian is not finite.
    """
    identity = torch.eye(len(hessian), device=hessian.device)
    shift = damping * float(hessian.diagonal().double().mean()) or 1.0
    if not shift < float("inf"):
        raise ValueError("an activation is not finite: the model cannot be calibrated")
    while True:
        damped = hessian + shift * identity
        # reversed, the lower factor of a matrix is upper triangular: H = R Rᵀ and U is the inverse of R
        lower, failed = torch.linalg.cholesky_ex(damped.flip(0, 1))
        if not int(failed):
            factor: Tensor = torch.linalg.solve_triangular(lower.flip(0, 1), identity, upper=True)
            return factor
        shift *= 10


def solve(
    weight: Tensor,
    hessian: Tensor,
    grid_of: GridOf,
    block: Block,
    *,
    act_order: bool = False,
    damping: float = 0.01,
) -> tuple[Tensor, Grid]:
    """Put a matrix on a grid so that its products with the calibration inputs change little.

    Args:
        weight: (outputs, inputs), float32; its zeros stay.
        hessian: (inputs, inputs), sum of ``x xᵀ`` over the inputs, in any unit.
        grid_of: the grid of a matrix for blocks.
        block: ``(0, 0)``, ``(1, 0)``, or ``(1, g)``: groups of g inputs, with scales chosen when their turn comes.
        act_order: take the inputs of largest energy first, groups with scales chosen beforehand.
        damping: see :func:`inverse_factor`.

    Returns:
        The weight on its grid, bit for bit, and the grid.

    Cost: O(outputs inputs² + inputs³) time.
    """
    columns, group = weight.shape[1], block[1]
    energy = hessian.diagonal() if act_order else hessian.new_zeros(columns)
    order = energy.argsort(descending=True, stable=True)
    upper = inverse_factor(hessian[order][:, order], damping)
    left = weight.float().t()[order].contiguous()  # one column a row: what it should be, errors before made up for
    kept = left != 0
    moving = bool(group) and not act_order
    grids = [] if moving else [grid_of(weight.float(), block)]
    width = max(_LAZY // group, 1) * group if moving else _LAZY
    for start in range(0, columns, width):
        part, near = left[start : start + width], upper[start : start + width, start : start + width]
        errors = torch.empty_like(part)
        for i in range(len(part)):
            if moving and (start + i) % group == 0:
                grids.append(grid_of((part[i : i + group] * kept[start + i : start + i + group]).t(), (1, 0)))
            at = int(order[start + i]) // group if group and not moving else 0
            value = _nearest(part[i, :, None], grids[-1], at)[:, 0].masked_fill(~kept[start + i], 0.0)
            errors[i] = (part[i] - value) / near[i, i]
            part[i + 1 :].addr_(near[i, i + 1 :], errors[i], alpha=-1)
            part[i] = value
        stop = start + len(part)
        left[stop:] -= upper[start:stop, stop:].t() @ errors
    grid = _side_by_side(grids, block) if moving else grids[0]
    return left[order.argsort()].t().contiguous(), grid


def _nearest(column: Tensor, grid: Grid, at: int) -> Tensor:
    """Values of a column (outputs, 1) on the scales of its group."""
    scale, zero = grid.scale[:, at : at + 1], grid.zero_point[:, at : at + 1]
    one = Grid(scale, zero, (grid.block[0], 0), grid.low, grid.high)
    return from_integers(to_integers(column, one), one)


def _side_by_side(grids: Sequence[Grid], block: Block) -> Grid:
    scale, zero = (torch.cat([getattr(grid, name) for grid in grids], 1) for name in ("scale", "zero_point"))
    return Grid(scale, zero, block, grids[0].low, grids[0].high)


def moments(relay: Relay, names: Sequence[str], calls: int) -> dict[str, Tensor]:
    """Sum of ``x xᵀ`` over the real tokens that enter each linear layer, (inputs, inputs).

    Args:
        relay: runs the model.
        names: of the layers.
        calls: how often a pass reaches them, all together; the rest of it is not run.
    """
    sums: dict[str, Tensor] = {}
    seen = 0

    def observer(name: str) -> Callable[[Tensor], None]:
        def see(x: Tensor) -> None:
            nonlocal seen
            sums[name] = sums[name].addmm_(x.t(), x) if name in sums else x.t() @ x
            seen += 1
            if seen % calls == 0:
                raise Enough

        return see

    with observing(relay.model, {name: observer(name) for name in names}):
        relay.run()
    return sums


def call_order(model: Model, names: Sequence[str], batch: dict[str, Tensor]) -> list[str]:
    """The linear layers among ``names`` as a forward pass reaches them; shared ones several times."""
    reached: list[str] = []
    observers = {name: lambda _, name=name: reached.append(name) for name in names}
    with torch.no_grad(), observing(model, observers):
        model(**batch)
    return reached


def units(reached: Sequence[str]) -> Iterator[tuple[list[str], int]]:
    """Linear layers that are quantized together: a transformer layer's, the embeddings', the head's; in order.

    Args:
        reached: see :func:`call_order`.

    Yields:
        Names, and how often a forward pass reaches them all together.
    """
    firsts = list(dict.fromkeys(reached))
    of = {name: tuple(name.split(".")[: 3 if name.startswith("encoder.layers.") else 2]) for name in firsts}
    ranks = {unit: i for i, unit in enumerate(dict.fromkeys(of.values()))}
    for _, members in groupby(sorted(firsts, key=lambda name: ranks[of[name]]), key=of.__getitem__):
        names = list(members)
        yield names, sum(reached.count(name) for name in names)


class Gptq(GridQuantizer):
    """Round weights one input at a time and let the inputs that are left make up for the error."""

    cite: ClassVar[str] = "Frantar et al., 2023"
    requires: ClassVar[frozenset[Need]] = frozenset({Need.CALIBRATION})

    bits: Bits = Field(4, description="Of the linear layers; 32 leaves them float.")
    granularity: Granularity = Field("group", description="Weights that share a scale: matrix, output, or group.")
    symmetric: bool = Field(False, description="Steps evenly around 0; false: from minimum to maximum, zero-point.")
    act_order: bool = Field(False, description="Inputs of largest energy first.")
    damping: float = Field(0.01, gt=0, le=1, description="Added to the Hessian, as a share of its mean diagonal.")
    examples: int = Field(256, ge=1, le=100_000, description="Training examples that the Hessians are taken from.")

    def finish(self, model: Model, ctx: Context) -> Model:
        """Quantize the tables, then one transformer layer after the other on what the model before it gives."""
        new = rebuild(model, model.blueprint, model.state_dict(), model.storage)
        for name, bits in self.tables(new):
            table = new.get_parameter(name)
            grid = symmetric_grid(table, bits, ROWS)
            self._put(new, name, quantize(table, grid), grid)
        if self.bits == FLOAT:
            return new
        names = [name.removesuffix(".weight") for name in self.matrices(new)]
        batches = calibration(new, ctx, self.examples)
        reached = call_order(new, names, batches[0])
        relay = Relay(new, batches)
        for members, calls in units(reached):
            if members[0].startswith("encoder.layers."):
                relay.advance(int(members[0].split(".")[2]))
            for name, hessian in moments(relay, members, calls).items():
                self._solve(new, name, hessian)
            ctx.say(f"quantize/gptq {'.'.join(members[0].split('.')[:3])}: {len(members)} matrices")
        for name in sorted({*names} - {*reached}):  # nothing is known of their inputs
            width = new.get_parameter(f"{name}.weight").shape[1]
            self._solve(new, name, torch.eye(width))
        return new

    def _solve(self, model: Model, name: str, hessian: Tensor) -> None:
        weight = model.get_parameter(f"{name}.weight").detach()
        block = block_of(weight.shape, self.granularity, self.group)

        def grid_of(part: Tensor, blocks: Block) -> Grid:
            return self.grid(part, self.bits, blocks)

        self._put(
            model,
            f"{name}.weight",
            *solve(weight, hessian, grid_of, block, act_order=self.act_order, damping=self.damping),
        )

    def _put(self, model: Model, name: str, weight: Tensor, grid: Grid) -> None:
        with torch.no_grad():
            model.get_parameter(name).copy_(weight)
        model.storage[name] = on_grid(grid)
