"""Average tokens that say nearly the same, without training.

Source: token merging, Bolya et al. 2023, arXiv:2210.09461, section 3: every second token looks for the most similar of
the others, by the cosine of the keys averaged over heads; the most similar pairs become one token between attention and
feed-forward network, and a token is looked at as many times as it has tokens in it (log of its size on the scores).
Departs from it: the paper's are image patches; here pads never merge, pairs may be a share of the text's tokens, and
pooling by the mean weighs tokens by their size too.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from bertpress.encoder.token_specs import MergeSpec
from bertpress.errors import RecipeError
from bertpress.methods.base import Context, Model
from bertpress.methods.elimination import Eliminating, layers_with_heads, with_rules

NAME = "tokens/merge"


class Merge(Eliminating):
    """Merge the most similar tokens in each layer, at once and without training."""

    cite: ClassVar[str] = "Bolya et al., 2023"

    pairs: Annotated[int, Field(ge=0, le=2**16, strict=True)] | Annotated[float, Field(gt=0, lt=1)] = Field(
        0.1, description="Pairs that become one in each layer: a number, or a share of the text's tokens."
    )
    layers: Literal["all"] | tuple[Annotated[int, Field(ge=0)], ...] = Field(
        "all", description="Numbers of the layers, from 0; all: those that have heads."
    )

    def finish(self, model: Model, ctx: Context) -> Model:
        """Put the rules.

        Raises:
            RecipeError: a layer is not there or has no heads.
        """
        there = layers_with_heads(model, NAME)
        wanted = there if self.layers == "all" else sorted(set(self.layers))
        if missing := sorted(set(wanted) - set(there)):
            raise RecipeError(f"{NAME}: layers={missing} must be among those that have heads, {there}")
        return with_rules(model, {i: rule for n, i in enumerate(wanted, 1) if (rule := self._rule(n))}, NAME)

    def _rule(self, number: int) -> MergeSpec | None:
        """Of the layer that merges as the ``number``-th."""
        if isinstance(self.pairs, int):
            return MergeSpec(kind="merge", pairs=self.pairs) if self.pairs else None
        return MergeSpec(kind="merge", keep=max(round(1 - number * self.pairs, 3), 1e-3))

    @classmethod
    def noop(cls) -> Merge:
        """No pair reproduces the model."""
        return cls(pairs=0)
