"""Learn how many tokens each layer needs, and let those go that get least attention.

Source: PoWER-BERT, Goyal et al. 2020, arXiv:2001.08950, section 3.  A token's significance is what it gets of the
others' attention, summed over heads.  Search: between attention and feed-forward network the token of rank k is
multiplied by r_jk in [0, 1], which starts at 1, and the loss gets the sum over layers j of j times the sum of r_jk.
What is left of that sum is the number of tokens that layer j keeps, the first among them, in their order.  A stage of
plain training afterwards is the paper's retraining.
Departs from it: pads rank last and never count, so that the paper's fixed length is not needed; by default r_j is a
function of the rank's share of the text (``unit: share``), cut into 64 intervals of which a token covers its part, so
that texts of any length keep the same share; layers that would let few tokens go let none go (``least``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn
from transformers import TrainerCallback

from bertpress.encoder.elimination import Present, attention_received, standing
from bertpress.encoder.token_specs import Share, TopSpec
from bertpress.methods.base import Context, Model, Need, Trait
from bertpress.methods.elimination import Eliminating, SoftRules, layers_with_heads, with_rules
from bertpress.training.objectives import Objective, Penalty
from bertpress.training.optimizer import Optimization

NAME, STATE = "tokens/power", "retained"
INTERVALS = 64
Kept = Annotated[int, Field(ge=1, le=2**16, strict=True)] | Share


def ranks(scores: Tensor, weights: Tensor) -> Tensor:
    """Each token's place by falling score, from 0: the first token's is 0, pads come last; (batch, tokens), int64.

    Args:
        scores: (batch, tokens).
        weights: (batch, tokens), 0 for pads.
    """
    return standing(scores, weights).argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)


def by_share(retained: Tensor, places: Tensor, lengths: Tensor) -> Tensor:
    """The mean of ``retained``, a function on [0, 1] in equal steps, over the part that each rank covers of it.

    Over the tokens of a text it sums to the mean of ``retained`` times their number.

    Args:
        retained: (intervals,).
        places: (batch, tokens), ranks from 0.
        lengths: (batch, 1), tokens of each text.

    Returns:
        (batch, tokens); 0 behind a text.
    """
    steps = retained.double()
    sums = F.pad(steps.cumsum(0), (1, 0))

    def up_to(share: Tensor) -> Tensor:
        at = (share * len(steps)).clamp(max=len(steps))
        whole = at.floor().long().clamp(max=len(steps) - 1)
        return sums[whole] + (at - whole) * steps[whole]

    places, lengths = places.double(), lengths.double().clamp(min=1)
    return ((up_to((places + 1) / lengths) - up_to(places / lengths)) * lengths / len(steps)).to(retained.dtype)


def configuration(wanted: Sequence[float], whole: float, least: float) -> list[float | None]:
    """What each layer keeps; None where it lets nobody go.  What is kept never rises.

    Args:
        wanted: by the search, for each layer from below.
        whole: what there is before any left.
        least: share of those that are there which a layer must let go.
    """
    found: list[float | None] = []
    for each in wanted:
        goes = each < whole and each <= whole * (1 - least)
        whole = each if goes else whole
        found.append(each if goes else None)
    return found


class Retained(nn.Module):
    """How much of each rank each layer keeps.

    Attributes:
        layers: their numbers, from 0.
        shares: (layers, ranks or intervals), in [0, 1].
    """

    def __init__(self, layers: Sequence[int], ranks: int, learning_rate: float) -> None:
        super().__init__()
        self.layers = list(layers)
        self.shares = nn.Parameter(torch.ones(len(self.layers), ranks))
        self.optimization = Optimization(learning_rate=learning_rate, weight_decay=0.0)

    def forward(self) -> Tensor:
        """The sum over layers, counted from 1, of their number times all that they keep; a scalar."""
        numbers = torch.tensor(self.layers, device=self.shares.device) + 1
        return (numbers * self.shares.sum(1)).sum()


@dataclass(frozen=True)
class Soft:
    """Multiplies tokens by what is kept of their rank.

    Attributes:
        retained: of all layers.
        row: of this layer there.
        shares: ranks are shares of the text.
    """

    retained: Retained
    row: int
    shares: bool
    reads: str = TopSpec.reads

    def __call__(self, present: Present, read: Tensor, states: Sequence[Tensor]) -> list[Tensor]:
        """See :class:`bertpress.encoder.elimination.Rule`; every token stays."""
        kept = self.retained.shares[self.row]
        places = ranks(attention_received(read.detach(), present.weights, others=True), present.weights)
        picked = kept[places.clamp(max=len(kept) - 1)]
        factors = by_share(kept, places, present.lengths) if self.shares else picked
        return [x * factors[:, :, None] for x in states]


class Clamp(TrainerCallback):  # type: ignore[misc]
    """Keeps what is retained within [0, 1]."""

    def __init__(self, retained: Retained) -> None:
        self.retained = retained

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """After each update."""
        self.retained.shares.data.clamp_(0, 1)


class Power(Eliminating):
    """Keep in each layer the tokens that get most attention, as many as a search while training finds useful."""

    cite: ClassVar[str] = "Goyal et al., 2020"
    requires: ClassVar[frozenset[Need]] = frozenset({Need.TRAINING})
    conflicts: ClassVar[frozenset[Trait]] = Eliminating.conflicts | {Trait.INT8}

    keep: tuple[Kept, ...] | None = Field(
        None,
        min_length=1,
        description="What layers keep, from below: tokens, or shares of the text's; the last holds for those above. "
        "null: a search decides.",
    )
    unit: Literal["share", "tokens"] = Field("share", description="What the search finds: shares of a text, or tokens.")
    penalty: float = Field(1e-3, ge=0, le=1000, description="Weight of what is kept in the loss; more: fewer stay.")
    learning_rate: float = Field(1e-2, gt=0, le=10, description="Peak, of what is kept.")
    least: float = Field(
        0.1, ge=0, lt=1, description="Share of the tokens there that a layer lets go, or it lets none."
    )

    @model_validator(mode="after")
    def _falls(self) -> Power:
        keep = self.keep or ()
        if len({type(each) for each in keep}) > 1 or any(a < b for a, b in pairwise(keep)):
            raise ValueError(f"keep={list(keep)} must be all numbers of tokens or all shares, and never rise")
        return self

    def attach(self, model: Model, ctx: Context) -> Model:
        """Put the rules that are given, or what is to be learnt."""
        layers = layers_with_heads(model, NAME)
        if self.keep is not None:
            wanted = [self.keep[min(i, len(self.keep) - 1)] for i in range(len(model.blueprint.layers))]
            whole = 1.0 if isinstance(self.keep[0], float) else 2**16 + 1
            return self._ruled(model, ctx, layers, configuration([wanted[i] for i in layers], whole, 0.0))
        size = INTERVALS if self.unit == "share" else ctx.task.max_length
        ctx.state[STATE] = Retained(layers, size, self.learning_rate)
        return model

    def objectives(self, ctx: Context) -> list[Objective]:
        """What is kept, where it is searched for."""
        return [Penalty("tokens", _retained(ctx), weight=self.penalty)] if self.keep is None and self.penalty else []

    def callbacks(self, ctx: Context) -> list[TrainerCallback]:
        """The soft rules, and their bounds."""
        if self.keep is not None:
            return []
        kept = _retained(ctx)
        return [SoftRules({i: Soft(kept, row, self.unit == "share") for row, i in enumerate(kept.layers)}), Clamp(kept)]

    def finish(self, model: Model, ctx: Context) -> Model:
        """Put the rules that the search found."""
        if self.keep is not None:
            return model
        kept = _retained(ctx)
        if self.unit == "share":
            wanted = [max(round(share, 3), 1e-3) for share in kept.shares.detach().double().mean(1).tolist()]
            return self._ruled(model, ctx, kept.layers, configuration(wanted, 1.0, self.least))
        sums = kept.shares.detach().double().sum(1).tolist()
        counts = [max(1, math.ceil(each - 1e-6)) for each in sums]
        return self._ruled(model, ctx, kept.layers, configuration(counts, ctx.task.max_length, self.least))

    def _ruled(self, model: Model, ctx: Context, layers: Sequence[int], kept: Sequence[float | None]) -> Model:
        rules = {i: TopSpec(kind="top", keep=each) for i, each in zip(layers, kept, strict=True) if each is not None}
        told = "/".join(f"{rules[i].keep:g}" if i in rules else "-" for i in range(len(model.blueprint.layers)))
        ctx.say(f"{NAME} keeps {told}")
        ctx.notes["tokens"] = {str(i): rule.keep for i, rule in rules.items()}
        return with_rules(model, rules, NAME)

    @classmethod
    def noop(cls) -> Power:
        """Keeping all tokens reproduces the model."""
        return cls(keep=(1.0,))


def _retained(ctx: Context) -> Retained:
    kept = ctx.state[STATE]
    assert isinstance(kept, Retained)
    return kept
