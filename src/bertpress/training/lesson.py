"""What the batches of one task teach; a run has one lesson, or several that take turns."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor, nn

from bertpress.encoder.blueprint import HeadSpec
from bertpress.tasks import Encoded, Task
from bertpress.training.objectives import Objective, captures
from bertpress.training.passes import Configure, Pass
from bertpress.training.teacher import Teacher


@dataclass(frozen=True)
class Lesson:
    """A task, its examples, the terms of its loss, and whom they follow.

    Attributes:
        task: with its labels known.
        data: encoded train rows.
        objectives: terms of the loss, shared by the passes.
        teacher: for objectives that need one.
        passes: forward passes over each batch.
    """

    task: Task
    data: Encoded
    objectives: Sequence[Objective]
    teacher: Teacher | None = None
    passes: Sequence[Pass] = (Pass(),)

    @cached_property
    def terms(self) -> list[tuple[Pass, list[Objective]]]:
        """Each pass with all its terms."""
        return [(each, each.all_objectives(self.objectives)) for each in self.passes]

    @property
    def all_objectives(self) -> list[Objective]:
        """The terms of all passes."""
        return [term for _, terms in self.terms for term in terms]

    @property
    def follows(self) -> Teacher | None:
        """The teacher, if a term asks it."""
        return self.teacher if any(term.needs_teacher for term in self.all_objectives) else None

    def answer(self, configure: Configure, batch: dict[str, Tensor], answers: dict[Configure, Any]) -> Any:
        """The teacher's output in one configuration; passes that share it compute it once, into ``answers``."""
        assert self.teacher is not None
        if configure not in answers:
            with configure(self.teacher.model):
                answers[configure] = self.teacher(batch, captures(self.all_objectives, teacher=True))
        return answers[configure]


@contextmanager
def under_head(model: Any, *, head: nn.Module, spec: HeadSpec) -> Iterator[None]:
    """A block in which the encoder of ``model`` answers through another head."""
    own = model.head, model.blueprint
    model.head, model.blueprint = head, model.blueprint.replace(head=spec)
    try:
        yield
    finally:
        model.head, model.blueprint = own
