"""Learn which rows or columns of blocks can go, while training, and set them to zero.

Source: Li et al. 2020, "Efficient transformer-based large scale language representations using hardware-friendly block
structured pruning", arXiv:2009.08065, section 3: a matrix is divided into blocks of p x q; a group is a row or a column
of a block; reweighted group lasso ``loss + weight * sum_g beta_g ||W_g||_2`` with ``beta_g = 1 / (||W_g||_2^2 + eps)``
of some steps ago; then groups of small norm are removed, their mask is fixed, and training goes on.
Departs from it: of a row group only the width q of the block matters, of a column group only the height p, so one
``size`` says both; ``beta`` is refreshed every few hundred steps, not epochs; the groups that go are a share of all.

The stage that uses this method trains under the penalty and ends with the zeros; a stage that trains after it keeps
them, without using any method.  One bit of the file stands for one group.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from transformers import TrainerCallback

from bertpress.encoder.grids import Block, by_block, spread
from bertpress.methods.base import Context, Method, Model, Need, Trait
from bertpress.methods.empty import cut_empty
from bertpress.methods.masks import largest_of_all, largest_of_each, store_in_blocks
from bertpress.methods.weights import matrices, some
from bertpress.training.objectives import Objective, Penalty

if TYPE_CHECKING:
    from collections.abc import Sequence

Group = Literal["row", "column"]


def group_block(shape: Sequence[int], group: Group, size: int) -> Block:
    """The block of a group of a matrix (outputs, inputs): ``size`` neighbours in a row or a column, or all of it."""
    rows, columns = shape
    return (1, min(size, columns)) if group == "row" else (min(size, rows), 1)


def squared_norms(weight: Tensor, block: Block) -> Tensor:
    """Sum of squares of each group, one number a group; those at the edge may be smaller."""
    return by_block(weight.square(), block, torch.sum)


def factors(weight: Tensor, block: Block, epsilon: float) -> Tensor:
    """``beta_g = 1 / (||W_g||_2^2 + epsilon)``, one number a group, without gradient."""
    return 1 / (squared_norms(weight.detach(), block) + epsilon)


def group_lasso(weight: Tensor, beta: Tensor, block: Block) -> Tensor:
    """``sum_g beta_g ||W_g||_2``, a scalar; the gradient of a group that is zero is zero."""
    tiny = torch.finfo(weight.dtype).tiny
    return (beta * squared_norms(weight, block).clamp(min=tiny).sqrt()).sum()


class GroupLasso(nn.Module):
    """The penalty of all weights, and its factors as they were when last refreshed.

    Args:
        weights: by name; those of the model itself.
        blocks: of the groups, by name.
        epsilon: see :func:`factors`.
    """

    def __init__(self, weights: Mapping[str, nn.Parameter], blocks: Mapping[str, Block], epsilon: float) -> None:
        super().__init__()
        self.weights, self.blocks, self.epsilon = dict(weights), dict(blocks), epsilon  # dicts: the model owns them
        for i, (name, weight) in enumerate(self.weights.items()):
            self.register_buffer(f"beta{i}", factors(weight, self.blocks[name], epsilon))

    def refresh(self) -> None:
        """Let the factors follow the weights."""
        for beta, (name, weight) in zip(self.buffers(), self.weights.items(), strict=True):
            beta.copy_(factors(weight, self.blocks[name], self.epsilon))

    def forward(self) -> Tensor:
        """Sum over the weights."""
        terms = zip(self.buffers(), self.weights.items(), strict=True)
        return torch.stack([group_lasso(weight, beta, self.blocks[name]) for beta, (name, weight) in terms]).sum()


class Reweight(TrainerCallback):  # type: ignore[misc]
    """Refreshes the factors every few steps; they are fresh when training begins."""

    def __init__(self, lasso: GroupLasso, steps: int) -> None:
        self.lasso, self.steps = lasso, steps

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Look at the weights."""
        if state.global_step and state.global_step % self.steps == 0:
            self.lasso.refresh()


class Blocks(Method):
    """Train under a reweighted group lasso, then zero the weakest rows or columns of blocks."""

    cite: ClassVar[str] = "Li et al., 2020"
    requires: ClassVar[frozenset[Need]] = frozenset({Need.TRAINING})
    provides: ClassVar[frozenset[Trait]] = frozenset({Trait.SPARSE, Trait.NARROW})

    keep: float = Field(0.5, gt=0, le=1, description="Share of the groups that stays.")
    scope: Literal["matrix", "model"] = Field(
        "model", description="Keep this share of every matrix, or rank the groups of the whole model together."
    )
    group: Group = Field("row", description="What is zero together: rows of blocks, or columns.")
    size: int = Field(32, ge=1, le=65_536, description="Weights in a group: width, or height, of the blocks.")
    weight: float = Field(1e-4, ge=0, le=1000, description="Of the penalty in the loss.")
    epsilon: float = Field(1e-3, gt=0, le=1, description="Added to squared norms: where the penalty stops to grow.")
    refresh: int = Field(100, ge=1, le=1_000_000, description="Steps after which the penalty's factors follow.")
    cut: bool = Field(True, description="Take out heads and neurons none of whose weights is left.")
    multiple_of: int = Field(
        1, ge=1, le=1024, description="Widths of networks are rounded up to what the hardware likes."
    )

    def attach(self, model: Model, ctx: Context) -> Model:
        """Take down the first factors."""
        weights = self._weights(model)
        blocks = {name: self._block(weights[name]) for name in some(list(weights))}
        ctx.state["blocks"] = GroupLasso(weights, blocks, self.epsilon)
        return model

    def objectives(self, ctx: Context) -> list[Objective]:
        """The penalty."""
        return [Penalty("group_lasso", self._lasso(ctx), weight=self.weight)]

    def callbacks(self, ctx: Context) -> list[TrainerCallback]:
        """The factors follow the weights."""
        return [Reweight(self._lasso(ctx), self.refresh)]

    def finish(self, model: Model, ctx: Context) -> Model:
        """Zero whole groups, and cut what is empty."""
        weights = self._weights(model)
        norms = {name: squared_norms(weight.detach(), self._block(weight)) for name, weight in weights.items()}
        kept = (largest_of_all if self.scope == "model" else largest_of_each)(norms, self.keep)
        for name, weight in weights.items():
            weight.detach().mul_(spread(kept[name], self._block(weight), weight.shape))
        if self.cut:
            model = cut_empty(model, self.multiple_of)
        for name, weight in self._weights(model).items():
            store_in_blocks(model, name, self._block(weight))
        left, total = sum(int(mask.sum()) for mask in kept.values()), sum(mask.numel() for mask in kept.values())
        ctx.say(f"prune/blocks keeps {left} of {total} groups")
        return model

    def _lasso(self, ctx: Context) -> GroupLasso:
        lasso = ctx.state["blocks"]
        assert isinstance(lasso, GroupLasso)
        return lasso

    def _weights(self, model: Model) -> dict[str, nn.Parameter]:
        return {name: model.get_parameter(name) for name in matrices(model, head=False)}

    def _block(self, weight: Tensor) -> Block:
        return group_block(weight.shape, self.group, self.size)
