"""What all patterns of attention share: the layers that get one, and the model that has them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from bertpress.encoder.blueprint import Blueprint
from bertpress.encoder.linformer import shared_compression
from bertpress.encoder.pattern_specs import AnyPattern
from bertpress.encoder.patterns import make_pattern
from bertpress.encoder.surgery import rebuild
from bertpress.errors import RecipeError
from bertpress.methods.base import Context, Method, Model
from bertpress.methods.fields import explain


class Patterned(Method):
    """A method that lets tokens of some layers look at fewer others."""

    layers: Literal["all"] | tuple[Annotated[int, Field(ge=0)], ...] = Field(
        "all", description="Numbers of the layers, from 0; all: those that have heads."
    )

    def chosen(self, model: Model, place: str) -> list[int]:
        """The layers that get the pattern.

        Raises:
            RecipeError: a layer is not there, has no heads, or has a pattern already.
        """
        specs = model.blueprint.layers
        there = [i for i, layer in enumerate(specs) if layer.attention.heads]
        if not there:
            raise RecipeError(f"{place}: the model has no layers with attention")
        wanted = there if self.layers == "all" else sorted(set(self.layers))
        if missing := sorted(set(wanted) - set(there)):
            raise RecipeError(f"{place}: layers={missing} must be among those that have heads, {there}")
        for i in wanted:
            if (pattern := specs[i].attention.pattern) is not None:
                raise RecipeError(f"{place}: layer {i} has the pattern {pattern.kind} already")
        return wanted


def longest(model: Model, ctx: Context) -> int:
    """Tokens of the longest input that the model can take; where it counts no positions, that the task has."""
    return model.blueprint.longest_input or ctx.task.max_length


def with_patterns(model: Model, patterns: Mapping[int, AnyPattern], place: str) -> Model:
    """The model with these patterns; what they need beside the heads' matrices is fresh.

    Args:
        model: any of our models.
        patterns: by layer; layers that share weights must get the same.
        place: what a refusal names.

    Raises:
        RecipeError: the model cannot have them.
    """
    layers = list(model.blueprint.layers)
    for i, pattern in patterns.items():
        attention = layers[i].attention.model_copy(update={"pattern": pattern})
        layers[i] = layers[i].model_copy(update={"attention": attention})
    try:
        blueprint = model.blueprint.with_layers(tuple(layers))
    except ValidationError as fault:
        raise RecipeError(f"{place}: {explain(fault, Blueprint)}") from None
    state = dict(model.state_dict())
    for i in patterns:
        unit, prefix = layers[i].attention, f"encoder.layers.{i}.attention"
        module = make_pattern(unit) if layers[i].attention_from is None else None
        state |= {f"{prefix}.pattern.{name}": each for name, each in module.state_dict().items()} if module else {}
        if unit.tied:
            state = {name: each for name, each in state.items() if not name.startswith(f"{prefix}.key")}
    if (compression := shared_compression(blueprint.layers)) is not None:
        state |= {f"encoder.compression.{name}": each for name, each in compression.state_dict().items()}
    storage = {name: stored for name, stored in model.storage.items() if name in state}
    return rebuild(model, blueprint, state, storage)
