"""One model that runs at many widths and depths.

Source: Hou et al. 2020, "DynaBERT: dynamic BERT with adaptive width and depth", arXiv:2004.04037, sections 2.1 (width)
and 2.2 (depth), and the authors' released code for which hidden states meet.  Each update adds up the gradients of all
sub-networks: lambda1 times the soft cross-entropy of the logits plus lambda2 times the squared error of the hidden
states, that of the embeddings included.  A teacher that is elastic itself answers at the width of the pass.
Departs from it: importances are absolute values of each example, not of each batch; no augmented data of its own.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from pydantic import Field, model_validator
from torch import Tensor

from bertpress.encoder.blueprint import ElasticSpec, Share
from bertpress.encoder.subnetworks import cut, layers_at, running, subnetwork
from bertpress.encoder.surgery import rebuild
from bertpress.errors import RecipeError
from bertpress.methods.base import Context, Method, Model, Need, Trait
from bertpress.methods.distances import hidden_state_mse
from bertpress.methods.elastic import in_order_of_importance
from bertpress.methods.matching import TeacherLoss
from bertpress.training.objectives import Objective, Step, TaskLoss
from bertpress.training.passes import Pass, as_it_is


@dataclass
class HiddenStatesAtDepth:
    """Squared distance of what each layer that is left takes in to what it takes in at the teacher, and of the last."""

    depth: float
    weight: float = 1.0
    name: str = "hidden_states"
    captures: frozenset[str] = frozenset({"hidden_states"})
    needs_teacher: bool = True

    def __call__(self, step: Step) -> Tensor:
        """Sum over the layers."""
        assert step.teacher is not None
        own, target = (side.captured["hidden_states"] for side in (step.student, step.teacher))
        layers = len(target) - 1
        places = [*layers_at(self.depth, layers), layers]
        mask = step.batch["attention_mask"]
        pairs = zip(own, places, strict=True)
        return torch.stack(
            [hidden_state_mse(student=mine, teacher=target[place], mask=mask) for mine, place in pairs]
        ).sum()


def at(width: float, depth: float, model: Model) -> AbstractContextManager[None]:
    """A block in which the model runs as one of its sub-networks."""
    return running(model, subnetwork(model.blueprint, width=width, depth=depth))


class Dynabert(Method):
    """Sort heads and neurons by importance, and train shares of the width and the depth to run alone."""

    cite: ClassVar[str] = "Hou et al., 2020"
    requires: ClassVar[frozenset[Need]] = frozenset({Need.LABELS, Need.TEACHER, Need.TOKENS, Need.CALIBRATION})
    provides: ClassVar[frozenset[Trait]] = frozenset({Trait.NARROW, Trait.SHALLOW})
    reshapes: ClassVar[bool] = True
    conflicts: ClassVar[frozenset[Trait]] = frozenset({Trait.INT8, Trait.SHARED})
    supervises: ClassVar[bool] = True

    widths: tuple[Share, ...] = Field(
        (0.25, 0.5, 0.75, 1.0), min_length=1, description="Shares of heads and neurons that are trained to run alone."
    )
    depths: tuple[Share, ...] = Field(
        (0.5, 0.75, 1.0), min_length=1, description="Shares of the layers, each with every width; 1 alone: widths only."
    )
    task: float = Field(0.0, ge=0, le=1000, description="Weight of the task's loss on the labels.")
    logits: float = Field(1.0, ge=0, le=1000, description="Weight of the soft cross-entropy with the teacher.")
    hidden_states: float = Field(1.0, ge=0, le=1000, description="Weight of the squared error of the hidden states.")
    width: Share | None = Field(None, description="Cut this width out at the end; null keeps all of them.")
    depth: Share | None = Field(None, description="Cut this depth out at the end; null keeps all of them.")
    examples: int = Field(256, ge=1, le=100_000, description="Training examples that the importance is measured on.")

    @model_validator(mode="after")
    def _choices(self) -> Dynabert:
        if not (self.task or self.logits or self.hidden_states):
            raise ValueError("task=0 must not go with logits=0 and hidden_states=0")
        for name, chosen, among in (("width", self.width, self.widths), ("depth", self.depth, self.depths)):
            if len(set(among)) < len(among):
                raise ValueError(f"{name}s={list(among)} must be distinct")
            if chosen is not None and chosen not in among:
                raise ValueError(f"{name}={chosen} must be one of {name}s={list(among)}")
        return self

    def attach(self, model: Model, ctx: Context) -> Model:
        """Rewire, once: a model that is elastic already was trained in its order.

        Raises:
            RecipeError: the model's layers cannot be narrowed, or the teacher has other hidden states.
        """
        if self.hidden_states and ctx.teacher is not None:
            own, other = ((len(each.layers), each.hidden_size) for each in (model.blueprint, ctx.teacher.blueprint))
            if own != other:
                raise RecipeError(
                    f"prune/dynabert: hidden_states={self.hidden_states:g} needs a teacher of {own[0]} layers of "
                    f"{own[1]}, not {other[0]} of {other[1]}; set it to 0"
                )
        if model.blueprint.elastic is None:
            model = in_order_of_importance(model, ctx, self.examples, "prune/dynabert")
        elastic = ElasticSpec(widths=self.widths, depths=self.depths)
        return rebuild(model, model.blueprint.replace(elastic=elastic), model.state_dict())

    def objectives(self, ctx: Context) -> list[Objective]:
        """What all sub-networks learn; terms of weight 0 are left out."""
        terms: list[Objective] = [
            TaskLoss(weight=self.task),
            TeacherLoss("ce", 1.0, ctx.task.head().kind, weight=self.logits),
        ]
        return [term for term in terms if term.weight]

    def passes(self, ctx: Context) -> list[Pass]:
        """One for each sub-network, the largest first."""
        elastic = ctx.teacher is not None and ctx.teacher.blueprint.elastic is not None
        found = []
        for width in sorted(self.widths, reverse=True):
            teacher = partial(at, width, 1.0) if elastic and width < 1 else as_it_is
            for depth in sorted(self.depths, reverse=True):
                own = [HiddenStatesAtDepth(depth, weight=self.hidden_states)] if self.hidden_states else []
                found.append(Pass(f"{width:g}x{depth:g}", partial(at, width, depth), teacher, own))
        return found

    def finish(self, model: Model, ctx: Context) -> Model:
        """Cut the sub-network that was chosen, if any was."""
        if self.width is None and self.depth is None:
            return model
        return cut(model, subnetwork(model.blueprint, width=self.width or 1.0, depth=self.depth or 1.0))

    @classmethod
    def noop(cls) -> Dynabert:
        """The whole width and depth alone reproduce the model: its parts are only sorted."""
        return cls(widths=(1.0,), depths=(1.0,))
