"""Layers of a teacher that each look for the student's layer that is nearest to them, anew at every step.

Source: CoFi, Xia, Zhong & Chen 2022, arXiv:2204.00408, section 3.3, equations 3 and 4: the squared distance of hidden
states behind one linear map W, which starts as the identity; a student's layer that is pruned is no choice.  With
``ordered`` matches follow the order of the layers, which the authors advise where examples are few.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bertpress.methods.base import Context, Model
from bertpress.methods.distances import hidden_state_mse
from bertpress.methods.layer_maps import uniform
from bertpress.training.objectives import Step


def nearest(costs: Sequence[Sequence[float]], live: Sequence[bool], *, ordered: bool) -> list[int]:
    """The student's layer for each of the teacher's.

    Args:
        costs: of each pair, by the teacher's layer and the student's.
        live: which of the student's layers may be chosen; where none is, all are.
        ordered: from the last of the teacher's layers down, each takes the nearest of those below the match of the one
            above it; where none is left there, the same.

    Returns:
        Positions, from 0; of equals the lowest.
    """
    free = [i for i, there in enumerate(live) if there] or list(range(len(live)))
    found: list[int] = []
    for row in reversed(costs):
        below = [i for i in free if not ordered or not found or i < found[0]]
        found.insert(0, min(below, key=lambda i: row[i]) if below else found[0])
    return found


def quarters(layers: int) -> tuple[int, ...]:
    """Four evenly spaced layers of a teacher, counted from 1, the last one among them: 3, 6, 9 and 12 of 12."""
    return tuple(uniform(min(4, layers), layers)[1:])


def linear_map(model: Model, ctx: Context) -> nn.Linear:
    """From the student's hidden width to the teacher's: the identity; where they differ orthogonal, by the seed."""
    assert ctx.teacher is not None
    inputs, outputs = (each.blueprint.hidden_size for each in (model, ctx.teacher))
    projection = nn.Linear(inputs, outputs, bias=False)
    if inputs == outputs:
        nn.init.eye_(projection.weight)
    else:
        nn.init.orthogonal_(projection.weight, generator=ctx.generator())
    return projection


@dataclass
class NearestLayers:
    """Sum over some of the teacher's layers of the squared distance to the nearest layer of the student.

    Attributes:
        teacher_layers: counted from 1.
        projection: of the student's states.
        live: which of the student's layers are there.
        ordered: see :func:`nearest`.
        weight: in the loss.
    """

    teacher_layers: Sequence[int]
    projection: nn.Linear
    live: Callable[[], Sequence[bool]]
    ordered: bool = False
    weight: float = 1.0
    name: str = "layers"
    captures: frozenset[str] = frozenset({"hidden_states"})
    needs_teacher: bool = True

    @property
    def teacher_places(self) -> frozenset[int]:
        """Places on the teacher's tape that are read."""
        return frozenset(self.teacher_layers)

    def __call__(self, step: Step) -> Tensor:
        """No gradient reaches the choice, nor layers that were not chosen."""
        assert step.teacher is not None
        mask = step.batch["attention_mask"]
        own = [self.projection(state) for state in step.student.captured["hidden_states"][1:]]
        target = [step.teacher.captured["hidden_states"][layer] for layer in self.teacher_layers]
        terms = [[hidden_state_mse(student=a, teacher=b, mask=mask) for a in own] for b in target]
        costs = torch.stack([torch.stack(row) for row in terms]).detach().tolist()
        chosen = nearest(costs, self.live(), ordered=self.ordered)
        return torch.stack([row[i] for row, i in zip(terms, chosen, strict=True)]).sum()
