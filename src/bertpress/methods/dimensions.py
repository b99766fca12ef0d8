"""The dimensions of an encoder that factors can be put on: hidden size, heads, widths of heads, and neurons.

A factor on a hidden dimension multiplies what each norm puts out, so that 0 takes the dimension out of all hidden
states.  Without the dimension, norms average over those that are left: that is what a masked model has to do too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn

from bertpress.encoder.axes import hidden_obstacle
from bertpress.encoder.blueprint import Blueprint
from bertpress.encoder.surgery import keep_head_width, keep_heads, keep_hidden, keep_neurons
from bertpress.errors import RecipeError
from bertpress.methods.base import Model
from bertpress.methods.selection import note, rounded
from bertpress.methods.transform import WeightTransform


def check_hidden(method: str, blueprint: Blueprint) -> None:
    """Refuse models whose hidden dimensions cannot be cut.

    Raises:
        RecipeError: naming the method.
    """
    if blueprint.head is not None and blueprint.head.free_decoder:
        raise RecipeError(f"{method}: a masked LM with an untied decoder part has no hidden size to cut")
    if (reason := hidden_obstacle(blueprint)) is not None:
        raise RecipeError(f"{method}: {reason}")


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


def unit_notes(scores: Mapping[str, Tensor], kept: Mapping[str, Tensor]) -> dict[str, list[Any]]:
    """What the report shows of the heads and neurons that were chosen: ``heads`` and ``neurons``.

    Args:
        scores: by dimension, see :func:`sizes`: the importance of each unit.
        kept: by dimension, positions that stay.
    """
    units: dict[str, dict[Any, dict[int, float]]] = {"heads": {}, "neurons": {}}
    stay: dict[Any, list[int]] = {}
    for dimension, values in scores.items():
        layer, _, kind = dimension.partition("/")
        if kind != "heads" and not kind.startswith("ffn"):
            continue
        key: Any = int(layer) if kind == "heads" else (int(layer), int(kind.removeprefix("ffn")))
        units["heads" if kind == "heads" else "neurons"][key] = dict(enumerate(values.tolist()))
        stay[key] = kept[dimension].tolist()
    return {name: note(found, stay) for name, found in units.items() if found}


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


def unit_costs(blueprint: Blueprint) -> dict[str, tuple[float, float]]:
    """Parameters of one head or neuron by dimension: for each hidden dimension, and beside them."""
    whole = blueprint.hidden_size
    once, twice = freed(blueprint), freed(resized(blueprint, {"hidden": 2 * whole}))
    units = [name for name in once if name.endswith("heads") or "ffn" in name]
    return {name: ((twice[name] - once[name]) / whole, 2.0 * once[name] - twice[name]) for name in units}


def size_of(costs: Mapping[str, tuple[float, float]], units: Mapping[str, Any], hidden: Any) -> Any:
    """Parameters of heads and neurons.

    Args:
        costs: see :func:`unit_costs`.
        units: how many there are, or are expected to be, by dimension.
        hidden: how many hidden dimensions.
    """
    return sum(units[name] * (each * hidden + beside) for name, (each, beside) in costs.items())


def rounded_count(name: str, left: int, whole: int, multiple: int) -> int:
    """How many units of a dimension stay where ``left`` of ``whole`` should: neurons and hidden size in multiples.

    Heads and neurons may all go; of the others one stays.
    """
    if name == "hidden" or ("ffn" in name and left):
        return rounded(left, multiple, whole)
    return left if name.endswith("heads") or "ffn" in name else max(1, left)


class Scaled(WeightTransform):
    """Multiplies a weight along one axis by factors that are trained, and owned, elsewhere.

    Args:
        factors: gives them as they are now, of any shape; in order they belong to the units of the dimension.
        site: where they multiply.
    """

    def __init__(self, factors: Callable[[], Tensor], site: Site) -> None:
        super().__init__()
        self.factors, self.site = factors, site

    def forward(self, weight: Tensor) -> Tensor:
        """Same shape as ``weight``."""
        shape = [1] * weight.ndim
        shape[self.site.axis] = -1
        return weight * self.factors().flatten().repeat_interleave(self.site.repeat).view(shape)


def kept_norm(x: Tensor, kept: Tensor, norm: nn.LayerNorm) -> Tensor:
    """A norm that averages over some dimensions alone; weight and bias silence the others.

    Args:
        x: (..., hidden).
        kept: (hidden,), bool.
        norm: gives weight, bias and epsilon.
    """
    count = kept.sum().clamp(min=1)
    centred = x - (x * kept).sum(-1, keepdim=True) / count
    variance = (centred.square() * kept).sum(-1, keepdim=True) / count
    return centred * (variance + norm.eps).rsqrt() * norm.weight + norm.bias


def shrink(model: Model, kept: Mapping[str, Tensor]) -> Model:
    """The model with these units of each dimension; of keys and values, those of each head before any head goes.

    Args:
        model: any of our models.
        kept: positions by dimension; one that is not named stays whole.
    """
    layers = model.blueprint.layers
    widths, heads, neurons = {}, {}, {}
    for i, layer in enumerate(layers):
        if f"{i}/keys" in kept:
            widths[i] = (kept[f"{i}/keys"].tolist(), kept[f"{i}/values"].tolist())
        if f"{i}/heads" in kept:
            heads[i] = [layer.attention.heads[j] for j in kept[f"{i}/heads"].tolist()]
        for j in range(len(layer.ffn)):
            if f"{i}/ffn{j}" in kept:
                neurons[i, j] = kept[f"{i}/ffn{j}"].tolist()
    cut = keep_neurons(keep_heads(keep_head_width(model, widths), heads), neurons)
    return keep_hidden(cut, kept["hidden"].tolist()) if "hidden" in kept else cut


def told(blueprint: Blueprint) -> str:
    """The sizes of its dimensions, layer by layer, in a few words."""
    heads = "/".join(str(len(layer.attention.heads)) for layer in blueprint.layers)
    neurons = "/".join(str(sum(layer.ffn)) for layer in blueprint.layers)
    return f"hidden {blueprint.hidden_size}, heads {heads}, neurons {neurons}"
