"""What all methods of early exits share: putting exits on a model, their losses, a backbone that stays as it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor
from transformers import TrainerCallback

from bertpress import tasks
from bertpress.encoder.blueprint import ExitRule, ExitSpec
from bertpress.encoder.exit_specs import Speed
from bertpress.encoder.surgery import rebuild
from bertpress.errors import RecipeError
from bertpress.methods.base import Context, Method, Model, Need, Trait
from bertpress.methods.students import fresh
from bertpress.training.objectives import Step

CAPTURE = frozenset({"exits"})


def add_exits(model: Model, spec: ExitSpec, rule: ExitRule, ctx: Context, *, name: str, every: int = 1) -> Model:
    """The same model with an exit behind every layer but the last, or behind every so many of them.

    Weights are drawn by the stage's seed; a dense layer starts as that of the model's head.

    Args:
        model: stays as it is.
        spec: of each exit.
        rule: when a text leaves.
        ctx: gives the task and the seed.
        name: of the method, for messages.
        every: 2: behind the second, the fourth ...; a model of too few layers has one behind its last but one.

    Raises:
        RecipeError: the model can have no exits, or has some.
    """
    blueprint = model.blueprint
    if (reason := blueprint.exit_obstacle) is not None:
        raise RecipeError(f"{name}: {reason}")
    if blueprint.exit is not None:
        raise RecipeError(f"{name}: the model has early exits already")
    if ctx.task.multi_label:
        raise RecipeError(f"{name}: the task {ctx.task.name} must have one class or score for each text, not several")
    depth = len(blueprint.layers)
    step = max(1, min(every, depth - 1))
    layers = [
        layer.model_copy(update={"exit": spec}) if number % step == 0 and number < depth else layer
        for number, layer in enumerate(blueprint.layers, start=1)
    ]
    shape = blueprint.replace(layers=tuple(layers), exit=rule)
    state = fresh(shape, model, ctx.seed).state_dict() | model.state_dict()
    if spec.kind == "pooled":
        for key in [key for key in state if ".exit.dense." in key]:
            state[key] = state["head.dense." + key.rpartition(".")[2]]
    return rebuild(model, shape, state, model.storage)


@dataclass
class ExitLoss:
    """The task's loss at every exit and at the head, each times its share.

    Attributes:
        shares: from the number of exits, the head included, to a factor for each.
    """

    shares: Callable[[int], Sequence[float]]
    name: str = "exits"
    weight: float = 1.0
    captures: frozenset[str] = CAPTURE
    needs_teacher: bool = False

    def __call__(self, step: Step) -> Tensor:
        """Sum over the exits of the mean loss of the batch."""
        answers = (*step.student.captured["exits"], step.student.logits)
        losses = [
            share * tasks.loss(step.task, logits, step.batch)
            for share, logits in zip(self.shares(len(answers)), answers, strict=True)
            if share
        ]
        return torch.stack(losses).sum()


def equally(exits: int) -> list[float]:
    """1 for every early exit, 0 for the head, which is the last."""
    return [1.0] * (exits - 1) + [0.0]


class FrozenBackbone(TrainerCallback):  # type: ignore[misc]
    """Lets the exits alone train: everything else has no gradient and never moves."""

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Model | None = None, **_: Any) -> None:
        """Freeze all but the exits."""
        assert model is not None
        for name, weight in model.named_parameters():
            weight.requires_grad_(".exit." in name)

    def on_train_end(self, args: Any, state: Any, control: Any, model: Model | None = None, **_: Any) -> None:
        """Leave nothing frozen."""
        assert model is not None
        model.requires_grad_(True)


class Exits(Method):
    """Base of the methods that put exits behind layers: when a text leaves is chosen at run time, within a rule."""

    requires: ClassVar[frozenset[Need]] = frozenset({Need.TRAINING})
    provides: ClassVar[frozenset[Trait]] = frozenset({Trait.EXITS})
    conflicts: ClassVar[frozenset[Trait]] = frozenset({Trait.EXITS, Trait.INT8, Trait.TOKENS})

    speed: Speed | None = Field(
        None, description="The usual one: 0 runs all layers, 1 leaves at the first exit; null: chosen by drop."
    )
    drop: float = Field(
        0.5,
        ge=0,
        le=100,
        description="Points that the usual speed may cost on rows held out of training, where chosen.",
    )


class FrozenExits(Exits):
    """Base of those whose exits train on a fine-tuned model that stays as it is, and that leave where they are sure."""

    every: int = Field(
        1, ge=1, le=64, description="An exit behind every so many layers: fewer parts to run for a text that stays."
    )

    def callbacks(self, ctx: Context) -> list[TrainerCallback]:
        """Freeze the backbone."""
        return [FrozenBackbone()]

    @classmethod
    def noop(cls) -> Any:
        """All layers."""
        return cls(speed=0.0)


def refuse_scores(ctx: Context, name: str) -> None:
    """Entropy needs classes.

    Raises:
        RecipeError: the task gives each text a score; other heads that may have no exits are refused elsewhere.
    """
    if ctx.task.is_regression and ctx.task.head().kind == "sequence":
        raise RecipeError(f"{name}: a score has no entropy to leave by ({ctx.task.name}); use exit/pabee")
