"""A thin and deep student: bottlenecks around its layers, so that between them it is as wide as the teacher.

Source: MobileBERT, Sun et al. 2020, arXiv:2004.02984, section 3: bottlenecks, stacked feed-forward networks, NoNorm and
ReLU, three neighbouring token vectors in one.  The published model has 24 layers of 512 dimensions, 128 inside, 4
heads, 4 networks of 512 neurons, token vectors of 128.
Departs from it: the paper trains a teacher for it, with inverted bottlenecks and the same embeddings; here it is any
model, whose hidden size the student takes.  Position and segment tables, pooler and classifier are copied where their
shapes agree; the token table and its projection begin as the best approximation of the teacher's token vectors, and a
NoNorm behind them as the one that is nearest to the teacher's LayerNorm on training text.  Shares of widths default to
the published ones.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from bertpress.encoder.blueprint import AttentionSpec, Blueprint, BottleneckSpec, EmbeddingSpec, LayerSpec, Norm
from bertpress.errors import RecipeError
from bertpress.methods.activations import calibration
from bertpress.methods.base import Context, Method, Model, Need, Trait
from bertpress.methods.low_rank import truncated_svd
from bertpress.methods.selection import Size, count_of
from bertpress.methods.students import fresh

NAME = "student/mobilebert"
EMBEDDINGS = "encoder.embeddings."
Count = Annotated[int, Field(ge=1, le=65_536)]


def nearest_affine(inputs: Tensor, outputs: Tensor) -> tuple[Tensor, Tensor]:
    """Gamma and beta, (width,) each, whose ``gamma * x + beta`` has the least squared error.

    Args:
        inputs: (rows, width).
        outputs: the same shape.
    """
    middle, target = inputs.mean(0), outputs.mean(0)
    centred = inputs - middle
    gamma = (centred * (outputs - target)).sum(0) / centred.square().sum(0).clamp(min=1e-12)
    return gamma, target - gamma * middle


def projected_tokens(table: Tensor, size: int, window: int) -> tuple[Tensor, Tensor]:
    """Token vectors of ``size`` dimensions, and the projection of ``window`` of them that is nearest to ``table``.

    Args:
        table: (vocabulary, hidden).
        size: at most the smaller of both.
        window: neighbours that are projected at once, 1 or 3; those beside the token itself begin at 0.

    Returns:
        (vocabulary, size) and (hidden, window * size).
    """
    vectors, axes = truncated_svd(table, size)
    projection = table.new_zeros(table.shape[1], window * size)
    own = window // 2 * size
    projection[:, own : own + size] = axes.t()
    return vectors, projection


class MobileBert(Method):
    """Build a thin student of bottlenecks and stacked feed-forward networks, as wide as the teacher between layers."""

    cite: ClassVar[str] = "Sun et al., 2020"
    requires: ClassVar[frozenset[Need]] = frozenset({Need.CALIBRATION})
    provides: ClassVar[frozenset[Trait]] = frozenset({Trait.SHALLOW, Trait.NARROW})

    layers: Size | None = Field(None, description="Layers: a number, a share of the teacher's, or null for all.")
    bottleneck: Size = Field(
        0.25, description="Width inside of a layer: a number, or a share of the hidden size; a multiple of the heads."
    )
    heads: Count | None = Field(None, description="Heads in each layer; null: as many as the teacher's.")
    networks: int = Field(4, ge=1, le=64, description="Feed-forward networks in each layer, one behind the other.")
    ffn: Count | None = Field(None, description="Neurons in each of them; null: four times the bottleneck.")
    embedding_size: Size = Field(0.25, description="Width of token vectors: a number, or a share of the hidden size.")
    window: Literal[1, 3] = Field(3, description="Neighbouring token vectors that make up a token's first state.")
    norm: Norm = Field("affine", description="Behind embeddings, sub-units and bottlenecks: NoNorm, or LayerNorm.")
    activation: Literal["relu", "gelu"] = Field("relu", description="Of the feed-forward networks.")
    start: Literal["teacher", "random"] = Field("teacher", description="Where embeddings and head come from.")
    examples: int = Field(256, ge=1, le=100_000, description="Training examples that the first NoNorm is fitted on.")

    def shape(self, teacher: Blueprint) -> Blueprint:
        """The student's shape.

        Raises:
            ValueError: a width is larger than the teacher's, or the heads do not divide the bottleneck.
        """
        hidden = teacher.hidden_size
        heads = self.heads or max((len(layer.attention.heads) for layer in teacher.layers), default=0) or 1
        inner = count_of(self.bottleneck, hidden, "bottleneck", multiple=heads)
        if inner % heads:
            raise ValueError(f"bottleneck={inner} must be a multiple of heads={heads}")
        layer = LayerSpec(
            attention=AttentionSpec(heads=tuple(range(heads)), head_size=inner // heads, value_size=inner // heads),
            ffn=(self.ffn or 4 * inner,) * self.networks,
            activation=self.activation,
            norm=self.norm,
            bottleneck=BottleneckSpec(size=inner),
        )
        changes = {
            "size": count_of(self.embedding_size, hidden, "embedding_size"),
            "window": self.window,
            "project": "tokens",
            "norm": self.norm,
        }
        return Blueprint(
            family="mobilebert",
            hidden_size=hidden,
            embeddings=EmbeddingSpec(**{**teacher.embeddings.model_dump(), **changes}),
            layers=(layer,) * count_of(self.layers, len(teacher.layers), "layers"),
            head=teacher.head,
            norm_epsilon=teacher.norm_epsilon,
            dropout=0.0,
        )

    def attach(self, model: Model, ctx: Context) -> Model:
        """Build it.

        Raises:
            RecipeError: the shape is impossible.
        """
        try:
            student = fresh(self.shape(model.blueprint), model, ctx.seed)
            if self.start == "teacher":
                self._begin(student, model, ctx)
        except ValueError as fault:
            raise RecipeError(f"{NAME}: {' '.join(str(fault).split())}") from None
        shape, layer = student.blueprint, student.blueprint.layers[0]
        ctx.say(
            f"{NAME}: {len(shape.layers)} layers, {layer.attention.query_width} of {shape.hidden_size} dimensions "
            f"inside, {shape.total_parameters:,} of {model.blueprint.total_parameters:,} parameters"
        )
        return student

    def _begin(self, student: Model, model: Model, ctx: Context) -> None:
        """Take over embeddings and head as far as they fit."""
        own, theirs = student.state_dict(), model.state_dict()
        here, there = student.blueprint.embeddings, model.blueprint.embeddings
        norm = f"{EMBEDDINGS}norm."
        for name, tensor in own.items():
            copied = name.startswith(("head.", EMBEDDINGS)) and not (here.norm != there.norm and name.startswith(norm))
            if copied and name in theirs and theirs[name].shape == tensor.shape:
                tensor.copy_(theirs[name])
        if there.project == "none":
            word, projection = projected_tokens(theirs[f"{EMBEDDINGS}word.weight"], here.size, here.window)
            own[f"{EMBEDDINGS}word.weight"].copy_(word)
            own[f"{EMBEDDINGS}projection.weight"].copy_(projection)
        if here.norm == "affine" != there.norm:
            gamma, beta = nearest_affine(*self._states(student, model, ctx))
            own[f"{norm}weight"].copy_(gamma)
            own[f"{norm}bias"].copy_(beta)

    @torch.no_grad()
    def _states(self, student: Model, model: Model, ctx: Context) -> tuple[Tensor, Tensor]:
        """What both embeddings give for training text, (tokens, hidden) each; pads left out."""
        found: tuple[list[Tensor], list[Tensor]] = ([], [])
        for batch in calibration(model, ctx, self.examples):
            for states, each in zip(found, (student, model), strict=True):
                given = each.encoder.embeddings(batch["input_ids"], batch.get("token_type_ids"))
                states.append(given[batch["attention_mask"].bool()])
        return torch.cat(found[0]), torch.cat(found[1])
