"""Train a model part by part, from the top down or from the bottom up, while the rest stays frozen.

Source: gradual unfreezing: XtremeDistil, Mukherjee & Awadallah 2020, arXiv:2004.05686, section 4 (after Howard & Ruder
2018, arXiv:1801.06146, section 3.3); one layer at a time from the bottom: MobileBERT's progressive transfer, Sun et al.
2020, arXiv:2004.02984, section 3.5.  Departs from them: the parts share one stage in equal times, in place of stages
that end when they have converged; embeddings and head are parts like any layer.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field
from torch import nn
from transformers import TrainerCallback

from bertpress.methods.base import Context, Method, Model, Need

Order = Literal["top_down", "bottom_up"]


def parts_of(model: Model) -> list[list[nn.Parameter]]:
    """The weights of embeddings, each layer, and head, from the bottom up, each weight once and no part empty.

    Weights that need no gradient are frozen for good by somebody else and in no part.
    """
    modules: list[nn.Module] = []
    for child in model.encoder.children():
        modules += list(child) if isinstance(child, nn.ModuleList) else [child]
    seen: set[int] = set()
    parts = []
    for module in [*modules, *([] if model.head is None else [model.head])]:
        weights = [each for each in module.parameters() if each.requires_grad and id(each) not in seen]
        seen |= {id(each) for each in weights}
        if weights:
            parts.append(weights)
    return parts


def trained_parts(step: int, total: int, *, parts: int, until: float, order: Order, alone: bool) -> range:
    """Numbers of the parts, from the bottom up, that train in a step.

    Args:
        step: updates that were made.
        total: updates of the whole run.
        parts: how many there are.
        until: share of the updates by which the last part has come; each of the others has the same time before it.
        order: which part comes first.
        alone: only the part that came last trains.
    """
    time = until * total
    reached = parts if step >= time else 1 + int(step * (parts - 1) / time)
    first = reached - 1 if alone else 0
    return range(first, reached) if order == "bottom_up" else range(parts - reached, parts - first)


class Unfreezing(TrainerCallback):  # type: ignore[misc]
    """Lets the parts of a model train that the step names; a weight that is frozen has no gradient and never moves."""

    def __init__(self, method: Unfreeze) -> None:
        self.method = method
        self.parts: list[list[nn.Parameter]] | None = None

    def on_step_begin(self, args: Any, state: Any, control: Any, model: Model | None = None, **_: Any) -> None:
        """Freeze and unfreeze."""
        assert model is not None
        if self.parts is None:
            self.parts = parts_of(model)
        method = self.method
        trained = trained_parts(
            state.global_step, state.max_steps, parts=len(self.parts), until=method.until, order=method.order,
            alone=method.alone,
        )  # fmt: skip
        for number, weights in enumerate(self.parts):
            for weight in weights:
                weight.requires_grad_(number in trained)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Leave nothing frozen."""
        for weight in (weight for part in self.parts or () for weight in part):
            weight.requires_grad_(True)


class Unfreeze(Method):
    """Unfreeze head, layers and embeddings one after the other while the stage trains."""

    cite: ClassVar[str] = "Mukherjee & Awadallah, 2020; Sun et al., 2020"
    requires: ClassVar[frozenset[Need]] = frozenset({Need.TRAINING})

    order: Order = Field("top_down", description="Which part comes first: the head, or the embeddings.")
    until: float = Field(0.5, ge=0, le=1, description="Share of the steps by which the last part has come.")
    alone: bool = Field(False, description="Only the part that came last trains; those before it are frozen again.")

    def callbacks(self, ctx: Context) -> list[TrainerCallback]:
        """Unfreeze."""
        return [Unfreezing(self)]
