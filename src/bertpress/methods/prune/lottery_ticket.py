"""Find a sparse subnetwork that trains as well as the whole: prune, rewind, train, round after round.

Source: Chen et al. 2020, "The lottery ticket hypothesis for pre-trained BERT networks", arXiv:2007.12223, section 3,
algorithm 2 (iterative magnitude pruning with rewinding to the pre-trained weights).
Departs from it: a round prunes the trained model that it is handed, rewinds, and trains, where the paper trains,
prunes and rewinds, and trains once more in the end.  The order of the steps is the same, as the model that is handed
to the first round is fine-tuned already.  So every round leaves a trained ticket, ``repeat: k`` ends with one of
``keep^k`` of the weights, and ``until`` can judge each.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from bertpress.encoder.imports import load_pretrained
from bertpress.encoder.model import build_model
from bertpress.encoder.surgery import rebuild
from bertpress.encoder.transforms import put
from bertpress.errors import RecipeError
from bertpress.methods.base import Context, Model, Need
from bertpress.methods.masks import Mask
from bertpress.methods.sparsity import Sparsifier, largest_weights, told


class LotteryTicket(Sparsifier):
    """Remove a tenth of the weights that are left, rewind the others to their start and train, in each round."""

    cite: ClassVar[str] = "Chen et al., 2020b"
    requires: ClassVar[frozenset[Need]] = frozenset({Need.TRAINING})

    keep: float = Field(0.9, gt=0, lt=1, description="Share of the weights left that a round keeps.")
    rewind: str | None = Field(
        None, min_length=1, description="Folder of the weights to rewind to; null: the model as it was handed in."
    )
    head: Literal["rewind", "fresh"] = Field(
        "rewind", description="The last linear layer begins as the others do, or is drawn anew in each round."
    )

    def attach(self, model: Model, ctx: Context) -> Model:
        """Prune the trained weights, and begin again with the survivors.

        Raises:
            RecipeError: the weights to rewind to are those of another shape.
        """
        kept = largest_weights(model, self.weights(model), self.keep ** (ctx.round + 1))
        state = self._start(model, ctx)
        state |= {name: state[name].masked_fill(~mask, 0.0) for name, mask in kept.items()}
        new = rebuild(model, model.blueprint, state)
        for name, mask in kept.items():
            put(new, name, Mask(mask))
        ctx.say(f"prune/lottery_ticket keeps {told(kept.values())}")
        return new

    def _start(self, model: Model, ctx: Context) -> dict[str, Tensor]:
        """Every tensor as training begins with it."""
        source = ctx.pretrained if self.rewind is None else load_pretrained(self.rewind, ctx.task.head()).model
        assert source is not None
        state: dict[str, Tensor] = dict(source.state_dict())
        own = model.state_dict()
        for name in sorted({*own, *state}):
            if (there := _shape(state, name)) != (here := _shape(own, name)):
                place = self.rewind or "the model as it was handed in"
                raise RecipeError(f"prune/lottery_ticket, rewind: {name} of {place} is {there}, must be {here}")
        if self.head == "fresh":
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(ctx.seed)
                drawn = build_model(model.blueprint).state_dict()
            state |= {name: tensor for name, tensor in drawn.items() if name.startswith("head.classifier.")}
        return state


def _shape(state: dict[str, Tensor], name: str) -> list[int] | None:
    return list(state[name].shape) if name in state else None
