"""Read the two texts apart in the lower layers, so that what is known of a passage can be kept for every question.

Source: DeFormer, Cao et al. 2020, arXiv:2005.00697, section 3.  Departs from it: the depth is also a share of the
layers; one text alone passes through as before.  The paper's terms are those of other methods in the same stage:
``distill/logits``, and ``distill/hidden`` with ``layer_map: joint`` and ``reduction: mean``.

Training and the whole model's pass mask what the other text says, which saves nothing; what saves is to take a
passage's states from a cache (``bertpress predict --passages``).  That needs positions which do not depend on the
question: as in the authors' code, those of the second text start from 0 again.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field, ValidationError

from bertpress.encoder.blueprint import Blueprint, SecondPositions
from bertpress.encoder.surgery import rebuild
from bertpress.errors import RecipeError
from bertpress.methods.base import Context, Method, Model, Need
from bertpress.methods.fields import explain


def separated(blueprint: Blueprint, layers: int, positions: SecondPositions) -> Blueprint:
    """The same encoder whose first ``layers`` layers keep the two segments apart.

    Raises:
        ValueError: no layer is left in which they meet, or something else lets them meet below.
    """
    depth = len(blueprint.layers)
    if not 0 <= layers < depth:
        raise ValueError(f"layers={layers} must be in [0, {depth - 1}], below the {depth} layers that there are")
    changed = tuple(layer.model_copy(update={"separate": i < layers}) for i, layer in enumerate(blueprint.layers))
    embeddings = blueprint.embeddings.model_copy(update={"second_positions": positions})
    return blueprint.replace(layers=changed, embeddings=embeddings)


class Deformer(Method):
    """Keep the two texts apart in the lower layers, whose states of a passage can then be cached."""

    cite: ClassVar[str] = "Cao et al., 2020"
    requires: ClassVar[frozenset[Need]] = frozenset({Need.PAIRS})

    layers: Annotated[int, Field(ge=0)] | Annotated[float, Field(gt=0, lt=1)] = Field(
        0.75, description="How many of the lower layers: a number, or a share of the depth, rounded down."
    )
    positions: SecondPositions = Field(
        "restart", description="Of the second text: restart from 0, which a cache needs, or running, as in BERT."
    )

    def attach(self, model: Model, ctx: Context) -> Model:
        """Change the shape, before training; every weight stays.

        Raises:
            RecipeError: nothing numbers the segments, or the shape cannot keep them apart.
        """
        if "token_type_ids" not in ctx.tokenizer.model_input_names:
            raise RecipeError("attention/deformer: needs a tokenizer that numbers the two texts, as BERT's does")
        depth = len(model.blueprint.layers)
        layers = int(self.layers * depth) if isinstance(self.layers, float) else self.layers
        try:
            shape = separated(model.blueprint, layers, self.positions)
        except ValidationError as fault:
            raise RecipeError(f"attention/deformer: {explain(fault, Blueprint)}") from None
        except ValueError as fault:
            raise RecipeError(f"attention/deformer: {fault}") from None
        ctx.say(f"attention/deformer: {layers} of {depth} layers read the two texts apart")
        return rebuild(model, shape, model.state_dict(), model.storage)

    @classmethod
    def noop(cls) -> Deformer:
        """No layer apart and BERT's positions reproduce the model."""
        return cls(layers=0, positions="running")
