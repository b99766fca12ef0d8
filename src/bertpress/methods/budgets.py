"""What methods share that choose how many heads and neurons each layer keeps within a budget for all."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import median_low
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
from pydantic import Field
from torch import Tensor, nn

from bertpress.encoder.blueprint import Blueprint
from bertpress.encoder.layers import EncoderLayer
from bertpress.encoder.subnetworks import Part, obstacle
from bertpress.encoder.surgery import keep_heads, keep_neurons
from bertpress.engines import available
from bertpress.errors import RecipeError
from bertpress.methods.base import Context, Method, Model, Trait
from bertpress.methods.knapsack import choose
from bertpress.methods.latency import Clock, Latencies, Unit, alone, on_this_machine
from bertpress.methods.selection import note
from bertpress.training.importance import head_gates, neuron_gates

Key = int | tuple[int, int]
"""A layer, for its heads; a layer and one of its networks, for its neurons."""
Price = Callable[[Part, Unit], float]
"""What a sub-unit costs of which so much is kept."""

MEASURED = 6
"""Sizes of a sub-unit that are priced, besides none and the least; between them prices are straight lines."""
COMPONENTS: dict[Unit, tuple[str, ...]] = {"attention": ("attention_in", "attention", "attention_out"), "ffn": ("ffn",)}


class Place(NamedTuple):
    """Where units lie side by side.

    Attributes:
        reader: name of the linear map that reads them; that of the first factor where it has two.
        norm: name of the norm behind, which reads them with the residual.
        size: channels of a unit.
        units: how many there are.
    """

    reader: str
    norm: str
    size: int
    units: int


def places(model: Model) -> dict[Key, Place]:
    """All heads and neurons, in the order in which a pass reaches them."""
    found: dict[Key, Place] = {}
    for i, layer in enumerate(model.encoder.layers):
        assert isinstance(layer, EncoderLayer)
        spec, name = layer.spec, f"encoder.layers.{i}"
        if count := len(spec.attention.heads):
            reader = f"{name}.{spec.reader('attention.output')}"
            found[i] = Place(reader, f"{name}.attention.norm", spec.attention.value_size, count)
        for j, width in enumerate(spec.ffn):
            if width:
                found[i, j] = Place(f"{name}.{spec.reader(f'ffn.{j}.outer')}", f"{name}.ffn.{j}.norm", 1, width)
    return found


def factored(model: Model) -> str | None:
    """Name of a map that reads units and is the first of two factors; None where all are whole."""
    return next((place.reader for place in places(model).values() if place.reader.endswith(".down")), None)


def gates(model: Model) -> dict[Any, tuple[nn.Module, int]]:
    """Masks of all these units, as importances want them."""
    return {**head_gates(model), **neuron_gates(model)}


def layer_of(key: Key) -> int:
    """The layer that units lie in."""
    return key if isinstance(key, int) else key[0]


class Sizes(NamedTuple):
    """How many units each place may keep, and at what cost.

    Attributes:
        counts: increasing, from none to all.
        costs: of the units of a place, for each of its counts; not decreasing, 0 for none.
        fixed: what is left of the sub-units without any.
    """

    counts: dict[Key, list[int]]
    costs: dict[Key, list[float]]
    fixed: float

    @property
    def whole(self) -> float:
        """Cost of everything."""
        return self.fixed + sum(costs[-1] for costs in self.costs.values())

    def within(self, keep: float, losses: Mapping[Key, Sequence[float]]) -> dict[Key, int]:
        """Positions among the counts that lose least and cost at most a share of everything.

        Raises:
            ValueError: what has no units costs more.
        """
        budget = keep * self.whole - self.fixed
        if budget < 0:
            raise ValueError(f"keep={keep:g} must be at least {self.fixed / self.whole:.3g}, what takes no units")
        chosen = choose([losses[key] for key in self.counts], list(self.costs.values()), budget)
        return dict(zip(self.counts, chosen, strict=True))

    def cost(self, chosen: Mapping[Key, int]) -> float:
        """Of the whole choice."""
        return self.fixed + sum(self.costs[key][position] for key, position in chosen.items())


def sizes(blueprint: Blueprint, price: Price, multiple_of: int) -> Sizes:
    """All counts of heads, and of neurons those that are multiples, with their costs.

    Prices are asked for at some sizes alone, and those of few units are at most those of more: a clock errs upward.

    Args:
        blueprint: of a model whose layers share nothing.
        price: of what is left of a sub-unit.
        multiple_of: of neurons; all of a network may be kept whatever their number.
    """
    found = Sizes({}, {}, 0.0)
    fixed = 0.0
    for i, layer in enumerate(blueprint.layers):
        bare = Part(i, 0, (0,) * len(layer.ffn))
        if heads := len(layer.attention.heads):
            found.counts[i] = list(range(heads + 1))
            fixed += _priced(found, i, [bare._replace(heads=n) for n in found.counts[i]], "attention", price)
        shared = 0.0  # the networks of a stack are left with their biases and norms once, not once for each of them
        for j, width in enumerate(layer.ffn):
            if width:
                found.counts[i, j] = [*range(0, width, multiple_of), width]
                parts = [bare._replace(ffn=_only(bare.ffn, j, n)) for n in found.counts[i, j]]
                shared = _priced(found, (i, j), parts, "ffn", price)
        fixed += shared
    return found._replace(fixed=fixed)


def _only(widths: tuple[int, ...], place: int, width: int) -> tuple[int, ...]:
    return (*widths[:place], width, *widths[place + 1 :])


def _priced(found: Sizes, key: Key, parts: Sequence[Part], unit: Unit, price: Price) -> float:
    """Note the costs of a place; returns that of none of its units."""
    last = len(parts) - 1
    at = sorted({0, 1, *(round(i * last / MEASURED) for i in range(1, MEASURED + 1))})
    prices = [price(parts[i], unit) for i in at]
    bare = min(prices)
    lines = np.interp(found.counts[key], [found.counts[key][i] for i in at], prices)
    lines = np.minimum.accumulate(lines[::-1])[::-1] - bare
    found.costs[key] = lines.tolist()
    return bare


def multiply_accumulates(blueprint: Blueprint, tokens: int) -> Price:
    """Counts the multiply-accumulates of sub-units on one text of so many tokens."""

    def price(part: Part, unit: Unit) -> float:
        spec, bare = alone(blueprint, part, unit)
        counted = bare.with_layers((spec,)).macs(tokens)
        return float(sum(counted[component] for component in COMPONENTS[unit]))

    return price


def cut(model: Model, kept: Mapping[Key, Sequence[int]]) -> Model:
    """The model with the units at these positions of each place."""
    ids = [layer.attention.heads for layer in model.blueprint.layers]
    heads = {key: [ids[key][i] for i in units] for key, units in kept.items() if isinstance(key, int)}
    return keep_neurons(
        keep_heads(model, heads), {key: units for key, units in kept.items() if not isinstance(key, int)}
    )


class Budgeted(Method):
    """Base of the methods that choose heads and neurons under a budget of multiply-accumulates or of measured time."""

    provides: ClassVar[frozenset[Trait]] = frozenset({Trait.NARROW})
    conflicts: ClassVar[frozenset[Trait]] = frozenset({Trait.INT8})

    keep: float = Field(0.6, gt=0, le=1, description="Share of what attention and feed-forward networks cost.")
    budget: Literal["macs", "latency"] = Field(
        "macs", description="The cost: multiply-accumulates, or milliseconds measured on this machine."
    )
    engine: Clock = Field(
        "torch", description="latency: what is timed, float32 in PyTorch or 8-bit integers in OpenVINO."
    )
    tokens: int | None = Field(
        None,
        ge=1,
        le=8192,
        description="Length of the text that is counted or timed; null: the calibration's median. To be given where "
        "the texts that are served are longer or shorter than those.",
    )
    multiple_of: int = Field(16, ge=1, le=1024, description="Neurons of a network are a multiple of this, or all.")
    examples: int = Field(1024, ge=1, le=100_000, description="Training examples that everything is measured on.")

    def checked(self, model: Model, method: str) -> None:
        """Refuse what cannot be cut or timed.

        Raises:
            RecipeError: in one line.
        """
        if (reason := obstacle(model.blueprint)) is not None:
            raise RecipeError(f"{method}: {reason}")
        if not places(model):
            raise RecipeError(f"{method}: the model has neither heads nor feed-forward networks to cut")
        if self.budget == "latency" and self.engine not in available():
            raise RecipeError(f"{method}: engine={self.engine} must be installed; pip install 'bertpress[openvino]'")

    def sizes(self, model: Model, ctx: Context, batches: Sequence[dict[str, Tensor]]) -> Sizes:
        """What the units of the model cost."""
        lengths = [length for batch in batches for length in batch["attention_mask"].sum(1).tolist()]
        tokens = self.tokens or max(1, median_low(lengths))
        if self.budget == "macs":
            return sizes(model.blueprint, multiply_accumulates(model.blueprint, tokens), self.multiple_of)
        place = None if ctx.folder is None else ctx.folder / f"latency-{self.engine}-{tokens}.json"
        latencies = Latencies(model.blueprint, on_this_machine(tokens, self.engine), place)
        found = sizes(model.blueprint, latencies.of, self.multiple_of)
        latencies.keep()
        ctx.notes["latencies"] = latencies.rows()
        return found

    def note(
        self, ctx: Context, method: str, scores: Mapping[Key, Sequence[float]], kept: Mapping[Key, Sequence[int]]
    ) -> None:
        """Tell of a choice in a line and, for the report, unit by unit."""
        told: dict[str, dict[Any, dict[int, float]]] = {"heads": {}, "neurons": {}}
        for key, values in scores.items():
            told["heads" if isinstance(key, int) else "neurons"][key] = dict(enumerate(values))
        ctx.notes |= {name: note(units, kept) for name, units in told.items()}
        counts = {name: "/".join(str(len(kept[key])) for key in sorted(units)) for name, units in told.items()}
        ctx.say(f"{method} keeps heads {counts['heads'] or 'of none'}, neurons {counts['neurons'] or 'of none'}")
