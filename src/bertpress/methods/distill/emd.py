"""Learn from all layers of the teacher at once: each layer's knowledge goes where it is cheapest to bring.

Source: BERT-EMD, Li et al. 2020, arXiv:2010.06133, section 3: an earth mover's distance between the layers of student
and teacher, on attention scores and on hidden states, and layer weights that follow the costs ("cost attention").
With ``u_i = sum_j F_ij D_ij / w_i``, what a layer pays for each unit of its weight, and ``r_i = sum(u) / u_i``:
``update: softmax`` is ``w = softmax(r / temperature)`` as in the paper, ``inverse`` is ``w = r / sum(r)``, which the
authors' code does since 2021.  The term for the answers is ``distill/logits``.
Departs from it: no weight falls below a millionth of an even share and no cost counts as less than a millionth of their
mean, as a layer without either could not be divided by.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field, model_validator
from scipy.optimize import linprog
from torch import Tensor, nn
from transformers import TrainerCallback

from bertpress.errors import RecipeError
from bertpress.methods.base import Context, Method, Model, Need
from bertpress.methods.distances import attention_score_mse, hidden_state_mse
from bertpress.methods.layer_maps import check_tokens
from bertpress.methods.linear_maps import to_width
from bertpress.training.objectives import Objective, Step

Update = Literal["inverse", "softmax", "none"]
Distance = Callable[..., Tensor]
NAME, STATE = "distill/emd", "emd"
LEAST = 1e-6


def transport(costs: Tensor, sources: Tensor, targets: Tensor) -> Tensor:
    """The cheapest flows from every row to every column.

    Args:
        costs: (rows, columns) of one unit.
        sources: (rows,) what each row gives, positive.
        targets: (columns,) what each column takes; the same sum.

    Returns:
        (rows, columns), float64, not negative; rows sum to ``sources``, columns to ``targets``.
    """
    # about 3 ms for 6 x 12 layers; POT, which tests compare it with, would take less, and be one more dependency to run
    supply, demand = sources.double().cpu().numpy(), targets.double().cpu().numpy()
    found = linprog(
        costs.detach().double().cpu().numpy().ravel(),
        A_eq=_sums(len(supply), len(demand)),
        b_eq=np.concatenate([supply, demand * (supply.sum() / demand.sum())]),
        method="highs",
    )
    if found.x is None:
        raise ArithmeticError(f"transport of {len(supply)} to {len(demand)} layers: {found.message}")
    return torch.from_numpy(found.x.reshape(len(supply), len(demand)).clip(min=0.0))


@cache
def _sums(rows: int, columns: int) -> npt.NDArray[np.float64]:
    """The matrix that takes flattened flows to the sums of their rows, then of their columns."""
    by_row = np.kron(np.eye(rows), np.ones(columns))
    return np.concatenate([by_row, np.kron(np.ones(rows), np.eye(columns))])


def next_weights(paid: Tensor, weights: Tensor, *, update: Update, temperature: float) -> Tensor:
    """Layer weights after a step: the dearer a layer's transport, the less it will weigh.

    Args:
        paid: (layers,) sum of flow times cost.
        weights: (layers,) in this step, positive.
        update: see the module.
        temperature: > 0; for ``softmax``.

    Returns:
        (layers,) positive, with sum 1.
    """
    if update == "none":
        return weights
    unit = paid / weights
    unit = unit.clamp(min=max(LEAST * float(unit.mean()), torch.finfo(unit.dtype).tiny))
    ratio = unit.sum() / unit
    new = ratio / ratio.sum() if update == "inverse" else (ratio / temperature).softmax(0)
    new = new.clamp(min=LEAST / len(new))
    return new / new.sum()


class Layers(nn.Module):
    """What lives while training: the layers' weights, float64, and the map between the two widths.

    Attributes:
        student: (layers,) weights, uniform at first.
        teacher: (layers,) weights.
        project: hidden states of the student to the teacher's width; one map for all layers.
        paid: by each forward pass of this step, flow times cost, (student layers, teacher layers): of attention scores,
            of hidden states, or of both.
    """

    student: Tensor
    teacher: Tensor

    def __init__(self, student: int, teacher: int, project: nn.Module) -> None:
        super().__init__()
        self.paid: list[list[Tensor]] = []
        self.register_buffer("student", torch.full((student,), 1 / student, dtype=torch.float64))
        self.register_buffer("teacher", torch.full((teacher,), 1 / teacher, dtype=torch.float64))
        self.project = project

    def follow(self, *, update: Update, temperature: float) -> None:
        """Give each side the mean of the weights that attention and hidden states ask for after a step."""
        paid = [torch.stack(passes).mean(0) for passes in zip(*self.paid, strict=True)]
        self.paid = []
        for weights, axis in ((self.student, 1), (self.teacher, 0)) if paid else ():
            now = weights.cpu()
            new = [next_weights(each.sum(axis), now, update=update, temperature=temperature) for each in paid]
            weights.copy_(torch.stack(new).mean(0))


class Following(TrainerCallback):  # type: ignore[misc]
    """Lets the weights of the layers follow what a step has paid, over all of its forward passes."""

    def __init__(self, method: EMD, layers: Layers) -> None:
        self.method, self.layers = method, layers

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Once a step."""
        self.layers.follow(update=self.method.update, temperature=self.method.temperature)


def cost_table(student: Sequence[Tensor], teacher: Sequence[Tensor], distance: Distance, mask: Tensor) -> Tensor:
    """(student layers, teacher layers) distances of every pair, without gradient, float64."""
    with torch.no_grad():
        rows = [[distance(student=a, teacher=b, mask=mask) for b in teacher] for a in student]
        return torch.stack([torch.stack(row) for row in rows]).double().cpu()


@dataclass
class EarthMover:
    """The cost of the cheapest transport between the layers, on attention scores and on hidden states, summed."""

    method: EMD
    weight: float
    captures: frozenset[str]
    name: str = "emd"
    needs_teacher: bool = True

    def __call__(self, step: Step) -> Tensor:
        """The costs under flows that are held fixed; what was paid is noted."""
        assert step.teacher is not None
        layers, mask = step.state[STATE], step.batch["attention_mask"]
        assert isinstance(layers, Layers)
        student, teacher = step.student.captured, step.teacher.captured
        terms, paid = [], []

        def move(own: Sequence[Tensor], target: Sequence[Tensor], distance: Distance) -> None:
            costs = cost_table(own, target, distance, mask)
            flows = transport(costs, layers.student, layers.teacher)
            for i, j in flows.nonzero().tolist():
                terms.append(float(flows[i, j]) * distance(student=own[i], teacher=target[j], mask=mask))
            paid.append(flows * costs)

        if self.method.attention:
            move(student["scores"], teacher["scores"], attention_score_mse)
        if self.method.hidden or self.method.embeddings:
            first, *rest = [layers.project(each) for each in student["hidden_states"]]
            if self.method.hidden:
                move(rest, teacher["hidden_states"][1:], hidden_state_mse)
            if self.method.embeddings:
                terms.append(hidden_state_mse(student=first, teacher=teacher["hidden_states"][0], mask=mask))
        layers.paid.append(paid)
        return torch.stack(terms).sum()


class EMD(Method):
    """Distil attention scores and hidden states of all layers, matched by an earth mover's distance."""

    cite: ClassVar[str] = "Li et al., 2020"
    requires: ClassVar[frozenset[Need]] = frozenset({Need.TEACHER, Need.TRAINING, Need.TOKENS})

    weight: float = Field(0.01, gt=0, le=1000, description="Of the whole term; the paper's beta.")
    attention: bool = Field(True, description="Compare the attention scores; needs equal numbers of heads.")
    hidden: bool = Field(True, description="Compare the hidden states, through a projection where widths differ.")
    embeddings: bool = Field(True, description="Compare the outputs of the embeddings, through the same projection.")
    update: Update = Field("softmax", description="How the weights of the layers follow the costs; none: uniform.")
    temperature: float = Field(1.0, gt=0, le=1000, description="softmax: evens out the weights of the layers.")

    @model_validator(mode="after")
    def _something(self) -> EMD:
        if not (self.attention or self.hidden or self.embeddings):
            raise ValueError("attention=false must not go with hidden=false and embeddings=false")
        return self

    def attach(self, model: Model, ctx: Context) -> Model:
        """Uniform weights; a projection where the student is narrower."""
        assert ctx.teacher is not None
        check_tokens(NAME, model, ctx.teacher)
        here, there = model.blueprint, ctx.teacher.blueprint
        heads = sorted({len(spec.attention.heads) for shape in (here, there) for spec in shape.layers})
        if self.attention and (len(heads) > 1 or heads == [0]):
            raise RecipeError(
                f"{NAME}: all layers of student and teacher must have the same number of heads, not "
                f"{' and '.join(map(str, heads))}; attention=false leaves their scores out"
            )
        project = to_width(here.hidden_size, there.hidden_size, ctx.generator())
        ctx.state[STATE] = Layers(len(here.layers), len(there.layers), project)
        return model

    def objectives(self, ctx: Context) -> list[Objective]:
        """The transport."""
        captures = {"scores"} if self.attention else set()
        captures |= {"hidden_states"} if self.hidden or self.embeddings else set()
        return [EarthMover(self, self.weight, frozenset(captures))]

    def callbacks(self, ctx: Context) -> list[TrainerCallback]:
        """The weights of the layers."""
        layers = ctx.state[STATE]
        assert isinstance(layers, Layers)
        return [Following(self, layers)]
