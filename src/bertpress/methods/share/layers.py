"""Let all layers compute with one layer's weights, or with one layer's for each group of neighbours.

Source: ALBERT, Lan et al. 2020, "ALBERT: a lite BERT for self-supervised learning of language representations",
arXiv:1909.11942, sections 3.1 (all weights, those of attention, or those of feed-forward networks) and 4.5 (groups).
Departs from it: the paper pre-trains a model that shares; here a trained one begins to share, from one of its layers or
from the mean of them, and is trained on.  Sub-units are shared with the norm that closes them.
What is shared lies once in the artifact and in exports to OpenVINO and ONNX, int8 ones too; a plain transformers folder
holds a copy for each layer unless the model is an ALBERT.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from bertpress.encoder.surgery import Unit, share
from bertpress.errors import RecipeError
from bertpress.methods.base import Context, Method, Model, Trait
from bertpress.methods.selection import Size, count_of

NAME = "share/layers"


def group_owners(depth: int, groups: int) -> dict[int, int]:
    """Which layer gives its weights to which: layer -> the first one of its group, for all that are not first.

    Args:
        depth: number of layers.
        groups: of neighbours, as even as can be, 1 to ``depth``.
    """
    first: dict[int, int] = {}
    owners = [first.setdefault(layer * groups // depth, layer) for layer in range(depth)]
    return {layer: owner for layer, owner in enumerate(owners) if layer != owner}


class Layers(Method):
    """Let layers share one layer's weights, which are stored once and trained by all that use them."""

    cite: ClassVar[str] = "Lan et al., 2020"
    provides: ClassVar[frozenset[Trait]] = frozenset({Trait.SHARED})
    conflicts: ClassVar[frozenset[Trait]] = frozenset({Trait.INT8})

    unit: Unit = Field("all", description="What is shared: whole layers, attention alone, or feed-forward networks.")
    groups: Size = Field(
        1, description="Groups of neighbouring layers with weights of their own: a number, or a share of the layers."
    )
    start: Literal["first", "mean"] | Annotated[int, Field(ge=1, le=1000)] = Field(
        "first", description="The shared weights begin as those of each group's first layer, n-th layer, or their mean."
    )

    def attach(self, model: Model, ctx: Context) -> Model:
        """Share, before training.

        Raises:
            RecipeError: layers differ in shape or share already, or there are fewer of them than asked for.
        """
        depth = len(model.blueprint.layers)
        start = self.start if self.start == "mean" else 0 if self.start == "first" else self.start - 1
        try:
            groups = count_of(self.groups, depth, "groups")
            owners = group_owners(depth, groups)
            shared = share(model, owners, unit=self.unit, start=start) if owners else model
        except ValueError as fault:
            raise RecipeError(f"{NAME}: {' '.join(str(fault).split())}") from None
        before, after = (each.blueprint.total_parameters for each in (model, shared))
        ctx.say(f"{NAME}: weights of {groups} for {depth} layers, {after:,} of {before:,} parameters")
        return shared

    @classmethod
    def noop(cls) -> Layers:
        """As many groups as layers share nothing."""
        return cls(groups=1.0)
