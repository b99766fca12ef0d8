"""The methods of a stage put on a model, one after the other, where they go together."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from bertpress.encoder.model import BertpressPreTrainedModel
from bertpress.errors import ModelError, RecipeError
from bertpress.methods.base import Context, Need
from bertpress.recipe import Stage


def attached(stage: Stage, model: BertpressPreTrainedModel, ctx: Context) -> BertpressPreTrainedModel:
    """The model with all methods of a stage on it.

    Raises:
        RecipeError: a method refuses the model, or changes layers that one before it has fitted its terms to.
    """
    fitted = None
    for name, method in stage.methods:
        before = _layers(model)
        with named(stage, name):
            model = method.attach(model, ctx)
        if fitted is not None and _layers(model) != before:
            raise RecipeError(f"stage {stage.name}, {name}: changes layers that {fitted} compares; put it before that")
        if Need.TOKENS in method.requires:
            fitted = fitted or name
    return model


@contextmanager
def named(stage: Stage, method: str) -> Iterator[None]:
    """Put stage and method before an error that does not name the method yet."""
    try:
        yield
    except (ModelError, RecipeError) as fault:
        if method in str(fault):
            raise
        raise type(fault)(f"stage {stage.name}, {method}: {fault}") from None


def _layers(model: BertpressPreTrainedModel) -> tuple[int, tuple[int, ...]]:
    """What terms that compare layers depend on: the width, and the heads of each layer."""
    shape = model.blueprint
    return shape.hidden_size, tuple(len(layer.attention.heads) for layer in shape.layers)
