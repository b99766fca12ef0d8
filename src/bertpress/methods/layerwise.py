"""A student whose parts learn one after the other, from the embeddings up, each what the teacher's layer gives.

A training run has a stage for the embeddings and one for each layer, of equal times.  What lies above the layer of a
stage does not run, so that the last of what the student puts on the tape is what the stage trains.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain, islice
from typing import Any

import torch
from torch import Tensor, nn

from bertpress.encoder.model import all_layers
from bertpress.methods.base import Model
from bertpress.methods.distances import Distance
from bertpress.methods.layer_plan import LayerPlan
from bertpress.methods.matching import Matching, Pairs
from bertpress.training.objectives import Objective, Step

Parts = list[list[nn.Parameter]]


def stage_of(step: int, total: int, stages: int) -> int:
    """The stage of an update, from 0.

    Args:
        step: updates that were made.
        total: updates of the whole run.
        stages: how many there are, of equal times.
    """
    return min(step * stages // total, stages - 1)


def parts_by_stage(model: Model) -> Parts:
    """The weights that train in each stage: those of the encoder outside of its layers, then those of each layer."""
    layers = [list(layer.parameters()) for layer in model.encoder.layers]
    inside = {id(weight) for weight in chain.from_iterable(layers)}
    return [[weight for weight in model.encoder.parameters() if id(weight) not in inside], *layers]


class Layerwise(LayerPlan):
    """Trains one part in each stage; those below it are frozen or slow, those above it do not run.

    Args:
        parts: the weights of each stage, of the model that is trained.
        lower_rate: share of the learning rate with which the parts of earlier stages go on; 0 freezes them.
    """

    def __init__(self, parts: Callable[[Model], Parts] = parts_by_stage, lower_rate: float = 0.0) -> None:
        super().__init__(lambda encoder: islice(all_layers(encoder), self.stage))
        self.parts_of, self.lower_rate, self.stage = parts, lower_rate, 0
        self.parts: Parts = []
        self.before: list[tuple[nn.Parameter, Tensor]] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Model | None = None, **more: Any) -> None:
        """Follow the plan; weights that somebody else froze stay so."""
        assert model is not None
        super().on_train_begin(args, state, control, model=model, **more)
        self.parts = [[weight for weight in part if weight.requires_grad] for part in self.parts_of(model)]

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Enter the stage of this step."""
        self.stage = stage_of(state.global_step, state.max_steps, len(self.parts))
        first = 0 if self.lower_rate else self.stage
        for number, part in enumerate(self.parts):
            for weight in part:
                weight.requires_grad_(first <= number <= self.stage)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Remember where the slow ones were: AdamW's update is proportional to the learning rate."""
        lower = self.parts[: self.stage] if self.lower_rate else []
        self.before = [(weight, weight.detach().clone()) for weight in chain.from_iterable(lower)]

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Let them go their share of the way."""
        for weight, before in self.before:
            weight.data.lerp_(before, 1 - self.lower_rate)
        self.before = []

    def on_train_end(self, args: Any, state: Any, control: Any, model: Model | None = None, **more: Any) -> None:
        """Run every layer again, and leave nothing frozen."""
        super().on_train_end(args, state, control, model=model, **more)
        for weight in chain.from_iterable(self.parts):
            weight.requires_grad_(True)


class LastLayer:
    """Of terms that compare one layer each, that of the last layer which ran; 0 where none has.

    Args:
        terms: in the order of the tape, of one name and weight.
    """

    needs_teacher = True

    def __init__(self, terms: Sequence[Matching]) -> None:
        self.terms = terms
        self.name, self.weight, self.captures = terms[0].name, terms[0].weight, terms[0].captures
        self.teacher_places = frozenset().union(*(term.teacher_places or () for term in terms))

    def __call__(self, step: Step) -> Tensor:
        """The distance of the two layers, a scalar."""
        ran = len(step.student.captured[self.terms[0].capture])
        return self.terms[ran - 1](step) if ran else torch.zeros((), device=step.batch["attention_mask"].device)


def last_layer(name: str, capture: str, distance: Distance, pairs: Pairs, weight: float) -> list[Objective]:
    """The term of the pair whose layer ran last; none where its weight is 0 or nothing meets.

    Args:
        name: of the term.
        capture: name on the tape.
        distance: of one pair.
        pairs: one for each place on the student's tape, in its order; with as many projections, or none.
        weight: in the loss.
    """
    if not weight or not pairs.places:
        return []
    alone = [Pairs([place], list(pairs.projections)[i : i + 1]) for i, place in enumerate(pairs.places)]
    return [LastLayer([Matching(name, capture, distance, each, weight) for each in alone])]
