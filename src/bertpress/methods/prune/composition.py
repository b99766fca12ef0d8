"""A search over how many heads and neurons each layer has, and whether it has a sub-unit at all.

Source: Tsai et al. 2020, "Finding fast transformers: one-shot neural architecture search by component composition",
arXiv:2008.06808: a super-net whose sampled parts are trained with shared weights, and a search under measured latency.
Departs from it: this is our reconstruction from that idea alone; the details are not the paper's.  Each layer chooses a
share of its heads and one of its neurons; a share of 0 skips the sub-unit, whose output bias and norm stay.  Each batch
trains one composition, drawn at random, on the answers of the whole model.  Candidates under the cap are scored by the
task's loss on rows drawn from the train split; the best is cut out, and a later stage fine-tunes it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Annotated, ClassVar, Literal, NamedTuple

import torch
from pydantic import Field, model_validator

from bertpress import tasks
from bertpress.encoder.blueprint import Blueprint
from bertpress.encoder.subnetworks import Part, Subnetwork, count_at, cut, running
from bertpress.errors import RecipeError
from bertpress.methods.base import Context, Method, Model, Need, Trait
from bertpress.methods.elastic import in_order_of_importance
from bertpress.methods.latency import Latencies, on_this_machine
from bertpress.methods.matching import TeacherLoss
from bertpress.training.objectives import Objective
from bertpress.training.passes import Pass
from bertpress.training.teacher import model_inputs

Choice = tuple[int, ...]
"""A composition: for each layer the number of its heads' choice, then that of its neurons'; 0 is the least."""

POPULATION = 8
MUTATION = 0.2
"""Chance of each gene of a child to be drawn anew."""


class Space(NamedTuple):
    """What a search chooses from: increasing shares of a layer's heads and of its neurons."""

    blueprint: Blueprint
    heads: Sequence[float]
    neurons: Sequence[float]

    @property
    def sizes(self) -> list[int]:
        """How many choices each gene has."""
        return [len(self.heads), len(self.neurons)] * len(self.blueprint.layers)

    @property
    def whole(self) -> Choice:
        """The largest choice of every gene."""
        return tuple(size - 1 for size in self.sizes)

    def parts(self, choice: Choice) -> Subnetwork:
        """The sub-network that a choice stands for."""
        return tuple(
            Part(
                i,
                _count(self.heads[choice[2 * i]], len(layer.attention.heads)),
                tuple(_count(self.neurons[choice[2 * i + 1]], width) for width in layer.ffn),
            )
            for i, layer in enumerate(self.blueprint.layers)
        )

    def draw(self, generator: torch.Generator | None = None) -> Choice:
        """Every gene at random; without a generator from the global one, which training seeds at each step."""
        return tuple(int(torch.randint(size, (), generator=generator)) for size in self.sizes)


def _count(share: float, whole: int) -> int:
    return count_at(share, whole) if share else 0


class Candidate(NamedTuple):
    """A composition that was scored."""

    choice: Choice
    milliseconds: float
    loss: float


def shrunk(choice: Choice, fits: Callable[[Choice], bool], generator: torch.Generator) -> Choice:
    """Lower one gene at random by one step until the choice fits, or until every gene is the least."""
    genes = list(choice)
    while not fits(tuple(genes)) and any(genes):
        above = [i for i, gene in enumerate(genes) if gene]
        genes[above[int(torch.randint(len(above), (), generator=generator))]] -= 1
    return tuple(genes)


def search(
    space: Space,
    latency: Callable[[Subnetwork], float],
    loss: Callable[[Subnetwork], float],
    *,
    cap: float,
    candidates: int,
    evolve: bool,
    generator: torch.Generator,
) -> list[Candidate]:
    """Score compositions that meet a cap on the latency, one after the other; the first is the whole one, shrunk.

    What the n-th is depends on those before it alone, so that more candidates never find a worse one.

    Args:
        space: what there is to choose.
        latency: milliseconds of a sub-network.
        loss: of a sub-network; lower is better.
        cap: milliseconds.
        candidates: how many are looked at; one that was drawn before is not scored again.
        evolve: from the 9th on, children of the best ones so far instead of random ones.
        generator: decides all that is random.

    Returns:
        Every candidate, in the order in which they were scored.

    Raises:
        ValueError: not even the least composition meets the cap.
    """

    def fits(choice: Choice) -> bool:
        return latency(space.parts(choice)) <= cap

    least = (0,) * len(space.sizes)
    if not fits(least):
        raise ValueError(
            f"the least composition takes {latency(space.parts(least)):.3g} ms, above the cap of {cap:.3g}"
        )
    scored: dict[Choice, Candidate] = {}
    for i in range(candidates):
        drawn = space.draw(generator)
        if i == 0:
            drawn = space.whole
        elif evolve and i >= POPULATION:
            drawn = _child(sorted(scored.values(), key=lambda each: each.loss)[:POPULATION], drawn, generator)
        choice = shrunk(drawn, fits, generator)
        if choice not in scored:
            parts = space.parts(choice)
            scored[choice] = Candidate(choice, latency(parts), loss(parts))
    return list(scored.values())


def _child(parents: Sequence[Candidate], fresh: Choice, generator: torch.Generator) -> Choice:
    """Each gene from one of two parents, or drawn anew."""
    pair = [parents[int(torch.randint(len(parents), (), generator=generator))].choice for _ in range(2)]
    sides = torch.randint(2, (len(fresh),), generator=generator).tolist()
    anew = (torch.rand(len(fresh), generator=generator) < MUTATION).tolist()
    return tuple(fresh[i] if anew[i] else pair[side][i] for i, side in enumerate(sides))


@torch.no_grad()
def loss_of(model: Model, parts: Subnetwork, ctx: Context, examples: int) -> float:
    """The task's loss of a sub-network in place, a mean over training examples."""
    total, count = 0.0, 0
    with running(model, parts):
        for batch in ctx.batches(examples):
            rows = len(batch["input_ids"])
            total += float(tasks.loss(ctx.task, model(**model_inputs(batch)).logits, batch)) * rows
            count += rows
    return total / count


Fraction = Annotated[float, Field(ge=0, le=1)]


class Composition(Method):
    """Train all compositions of heads, neurons and skipped sub-units at once, and cut the best under a latency cap."""

    cite: ClassVar[str] = "Tsai et al., 2020"
    requires: ClassVar[frozenset[Need]] = frozenset({Need.LABELS, Need.TEACHER, Need.CALIBRATION, Need.TRAINING})
    provides: ClassVar[frozenset[Trait]] = frozenset({Trait.NARROW})
    reshapes: ClassVar[bool] = True
    conflicts: ClassVar[frozenset[Trait]] = frozenset({Trait.INT8})
    supervises: ClassVar[bool] = True

    latency: float = Field(
        0.6, gt=0, le=1, description="Cap on the predicted time of the layers, as a share of the whole model's."
    )
    heads: tuple[Fraction, ...] = Field(
        (0.0, 0.25, 0.5, 0.75, 1.0), min_length=1, description="Shares of its heads that a layer may have; 0 skips all."
    )
    neurons: tuple[Fraction, ...] = Field(
        (0.0, 0.25, 0.5, 0.75, 1.0),
        min_length=1,
        description="Shares of its neurons that a layer may have; 0 skips all.",
    )
    search: Literal["evolution", "random"] = Field(
        "evolution", description="Candidates are children of the best ones so far, or all drawn alike."
    )
    candidates: int = Field(64, ge=1, le=100_000, description="Compositions that are looked at.")
    tokens: int = Field(64, ge=1, le=8192, description="Length of the text with which sub-units are timed.")
    examples: int = Field(
        256, ge=1, le=100_000, description="Training examples that importances and candidates are measured on."
    )

    @model_validator(mode="after")
    def _ordered(self) -> Composition:
        for name, shares in (("heads", self.heads), ("neurons", self.neurons)):
            if list(shares) != sorted(set(shares)) or shares[-1] != 1:
                raise ValueError(f"{name}={list(shares)} must increase and end with 1")
        return self

    def space(self, blueprint: Blueprint) -> Space:
        """What the search chooses from."""
        return Space(blueprint, self.heads, self.neurons)

    def attach(self, model: Model, ctx: Context) -> Model:
        """Sort heads and neurons by importance."""
        return in_order_of_importance(model, ctx, self.examples, "prune/composition")

    def objectives(self, ctx: Context) -> list[Objective]:
        """The teacher's answers."""
        return [TeacherLoss("ce", 1.0, ctx.task.head().kind)]

    def passes(self, ctx: Context) -> list[Pass]:
        """One, of a composition drawn for each batch."""

        def composed(model: Model) -> AbstractContextManager[None]:
            space = self.space(model.blueprint)
            return running(model, space.parts(space.draw()))

        return [Pass(configure=composed)]

    def finish(self, model: Model, ctx: Context) -> Model:
        """Search, and cut.

        Raises:
            RecipeError: no composition meets the cap.
        """
        latencies = self.latencies(model)
        try:
            found = search(
                self.space(model.blueprint),
                latencies,
                lambda parts: loss_of(model, parts, ctx, self.examples),
                cap=self.latency * latencies.whole,
                candidates=self.candidates,
                evolve=self.search == "evolution",
                generator=ctx.generator(),
            )
        except ValueError as fault:
            raise RecipeError(f"prune/composition: latency={self.latency:g}: {fault}") from None
        best = min(found, key=lambda each: each.loss)
        ctx.say(
            f"prune/composition takes the best of {len(found)}: {best.milliseconds:.3g} of {latencies.whole:.3g} ms, "
            f"loss {best.loss:.4f}"
        )
        ctx.notes["composition"] = {
            "latencies": latencies.rows(),
            "whole_ms": latencies.whole,
            "candidates": [each._asdict() for each in found],
            "chosen": [part._asdict() for part in self.space(model.blueprint).parts(best.choice)],
        }
        return cut(model, self.space(model.blueprint).parts(best.choice))

    def latencies(self, model: Model) -> Latencies:
        """The table of this machine."""
        return Latencies(model.blueprint, on_this_machine(self.tokens))

    @classmethod
    def noop(cls) -> Composition:
        """Without a cap and with one candidate, the whole model stays."""
        return cls(latency=1.0, candidates=1)
