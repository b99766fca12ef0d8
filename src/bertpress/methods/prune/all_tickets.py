"""Find the part of the fine-tuned model that does the task, and train that part again from the pretrained weights.

Source: Prasanna, Rogers & Rumshisky 2020, "When BERT plays the lottery, all tickets are winning", arXiv:2005.00561,
sections 3.1 (magnitude), 3.2 (heads and feed-forward networks) and 5 (good, random and bad tickets).  In each step
10 % of the heads and one network go, those with the least E|dL/dmask|, measured anew, as long as the metric stays
within 90 % of the full model's.
Departs from it: the metric is taken on rows cut from train, which the full model has seen, since validation is what is
reported; a network that goes leaves its output bias; one head and one network always stay; a bad ticket is what went
first, filled up with what would have gone next where that is fewer than the good one has.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from itertools import takewhile
from typing import ClassVar, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from bertpress.encoder.surgery import keep_heads, keep_neurons, rebuild
from bertpress.encoder.transforms import put
from bertpress.errors import RecipeError
from bertpress.methods.base import Context, Method, Model, Need, Trait
from bertpress.methods.masks import Mask, largest_of_all
from bertpress.methods.selection import normalized, note
from bertpress.methods.weights import matrices
from bertpress.training.importance import head_gates, network_gates, task_importance

Ticket = Literal["good", "random", "bad"]


class Units(NamedTuple):
    """Heads as (layer, head id), feed-forward networks as (layer, place in its stack); order matters."""

    heads: list[tuple[int, int]]
    networks: list[tuple[int, int]]


def search(ranked: Callable[[Units], Units], holds: Callable[[Units], bool], step: float) -> tuple[Units, Units]:
    """Remove the least important units as long as the model holds without them.

    Args:
        ranked: what is left when these are gone, the least important first.
        holds: whether the model without these is good enough.
        step: share of all heads that goes at a time, at least one, together with one network.

    Returns:
        What has gone, in order, and the ranking of what is left; at least one of each kind.
    """
    gone = Units([], [])
    left = ranked(gone)
    size = max(1, round(step * len(left.heads)))
    while True:
        trial = Units(gone.heads + left.heads[:-1][:size], gone.networks + left.networks[:-1][:1])
        if trial == gone or not holds(trial):
            return gone, left
        gone, left = trial, ranked(trial)


def ticket(gone: Units, left: Units, which: Ticket, generator: torch.Generator) -> Units:
    """What goes for a ticket of as many units as are left: those themselves, random ones, or the least important."""

    def going(lost: list[tuple[int, int]], kept: list[tuple[int, int]]) -> list[tuple[int, int]]:
        units = lost + kept
        if which == "random":
            units = [units[i] for i in torch.randperm(len(units), generator=generator)]
        return lost if which == "good" else units[len(kept) :]

    return Units(*map(going, gone, left))


def cut(model: Model, gone: Units) -> Model:
    """The model without these units; what a unit was added to keeps its bias and its norm."""
    layers = model.blueprint.layers
    heads = {i: [head for head in layers[i].attention.heads if (i, head) not in gone.heads] for i, _ in gone.heads}
    return keep_neurons(keep_heads(model, heads), {key: [] for key in gone.networks})


def sparsest(holds: Callable[[float], bool], step: float) -> float:
    """The largest multiple of ``step``, below 1, up to which the model holds with that share of its weights gone."""
    shares = [round(i * step, 9) for i in range(math.ceil(1 / step))]
    return list(takewhile(lambda share: not share or holds(share), shares))[-1]


def masked(model: Model, masks: Mapping[str, Tensor]) -> Model:
    """A copy of the model under masks."""
    new = rebuild(model, model.blueprint, model.state_dict())
    for name, kept in masks.items():
        put(new, name, Mask(kept))
    return new


class AllTickets(Method):
    """Keep the heads and networks (or weights) that the task needs, rewind them to pretrained weights, and train."""

    cite: ClassVar[str] = "Prasanna et al., 2020"
    requires: ClassVar[frozenset[Need]] = frozenset({Need.LABELS, Need.CALIBRATION, Need.TRAINING})
    provides: ClassVar[frozenset[Trait]] = frozenset({Trait.NARROW, Trait.SPARSE})

    prune: Literal["structured", "magnitude"] = Field(
        "structured", description="Heads and whole feed-forward networks by importance, or single weights by size."
    )
    which: Ticket = Field("good", description="The most important, random, or least important; all of one size.")
    step: float = Field(0.1, gt=0, lt=1, description="Share of the heads, or of the weights, that goes in a step.")
    threshold: float = Field(0.9, gt=0, le=1, description="Share of the full model's metric that must be left.")
    examples: int = Field(256, ge=1, le=100_000, description="Training examples that the importance is measured on.")
    held_out: int = Field(1000, ge=1, le=100_000, description="Rows cut from train that the metric is taken on.")

    def attach(self, model: Model, ctx: Context) -> Model:
        """Find the ticket in the trained model, and rewind it."""
        first = ctx.pretrained
        assert first is not None
        if first.blueprint != model.blueprint:
            raise RecipeError("prune/all_tickets: must come before all that changes the model's shape, to rewind it")
        bound = self.threshold * ctx.score(model, self.held_out)

        def holds(smaller: Model) -> bool:
            return ctx.score(smaller, self.held_out) >= bound

        find = self._structured if self.prune == "structured" else self._magnitude
        return find(model, first, holds, ctx)

    def _structured(self, model: Model, first: Model, holds: Callable[[Model], bool], ctx: Context) -> Model:
        batches = ctx.batches(self.examples)
        seen: dict[int, dict[int, float]] = {layer: {} for layer in head_gates(model)}

        def ranked(gone: Units) -> Units:
            smaller = cut(model, gone)
            heads, networks = head_gates(smaller), network_gates(smaller)
            scores = task_importance(smaller, ctx.task, {**heads, **networks}, batches)
            for layer, values in normalized({layer: scores[layer] for layer in heads}).items():
                seen[layer] |= zip(smaller.blueprint.layers[layer].attention.heads, values.tolist(), strict=True)
            left = {(layer, head): seen[layer][head] for layer in seen for head in seen[layer]}
            for unit in gone.heads:
                del left[unit]
            return Units(sorted(left, key=left.__getitem__), sorted(networks, key=lambda key: float(scores[key])))

        gone, left = search(ranked, lambda gone: holds(cut(model, gone)), self.step)
        going = ticket(gone, left, self.which, ctx.generator())
        small = cut(first, going)
        ctx.notes["heads"] = note(seen, {i: small.blueprint.layers[i].attention.heads for i in seen})
        ctx.say(
            f"prune/all_tickets removes {len(going.heads)} of {len(gone.heads + left.heads)} heads, "
            f"{len(going.networks)} of {len(gone.networks + left.networks)} feed-forward networks"
        )
        return small

    def _magnitude(self, model: Model, first: Model, holds: Callable[[Model], bool], ctx: Context) -> Model:
        sizes = {name: model.get_parameter(name).detach().abs() for name in matrices(model)}
        share = sparsest(lambda share: holds(masked(model, largest_of_all(sizes, 1 - share))), self.step)
        scores, generator = sizes, ctx.generator()
        if self.which == "random":
            scores = {name: torch.rand(size.shape, generator=generator) for name, size in sizes.items()}
        elif self.which == "bad":
            scores = {name: -size for name, size in sizes.items()}
        ctx.say(f"prune/all_tickets keeps {1 - share:.0%} of the weights")
        return masked(first, largest_of_all(scores, 1 - share))
