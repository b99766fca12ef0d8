"""What the methods share that build a student afresh: its word vectors, its head, its first weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from bertpress.encoder.blueprint import (
    AttentionSpec,
    Blueprint,
    EmbeddingSpec,
    HeadSpec,
    LayerSpec,
    ShorteningSpec,
)
from bertpress.encoder.model import build_model
from bertpress.errors import RecipeError
from bertpress.methods.base import Context, Method, Model, Trait
from bertpress.methods.low_rank import truncated_svd
from bertpress.methods.selection import Size, count_of

Width = Annotated[int, Field(ge=1, le=65_536)]


def fresh(shape: Blueprint, model: Model, seed: int) -> Model:
    """A model of this shape with weights that depend on the seed alone, and the labels of ``model``."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        keys = ("id2label", "label2id", "problem_type")
        return build_model(shape, **{key: getattr(model.config, key) for key in keys})


def smaller(
    teacher: Blueprint, layers: int, *, hidden_size: Size | None, heads: Size | None, ffn: Size | None, multiple_of: int
) -> Blueprint:
    """A Transformer of equal layers, each width a number, a share of what the teacher's first layer has, or all of it.

    Args:
        teacher: gives embeddings, head and activation; without relative positions and bottlenecks.
        layers: of the student.
        hidden_size: of the student.
        heads: in each layer.
        ffn: neurons in each layer.
        multiple_of: shares of widths are rounded to this.

    Raises:
        ValueError: a width is larger than the teacher's, or the heads do not divide the hidden size.
    """
    hidden = count_of(hidden_size, teacher.hidden_size, "hidden_size", multiple=multiple_of)
    first = teacher.layers[0]
    count = count_of(heads, len(first.attention.heads), "heads")
    if hidden % count:
        raise ValueError(f"hidden_size={hidden} must be a multiple of heads={count}")
    size = hidden // count
    layer = LayerSpec(
        attention=AttentionSpec(heads=tuple(range(count)), head_size=size, value_size=size),
        ffn=(count_of(ffn, first.ffn[0], "ffn", multiple=multiple_of),),
        activation=first.activation,
    )
    embeddings = teacher.embeddings
    if embeddings.project == "none":
        embeddings = embeddings.model_copy(update={"size": hidden})
    return teacher.replace(hidden_size=hidden, embeddings=embeddings, layers=(layer,) * layers)


def narrowed_tables(tables: dict[str, Tensor], size: int) -> dict[str, Tensor]:
    """Embedding tables in the ``size`` directions in which the word vectors are largest; all of them as they are.

    Args:
        tables: ``word`` and others that are added to it; those of another width are left out.
        size: at most the width of ``word``.
    """
    word = tables["word"]
    added = {name: table for name, table in tables.items() if table.shape[1] == word.shape[1]}
    if size == word.shape[1]:
        return added
    vectors, axes = truncated_svd(word, size)
    return {name: vectors if name == "word" else table @ axes.t() for name, table in added.items()}


class Student(Method):
    """Base of the methods that build a student of convolutions, LSTMs or a mix, upon the teacher's word vectors."""

    provides: ClassVar[frozenset[Trait]] = frozenset({Trait.SHALLOW, Trait.NARROW})

    embedding_size: Size | None = Field(
        None, description="Width of the word vectors: a number, a share of the teacher's, or null for all."
    )
    start: Literal["teacher", "random"] = Field(
        "teacher", description="Where the word vectors come from; the teacher's are made narrower by a truncated SVD."
    )
    pairs: Literal["joint", "siamese"] = Field(
        "joint", description="Pairs of texts are read as one, or apart by the same weights and then compared."
    )
    dense: Width = Field(200, description="Width of the dense layer (ReLU) before the classifier of whole texts.")
    dropout: float = Field(0.1, ge=0, lt=1, description="Of embeddings, layers and head, while training.")

    def build(
        self,
        model: Model,
        ctx: Context,
        *,
        name: str,
        hidden: int,
        layers: Sequence[LayerSpec],
        pooling: Literal["mean", "max", "ends"],
        shortening: ShorteningSpec | None = None,
    ) -> Model:
        """The student.

        Args:
            model: the teacher, or whatever it shall stand in for.
            ctx: gives the task and the seed.
            name: of the method.
            hidden: width of all layers.
            layers: from the first to the last.
            pooling: for heads that answer for a whole text.
            shortening: of the sequence, if any.

        Raises:
            RecipeError: the shape is impossible, or segments cannot be told apart.
        """
        teacher, given = model.blueprint, self.embedding_size
        size = given if isinstance(given, int) else count_of(given, teacher.embeddings.size, "embedding_size")
        try:
            if self.start == "teacher" and size > teacher.embeddings.size:
                raise ValueError(f"embedding_size={size} must be at most the teacher's {teacher.embeddings.size}")
            shape = Blueprint(
                family=teacher.family,
                hidden_size=hidden,
                embeddings=self._embeddings(teacher, ctx, size, hidden, layers),
                shortening=shortening,
                layers=tuple(layers),
                head=self._head(teacher, ctx, pooling),
                norm_epsilon=teacher.norm_epsilon,
                dropout=self.dropout,
                attention_dropout=self.dropout,
            )
        except ValueError as fault:
            raise RecipeError(f"{name}: {' '.join(str(fault).split())}") from None
        student = fresh(shape, model, ctx.seed)
        if self.start == "teacher":
            theirs = model.encoder.embeddings
            tables = {"word": theirs.word, "position": theirs.position, "segment": theirs.segment}
            weights = {table: module.weight.detach() for table, module in tables.items() if module is not None}
            for table, weight in narrowed_tables(weights, size).items():
                if (own := getattr(student.encoder.embeddings, table)) is not None:
                    own.weight.data.copy_(weight)
        own_size, whole = (shape.parameters_without_embeddings for shape in (student.blueprint, teacher))
        ctx.say(f"{name}: {own_size:,} of {whole:,} parameters beside the embeddings, hidden {hidden}")
        return student

    def _siamese(self, teacher: Blueprint, ctx: Context) -> bool:
        pair = len(ctx.task.text_columns) == 2 and teacher.head is not None and teacher.head.kind == "sequence"
        if not pair or self.pairs == "joint":
            return False
        if "token_type_ids" not in ctx.tokenizer.model_input_names:
            raise ValueError("pairs=siamese needs a tokenizer that numbers the segments; set pairs: joint")
        return True

    def _embeddings(
        self, teacher: Blueprint, ctx: Context, size: int, hidden: int, layers: Sequence[LayerSpec]
    ) -> EmbeddingSpec:
        """Positions where attention asks for them, segments where two texts are read as one."""
        spec = teacher.embeddings
        ordered = all(layer.mixer is not None for layer in layers)
        apart = len(ctx.task.text_columns) < 2 or self._siamese(teacher, ctx)
        return EmbeddingSpec(
            vocabulary=spec.vocabulary,
            size=size,
            positions=0 if ordered else spec.positions,
            segments=0 if apart else spec.segments,
            project="none" if size == hidden else "after",
            first_position=0 if ordered else spec.first_position,
            pad_id=spec.pad_id,
        )

    def _head(self, teacher: Blueprint, ctx: Context, pooling: str) -> HeadSpec | None:
        head = teacher.head
        if head is None or head.kind not in ("sequence", "embedding"):
            return head
        shape = head.model_dump() | {"pooling": pooling, "siamese": self._siamese(teacher, ctx)}
        if head.kind == "sequence":
            shape |= {"dense": True, "dense_size": self.dense, "activation": "relu"}
        return HeadSpec(**shape)
