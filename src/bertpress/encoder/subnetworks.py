"""Sub-networks: the first heads and neurons of some of a model's layers, run in place or cut out.

A sub-network is the leading block of every weight.  In place its layers compute with views of the model's own
weights, so that it costs what it will cost alone, and its gradients are the model's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache, reduce
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.func import functional_call

from bertpress.encoder.blueprint import Blueprint, LayerSpec
from bertpress.encoder.layers import EncoderLayer
from bertpress.encoder.model import BertpressPreTrainedModel, Encoder
from bertpress.encoder.slots import Tape
from bertpress.encoder.surgery import keep_heads, keep_layers, keep_neurons, rebuild


class Part(NamedTuple):
    """What a sub-network keeps of one layer: so many heads, and neurons of each network; 0 leaves the output bias."""

    layer: int
    heads: int
    ffn: tuple[int, ...]

    def of(self, spec: LayerSpec) -> LayerSpec:
        """The shape of the layer that is left."""
        attention = spec.attention.model_copy(update={"heads": spec.attention.heads[: self.heads]})
        return spec.model_copy(update={"attention": attention, "ffn": self.ffn})


Subnetwork = tuple[Part, ...]


def count_at(share: float, whole: int) -> int:
    """``share`` of ``whole`` units, rounded, at least one where there is any."""
    return min(whole, max(1, round(share * whole)))


def layers_at(depth: float, layers: int) -> list[int]:
    """Layers that stay at a share of the depth: floor(i / depth) (Hou et al. 2020, section 2.2)."""
    return [int(i / depth + 1e-9) for i in range(count_at(depth, layers))]


def subnetwork(blueprint: Blueprint, *, width: float = 1.0, depth: float = 1.0) -> Subnetwork:
    """The same share of the heads and neurons of each layer that stays."""
    return tuple(
        Part(
            i,
            count_at(width, len(blueprint.layers[i].attention.heads)),
            tuple(count_at(width, size) for size in blueprint.layers[i].ffn),
        )
        for i in layers_at(depth, len(blueprint.layers))
    )


def obstacle(blueprint: Blueprint) -> str | None:
    """Why layers cannot be narrowed in place; None where they can."""
    if any(layer.attention_from is not None or layer.ffn_from is not None for layer in blueprint.layers):
        return "layers that share weights cannot have widths of their own"
    if any(getattr(layer.attention.pattern, "sharing", None) == "layers" for layer in blueprint.layers):
        return "layers that compress keys with one matrix cannot have widths of their own"
    if blueprint.smoothed or blueprint.activation_bits:
        return "activations that are quantized cannot be narrowed"
    return None


def cut(model: BertpressPreTrainedModel, parts: Subnetwork) -> BertpressPreTrainedModel:
    """The sub-network as a model of its own.

    Raises:
        ValueError: a layer, a head or a neuron is not there.
    """
    alone = rebuild(model, model.blueprint.replace(elastic=None), model.state_dict())
    alone = keep_layers(alone, [part.layer for part in parts])
    layers = alone.blueprint.layers
    alone = keep_heads(alone, {i: layers[i].attention.heads[: part.heads] for i, part in enumerate(parts)})
    return keep_neurons(alone, {(i, j): range(n) for i, part in enumerate(parts) for j, n in enumerate(part.ffn)})


@contextmanager
def running(model: BertpressPreTrainedModel, parts: Subnetwork) -> Iterator[None]:
    """In the block ``model`` computes what :func:`cut` would leave, with the leading blocks of its own weights.

    Raises:
        ValueError: its layers cannot be narrowed; see :func:`obstacle`.
    """
    if (reason := obstacle(model.blueprint)) is not None:
        raise ValueError(reason)
    encoder, whole = model.encoder, model.encoder.plan

    def plan(encoder: Encoder) -> Iterator[EncoderLayer]:
        for part in parts:
            layer = encoder.layers[part.layer]
            assert isinstance(layer, EncoderLayer)
            spec = part.of(layer.spec)
            narrow = layer if spec == layer.spec else _Narrow(layer, spec, model.blueprint)
            yield cast(EncoderLayer, narrow)

    encoder.plan = plan
    try:
        yield
    finally:
        encoder.plan = whole


class _Narrow:
    """Stands in for a layer: computes as one of the shape ``spec`` whose weights are views of the layer's."""

    def __init__(self, layer: EncoderLayer, spec: LayerSpec, blueprint: Blueprint) -> None:
        self.layer, self.spec, self.exit, self.rule = layer, spec, layer.exit, layer.rule
        self.shell = _shell(spec, blueprint)

    def __call__(self, hidden: Tensor, mask: Tensor | None, tape: Tape, before: Tensor, *owners: Any) -> Tensor:
        """As :meth:`EncoderLayer.forward`."""
        self.shell.train(self.layer.training)
        weights = {
            # by attributes, so that a weight under transforms is what they give
            name: reduce(getattr, name.split("."), self.layer)[tuple(map(slice, shaped.shape))]  # type: ignore[index]
            for name, shaped in self.shell.state_dict().items()
        }
        return functional_call(self.shell, weights, (hidden, mask, tape, before, *owners))  # type: ignore[no-any-return]


@lru_cache(maxsize=256)
def _shell(spec: LayerSpec, blueprint: Blueprint) -> EncoderLayer:
    with torch.device("meta"):
        return EncoderLayer(spec, blueprint)


def reorder(
    model: BertpressPreTrainedModel,
    heads: Mapping[int, Sequence[int]],
    neurons: Mapping[tuple[int, int], Sequence[int]],
) -> BertpressPreTrainedModel:
    """Put heads and neurons into another order; the outputs stay, as each is one term of a sum.

    Ids of heads stay in increasing order and so name places from then on.  A relative bias, which all layers look up
    by id, gets columns for each layer, in the layer's order.

    Args:
        model: any of our models.
        heads: layer -> positions of its heads in their new order.
        neurons: (layer, network) -> positions of its neurons in their new order.

    Raises:
        ValueError: an order is no permutation.
    """
    state, blueprint = {name: tensor.clone() for name, tensor in model.state_dict().items()}, model.blueprint
    for layer, order in heads.items():
        whole, spec = blueprint.layers[layer], blueprint.layers[layer].attention
        _check(order, len(spec.heads), f"heads of layer {layer}")
        for part, size in spec.projections:
            for kind in ("weight", "bias"):
                _permute(state, f"encoder.layers.{layer}.{whole.writer(f'attention.{part}')}.{kind}", order, 0, size)
        reader = whole.reader("attention.output")
        _permute(state, f"encoder.layers.{layer}.{reader}.weight", order, 1, spec.value_size)
        for name in () if spec.pattern is None else spec.pattern.per_head:
            _permute(state, f"encoder.layers.{layer}.attention.pattern.{name}", order, 0, 1)
    for (layer, network), order in neurons.items():
        _check(order, blueprint.layers[layer].ffn[network], f"neurons of layer {layer}")
        whole, prefix = blueprint.layers[layer], f"ffn.{network}"
        inner, outer = whole.writer(f"{prefix}.inner"), whole.reader(f"{prefix}.outer")
        places = (
            (f"{inner}.weight", 0),
            (f"{inner}.bias", 0),
            (f"{prefix}.inner_slot.factor", 0),
            (f"{outer}.weight", 1),
        )
        for name, axis in places:
            if (name := f"encoder.layers.{layer}.{name}") in state:
                _permute(state, name, order, axis, 1)
    if blueprint.relative is not None:
        blueprint = _columns_of_each_layer(blueprint, state, heads)
    return rebuild(model, blueprint, state)


def _check(order: Sequence[int], count: int, what: str) -> None:
    if sorted(order) != list(range(count)):
        raise ValueError(f"{what}: the order must name each of {count} once")


def _permute(state: dict[str, Tensor], name: str, order: Sequence[int], axis: int, size: int) -> None:
    """Reorder groups of ``size`` rows or columns."""
    if not order:
        return
    index = torch.tensor(order, device=state[name].device)
    state[name] = state[name].unflatten(axis, (-1, size)).index_select(axis, index).flatten(axis, axis + 1)


def _columns_of_each_layer(
    blueprint: Blueprint, state: dict[str, Tensor], orders: Mapping[int, Sequence[int]]
) -> Blueprint:
    columns: list[int] = []
    layers: list[LayerSpec] = []
    for i, layer in enumerate(blueprint.layers):
        ids = layer.attention.heads
        start = len(columns)
        columns += [ids[position] for position in orders.get(i, range(len(ids)))]
        new = layer.attention.model_copy(update={"heads": tuple(range(start, len(columns)))})
        layers.append(layer.model_copy(update={"attention": new}))
    assert blueprint.relative is not None
    state["encoder.relative.weight"] = state["encoder.relative.weight"][:, columns]
    relative = blueprint.relative.model_copy(update={"heads": len(columns)})
    return blueprint.replace(relative=relative, layers=tuple(layers))
