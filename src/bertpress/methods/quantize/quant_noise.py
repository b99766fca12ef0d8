"""Train with some weights quantized and the others not, anew in each step; then quantize all of them.

Source: Fan et al. 2021, arXiv:2004.07320, sections 4 and 5; iterative product quantization: Stock et al. 2020,
arXiv:1907.05686, section 3.  ``variant: int`` rounds single weights to integers and evaluates all of them rounded.
``variant: product`` sets subvectors to zero (``proxy``) or to their centroids, evaluates without noise, and leaves a
table of centroids for each matrix; FFN, embeddings and all other layers are quantized in turn.
Departs from it: activations stay float; between these groups the centroids alone learn, not the float weights that are
left; the distance to the teacher is the squared error of the logits; a matrix that product quantization would not
shrink stays float.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from bertpress import tasks
from bertpress.encoder.grids import Block, Grid, affine_grid, block_of, fitted_grid, symmetric_grid
from bertpress.encoder.observers import observing
from bertpress.encoder.surgery import rebuild
from bertpress.encoder.transforms import put
from bertpress.methods.base import Context, Model, Need
from bertpress.methods.distances import logit_distance
from bertpress.methods.noise import BlockNoise, CentroidNoise, IntNoise, Noise, Refresh
from bertpress.methods.product import ProductCode, pays, product_code, tune, write
from bertpress.methods.quantization import FLOAT, ROWS, Bits, Quantizer
from bertpress.training.teacher import model_inputs

if TYPE_CHECKING:
    from transformers import TrainerCallback

Batch = dict[str, Tensor]
Group = Literal["ffn", "embeddings", "attention"]
GROUPS: tuple[Group, ...] = ("ffn", "embeddings", "attention")
"""What product quantization takes at once, in this order; the last holds all that is in no other."""


def group_of(name: str) -> Group:
    """The group of a weight."""
    if name.startswith("encoder.embeddings."):
        return "embeddings"
    return "ffn" if ".ffn." in name else "attention"


def computing(model: Model, name: str) -> Tensor:
    """The weight that a layer computes with now, transforms that it has included."""
    owner, _, attribute = name.rpartition(".")
    weight: Tensor = getattr(model.get_submodule(owner), attribute)
    return weight.detach()


def energies(model: Model, names: Sequence[str], batches: Sequence[Batch]) -> dict[str, Tensor]:
    """Sum of squares of each input of each linear layer over the real tokens, (inputs,), by the layer's name."""
    sums: dict[str, Tensor] = {}

    def observer(name: str) -> Callable[[Tensor], None]:
        def see(x: Tensor) -> None:
            sums[name] = sums.get(name, x.new_zeros(x.shape[1])) + x.square().sum(0)

        return see

    with torch.no_grad(), observing(model, {name: observer(name) for name in names}):
        for batch in batches:
            model(**model_inputs(batch))
    return sums


class QuantNoise(Quantizer):
    """Quantize a random share of the weights in each training step, and all of them in the end."""

    cite: ClassVar[str] = "Fan et al., 2021"
    requires: ClassVar[frozenset[Need]] = frozenset({Need.TRAINING, Need.CALIBRATION})

    variant: Literal["int", "product"] = Field("int", description="Integers, or centroids of subvectors.")
    p: float | None = Field(None, ge=0, le=1, description="Share quantized in a step; null: 0.5 for int, 0.1 else.")
    refresh: int = Field(100, ge=1, le=1_000_000, description="Steps after which scales or centroids follow.")
    bits: Bits = Field(8, description="Of the linear layers for int; 32 leaves them float in both variants.")
    granularity: Literal["tensor", "channel"] = Field("channel", description="int: weights that share a scale.")
    symmetric: bool = Field(False, description="int: steps evenly around 0; false: from minimum to maximum.")
    fit: Literal["max", "mse"] = Field("max", description="int: range: all values, or least error (symmetric).")
    proxy: bool = Field(True, description="product: noise sets subvectors to zero, not to their centroids.")
    centroids: int = Field(256, ge=2, le=256, description="product: of each matrix.")
    block_size: int = Field(8, ge=1, le=64, description="product: inputs in a subvector, FFN and embeddings.")
    attention_block_size: int = Field(4, ge=1, le=64, description="product: inputs in a subvector, all other layers.")
    centroid_bits: Literal[8, 32] = Field(32, description="product: of the numbers in centroids.")
    iterations: int = Field(20, ge=1, le=1000, description="product: steps of k-means.")
    activation_weighted: bool = Field(False, description="product: errors count by the energy of their input.")
    tune_steps: int = Field(100, ge=0, le=1_000_000, description="product: updates of centroids after each group.")
    tune_learning_rate: float = Field(2e-5, gt=0, le=1, description="product: of the centroids, falling to 0.")
    alpha: float = Field(0.5, ge=0, le=1, description="product: the teacher's weight there; the labels get the rest.")
    examples: int = Field(256, ge=1, le=1_000_000, description="product: training examples to tune and weigh with.")

    @model_validator(mode="after")
    def _fits(self) -> QuantNoise:
        if self.fit == "mse" and not self.symmetric:
            raise ValueError("fit=mse must go with symmetric=true")
        return self

    def attach(self, model: Model, ctx: Context) -> Model:
        """Noise on the weights."""
        for name, noise in list(self._noises(model, ctx)):
            put(model, name, noise)
        return model

    def callbacks(self, ctx: Context) -> list[TrainerCallback]:
        """The quantizers follow the weights."""
        return [Refresh(self.refresh)]

    def finish(self, model: Model, ctx: Context) -> Model:
        """Product quantization, group after group; integers are there already."""
        if self.variant == "int":
            return model
        new = rebuild(model, model.blueprint, model.state_dict(), model.storage)
        device = next(new.parameters()).device
        batches = [{name: tensor.to(device) for name, tensor in batch.items()} for batch in ctx.batches(self.examples)]
        codes = self._codes(new, ctx, batches, self._loss(ctx, batches))
        if self.centroid_bits == 8:
            codes = {name: code.rounded() for name, code in codes.items()}
            write(new, codes)
        new.storage |= {name: code.stored() for name, code in codes.items()}
        return new

    def _noises(self, model: Model, ctx: Context) -> Iterator[tuple[str, Noise]]:
        """Name and noise of every weight that is quantized in the end."""
        p = (0.5 if self.variant == "int" else 0.1) if self.p is None else self.p
        if self.variant == "int":
            blocks: dict[str, tuple[int, Block]] = {name: (bits, ROWS) for name, bits in self.tables(model)}
            for name in self.matrices(model) if self.bits != FLOAT else []:
                blocks[name] = (self.bits, block_of(model.get_parameter(name).shape, self.granularity))
            for name, (bits, block) in blocks.items():
                yield name, IntNoise(computing(model, name), p, partial(self._grid, bits=bits, block=block))
            return
        for name, dim in self._cut(model):
            if self.proxy:
                yield name, BlockNoise(dim, p)
            else:
                yield name, CentroidNoise(computing(model, name), dim, p, partial(self._code, ctx, dim))

    def _grid(self, weight: Tensor, bits: int, block: Block) -> Grid:
        if not self.symmetric:
            return affine_grid(weight, bits, block)
        return fitted_grid(weight, bits, block) if self.fit == "mse" else symmetric_grid(weight, bits, block)

    def _code(self, ctx: Context, dim: int, weight: Tensor, energy: Tensor | None = None) -> ProductCode:
        return product_code(weight, dim, self.centroids, ctx.generator(), energy=energy, iterations=self.iterations)

    def _cut(self, model: Model) -> Iterator[tuple[str, int]]:
        """Name of every weight that product quantization shrinks, and the length of its subvectors."""
        names = [name for name, _ in self.tables(model)] + (self.matrices(model) if self.bits != FLOAT else [])
        for name in names:
            dim = self.attention_block_size if group_of(name) == "attention" else self.block_size
            if pays(tuple(model.get_parameter(name).shape), dim, self.centroids):
                yield name, dim

    def _codes(
        self, model: Model, ctx: Context, batches: Sequence[Batch], loss: Callable[[int, Tensor], Tensor]
    ) -> dict[str, ProductCode]:
        """Quantize each group in turn, then let all centroids so far learn; the model holds what they give."""
        cut = dict(self._cut(model))
        layers = [name.removesuffix(".weight") for name in cut if name in self.matrices(model)]
        energy = energies(model, layers, batches) if self.activation_weighted else {}
        codes: dict[str, ProductCode] = {}
        for group in GROUPS:
            found = {
                name: self._code(ctx, dim, model.get_parameter(name).detach(), energy.get(name.removesuffix(".weight")))
                for name, dim in cut.items()
                if group_of(name) == group
            }
            write(model, found)
            codes |= found
            if found and self.tune_steps:
                codes = tune(model, codes, batches, loss, steps=self.tune_steps, learning_rate=self.tune_learning_rate)
            ctx.say(f"quantize/quant_noise {group}: {len(found)} tables of centroids")
        return codes

    def _loss(self, ctx: Context, batches: Sequence[Batch]) -> Callable[[int, Tensor], Tensor]:
        """Loss by the number of a batch and its logits; without a teacher the labels get all the weight."""
        teacher, alpha = ctx.teacher, self.alpha if ctx.teacher is not None else 0.0
        targets: dict[int, Tensor] = {}

        def loss(number: int, logits: Tensor) -> Tensor:
            batch, terms = batches[number], []
            if alpha < 1:
                terms.append((1 - alpha) * tasks.loss(ctx.task, logits, batch))
            if alpha > 0 and teacher is not None:
                if number not in targets:
                    with torch.no_grad():
                        targets[number] = teacher(**model_inputs(batch, teacher=True)).logits
                terms.append(alpha * logit_distance(logits, targets[number], batch))
            return torch.stack(terms).sum()

        return loss
