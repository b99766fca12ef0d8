"""Remove heads and neurons without any training: a search under a budget, swaps, and factors on what is left.

Source: Kwon et al. 2022, "A fast post-training pruning framework for transformers", arXiv:2204.09656: the diagonal of
the Fisher information of masks chooses what stays (section 3.2), its blocks of a layer decide what is swapped (section
3.3), and least squares put a factor on each unit, layer by layer, so that what enters the norm behind it comes close to
what it was (section 3.4).
Departs from it: gradients are those of examples, not of mini-batches; the search is a knapsack solved by dynamic
programming over the costs of all layers, which gives the masks of the paper's loop where all heads cost the same and
all neurons do, and takes measured times as they are, where the paper fits a constant and a line; swaps go on until none
pays; the damping is a share of the mean diagonal, so that it does not depend on the number of examples.
As in the paper, heads of the first layer get no factors, and the factors end before the first layer where one of them
would exceed 10.  What is ours: least squares may move whole weights and biases in place of factors, layer by layer
likewise.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import ClassVar, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from bertpress.encoder.factors import matrix
from bertpress.encoder.observers import observing
from bertpress.errors import RecipeError
from bertpress.methods.activations import calibration
from bertpress.methods.base import Context, Model, Need
from bertpress.methods.budgets import Budgeted, Place, cut, factored, gates, layer_of, places
from bertpress.methods.masks import refuse_zeros
from bertpress.methods.relay import Enough, Relay
from bertpress.training.importance import task_gradients

FARTHEST = 10.0


def losses(fisher: Tensor, counts: Sequence[int]) -> list[float]:
    """Half the information of the units that go when the best so many stay.

    To second order that is by how much the loss of an example grows, if units do not act together.

    Args:
        fisher: (units,), mean squared derivatives of the loss by the units' masks.
        counts: of units that stay.
    """
    least_first = fisher.double().sort().values
    gone = torch.cat([least_first.new_zeros(1), least_first.cumsum(0)]) / 2
    return [float(gone[len(fisher) - count]) for count in counts]


def best(fisher: Tensor, count: int) -> list[int]:
    """Positions of so many units of the most information, increasing; of equal ones the first stay."""
    order = fisher.argsort(descending=True, stable=True)
    return sorted(order[:count].tolist())


def rearranged(gradients: Tensor, kept: Sequence[int]) -> list[int]:
    """Swap units that stay for such that go until no swap makes the information of all that go, together, smaller.

    Args:
        gradients: (examples, units), of the loss by the units' masks.
        kept: positions of the units that stay.

    Returns:
        As many positions, increasing, with at most the cost ``sum_examples (sum_gone gradient)^2`` of ``kept``.
    """
    gradients = gradients.double()
    fisher = gradients.t() @ gradients
    own, tolerance = fisher.diagonal(), 1e-9 * float(fisher.diagonal().sum())
    gone = torch.ones(len(fisher), dtype=torch.bool)
    gone[list(kept)] = False
    pull = fisher[:, gone].sum(1)
    swapped = len(kept) > 0
    while swapped:
        swapped = False
        for back in gone.nonzero().flatten().tolist():
            change = own + 2 * pull - 2 * fisher[back] + own[back] - 2 * pull[back]
            away = int(change.masked_fill(gone, torch.inf).argmin())
            if float(change[away]) < -tolerance:
                gone[back], gone[away] = False, True
                pull += fisher[away] - fisher[back]
                swapped = True
    return (~gone).nonzero().flatten().tolist()


def factors(moment: Tensor, cross: Tensor, weight: Tensor, size: int, damping: float) -> Tensor:
    """Factors m on groups of inner channels that minimise ``sum |e - W ((m - 1) x)|^2 + λ |m - 1|^2``.

    Args:
        moment: (channels, channels), sum of ``x xᵀ``.
        cross: (channels, outputs), sum of ``x eᵀ``, where e is what the outputs lack.
        weight: W (outputs, channels).
        size: channels in a group, such as the width of a head.
        damping: > 0; λ as a share of the mean diagonal of the normal equations.

    Returns:
        (groups,), float64.
    """
    moment, cross, weight = moment.double(), cross.double(), weight.double()
    normal = (moment * (weight.t() @ weight)).unflatten(1, (-1, size)).sum(-1).unflatten(0, (-1, size)).sum(1)
    right = (cross * weight.t()).sum(1).unflatten(0, (-1, size)).sum(-1)
    shift = damping * float(normal.diagonal().mean()) or 1.0
    identity = torch.eye(len(normal), dtype=normal.dtype, device=normal.device)
    solution: Tensor = torch.linalg.solve(normal + shift * identity, right)
    return 1 + solution


class Sums(NamedTuple):
    """Over all tokens, of what a linear map reads, x, and of what its output lacks, e.

    Attributes:
        tokens: how many there are.
        x: (channels,).
        e: (outputs,).
        xx: (channels, channels), of ``x xᵀ``.
        xe: (channels, outputs), of ``x eᵀ``.
    """

    tokens: int
    x: Tensor
    e: Tensor
    xx: Tensor
    xe: Tensor

    @classmethod
    def of(cls, x: Tensor, e: Tensor) -> Sums:
        """Of (tokens, channels) and (tokens, outputs)."""
        return cls(len(x), x.sum(0), e.sum(0), x.t() @ x, x.t() @ e)

    def plus(self, other: Sums) -> Sums:
        """Of the tokens of both."""
        return Sums(self.tokens + other.tokens, *(one + more for one, more in zip(self[1:], other[1:], strict=True)))


def corrections(sums: Sums, damping: float) -> tuple[Tensor, Tensor]:
    """What to add to a map's weight D and bias d, minimising ``sum |e - D x - d|^2 + λ |D|^2``.

    Args:
        sums: of x and e.
        damping: > 0; λ as a share of the mean variance of a channel, summed over the tokens.

    Returns:
        (outputs, channels) and (outputs,), float64.
    """
    x, e, xx, xe = (each.double() for each in sums[1:])
    spread = xx - torch.outer(x, x) / sums.tokens
    shift = damping * float(spread.diagonal().mean()) or 1.0
    identity = torch.eye(len(spread), dtype=spread.dtype, device=spread.device)
    weight = torch.linalg.solve(spread + shift * identity, xe - torch.outer(x, e) / sums.tokens).t()
    return weight, (e - weight @ x) / sums.tokens


def entering(relay: Relay, norms: Sequence[str]) -> dict[str, list[Tensor]]:
    """What enters these norms of one layer, (tokens, width) for each batch."""
    found: dict[str, list[Tensor]] = {name: [] for name in norms}

    def see(name: str, x: Tensor) -> None:
        found[name].append(x)
        if name == norms[-1]:
            raise Enough

    with observing(relay.model, {name: partial(see, name) for name in norms}):
        relay.run()
    return found


def lacking(relay: Relay, place: Place, aims: Sequence[Tensor]) -> Sums:
    """Of the units x, and of e from what enters the norm to what should.

    Args:
        relay: runs the model that is tuned.
        place: whose units are x.
        aims: what should enter its norm, (tokens, width) for each batch.
    """
    units: list[Tensor] = []
    left = iter(aims)
    sums: list[Sums] = []

    def compare(z: Tensor) -> None:
        found = Sums.of(units.pop(), next(left) - z)
        sums[:] = [sums[0].plus(found)] if sums else [found]
        raise Enough

    with observing(relay.model, {place.reader: units.append, place.norm: compare}):
        relay.run()
    return sums[0]


@torch.no_grad()
def tune(
    model: Model, target: Model, batches: Sequence[dict[str, Tensor]], damping: float, *, whole: bool = False
) -> int:
    """Change the maps that read heads and neurons, from the first layer up, in place.

    Args:
        model: has been cut.
        target: the model before.
        batches: what both read.
        damping: see :func:`factors` and :func:`corrections`.
        whole: change weights and biases by themselves, and not by factors on the units alone.

    Returns:
        How many layers got theirs.
    """
    own, theirs = Relay(model, batches), Relay(target, batches)
    found = places(model)
    for i in range(len(model.blueprint.layers)):
        here = [place for key, place in found.items() if layer_of(key) == i and (whole or key != 0)]
        if not here:
            continue
        own.advance(i)
        theirs.advance(i)
        aims = entering(theirs, [place.norm for place in here])
        for place in here:
            sums = lacking(own, place, aims.pop(place.norm))
            weight = model.get_parameter(f"{place.reader}.weight")
            if whole:
                bias = model.get_parameter(f"{place.reader}.bias")
                for changed, more in zip((weight, bias), corrections(sums, damping), strict=True):
                    changed.add_(more.to(changed.dtype))
                continue
            outer = model.get_submodule(place.reader.removesuffix(".down"))
            mask = factors(sums.xx, sums.xe, matrix(outer), place.size, damping)
            if float(mask.abs().max()) > FARTHEST:
                return i
            weight.mul_(mask.repeat_interleave(place.size).to(weight.dtype))
    return len(model.blueprint.layers)


class Fisher(Budgeted):
    """Remove heads and neurons under a budget by the Fisher information of their masks, without training."""

    cite: ClassVar[str] = "Kwon et al., 2022"
    requires: ClassVar[frozenset[Need]] = frozenset({Need.LABELS, Need.CALIBRATION})

    rearrange: bool = Field(True, description="Swap units of a layer by the information that they have together.")
    tune: Literal["none", "factors", "weights"] = Field(
        "factors",
        description="What least squares on the layers' outputs change: nothing, a factor on each unit that stays (the "
        "paper), or all weights and biases behind them.",
    )
    damping: float = Field(
        1e-3, gt=0, le=1, description="Holds factors near 1 and weights where they were; a share of the mean diagonal."
    )

    def attach(self, model: Model, ctx: Context) -> Model:
        """Choose, cut, tune.

        Raises:
            RecipeError: the model cannot be cut, or the budget is too small.
        """
        self.checked(model, "prune/fisher")
        if self.tune == "weights" and (thin := factored(model)) is not None:
            raise RecipeError(f"prune/fisher: tune=weights needs whole matrices, and {thin} is one of two factors")
        if self.tune == "weights":
            refuse_zeros(model, "prune/fisher, tune=weights")
        batches = calibration(model, ctx, self.examples, by_length=True)
        choice = self.sizes(model, ctx, batches)
        gradients = task_gradients(model, ctx.task, gates(model), ctx.batches(self.examples, by_length=True))
        fisher = {key: gradients[key].square().mean(0) for key in choice.counts}
        try:
            chosen = choice.within(
                self.keep, {key: losses(fisher[key], counts) for key, counts in choice.counts.items()}
            )
        except ValueError as fault:
            raise RecipeError(f"prune/fisher: {fault}") from None
        kept = {key: best(fisher[key], choice.counts[key][at]) for key, at in chosen.items()}
        if self.rearrange:
            kept = {key: rearranged(gradients[key], units) for key, units in kept.items()}
        self.note(ctx, "prune/fisher", {key: value.tolist() for key, value in fisher.items()}, kept)
        small = cut(model, kept)
        if self.tune != "none":
            tuned = tune(small, model, batches, self.damping, whole=self.tune == "weights")
            ctx.say(f"prune/fisher tunes {tuned} of {len(model.blueprint.layers)} layers")
        return small

    @classmethod
    def noop(cls) -> Fisher:
        """All that there is."""
        return cls(keep=1.0)
