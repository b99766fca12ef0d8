"""Remove heads and neurons one after the other, the others making up for them, until a measured time is met.

Source: Kurtić, Frantar & Alistarh 2023 (ZipLM), arXiv:2302.04089: the structured solver (section 3.1, algorithm 1), and
the choice of how many structures each layer keeps by dynamic programming over a table of measured times, with the
sensitivity of each layer tuned by a random local search (section 3.2, after SPDY, Frantar & Alistarh 2022).
Departs from it: only the order of removal is found step by step; weights and errors of every size then come from one
Cholesky factor of the Hessian in that order, which gives the same numbers.  Candidates of the search are compared by
how far their answers are from the model's own, so that no labels are read; heads and neurons may be any number that
the width allows.  ``keep`` is a share of the model that the method meets: a stage that is repeated gets to the target
step by step, with training in between.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from bertpress.encoder.factors import matrix
from bertpress.encoder.surgery import rebuild
from bertpress.errors import RecipeError
from bertpress.methods.activations import calibration
from bertpress.methods.base import Context, Model, Need
from bertpress.methods.budgets import Budgeted, Key, Place, Sizes, cut, places
from bertpress.methods.distances import logit_distance
from bertpress.methods.low_rank import damped
from bertpress.methods.masks import refuse_zeros
from bertpress.methods.moments import input_moments

MUTATION = 0.1
"""Share of the sensitivities that a step of the search changes."""


def removal_order(weight: Tensor, hessian: Tensor, size: int) -> list[int]:
    """Groups of inputs in the order in which they go, each the one that the outputs miss least at its turn.

    A group Q costs ``sum_rows w_Q (H^-1_QQ)^-1 w_Qᵀ`` once the others have made up for it by
    ``W - W_Q (H^-1_QQ)^-1 H^-1_Q:``.

    Args:
        weight: W (outputs, inputs).
        hessian: H (inputs, inputs), positive definite.
        size: inputs in a group, such as the width of a head.

    Cost: O(inputs² (inputs + outputs)) time.
    """
    left, inverse = weight.double().clone(), torch.cholesky_inverse(torch.linalg.cholesky(hessian.double()))
    alive = torch.arange(weight.shape[1] // size)
    gone = torch.zeros(len(alive), dtype=torch.bool)
    order: list[int] = []
    while len(order) < weight.shape[1] // size:
        blocks = inverse.unflatten(0, (-1, size)).unflatten(2, (-1, size)).diagonal(dim1=0, dim2=2).permute(2, 0, 1)
        blocks = torch.where(gone[:, None, None], torch.eye(size, dtype=blocks.dtype), blocks)
        groups = left.unflatten(1, (-1, size)).permute(1, 2, 0)  # (groups, size, outputs)
        costs = (groups * torch.linalg.solve(blocks, groups)).sum((1, 2))
        group = int(costs.masked_fill(gone, torch.inf).argmin())
        order.append(int(alive[group]))
        channels = slice(group * size, (group + 1) * size)
        pull = torch.linalg.solve(inverse[channels, channels], inverse[channels])
        left.addmm_(left[:, channels].clone(), pull, alpha=-1)
        inverse.addmm_(inverse[:, channels].clone(), pull, alpha=-1)
        gone[group] = True
        if int(gone.sum()) * 8 >= len(gone):  # what is gone need not be carried along
            stay = (~gone).repeat_interleave(size)
            left, inverse = left[:, stay].contiguous(), inverse[stay][:, stay].contiguous()
            alive, gone = alive[~gone], gone[~gone]
    return order


class Ladder(NamedTuple):
    """A map at every number of groups that its input may have.

    Attributes:
        order: groups, those that stay longest first.
        root: L, lower triangular, (inputs, inputs) in this order; ``L Lᵀ`` is the Hessian.
        solved: ``L^-1 H Wᵀ``, (inputs, outputs) in this order.
        size: inputs in a group.
    """

    order: list[int]
    root: Tensor
    solved: Tensor
    size: int

    @classmethod
    def of(cls, weight: Tensor, hessian: Tensor, order: Sequence[int], size: int) -> Ladder:
        """Prepare for a weight (outputs, inputs)."""
        inputs = torch.tensor([group * size + i for group in order for i in range(size)])
        root = torch.linalg.cholesky(hessian.double()[inputs][:, inputs])
        right = hessian.double()[inputs] @ weight.double().t()
        return cls(list(order), root, torch.linalg.solve_triangular(root, right, upper=False), size)

    def kept(self, count: int) -> list[int]:
        """The groups that stay when so many do, increasing."""
        return sorted(self.order[:count])

    def weight(self, count: int) -> Tensor:
        """The nearest outputs that so many groups can give: (outputs, inputs), zero where a group is gone."""
        width = count * self.size
        columns = torch.linalg.solve_triangular(self.root[:width, :width].t(), self.solved[:width], upper=True)
        whole: Tensor = columns.new_zeros(self.solved.shape[1], len(self.root))
        whole[:, [group * self.size + i for group in self.order[:count] for i in range(self.size)]] = columns.t()
        return whole

    def errors(self, outer: Tensor | None = None) -> Tensor:
        """Squared error of the outputs for 0 to all groups, as a share of their squares; (groups + 1,), float64.

        Args:
            outer: (more outputs, outputs), a map behind this one, at whose end errors count.
        """
        ends = self.solved if outer is None else self.solved @ outer.double().t()
        gained = ends.square().sum(1).unflatten(0, (-1, self.size)).sum(1)
        left = torch.cat([gained.flip(0).cumsum(0).flip(0), gained.new_zeros(1)])
        return left / left[0].clamp(min=torch.finfo(left.dtype).tiny)


class Candidate(NamedTuple):
    """A choice of sizes, and how far its answers are from those of the whole model."""

    chosen: dict[Key, int]
    distance: float


def search(
    sizes: Sizes,
    keep: float,
    losses: Mapping[Key, Sequence[float]],
    distance: Callable[[Mapping[Key, int]], float],
    trials: int,
    generator: torch.Generator,
) -> list[Candidate]:
    """Choices that lose least by the errors of each place times its sensitivity, which a random local search tunes.

    Args:
        sizes: what there is to choose, and its costs.
        keep: share of the costs.
        losses: errors of each place, for each of its counts.
        distance: of the answers of a choice.
        trials: changes of the sensitivities; 0: all places are as sensitive.
        generator: decides all that is random.

    Returns:
        Every choice that was looked at, in order; the first takes all places for as sensitive.

    Raises:
        ValueError: nothing is that cheap.
    """
    sensitivities = dict.fromkeys(losses, 1.0)
    seen: dict[tuple[int, ...], Candidate] = {}

    def candidate(weights: Mapping[Key, float]) -> Candidate:
        chosen = sizes.within(keep, {key: [weights[key] * loss for loss in losses[key]] for key in losses})
        name = tuple(chosen.values())
        if name not in seen:
            seen[name] = Candidate(chosen, distance(chosen))
        return seen[name]

    best = candidate(sensitivities)
    for _ in range(trials):
        changed = (torch.rand(len(losses), generator=generator) < MUTATION).tolist()
        changed[int(torch.randint(len(losses), (), generator=generator))] = True
        factors = torch.randn(len(losses), generator=generator).exp().tolist()
        tried = {
            key: value * (factor if moved else 1.0)
            for (key, value), factor, moved in zip(sensitivities.items(), factors, changed, strict=True)
        }
        found = candidate(tried)
        if found.distance <= best.distance:
            best, sensitivities = found, tried
    return list(seen.values())


class Stitched:
    """The whole model with maps at the sizes of a choice: zeros stand where a cut would take columns.

    Args:
        model: stays as it is.
        ladders: of its maps.
        sizes: says how many units a choice stands for.
    """

    def __init__(self, model: Model, ladders: Mapping[Key, Ladder], sizes: Sizes) -> None:
        self.whole, self.ladders, self.sizes = model, ladders, sizes
        self.model = rebuild(model, model.blueprint, {name: x.clone() for name, x in model.state_dict().items()})
        self.readers = {key: f"{place.reader}.weight" for key, place in places(model).items()}
        self.now: dict[Key, int] = {}

    @torch.no_grad()
    def put(self, chosen: Mapping[Key, int]) -> None:
        """Set the maps."""
        for key, position in chosen.items():
            if self.now.get(key) == position:
                continue
            count = self.sizes.counts[key][position]
            weight = self.whole.get_parameter(self.readers[key]).detach()
            if position < len(self.sizes.counts[key]) - 1:
                weight = self.ladders[key].weight(count).to(weight.dtype)
            self.model.get_parameter(self.readers[key]).copy_(weight)
        self.now = dict(chosen)

    @torch.no_grad()
    def distance(
        self, batches: Sequence[dict[str, Tensor]], answers: Sequence[Tensor], chosen: Mapping[Key, int]
    ) -> float:
        """Mean squared difference of its answers from others, over the rows of all batches."""
        self.put(chosen)
        total, rows = 0.0, 0
        for batch, answer in zip(batches, answers, strict=True):
            logits = self.model(**batch).logits
            total += float(logit_distance(logits, answer, batch)) * len(logits)
            rows += len(logits)
        return total / rows

    def cut(self, chosen: Mapping[Key, int]) -> Model:
        """The choice as a smaller model."""
        self.put(chosen)
        counts = {key: self.sizes.counts[key][position] for key, position in chosen.items()}
        return cut(self.model, {key: self.ladders[key].kept(count) for key, count in counts.items()})


class Ziplm(Budgeted):
    """Remove heads and neurons by second-order errors of their layers until a measured latency is met."""

    cite: ClassVar[str] = "Kurtić et al., 2023"
    requires: ClassVar[frozenset[Need]] = frozenset({Need.CALIBRATION})

    budget: Literal["macs", "latency"] = Field(
        "latency", description="The cost: multiply-accumulates, or milliseconds measured on this machine."
    )
    damping: float = Field(0.01, ge=1e-4, le=1, description="Added to the Hessians, as a share of their mean diagonal.")
    trials: int = Field(32, ge=0, le=100_000, description="Steps of the search for the sensitivities of the layers.")
    searched: int = Field(128, ge=1, le=100_000, description="Training examples that each step answers.")

    def attach(self, model: Model, ctx: Context) -> Model:
        """Solve, choose, cut.

        Raises:
            RecipeError: the model cannot be cut, has single weights pruned, or the budget is too small.
        """
        self.checked(model, "prune/ziplm")
        refuse_zeros(model, "prune/ziplm")
        batches = calibration(model, ctx, self.examples, by_length=True)
        choice, found = self.sizes(model, ctx, batches), places(model)
        moments = input_moments(model, [place.reader for place in found.values()], batches)
        ladders: dict[Key, Ladder] = {}
        losses: dict[Key, Sequence[float]] = {}
        for key, place in found.items():
            ladders[key], errors = self._ladder(model, place, moments.pop(place.reader))
            losses[key] = [float(errors[count]) for count in choice.counts[key]]
        stitched = Stitched(model, ladders, choice)
        rows = calibration(model, ctx, self.searched, by_length=True)
        with torch.no_grad():
            answers = [model(**batch).logits for batch in rows]
        try:
            seen = search(
                choice, self.keep, losses, partial(stitched.distance, rows, answers), self.trials, ctx.generator()
            )
        except ValueError as fault:
            raise RecipeError(f"prune/ziplm: {fault}") from None
        best = min(seen, key=lambda each: each.distance)
        kept = {key: ladders[key].kept(choice.counts[key][at]) for key, at in best.chosen.items()}
        ranks = {key: _ranks(ladder.order) for key, ladder in ladders.items()}
        self.note(ctx, "prune/ziplm", ranks, kept)
        ctx.notes["ziplm"] = self._told(choice, seen, best)
        return stitched.cut(best.chosen)

    def _ladder(self, model: Model, place: Place, moment: Tensor) -> tuple[Ladder, Tensor]:
        hessian, outer = damped(moment, self.damping), None
        weight = model.get_parameter(f"{place.reader}.weight").detach()
        whole = model.get_submodule(place.reader.removesuffix(".down"))
        order = removal_order(matrix(whole).detach(), hessian, place.size)[::-1]
        if place.reader.endswith(".down"):
            outer = model.get_parameter(f"{place.reader.removesuffix('.down')}.up.weight").detach()
        ladder = Ladder.of(weight, hessian, order, place.size)
        return ladder, ladder.errors(outer)

    def _told(self, choice: Sizes, seen: Sequence[Candidate], best: Candidate) -> dict[str, Any]:
        unit = "ms" if self.budget == "latency" else "macs"
        return {
            f"whole_{unit}": choice.whole,
            f"predicted_{unit}": choice.cost(best.chosen),
            "distances": [each.distance for each in seen],
        }

    @classmethod
    def noop(cls) -> Ziplm:
        """All that there is."""
        return cls(keep=1.0)


def _ranks(order: Sequence[int]) -> list[float]:
    """How long each group stays, from 0 for the one that goes first to 1."""
    ranks = [0.0] * len(order)
    for i, group in enumerate(reversed(order)):
        ranks[group] = i / max(1, len(order) - 1)
    return ranks
