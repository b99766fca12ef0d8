"""Put the smallest weights to zero, at once or more and more while training.

Source: Gordon, Duh & Andrews 2020, "Compressing BERT", arXiv:2002.08307, section 3: the same share of each matrix, by
magnitude, then training on with the mask; the schedule is that of Zhu & Gupta 2017, arXiv:1710.01878, section 3.
Departs from it: it prunes while fine-tuning, as pretraining has no part here; the paper finds that this matters little.
``scope: global`` ranks all weights together.  A weight that is masked is no longer trained, but keeps its value below
the mask until training ends and may come back while masks are still chosen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from bertpress.methods.base import Context, Model
from bertpress.methods.masks import mask_of, with_weights
from bertpress.methods.sparsity import Masking, Thinning, cut, largest_weights, told

if TYPE_CHECKING:
    from transformers import TrainerCallback


class Magnitude(Masking):
    """Put the weights of smallest magnitude to zero, more and more while training, or once without."""

    cite: ClassVar[str] = "Gordon et al., 2020; Zhu & Gupta, 2017"

    every: int = Field(20, ge=1, le=1_000_000, description="Steps after which the masks are chosen anew.")

    def callbacks(self, ctx: Context) -> list[TrainerCallback]:
        """Masks that keep less and less."""
        return [Thinning(self, self.keep, self.every, self.prune)]

    def prune(self, model: Model, keep: float) -> None:
        """Choose the masks of a model."""
        for name, kept in largest_weights(model, self.weights(model), keep, self.scope, self.floor).items():
            mask_of(model, name).kept.copy_(kept)

    def finish(self, model: Model, ctx: Context) -> Model:
        """The share that was asked for: all of the pruning in a stage without training, nothing more after it."""
        kept = largest_weights(model, self.weights(model), self.keep, self.scope, self.floor)
        ctx.say(f"prune/magnitude keeps {told(kept.values())}")
        return with_weights(model, cut(model, kept))
