"""Tell the teacher's view of a text from its views of texts of other classes.

Source: CoDIR, Sun et al. 2020, arXiv:2009.14167, sections 3.1 (sentence vectors from the layers) and 3.2 (contrastive
loss with a memory bank; after contrastive representation distillation, Tian et al. 2020, arXiv:1910.10699, section 3).
The vectors of all layers of a text are put side by side, mapped to a common space and scaled to unit length: f for the
student, g for the teacher.  With ``P(f, g) = exp(f g / temperature) / Z`` and K negatives among N texts the loss is
``-log(P / (P + K/N)) - sum_k log((K/N) / (P_k + K/N))``, student against the teacher's bank and the other way round,
averaged.  Z is N times the mean score of the first batch, so that N cancels.  Beside it stands ``distill/logits``.
Departs from it: a text enters the bank when it is first seen, and negatives are drawn from what is there, where the
authors' code begins with noise in all rows; a row moves before it is compared, not after.  Texts whose class nobody
knows (those without labels, masked LM) are each a class of their own, as in the paper's pre-training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from bertpress.encoder.heads import pool
from bertpress.errors import RecipeError
from bertpress.methods.base import Context, Method, Model, Need
from bertpress.methods.layer_maps import check_tokens
from bertpress.methods.linear_maps import linear
from bertpress.tasks import Encoded
from bertpress.training.objectives import Objective, Step

Pooling = Literal["mean", "cls"]
Item = TypeVar("Item")
NAME, STATE = "distill/codir", "codir"


def sentence_vectors(layers: Sequence[Tensor], mask: Tensor, pooling: Pooling) -> Tensor:
    """(batch, layers x hidden): the pooled states of these layers, side by side; pads never count."""
    return torch.cat([pool(each, mask, pooling) for each in layers], -1)


def nce(positive: Tensor, negatives: Tensor, normalizer: Tensor) -> Tensor:
    """Noise-contrastive loss, averaged over the batch.

    Args:
        positive: (batch,) exponentiated scores of what belongs together.
        negatives: (batch, K) those of what does not.
        normalizer: () the mean score that both are measured in.
    """
    count = negatives.shape[1]
    own, others = positive / normalizer, negatives / normalizer
    return -((own / (own + count)).log() + (count / (others + count)).log().sum(-1)).mean()


def moved(row: Tensor, vector: Tensor, seen: Tensor, momentum: float) -> Tensor:
    """Rows of a bank after their texts were met: a moving average of unit length; rows that are empty take the vector.

    Args:
        row: (batch, size).
        vector: (batch, size) of unit length.
        seen: (batch,), bool, whether the row holds anything.
        momentum: share of the old row.
    """
    return F.normalize(torch.where(seen[:, None], momentum * row + (1 - momentum) * vector, vector), dim=-1)


def draw_others(labels: Tensor, texts: Tensor, classes: Tensor, count: int) -> Tensor:
    """Texts of other classes, with replacement, by torch's global generator.

    Args:
        labels: (batch,) classes.
        texts: (texts,) what to draw from; of two classes at least.
        classes: (texts,) theirs, ascending.
        count: to draw for each.

    Returns:
        (batch, count) of ``texts``.
    """
    first = torch.searchsorted(classes, labels)
    same = torch.searchsorted(classes, labels, right=True) - first
    share = torch.rand(len(labels), count, dtype=torch.float64, device=labels.device)
    place = (share * (len(texts) - same)[:, None]).long()
    return texts[place + same[:, None] * (place >= first[:, None])]  # jump over the own class


class Banks(nn.Module):
    """What lives while training: the maps into the common space, and there a vector of each side for every text.

    Attributes:
        labels: (texts,) classes.
        order: (texts,) by class.
        seen: (texts,), bool.
        student: (texts, size).
        teacher: (texts, size).
        normalizers: (2,) mean scores of the first batch that had negatives; zeros until then.
    """

    labels: Tensor
    order: Tensor
    seen: Tensor
    student: Tensor
    teacher: Tensor
    normalizers: Tensor

    def __init__(self, widths: Sequence[int], size: int, generator: torch.Generator) -> None:
        super().__init__()
        self.of_student, self.of_teacher = (linear(width, size, generator) for width in widths)

    def open(self, labels: Tensor) -> None:
        """Empty rows for texts of these classes."""
        size = self.of_student.out_features
        self.register_buffer("labels", labels, persistent=False)
        self.register_buffer("order", labels.argsort(stable=True), persistent=False)
        self.register_buffer("seen", torch.zeros(len(labels), dtype=torch.bool))
        self.register_buffer("student", torch.zeros(len(labels), size))
        self.register_buffer("teacher", torch.zeros(len(labels), size))
        self.register_buffer("normalizers", torch.zeros(2))

    def meet(self, index: Tensor, student: Tensor, teacher: Tensor, momentum: float) -> None:
        """Move the rows of these texts."""
        for bank, vectors in ((self.student, student), (self.teacher, teacher)):
            bank[index] = moved(bank[index], vectors.detach(), self.seen[index], momentum)
        self.seen[index] = True

    def negatives(self, index: Tensor, count: int) -> Tensor | None:
        """(batch, count) texts of other classes that were seen; None while all are of one class."""
        texts = self.order[self.seen[self.order]]
        labels = self.labels[texts]
        return None if labels[0] == labels[-1] else draw_others(self.labels[index], texts, labels, count)


@dataclass
class Contrast:
    """The contrastive loss in both directions; ``teacher_layers`` is how many the teacher has."""

    method: CoDIR
    teacher_layers: int
    weight: float
    name: str = "codir"
    captures: frozenset[str] = frozenset({"hidden_states"})
    needs_teacher: bool = True

    @property
    def teacher_places(self) -> frozenset[int]:
        """Places on the teacher's tape that are read."""
        return frozenset(every(range(1, self.teacher_layers + 1), self.method.every))

    def __call__(self, step: Step) -> Tensor:
        """Mean over the texts and the directions; 0 before texts of two classes were seen."""
        assert step.teacher is not None
        banks, method, index = step.state[STATE], self.method, step.batch["index"]
        assert isinstance(banks, Banks)
        mask = step.batch["attention_mask"]
        own = sentence_vectors(step.student.captured["hidden_states"][1:], mask, method.pooling)
        target = sentence_vectors(every(step.teacher.captured["hidden_states"][1:], method.every), mask, method.pooling)
        student = F.normalize(banks.of_student(own), dim=-1)
        teacher = F.normalize(banks.of_teacher(target), dim=-1)
        banks.meet(index, student, teacher, method.momentum)
        others = banks.negatives(index, method.negatives)
        if others is None:
            return (student.sum() + teacher.sum()) * 0.0
        texts = torch.cat([index[:, None], others], 1)
        scores = [
            ((bank[texts] * vectors[:, None]).sum(-1) / method.temperature).exp()
            for vectors, bank in ((student, banks.teacher), (teacher, banks.student))
        ]
        if not banks.normalizers.any():
            banks.normalizers.copy_(torch.stack([each.detach().mean() for each in scores]))
        losses = [nce(each[:, 0], each[:, 1:], banks.normalizers[i]) for i, each in enumerate(scores)]
        return torch.stack(losses).mean()


def every(layers: Sequence[Item], step: int) -> Sequence[Item]:
    """The last layer and every ``step``-th before it, in order."""
    return layers[(len(layers) - 1) % step :: step]


def classes_of(data: Encoded) -> Tensor:
    """(texts,) the class of each; a text of which none is known has its own.

    Raises:
        RecipeError: all texts are of one class.
    """
    if not data.task.is_classification or data.labels is None:
        return torch.arange(len(data))
    known = [data.labels[row] for row in data.row_of]
    if len({*known}) == 1 and known[0] is not None:
        raise RecipeError(f"{NAME}: the training texts must be of two classes at least; all are of one")
    first = 1 + max((label for label in known if label is not None), default=0)
    return torch.tensor([first + i if label is None else label for i, label in enumerate(known)])


class CoDIR(Method):
    """Distil by contrast: the student's view of a text is the teacher's, and not that of a text of another class."""

    cite: ClassVar[str] = "Sun et al., 2020"
    requires: ClassVar[frozenset[Need]] = frozenset({Need.TEACHER, Need.TRAINING, Need.TOKENS})

    weight: float = Field(0.1, gt=0, le=1000, description="Of the contrastive term; the paper's gamma.")
    negatives: int = Field(100, ge=1, le=100_000, description="Texts of other classes that each is told from.")
    size: int = Field(128, ge=1, le=65_536, description="Dimensions of the common space.")
    temperature: float = Field(0.07, gt=0, le=100, description="Divides the cosines.")
    momentum: float = Field(0.5, ge=0, lt=1, description="Share of a text's old vector when it is seen again.")
    pooling: Pooling = Field("mean", description="Of tokens; mean: the paper's, cls: the authors' code.")
    every: int = Field(2, ge=1, le=1000, description="Of the teacher's layers every so many-th, the last included.")

    def attach(self, model: Model, ctx: Context) -> Model:
        """Make the maps."""
        assert ctx.teacher is not None
        check_tokens(NAME, model, ctx.teacher)
        by_class = ctx.task.is_classification and not ctx.task.multi_label
        if not (ctx.unlabelled or by_class or ctx.task.kind == "masked-lm"):
            kind = "several labels a text" if ctx.task.multi_label else ctx.task.kind
            raise RecipeError(f"{NAME}: the task {ctx.task.name} must have one class for each text, not {kind}")
        here, there = model.blueprint, ctx.teacher.blueprint
        taken = len(every(range(len(there.layers)), self.every))
        widths = (len(here.layers) * here.hidden_size, taken * there.hidden_size)
        ctx.state[STATE] = Banks(widths, self.size, ctx.generator())
        return model

    def objectives(self, ctx: Context) -> list[Objective]:
        """The contrast, with a row in the banks for every training text."""
        banks = ctx.state[STATE]
        assert isinstance(banks, Banks)
        assert ctx.train is not None
        assert ctx.teacher is not None
        banks.open(classes_of(ctx.train))
        return [Contrast(self, len(ctx.teacher.blueprint.layers), self.weight)]
