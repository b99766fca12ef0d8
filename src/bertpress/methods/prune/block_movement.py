"""Movement pruning of square blocks in attention, and of whole neurons: smaller, and faster without special kernels.

Source: Lagunas et al. 2021, arXiv:2109.04838, sections 3 and 4, "hybrid": square blocks in the attention matrices, rows
of the first and columns of the second feed-forward matrix; a block stays where ``sigmoid(score) > threshold``; the
threshold rises, and with it a penalty on the sigmoids, apart for attention and feed-forward networks; at the end empty
heads and neurons go.  ``fill``: what is left of a head is dense again, "hybrid filled".
Departs from it: a neuron goes when its row or its column has gone, and what its bias then adds to every token moves
into the output bias, so that the cut model computes what the masked one does; filled blocks take the values that they
had when they were masked, and train on in a stage that follows.  The teacher is a method of its own
(``distill/logits``).
"""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from transformers import TrainerCallback

from bertpress.encoder.grids import Block, spread
from bertpress.encoder.surgery import keep_heads
from bertpress.encoder.transforms import put
from bertpress.methods.base import Context, Method, Model, Need, Trait
from bertpress.methods.empty import cut_empty
from bertpress.methods.masks import store_in_blocks, with_weights
from bertpress.methods.movement_scores import above, masked, mean_activity, ramped, zero_scores
from bertpress.methods.transform import WeightTransform
from bertpress.methods.weights import matrices
from bertpress.training.objectives import Objective, Penalty
from bertpress.training.optimizer import Optimization

Group = Literal["attention", "ffn"]


def unit_of(name: str, size: int) -> tuple[Group, Block] | None:
    """Where a weight belongs, and what shares a score in it; None: it is not pruned, as it has no neurons."""
    if ".attention." in name:
        return "attention", (size, size)
    if name.endswith((".inner.weight", ".inner.up.weight")):
        return "ffn", (1, 0)
    return ("ffn", (0, 1)) if name.endswith((".outer.weight", ".outer.down.weight")) else None


class ScoredMask(WeightTransform):
    """Gives the weight where a block's score is above the threshold, and zero elsewhere.

    Args:
        weight: what is pruned.
        block: what shares a score.
        floor: share of the blocks that stays in any case.
        learning_rate: of the scores.
        latent: see :class:`WeightTransform`.
    """

    threshold: Tensor

    def __init__(self, weight: Tensor, block: Block, *, floor: float, learning_rate: float, latent: bool) -> None:
        super().__init__()
        self.block, self.floor, self.latent = block, floor, latent
        self.scores = nn.Parameter(zero_scores(weight.shape, block))
        self.register_buffer("threshold", torch.zeros(()))
        self.optimization = Optimization(learning_rate=learning_rate, weight_decay=0.0)

    @property
    def kept(self) -> Tensor:
        """Bool, one a block."""
        return above(self.scores, float(self.threshold), self.floor)

    def forward(self, weight: Tensor) -> Tensor:
        """Same shape as ``weight``."""
        return masked(weight, self.scores, self.kept, self.block)


class Masks(nn.Module):
    """The masks of a model by the names of their weights; the model owns them.

    Args:
        groups: masks that share a penalty.
        final: threshold in the end.
    """

    def __init__(self, groups: dict[Group, dict[str, ScoredMask]], final: float) -> None:
        super().__init__()
        self.groups, self.final = groups, final

    def activity(self, group: Group) -> Tensor:
        """Mean sigmoid of the group's scores, times how far the threshold has come; a scalar."""
        masks = list(self.groups[group].values())
        return mean_activity([mask.scores for mask in masks]) * (masks[0].threshold / self.final)

    def raise_to(self, threshold: float) -> None:
        """Set the threshold of all."""
        for masks in self.groups.values():
            for mask in masks.values():
                mask.threshold.fill_(threshold)


class Threshold(TrainerCallback):  # type: ignore[misc]
    """Raises the threshold: a warm-up at 0, a cubic rise, a cool-down at the end."""

    def __init__(self, masks: Masks, warmup: float, cooldown: float) -> None:
        self.masks = masks
        self.at = partial(ramped, initial=0.0, final=masks.final, warmup=warmup, cooldown=cooldown)

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """The threshold of this step."""
        self.masks.raise_to(self.at(state.global_step, state.max_steps))

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """The last one, whichever step the weights are from."""
        self.masks.raise_to(self.masks.final)


class BlockMovement(Method):
    """Prune blocks of attention weights, and neurons, that move towards zero while training; cut what is empty."""

    cite: ClassVar[str] = "Lagunas et al., 2021"
    requires: ClassVar[frozenset[Need]] = frozenset({Need.LABELS, Need.TRAINING})
    provides: ClassVar[frozenset[Trait]] = frozenset({Trait.SPARSE, Trait.NARROW})

    size: int = Field(32, ge=1, le=256, description="Rows and columns of a block of an attention matrix.")
    attention: float = Field(10.0, ge=0, le=100_000, description="Weight of the penalty on attention scores.")
    ffn: float = Field(10.0, ge=0, le=100_000, description="Weight of the penalty on feed-forward scores.")
    threshold: float = Field(0.1, gt=0, lt=1, description="What the sigmoid of a score must exceed in the end.")
    learning_rate: float = Field(1e-2, gt=0, le=10, description="Peak learning rate of the scores.")
    warmup: float = Field(0.1, ge=0, lt=1, description="Share of the steps before the threshold rises.")
    cooldown: float = Field(0.3, ge=0, lt=1, description="Share of the steps at the end in which it stays.")
    floor: float = Field(0.005, ge=0, le=1, description="Share of each matrix's blocks that stays in any case.")
    fill: bool = Field(False, description="Make heads that are left dense again; only whole heads and neurons go.")
    multiple_of: int = Field(
        1, ge=1, le=1024, description="Widths of networks are rounded up to what the hardware likes."
    )

    @model_validator(mode="after")
    def _rises(self) -> BlockMovement:
        if self.warmup + self.cooldown >= 1:
            raise ValueError(f"cooldown={self.cooldown} must be below 1 - warmup={1 - self.warmup:g}")
        return self

    def attach(self, model: Model, ctx: Context) -> Model:
        """Scores on the weights of both groups."""
        groups: dict[Group, dict[str, ScoredMask]] = {}
        for name in matrices(model, head=False):
            if (unit := unit_of(name, self.size)) is None:
                continue
            group, block = unit
            mask = ScoredMask(
                model.get_parameter(name),
                block,
                floor=self.floor,
                learning_rate=self.learning_rate,
                latent=self.fill and group == "attention",
            )
            put(model, name, mask)
            groups.setdefault(group, {})[name] = mask
        ctx.state["block_movement"] = Masks(groups, self.threshold)
        return model

    def objectives(self, ctx: Context) -> list[Objective]:
        """A penalty for each group; those of weight 0 are left out."""
        weights: dict[Group, float] = {"attention": self.attention, "ffn": self.ffn}
        masks = self._masks(ctx)
        return [
            Penalty(f"{group}_penalty", partial(masks.activity, group), weight=weights[group])
            for group in masks.groups
            if weights[group]
        ]

    def callbacks(self, ctx: Context) -> list[TrainerCallback]:
        """The rising threshold."""
        return [Threshold(self._masks(ctx), self.warmup, self.cooldown)]

    def finish(self, model: Model, ctx: Context) -> Model:
        """Cut empty heads and neurons; the rest of the attention has blocks of zeros, unless it is filled."""
        masks = self._masks(ctx).groups.get("attention", {})
        if self.fill:
            cut = self._filled(model, masks)
        else:
            cut = cut_empty(model, self.multiple_of)
            for name in masks.keys() & {name for name, _ in cut.unique_weights()}:
                store_in_blocks(cut, name, (self.size, self.size))
        shape, before = cut.blueprint.layers, model.blueprint.layers
        ctx.say(
            "prune/block_movement keeps heads " + "/".join(str(len(layer.attention.heads)) for layer in shape)
            + ", neurons " + "/".join(str(sum(layer.ffn)) for layer in shape)
            + f" of {len(before[0].attention.heads)} and {sum(before[0].ffn)}"
        )  # fmt: skip
        return cut

    def _filled(self, model: Model, masks: dict[str, ScoredMask]) -> Model:
        """Without the heads and neurons that the masks leave empty, the other heads dense."""
        weights = {name: model.get_parameter(name).detach() for name in masks}
        emptied = {name: weight * spread(masks[name].kept, masks[name].block, weight.shape)
                   for name, weight in weights.items()}  # fmt: skip
        cut = cut_empty(with_weights(model, emptied), self.multiple_of)
        heads = {
            i: layer.attention.heads for i, layer in enumerate(cut.blueprint.layers) if layer.attention_from is None
        }
        dense, left = keep_heads(model, heads), dict(cut.unique_weights())
        for name in masks:
            if name in left:
                left[name].detach().copy_(dense.get_parameter(name))
        return cut

    def _masks(self, ctx: Context) -> Masks:
        masks = ctx.state["block_movement"]
        assert isinstance(masks, Masks)
        return masks
