"""Learn the shape of every layer: heads, key and value widths, neurons, and the hidden size that all layers share.

Source: schuBERT, Khetan & Karnin 2020, arXiv:2005.06628, section 4: a factor alpha, at first 1, on every unit of every
dimension; ``loss + gamma * sum_e beta_e ||alpha_e||_1`` with ``beta_e`` proportional to the parameters that a unit of
e frees; after training the units of smallest magnitude go, the factors are folded into the weights, and training goes
on.  Queries and keys share one factor a dimension; scores keep the scale of the original width.
Departs from it: trained on the task, not on its pre-training loss; all heads of a layer lose equally many key (value)
dimensions, each its own weakest, and such a unit counts by the mean of its heads' magnitudes; the units that go are as
many as the target share of parameters needs, not a fixed number.  Several stages: ``repeat`` in the recipe.

A factor on a hidden dimension multiplies what each norm puts out, so that 0 takes the dimension out of all hidden
states.  Without the dimension, norms average over those that are left: that is what a masked model has to do too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn

from bertpress.encoder.axes import hidden_obstacle
from bertpress.encoder.blueprint import Blueprint
from bertpress.encoder.surgery import keep_head_width, keep_heads, keep_hidden, keep_neurons
from bertpress.encoder.transforms import put
from bertpress.errors import RecipeError
from bertpress.methods.base import Context, Method, Model, Need, Trait
from bertpress.methods.selection import rounded
from bertpress.methods.transform import WeightTransform
from bertpress.training.objectives import Objective, Penalty
from bertpress.training.optimizer import Optimization


class Site(NamedTuple):
    """Where the factors of a dimension multiply a weight: along ``axis``, each ``repeat`` neighbours."""

    dimension: str
    weight: str
    axis: int = 0
    repeat: int = 1


def sizes(blueprint: Blueprint) -> dict[str, tuple[int, ...]]:
    """Shape of the factors by dimension: ``hidden``, ``0/heads``, ``0/keys``, ``0/values``, ``0/ffn0``, ...

    Those of keys and values are (heads, width); layers that use another's weights have none.
    """
    found: dict[str, tuple[int, ...]] = {"hidden": (blueprint.hidden_size,)}
    for i, layer in enumerate(blueprint.layers):
        spec = layer.attention
        if layer.attention_from is None and spec.heads:
            count = len(spec.heads)
            found |= {f"{i}/heads": (count,), f"{i}/keys": (count, spec.head_size)}
            found[f"{i}/values"] = (count, spec.value_size)
        if layer.ffn_from is None:
            found |= {f"{i}/ffn{j}": (width,) for j, width in enumerate(layer.ffn) if width}
    return found


def sites(blueprint: Blueprint) -> Iterator[Site]:
    """All places where factors multiply."""
    for weight in hidden_writers(blueprint):
        yield Site("hidden", weight)
    head = blueprint.head
    if head is not None and head.kind == "sequence" and head.dense and head.labels:
        yield Site("hidden", "head.classifier.weight", axis=1)  # the pooler's output has the hidden dimensions too
    for dimension in sizes(blueprint):
        if dimension == "hidden":
            continue
        number, _, kind = dimension.partition("/")
        unit, layer = f"encoder.layers.{number}", blueprint.layers[int(number)]
        if kind == "keys":
            query = layer.writer("attention.query")
            yield from (Site(dimension, f"{unit}.{query}.{part}") for part in ("weight", "bias"))
        elif kind in ("values", "heads"):
            repeat = layer.attention.value_size if kind == "heads" else 1
            for part in ("weight", "bias"):
                yield Site(dimension, f"{unit}.{layer.writer('attention.value')}.{part}", repeat=repeat)
        else:
            outer = layer.reader(f"ffn.{kind.removeprefix('ffn')}.outer")
            yield Site(dimension, f"{unit}.{outer}.weight", axis=1)


def hidden_writers(blueprint: Blueprint) -> Iterator[str]:
    """Names of the weights and biases that come last before a hidden state."""
    modules = ["encoder.embeddings." + ("projection" if blueprint.embeddings.project == "after" else "norm")]
    for i, layer in enumerate(blueprint.layers):
        unit = f"encoder.layers.{i}"
        if layer.bottleneck is None and layer.attention_from is None:
            modules.append(f"{unit}.attention.norm")
        if layer.ffn_from is None:
            norms = [f"{unit}.ffn.{j}.norm" for j in range(len(layer.ffn))]
            modules += norms if layer.bottleneck is None else [f"{unit}.widen.norm"]
    head = blueprint.head
    if head is not None and head.kind == "masked_lm" and blueprint.embeddings.project == "none":
        modules.append("head.norm")
    for module in modules:
        yield from (f"{module}.weight", f"{module}.bias")


def resized(blueprint: Blueprint, counts: Mapping[str, int]) -> Blueprint:
    """The blueprint with other sizes by dimension, see :func:`sizes`; ids of heads are not those that stay."""
    layers = []
    for i, layer in enumerate(blueprint.layers):
        spec, at = layer.attention, i if layer.attention_from is None else layer.attention_from
        attention = spec.model_copy(update={
            "heads": spec.heads[: counts.get(f"{at}/heads", len(spec.heads))],
            "head_size": counts.get(f"{at}/keys", spec.head_size),
            "value_size": counts.get(f"{at}/values", spec.value_size),
        })  # fmt: skip
        at = i if layer.ffn_from is None else layer.ffn_from
        ffn = tuple(counts.get(f"{at}/ffn{j}", width) for j, width in enumerate(layer.ffn))
        layers.append(layer.model_copy(update={"attention": attention, "ffn": ffn}))
    hidden, embeddings = counts.get("hidden", blueprint.hidden_size), blueprint.embeddings
    if embeddings.project == "none":
        embeddings = embeddings.model_copy(update={"size": hidden})
    return blueprint.replace(hidden_size=hidden, embeddings=embeddings, layers=tuple(layers))


def freed(blueprint: Blueprint) -> dict[str, int]:
    """Parameters that one unit of each dimension frees; of keys and values a unit is one dimension of every head."""
    total = blueprint.total_parameters
    return {
        name: total - resized(blueprint, {name: shape[-1] - 1}).total_parameters
        for name, shape in sizes(blueprint).items()
        if shape[-1] > 1 or name.endswith("heads") or "ffn" in name
    }


def magnitudes(alpha: Tensor) -> Tensor:
    """(units,) what counts in the ranking, the largest first; for (heads, width): the mean over heads, by rank."""
    ranked = alpha.detach().abs().sort(-1, descending=True).values
    return ranked if alpha.ndim == 1 else ranked.mean(0)


def choose(blueprint: Blueprint, alphas: Mapping[str, Tensor], keep: float, multiple: int) -> dict[str, int]:
    """How many units of each dimension stay: as many as possible by magnitude within ``keep`` of the parameters.

    Args:
        blueprint: before.
        alphas: by dimension.
        keep: share of all parameters.
        multiple: hidden size and neurons are rounded to it.
    """
    scores = {name: magnitudes(alpha) for name, alpha in alphas.items()}
    flat = torch.cat(list(scores.values()))
    order = torch.cat([torch.full((len(value),), i) for i, value in enumerate(scores.values())])[
        flat.argsort(stable=True)
    ]

    def counts(gone: int) -> dict[str, int]:
        lost = torch.bincount(order[:gone], minlength=len(scores)).tolist()
        return {
            name: _count(name, len(value), less, multiple)
            for (name, value), less in zip(scores.items(), lost, strict=True)
        }

    low, high = 0, len(flat)
    while low < high:
        middle = (low + high) // 2
        fits = resized(blueprint, counts(middle)).total_parameters <= keep * blueprint.total_parameters
        low, high = (low, middle) if fits else (middle + 1, high)
    return counts(low)


def _count(name: str, whole: int, lost: int, multiple: int) -> int:
    left = whole - lost
    if name == "hidden" or ("ffn" in name and left):
        return rounded(left, multiple, whole)
    return left if name.endswith("heads") or "ffn" in name else max(1, left)


class Scaled(WeightTransform):
    """Multiplies a weight along one axis by factors that are trained, and owned, elsewhere."""

    def __init__(self, alpha: nn.Parameter, site: Site) -> None:
        super().__init__()
        self.held, self.site = (alpha,), site  # a tuple: no parameter of this module

    def forward(self, weight: Tensor) -> Tensor:
        """Same shape as ``weight``."""
        shape = [1] * weight.ndim
        shape[self.site.axis] = -1
        return weight * self.held[0].flatten().repeat_interleave(self.site.repeat).view(shape)


class Factors(nn.Module):
    """The factors of all dimensions, and their penalty.

    Args:
        blueprint: of the model.
        learning_rate: of the factors.
    """

    def __init__(self, blueprint: Blueprint, learning_rate: float) -> None:
        super().__init__()
        self.alphas = nn.ParameterDict(
            {name: nn.Parameter(torch.ones(shape)) for name, shape in sizes(blueprint).items()}
        )
        self.optimization = Optimization(learning_rate=learning_rate, weight_decay=0.0)
        costs = {name: cost / (self.alphas[name].numel() / self.alphas[name].shape[-1])
                 for name, cost in freed(blueprint).items()}  # fmt: skip
        total = sum(cost * self.alphas[name].numel() for name, cost in costs.items())
        self.beta = {name: cost / total for name, cost in costs.items()}

    def forward(self) -> Tensor:
        """``sum_e beta_e ||alpha_e||_1``: 1 where all factors are 1."""
        return torch.stack([beta * self.alphas[name].abs().sum() for name, beta in self.beta.items()]).sum()


class Schubert(Method):
    """Learn factors on all dimensions of all layers, and cut those that come out smallest."""

    cite: ClassVar[str] = "Khetan & Karnin, 2020"
    requires: ClassVar[frozenset[Need]] = frozenset({Need.LABELS, Need.TRAINING})
    provides: ClassVar[frozenset[Trait]] = frozenset({Trait.NARROW})

    keep: float = Field(0.6, gt=0, le=1, description="Share of the parameters, embeddings included, that stays.")
    gamma: float = Field(1.0, ge=0, le=100_000, description="Weight of the penalty in the loss.")
    learning_rate: float = Field(1e-2, gt=0, le=10, description="Peak learning rate of the factors.")
    multiple_of: int = Field(8, ge=1, le=1024, description="Hidden size and neurons are rounded to this.")

    def attach(self, model: Model, ctx: Context) -> Model:
        """Factors of 1 on every dimension.

        Raises:
            RecipeError: hidden dimensions of such a model cannot be cut.
        """
        head = model.blueprint.head
        if head is not None and head.free_decoder:
            raise RecipeError("prune/schubert: a masked LM with an untied decoder part has no hidden size to cut")
        if (reason := hidden_obstacle(model.blueprint)) is not None:
            raise RecipeError(f"prune/schubert: {reason}")
        factors = Factors(model.blueprint, self.learning_rate)
        for site in sites(model.blueprint):
            put(model, site.weight, Scaled(factors.alphas[site.dimension], site))
        ctx.state["schubert"] = factors
        return model

    def objectives(self, ctx: Context) -> list[Objective]:
        """The penalty."""
        return [Penalty("alphas", self._factors(ctx), weight=self.gamma)]

    def finish(self, model: Model, ctx: Context) -> Model:
        """Cut; the factors are in the weights already."""
        alphas = {name: alpha.detach().abs().cpu() for name, alpha in self._factors(ctx).alphas.items()}
        counts = choose(model.blueprint, alphas, self.keep, self.multiple_of)
        cut = shrink(model, {name: alpha.topk(counts[name], dim=-1).indices for name, alpha in alphas.items()})
        shape = cut.blueprint
        ctx.say(
            f"prune/schubert: hidden {shape.hidden_size}, heads "
            + "/".join(str(len(layer.attention.heads)) for layer in shape.layers)
            + ", neurons " + "/".join(str(sum(layer.ffn)) for layer in shape.layers)
        )  # fmt: skip
        return cut

    def _factors(self, ctx: Context) -> Factors:
        factors = ctx.state["schubert"]
        assert isinstance(factors, Factors)
        return factors


def shrink(model: Model, kept: Mapping[str, Tensor]) -> Model:
    """The model with these units of each dimension; of keys and values, those of each head before any head goes."""
    shape = model.blueprint
    owners = [i for i in range(len(shape.layers)) if f"{i}/heads" in kept]
    widths = {i: (kept[f"{i}/keys"].tolist(), kept[f"{i}/values"].tolist()) for i in owners}
    heads = {i: [shape.layers[i].attention.heads[j] for j in kept[f"{i}/heads"].tolist()] for i in owners}
    neurons = {
        (i, j): kept[f"{i}/ffn{j}"].tolist()
        for i, layer in enumerate(shape.layers)
        for j in range(len(layer.ffn))
        if f"{i}/ffn{j}" in kept
    }
    cut = keep_neurons(keep_heads(keep_head_width(model, widths), heads), neurons)
    return keep_hidden(cut, kept["hidden"].tolist())
