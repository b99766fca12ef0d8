"""Terms of the loss. A run sums the objectives of all its methods, each times its weight."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

from bertpress import tasks
from bertpress.tasks import Task

Reads = Mapping[str, frozenset[int] | None]
"""Names on the tape, each with the places of the tensors that are read there; None: all of them."""


@dataclass
class Step:
    """What an objective sees of one batch; floating-point outputs are float32 whatever the precision.

    Attributes:
        batch: the collated batch on the model's device; ``index`` (batch,) names the examples.
        student: the model's output: ``logits``, and ``captured`` by name.
        teacher: the teacher's output without gradient; None if no objective needs one.
        task: the task that is learnt.
        state: modules that live only while training.
    """

    batch: dict[str, Tensor]
    student: Any
    teacher: Any | None
    task: Task
    state: nn.ModuleDict


class Objective(Protocol):
    """One term of the loss.

    Attributes:
        name: key of the term in the log; distinct within a run.
        weight: factor in the sum; read at each step, so that a callback may change it.
        captures: intermediate tensors that it reads from student and teacher.
        needs_teacher: whether :attr:`Step.teacher` must be there.

    A term that reads few of the teacher's layers may say so in ``teacher_places``, a frozenset of places on the tape:
    a cache of the teacher then holds no others.
    """

    name: str
    weight: float
    captures: frozenset[str]
    needs_teacher: bool

    def __call__(self, step: Step) -> Tensor:
        """Mean over the examples of the batch, a scalar."""
        ...


@dataclass
class TaskLoss:
    """The task's own loss on the labels: cross-entropy, squared error, span cross-entropy."""

    weight: float = 1.0
    name: str = "task"
    captures: frozenset[str] = frozenset()
    needs_teacher: bool = False

    def __call__(self, step: Step) -> Tensor:
        """Mean loss over the labelled examples or tokens."""
        return tasks.loss(step.task, step.student.logits, step.batch)


@dataclass
class Penalty:
    """A term that asks nothing of the batch's answers: a norm of weights, gates or activations."""

    name: str
    value: Callable[[], Tensor]
    weight: float = 1.0
    captures: frozenset[str] = frozenset()
    needs_teacher: bool = False

    def __call__(self, step: Step) -> Tensor:
        """The value as it is now, a scalar."""
        return self.value()


def captures(objectives: Sequence[Objective], *, teacher: bool) -> frozenset[str]:
    """Names of the intermediate tensors that the student (or the teacher) has to hand over."""
    return frozenset().union(*(term.captures for term in objectives if term.needs_teacher or not teacher))


def teacher_reads(objectives: Sequence[Objective]) -> Reads:
    """What the terms read of the teacher's tape, place by place."""
    found: dict[str, frozenset[int] | None] = {}
    for term in objectives:
        for name in term.captures if term.needs_teacher else ():
            places, before = getattr(term, "teacher_places", None), found.get(name, frozenset())
            found[name] = None if places is None or before is None else before | places
    return found


def total(objectives: Sequence[Objective], step: Step) -> tuple[Tensor, dict[str, Tensor]]:
    """Weighted sum of the terms, and each term without weight and gradient.

    A term of weight 0 is not computed: it could not change a gradient, but may cost a lot.
    """
    terms = {term.name: term(step) for term in objectives if term.weight}
    if not terms:
        raise ValueError("no objective has a weight other than 0")
    weighted = [terms[term.name] * term.weight for term in objectives if term.weight]
    loss = weighted[0]
    for value in weighted[1:]:
        loss = loss + value
    return loss, {name: value.detach() for name, value in terms.items()}
