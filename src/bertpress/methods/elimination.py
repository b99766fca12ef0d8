"""What methods that let tokens go share: the models that can, the rules put on them, soft ones while training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import ValidationError
from transformers import TrainerCallback

from bertpress.encoder.blueprint import Blueprint
from bertpress.encoder.elimination import Rule
from bertpress.encoder.surgery import rebuild
from bertpress.encoder.token_specs import AnyLeave, ThresholdSpec, token_obstacle
from bertpress.errors import RecipeError
from bertpress.methods.base import Method, Model, Trait
from bertpress.methods.fields import explain


class Eliminating(Method):
    """Base of the methods whose models have fewer tokens in their upper layers."""

    provides: ClassVar[frozenset[Trait]] = frozenset({Trait.TOKENS})
    conflicts: ClassVar[frozenset[Trait]] = frozenset({Trait.TOKENS, Trait.EXITS})


def layers_with_heads(model: Model, place: str) -> list[int]:
    """Numbers of the layers in which tokens can leave, from 0.

    Raises:
        RecipeError: none can, or some do already.
    """
    blueprint = model.blueprint
    if blueprint.shrinks:
        raise RecipeError(f"{place}: tokens leave on the model's way already")
    if (reason := token_obstacle(blueprint)) is not None:
        raise RecipeError(f"{place}: {reason}")
    found = [i for i, layer in enumerate(blueprint.layers) if layer.attention.heads and not layer.separate]
    if not found:
        raise RecipeError(f"{place}: the model has no layer whose attention says which tokens matter")
    _ruled(blueprint, dict.fromkeys(found, ThresholdSpec(kind="threshold", threshold=0)), place)
    return found


def with_rules(model: Model, rules: Mapping[int, AnyLeave], place: str) -> Model:
    """The model with these rules, by layer.

    Raises:
        RecipeError: the shape does not allow them.
    """
    return rebuild(model, _ruled(model.blueprint, rules, place), model.state_dict(), model.storage)


def _ruled(blueprint: Blueprint, rules: Mapping[int, AnyLeave], place: str) -> Blueprint:
    layers = [layer.model_copy(update={"leave": rules.get(i)}) for i, layer in enumerate(blueprint.layers)]
    try:
        return blueprint.with_layers(tuple(layers))
    except ValidationError as fault:
        raise RecipeError(f"{place}: {explain(fault, Blueprint)}") from None


class SoftRules(TrainerCallback):  # type: ignore[misc]
    """Has layers follow rules that are learnt, from the beginning of training to its end.

    They are put in place when training begins, so that a method that attaches later and builds the model anew does not
    lose them.
    """

    def __init__(self, rules: Mapping[int, Rule]) -> None:
        self.rules = rules

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Model | None = None, **_: Any) -> None:
        """Follow them."""
        self._put(model, self.rules)

    def on_train_end(self, args: Any, state: Any, control: Any, model: Model | None = None, **_: Any) -> None:
        """Every token stays again."""
        self._put(model, {})

    def _put(self, model: Model | None, rules: Mapping[int, Rule]) -> None:
        assert model is not None
        for i, layer in enumerate(model.encoder.layers):
            layer.rule = rules.get(i)  # type: ignore[assignment]
