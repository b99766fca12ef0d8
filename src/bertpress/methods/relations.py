"""Relations: how strongly the tokens of a text refer to one another, head by head, and how far two models differ in it.

Sources: MiniLM, Wang et al. 2020, arXiv:2002.10957, section 3; MiniLMv2, Wang et al. 2021, arXiv:2012.15828, section 3.
The width of what is related does not matter, only the numbers of heads and tokens.  Pads are related to nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import gcd
from typing import Literal

from torch import Tensor

from bertpress.encoder.blueprint import AttentionSpec
from bertpress.errors import RecipeError
from bertpress.methods.base import Model
from bertpress.training.objectives import Step

Related = Literal["queries", "keys", "values"]
PUBLISHED = 48  # relation heads of a base model
EXCLUDED = -1e4  # a score whose softmax is 0; finite, so that 0 times its logarithm is 0


def regroup(vectors: Tensor, heads: int) -> Tensor:
    """The same numbers cut into another number of heads.

    Args:
        vectors: (batch, heads, tokens, size).
        heads: must divide the width, heads times size.

    Returns:
        (batch, ``heads``, tokens, width / ``heads``).
    """
    whole: Tensor = vectors.transpose(1, 2).flatten(2)
    cut: Tensor = whole.unflatten(-1, (heads, -1))
    return cut.transpose(1, 2)


def relation_heads(wanted: int | None, *widths: int) -> int:
    """Into how many heads these widths are cut.

    Args:
        wanted: must divide every width; None: the largest number up to the published 48 that does.
        widths: of what is compared.

    Raises:
        ValueError: if ``wanted`` does not divide one of them.
    """
    common = gcd(*widths)
    if wanted is None:
        return next(heads for heads in range(PUBLISHED, 0, -1) if common % heads == 0)
    if common % wanted:
        raise ValueError(f"relation_heads={wanted} must divide the widths {', '.join(map(str, widths))}")
    return wanted


def log_maps(scores: Tensor, mask: Tensor) -> Tensor:
    """Logarithm of the softmax of each row over the real tokens.

    Args:
        scores: (batch, heads, tokens, tokens); columns of pads may hold anything.
        mask: (batch, tokens), 1 for tokens and 0 for pads.
    """
    return scores.masked_fill(mask[:, None, None, :] == 0, EXCLUDED).log_softmax(-1)


def log_relations(vectors: Tensor, mask: Tensor) -> Tensor:
    """Logarithm of softmax(X X^T / sqrt(size)) in each head.

    Args:
        vectors: (batch, heads, tokens, size).
        mask: as for :func:`log_maps`.

    Returns:
        (batch, heads, tokens, tokens).
    """
    return log_maps(vectors @ vectors.transpose(-1, -2) * vectors.shape[-1] ** -0.5, mask)


def relation_kl(*, student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """KL(teacher || student), averaged over heads and the rows of real tokens.

    Args:
        student: (batch, heads, tokens, tokens) logarithms, as :func:`log_maps` gives them.
        teacher: the same shape.
        mask: as for :func:`log_maps`.
    """
    by_row = (teacher.exp() * (teacher - student)).sum(-1).mean(1)
    return (by_row * mask).sum() / mask.sum()


@dataclass
class Maps:
    """KL between the attention maps of the last layers, before any dropout.

    Attributes:
        teacher_layer: the last one's place among the teacher's layers that have heads.
    """

    teacher_layer: int
    weight: float = 1.0
    name: str = "attention"
    captures: frozenset[str] = frozenset({"scores"})
    needs_teacher: bool = True

    @property
    def teacher_places(self) -> frozenset[int]:
        """Places on the teacher's tape that are read."""
        return frozenset({self.teacher_layer})

    def __call__(self, step: Step) -> Tensor:
        """Mean over heads and real tokens."""
        assert step.teacher is not None
        mask = step.batch["attention_mask"]
        sides = (step.student.captured["scores"][-1], step.teacher.captured["scores"][self.teacher_layer])
        student, teacher = (log_maps(each, mask) for each in sides)
        return relation_kl(student=student, teacher=teacher, mask=mask)


@dataclass
class Relations:
    """KL between the relations of queries, keys or values in the student's last layer and in one of the teacher's.

    Attributes:
        what: is related to itself.
        teacher_layer: its place among the teacher's layers that have heads.
        heads: as :func:`relation_heads` takes it.
    """

    what: Related
    teacher_layer: int
    heads: int | None = None
    weight: float = 1.0
    name: str = field(init=False)
    captures: frozenset[str] = field(init=False)
    needs_teacher: bool = True

    def __post_init__(self) -> None:
        """Named after what is related."""
        self.name, self.captures = self.what, frozenset({self.what})

    @property
    def teacher_places(self) -> frozenset[int]:
        """Places on the teacher's tape that are read."""
        return frozenset({self.teacher_layer})

    def __call__(self, step: Step) -> Tensor:
        """Mean over heads and real tokens."""
        assert step.teacher is not None
        mask = step.batch["attention_mask"]
        sides = (step.student.captured[self.what][-1], step.teacher.captured[self.what][self.teacher_layer])
        heads = relation_heads(self.heads, *(each.shape[1] * each.shape[3] for each in sides))
        student, teacher = (log_relations(regroup(each, heads), mask) for each in sides)
        return relation_kl(student=student, teacher=teacher, mask=mask)


def place_of(model: Model, layer: int) -> int:
    """The place of a layer, from 0, among those that have heads: others record nothing."""
    return sum(bool(spec.attention.heads) for spec in model.blueprint.layers[:layer])


def attention_of(model: Model, layer: int, method: str) -> AttentionSpec:
    """The attention of one layer.

    Args:
        model: student or teacher.
        layer: from 0; negative ones from the end.
        method: for the message.

    Raises:
        RecipeError: the layer has no heads, so there is nothing to relate.
    """
    layers = model.blueprint.layers
    spec = layers[layer].attention
    if not spec.heads:
        number = layer % len(layers) + 1
        raise RecipeError(f"{method}: layer {number} of {len(layers)} has no heads left and must have some")
    return spec
