"""Terms of the loss between a student and its teacher: their logits, and what both put on the tape."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from bertpress.errors import RecipeError
from bertpress.methods.base import Context, Model
from bertpress.methods.distances import (
    LOSSES,
    Distance,
    attention_score_mse,
    cosine_mse,
    hidden_state_mse,
    logit_mse,
    soft_binary,
    soft_binary_kl,
)
from bertpress.training.objectives import Objective, Step

Side = Literal["student", "teacher"]


def comparable_rows(kind: str, logits: Tensor, batch: dict[str, Tensor]) -> list[Tensor]:
    """What is compared, as (rows, classes) tensors whose losses are averaged.

    Sequences: the examples.  Tokens: those that are no pads.  Spans: start and end scores, pads excluded.  Masked LM:
    the positions to predict.
    """
    if kind == "token":
        return [logits[batch["attention_mask"].bool()]]
    if kind == "span":
        pads = batch["attention_mask"] == 0
        return [logits[..., i].masked_fill(pads, -1e4) for i in (0, 1)]
    if kind == "masked_lm":
        return [logits[batch["labels"] != -100]]
    return [logits]


@dataclass
class TeacherLoss:
    """The distance between the student's and the teacher's logits."""

    loss: str
    temperature: float
    kind: str
    weight: float = 1.0
    name: str = "logits"
    captures: frozenset[str] = frozenset()
    needs_teacher: bool = True

    def __call__(self, step: Step) -> Tensor:
        """Mean over what the task compares."""
        assert step.teacher is not None
        # a softmax over positions leaves out pads by their scores, a difference does not
        kind = "token" if self.kind == "span" and self.loss in ("mse", "mae") else self.kind
        own = comparable_rows(kind, step.student.logits, step.batch)
        target = comparable_rows(kind, step.teacher.logits, step.batch)
        if not own[0].numel():  # no word of the batch is masked, or all of it is pads
            nothing: Tensor = step.student.logits.sum() * 0.0
            return nothing
        distance = LOSSES[self.loss]
        if self.loss in ("ce", "kl") and self.kind == "sequence":
            if step.task.is_regression:
                distance = logit_mse
            elif step.task.multi_label:
                distance = soft_binary if self.loss == "ce" else soft_binary_kl
        elif self.kind == "embedding":
            distance = logit_mse if own[0].shape == target[0].shape else cosine_mse
        terms = [distance(student=a, teacher=b, temperature=self.temperature) for a, b in zip(own, target, strict=True)]
        return torch.stack(terms).mean()


class Pairs(nn.Module):
    """Which tensors on the tape meet, and the linear maps that make them equally wide; lives in ``ctx.state``.

    Args:
        places: on the student's tape and on the teacher's, for each pair.
        projections: one for each pair, one for all, or none.
        side: whose tensors go through them.
    """

    def __init__(
        self, places: Sequence[tuple[int, int]], projections: Sequence[nn.Module] = (), side: Side = "student"
    ) -> None:
        super().__init__()
        self.places, self.side = tuple(places), side
        self.projections = nn.ModuleList(projections)

    def forward(self, own: Sequence[Tensor], target: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """The tensors that meet, student's first, from those on both tapes."""
        found = []
        for i, (mine, theirs) in enumerate(self.places):
            a, b = own[mine], target[theirs]
            if self.projections:
                projection = self.projections[i % len(self.projections)]
                a, b = (projection(a), b) if self.side == "student" else (a, projection(b))
            found.append((a, b))
        return found


def projected_pairs(
    places: Sequence[tuple[int, int]], model: Model, ctx: Context, *, side: Side = "student", shared: bool = True
) -> Pairs:
    """Pairs of hidden states; where the widths differ with orthogonal maps without bias, drawn by the seed.

    Args:
        places: on both tapes.
        model: the student.
        ctx: with the teacher.
        side: whose states are mapped to the other's width.
        shared: one map for all pairs.
    """
    assert ctx.teacher is not None
    widths = [each.blueprint.hidden_size for each in (model, ctx.teacher)]
    if widths[0] == widths[1]:
        return Pairs(places)
    inputs, outputs = widths if side == "student" else widths[::-1]
    generator, projections = ctx.generator(), []
    for _ in places[:1] if shared else places:
        weight = nn.init.orthogonal_(torch.empty(outputs, inputs), generator=generator)
        projection = nn.Linear(inputs, outputs, bias=False, device="meta")
        projection.weight = nn.Parameter(weight)
        projections.append(projection)
    return Pairs(places, projections, side)


def pairs_in(ctx: Context, name: str) -> Pairs:
    """The pairs that a method's ``attach`` left in ``ctx.state``."""
    pairs = ctx.state[name]
    assert isinstance(pairs, Pairs)
    return pairs


@dataclass
class Matching:
    """A distance between what student and teacher put on the tape under one name, summed over pairs of layers.

    Attributes:
        name: of the term.
        capture: name on the tape.
        distance: of one pair.
        pairs: which meet; None: all, in order, of the same shapes.
        weight: in the loss.
    """

    name: str
    capture: str
    distance: Distance
    pairs: Pairs | None = None
    weight: float = 1.0
    captures: frozenset[str] = field(init=False)
    needs_teacher: bool = True

    def __post_init__(self) -> None:
        self.captures = frozenset({self.capture})

    @property
    def teacher_places(self) -> frozenset[int] | None:
        """Places on the teacher's tape that are read; None: all."""
        return None if self.pairs is None else frozenset(place for _, place in self.pairs.places)

    def __call__(self, step: Step) -> Tensor:
        """Sum over the pairs."""
        mask = step.batch["attention_mask"]
        pairs = captured(step, self.capture, self.name, self.pairs)
        return torch.stack([self.distance(student=a, teacher=b, mask=mask) for a, b in pairs]).sum()


def matched(name: str, capture: str, distance: Distance, pairs: Pairs | None, weight: float) -> list[Objective]:
    """The term, or none where its weight is 0 or nothing meets."""
    if not weight or (pairs is not None and not pairs.places):
        return []
    return [Matching(name, capture, distance, pairs, weight)]


def captured(step: Step, name: str, term: str, pairs: Pairs | None = None) -> list[tuple[Tensor, Tensor]]:
    """What student and teacher put on the tape under ``name``, pair by pair; by default layer by layer.

    Raises:
        RecipeError: they have different numbers of layers, or shapes; or nothing for each token.
    """
    own, target = (list(model.captured[name]) for model in (step.student, step.teacher) if model is not None)
    if pairs is None:
        alike, found = len(own) == len(target), list(zip(own, target, strict=False))
    else:
        alike = all(mine < len(own) and theirs < len(target) for mine, theirs in pairs.places)
        found = pairs(own, target) if alike else []
    if not alike or any(a.shape != b.shape for a, b in found):
        shapes = " and ".join(_shapes(side) for side in (own, target))
        raise RecipeError(f"{term}: student and teacher must have the same shapes, not {shapes}; leave the term out")
    if not found or any((a.shape[0], a.shape[-2]) != step.batch["attention_mask"].shape for a, _ in found):
        why = "layers without attention, on a shortened sequence or under a siamese head have none for each token"
        raise RecipeError(f"{term}: {why}; leave the term out")
    return found


def _shapes(tensors: Sequence[Tensor | None]) -> str:
    known = [tensor for tensor in tensors if tensor is not None]
    return f"{len(tensors)} of {tuple(known[-1].shape)}" if known else "none"


def hidden_states(weight: float = 1.0) -> Matching:
    """Squared distance of all hidden states, that of the embeddings included, layer by layer."""
    return Matching("hidden_states", "hidden_states", hidden_state_mse, weight=weight)


def attention_scores(weight: float = 1.0) -> Matching:
    """Squared distance of all attention scores, head by head: student and teacher must have the same heads."""
    return Matching("attention_scores", "scores", attention_score_mse, weight=weight)
