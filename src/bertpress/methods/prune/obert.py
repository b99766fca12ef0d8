"""Remove the weights that the loss misses least by its curvature, and let their neighbours make up for them.

Source: Kurtic et al. 2022, "The optimal BERT surgeon", arXiv:2203.07259, section 3: the empirical Fisher matrix F in
diagonal blocks of neighbouring weights; a weight costs ``w^2 / (2 [F^-1]_qq)``, and its removal moves its block by
``-w F^-1 e_q / [F^-1]_qq``.  Gradual, by a cubic schedule.
Departs from it: blocks are summed up and solved directly in double precision, where the paper updates their inverses
gradient by gradient, which on a processor takes several times as long and loses digits; weights of a block that go at
the same time are removed jointly, which changes the loss least, where the authors add up single removals; the learning
rate is not wound back when weights go.
What is gone already has no part in F.  Large models are done some matrices at a time, so that the blocks take bounded
memory; ``scope: global`` then looks at the gradients twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from bertpress import tasks
from bertpress.errors import RecipeError
from bertpress.methods.base import Context, Model, Need
from bertpress.methods.masks import mask_of, with_weights
from bertpress.methods.sparsity import Masking, Scope, Thinning, best, largest_weights, told
from bertpress.training.teacher import model_inputs

if TYPE_CHECKING:
    from transformers import TrainerCallback

MEMORY = 2**30  # bytes of Fisher blocks at a time
_AT_ONCE = 16  # gradients that are added together
_BLOCKS = 4096  # systems that are solved together

Batch = dict[str, Tensor]
Gradients = Callable[[Sequence[str]], Iterator[list[Tensor]]]
"""From names to, for each sample, the gradients of these weights."""


def in_blocks(tensor: Tensor, size: int) -> Tensor:
    """Neighbouring values in blocks, (blocks, size), the last one filled up with zeros."""
    flat = tensor.flatten()
    return F.pad(flat, (0, -flat.numel() % size)).reshape(-1, size)


def saliency(weight: Tensor, fisher: Tensor) -> Tensor:
    """By how much the loss grows when a weight goes and its block makes up for it, (blocks, size).

    Args:
        weight: (blocks, size).
        fisher: (blocks, size, size), float64, positive definite.
    """
    diagonals = [torch.linalg.inv(part).diagonal(dim1=1, dim2=2) for part in fisher.split(_BLOCKS)]
    return weight.square() / (2 * torch.cat(diagonals)).to(weight.dtype)


def without(weight: Tensor, fisher: Tensor, gone: Tensor) -> Tensor:
    """The weight when some values are zero and the others of their blocks have made up for it.

    With Q what goes and S what stays, ``w_S + (F_SS)^-1 F_SQ w_Q``: the least growth of ``d' F d / 2``.

    Args:
        weight: (blocks, size).
        fisher: (blocks, size, size), float64, positive definite.
        gone: bool, (blocks, size).
    """
    made = []
    identity = torch.eye(fisher.shape[-1], dtype=fisher.dtype, device=fisher.device)
    for w, f, q in zip(weight.split(_BLOCKS), fisher.split(_BLOCKS), gone.split(_BLOCKS), strict=True):
        pull = (f @ (w * q).to(f.dtype)[..., None])[..., 0].masked_fill(q, 0.0)
        system = torch.where(q[:, :, None] | q[:, None, :], identity, f)
        made.append((w + torch.linalg.solve(system, pull).to(w.dtype)).masked_fill(q, 0.0))
    return torch.cat(made)


def portions(sizes: Mapping[str, int], block: int, memory: int) -> Iterator[list[str]]:
    """Names in order, as many at a time as leave the Fisher blocks in ``memory`` bytes, at least one."""
    portion: list[str] = []
    used = 0
    for name, size in sizes.items():
        need = 8 * size * block
        if portion and used + need > memory:
            yield portion
            portion, used = [], 0
        portion.append(name)
        used += need
    if portion:
        yield portion


class Surgeon:
    """Curvature of some weights, and their removal.

    Args:
        weights: by name, with zeros where they are gone already; any shape.
        gradients: of these weights, sample by sample; the same at each call.
        samples: how many there are.
        block: weights in a block of the Fisher matrix.
        damping: of its diagonal.
    """

    def __init__(
        self, weights: Mapping[str, Tensor], gradients: Gradients, samples: int, *, block: int, damping: float
    ) -> None:
        self.weights, self.gradients, self.samples = weights, gradients, samples
        self.block, self.damping = block, damping

    def fishers(self) -> Iterator[dict[str, Tensor]]:
        """The Fisher blocks, (blocks, size, size) and float64 by name, a portion of the weights at a time."""
        for names in portions({name: weight.numel() for name, weight in self.weights.items()}, self.block, MEMORY):
            yield self._fishers(names)

    def _fishers(self, names: Sequence[str]) -> dict[str, Tensor]:
        found = {}
        for name in names:
            weight = self.weights[name]
            start = self.damping * torch.eye(self.block, dtype=torch.float64, device=weight.device)
            found[name] = start.repeat(-(-weight.numel() // self.block), 1, 1)
        waiting: list[list[Tensor]] = []
        for number, sample in enumerate(self.gradients(names), start=1):
            # what is gone stays out: its row is that of the damping alone
            waiting.append([g * (self.weights[name] != 0) for name, g in zip(names, sample, strict=True)])
            if len(waiting) == _AT_ONCE or number == self.samples:
                for name, parts in zip(names, zip(*waiting, strict=True), strict=True):
                    g = torch.stack([in_blocks(part, self.block) for part in parts], -1).double()
                    found[name].baddbmm_(g, g.mT, alpha=1 / self.samples)
                waiting.clear()
        return found

    def saliencies(self, fishers: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """:func:`saliency` in the shape of each weight."""
        return {
            name: self._shaped(name, saliency(in_blocks(self.weights[name], self.block), fisher))
            for name, fisher in fishers.items()
        }

    def remove(self, keep: float, scope: Scope, floor: float) -> dict[str, Tensor]:
        """All weights when a share of them is kept: zeros, and what makes up for them."""
        kept: dict[str, Tensor] = {}
        if scope == "global":
            scores: dict[str, Tensor] = {}
            for fishers in self.fishers():
                scores |= self.saliencies(fishers)
            kept = best(scores, keep, scope, floor)
        made = {}
        for fishers in self.fishers():
            chosen = kept or best(self.saliencies(fishers), keep, scope)
            for name, fisher in fishers.items():
                gone = ~(chosen[name] & (self.weights[name] != 0))
                weight = in_blocks(self.weights[name], self.block)
                made[name] = self._shaped(name, without(weight, fisher, in_blocks(gone, self.block)))
        return made

    def _shaped(self, name: str, blocks: Tensor) -> Tensor:
        weight = self.weights[name]
        return blocks.flatten()[: weight.numel()].reshape(weight.shape)


class Obert(Masking):
    """Remove weights by the curvature of the loss and update the others of their block, gradually or at once."""

    cite: ClassVar[str] = "Kurtic et al., 2022"
    requires: ClassVar[frozenset[Need]] = frozenset({Need.LABELS, Need.CALIBRATION})
    moves: ClassVar[bool] = True

    scope: Scope = Field("global", description="The same share of every matrix, or one ranking over all of them.")
    every: int = Field(100, ge=1, le=1_000_000, description="Steps after which more weights go.")
    block: int = Field(50, ge=1, le=1024, description="Neighbouring weights in a block of the Fisher matrix.")
    damping: float = Field(1e-7, gt=0, le=1, description="Added to the diagonal of the Fisher matrix.")
    examples: int = Field(128, ge=1, le=100_000, description="Training examples whose gradients make the matrix.")
    batch: int = Field(1, ge=1, le=32, description="Examples in each of these gradients; what is left over is unused.")

    def callbacks(self, ctx: Context) -> list[TrainerCallback]:
        """Remove more and more."""
        return [Thinning(self, self.keep, self.every, partial(self.prune, ctx))]

    def prune(self, ctx: Context, model: Model, keep: float) -> None:
        """Remove weights of a model that is in training."""
        masks = {name: mask_of(model, name).kept for name in self.weights(model)}
        alive = {name: model.get_parameter(name).detach() * kept for name, kept in masks.items()}
        for name, weight in self._removed(ctx, model, alive, keep).items():
            model.get_parameter(name).data.copy_(weight)
            masks[name].copy_(weight != 0)

    def finish(self, model: Model, ctx: Context) -> Model:
        """The share that was asked for: all of the pruning in a stage without training, nothing more after it."""
        weights = {name: model.get_parameter(name).detach() for name in self.weights(model)}
        kept = largest_weights(model, weights, self.keep, self.scope, self.floor)
        if any(bool((weight != 0)[~kept[name]].any()) for name, weight in weights.items()):  # too many are left
            weights = self._removed(ctx, model, weights, self.keep)
            model = with_weights(model, weights)
        ctx.say(f"prune/obert keeps {told(weight != 0 for weight in weights.values())}")
        return model

    def _removed(self, ctx: Context, model: Model, weights: Mapping[str, Tensor], keep: float) -> dict[str, Tensor]:
        device = next(model.parameters()).device
        samples = [
            {name: tensor.to(device) for name, tensor in piece.items()}
            for batch in ctx.batches(self.examples)
            for piece in tasks.pieces_of(batch, self.batch)
            if tasks.examples_of(piece) == self.batch
        ]

        if not samples:
            found = min(self.examples, len(ctx.train) if ctx.train is not None else self.examples)
            raise RecipeError(f"batch={self.batch} must be at most the {found} examples that there are")

        def gradients(names: Sequence[str]) -> Iterator[list[Tensor]]:
            wanted = [model.get_parameter(name) for name in names]
            for sample in samples:
                with torch.enable_grad():
                    loss = tasks.loss(ctx.task, model(**model_inputs(sample)).logits, sample)
                    yield list(torch.autograd.grad(loss, wanted, materialize_grads=True))

        training = model.training
        model.eval()
        try:
            surgeon = Surgeon(weights, gradients, len(samples), block=self.block, damping=self.damping)
            return surgeon.remove(keep, self.scope, self.floor)
        finally:
            model.train(training)
