"""The forward passes of one training step: by default one, of the model as it is, under the run's objectives."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from bertpress.training.objectives import Objective

Configure = Callable[[Any], AbstractContextManager[Any]]
"""From a model to a block in which it computes otherwise, such as a narrower part of itself."""


def as_it_is(model: nn.Module) -> AbstractContextManager[Any]:
    """Change nothing."""
    return nullcontext()


@dataclass(frozen=True)
class Pass:
    """One forward pass over the batch of a step; the gradients of all passes add up to one update.

    Attributes:
        name: comes before the names of its terms in the log: ``0.5/logits``; distinct within a step.
        configure: the model computes in its block.
        teacher: the teacher computes in its block; passes with the same function share one answer.
        objectives: terms of this pass alone, beside those of the run.
        weight: factor of its loss.
    """

    name: str = ""
    configure: Configure = as_it_is
    teacher: Configure = as_it_is
    objectives: Sequence[Objective] = ()
    weight: float = 1.0

    def term(self, name: str) -> str:
        """What a term of this pass is called in the log."""
        return f"{self.name}/{name}" if self.name else name

    def all_objectives(self, shared: Sequence[Objective]) -> list[Objective]:
        """The terms of the run, then those of the pass."""
        return [*shared, *self.objectives]


def joined(found: Sequence[tuple[Tensor, dict[str, Tensor]]]) -> dict[str, Tensor]:
    """The terms of several passes, each a loss and its terms, in one mapping."""
    return {name: value for _, terms in found for name, value in terms.items()}
