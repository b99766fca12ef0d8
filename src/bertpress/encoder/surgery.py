"""The only code that cuts; the token table has a file of its own, :mod:`bertpress.encoder.tables`.

Every function returns a new, smaller model; the one handed in stays as it is.

A cut is a new blueprint plus a sliced state dict: :func:`rebuild` loads the slices strictly, so a tensor that a cut
forgot is an error and not a silently fresh weight.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from bertpress.encoder.axes import hidden_axes as hidden_axes
from bertpress.encoder.blueprint import AttentionRanks, AttentionSpec, Blueprint, LayerSpec
from bertpress.encoder.factors import reader, writer
from bertpress.encoder.model import BertpressPreTrainedModel
from bertpress.encoder.slices import State, drop, ranked, take_dimensions, take_heads, take_neurons
from bertpress.encoder.transforms import transformed
from bertpress.errors import ModelError

Widths = tuple[Sequence[Sequence[int]], Sequence[Sequence[int]]]
Unit = Literal["all", "attention", "ffn"]


def rebuild(
    model: BertpressPreTrainedModel, blueprint: Blueprint, state: State, storage: Mapping[str, Any] | None = None
) -> BertpressPreTrainedModel:
    """A model of the same class with another shape and these weights.

    Args:
        model: gives class, labels and device.
        blueprint: of the new one.
        state: its weights by name.
        storage: how they are kept in a file; None: as plain floats.

    Raises:
        ModelError: if ``state`` does not hold exactly the tensors of ``blueprint``.
    """
    config = model.config.__class__(
        blueprint=blueprint,
        **{key: getattr(model.config, key) for key in ("id2label", "label2id", "problem_type", "architectures")},
    )
    new = type(model).filled(config, {name: tensor.contiguous() for name, tensor in state.items()}, dict(storage or {}))
    new.to(next(model.parameters()).device)
    return new  # type: ignore[no-any-return]


def _state(model: BertpressPreTrainedModel) -> State:
    if (under := next(transformed(model), None)) is not None:
        raise ModelError(f"{under} is under a transform of an earlier method and cannot be cut; cut first")
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def _layers(model: BertpressPreTrainedModel) -> list[LayerSpec]:
    return list(model.blueprint.layers)


def _users(layers: Sequence[LayerSpec], owner: int, unit: str) -> list[int]:
    """The layers that compute with ``owner``'s weights, itself included."""
    return [i for i, spec in enumerate(layers) if i == owner or getattr(spec, f"{unit}_from") == owner]


def _owned(layers: Sequence[LayerSpec], layer: int, unit: str, count: int) -> None:
    if not 0 <= layer < count:
        raise ValueError(f"layer={layer} must be in [0, {count - 1}]")
    if (owner := getattr(layers[layer], f"{unit}_from")) is not None:
        raise ValueError(f"layer={layer} shares its {unit} weights with layer {owner}: cut that one")


def keep_heads(model: BertpressPreTrainedModel, heads: Mapping[int, Sequence[int]]) -> BertpressPreTrainedModel:
    """Keep these heads of these layers; a layer without heads keeps its output bias.

    Args:
        model: any of our models.
        heads: layer -> ids of the heads to keep, as the layer's blueprint numbers them, in any order.

    Raises:
        ValueError: for a layer or head that is not there.
    """
    state, layers = _state(model), _layers(model)
    for layer, wanted in heads.items():
        _owned(layers, layer, "attention", len(layers))
        spec = layers[layer].attention
        if missing := set(wanted) - set(spec.heads):
            raise ValueError(f"layer {layer}: heads={sorted(missing)} must be among {spec.heads}")
        kept = tuple(head for head in spec.heads if head in set(wanted))
        take_heads(state, f"encoder.layers.{layer}", layers[layer], [spec.heads.index(h) for h in kept])
        new = {"heads": kept, "ranks": spec.ranks if kept else AttentionRanks()}
        for i in _users(layers, layer, "attention"):
            layers[i] = layers[i].model_copy(update={"attention": spec.model_copy(update=new)})
    return rebuild(model, model.blueprint.with_layers(tuple(layers)), state)


def keep_head_width(model: BertpressPreTrainedModel, kept: Mapping[int, Widths]) -> BertpressPreTrainedModel:
    """Keep these dimensions inside the heads; the factor on the scores stays what it was.

    Args:
        model: any of our models.
        kept: layer -> for each of its heads the dimensions of queries and keys, and those of values; as many in each.

    Raises:
        ValueError: for a layer or dimension that is not there, or heads of unequal width.
    """
    state, layers = _state(model), _layers(model)
    for layer, (queries, values) in kept.items():
        _owned(layers, layer, "attention", len(layers))
        spec = layers[layer].attention
        rows = [_inside(layer, *which) for which in ((queries, spec, spec.head_size), (values, spec, spec.value_size))]
        if spec.tied:
            raise ValueError(f"layer {layer}: heads that hash their queries cannot be made narrower")
        take_dimensions(state, f"encoder.layers.{layer}", layers[layer], *rows)
        new = {
            "head_size": len(queries[0]),
            "value_size": len(values[0]),
            "scale": spec.scale or 1 / math.sqrt(spec.head_size),
        }
        for i in _users(layers, layer, "attention"):
            layers[i] = layers[i].model_copy(update={"attention": spec.model_copy(update=new)})
    return rebuild(model, model.blueprint.with_layers(tuple(layers)), state)


def _inside(layer: int, kept: Sequence[Sequence[int]], spec: AttentionSpec, size: int) -> Tensor:
    widths = {len(each) for each in kept}
    if (
        len(kept) != len(spec.heads)
        or len(widths) != 1
        or 0 in widths
        or not all(0 <= d < size for each in kept for d in each)
    ):
        raise ValueError(f"layer {layer}: needs equally many dimensions in [0, {size - 1}] for each of {spec.heads}")
    return torch.tensor([i * size + d for i, each in enumerate(kept) for d in sorted(each)], dtype=torch.long)


def keep_neurons(
    model: BertpressPreTrainedModel, neurons: Mapping[tuple[int, int], Sequence[int]]
) -> BertpressPreTrainedModel:
    """Keep these inner neurons of these feed-forward networks; one without neurons keeps its output bias.

    Args:
        model: any of our models.
        neurons: (layer, network of its stack) -> positions of the neurons to keep, in any order.

    Raises:
        ValueError: for a layer, network or neuron that is not there.
    """
    state, layers = _state(model), _layers(model)
    for (layer, network), wanted in neurons.items():
        _owned(layers, layer, "ffn", len(layers))
        widths = layers[layer].ffn
        if not 0 <= network < len(widths):
            raise ValueError(f"layer {layer}: network={network} must be in [0, {len(widths) - 1}]")
        kept = sorted(set(wanted))
        if kept and not 0 <= kept[0] <= kept[-1] < widths[network]:
            raise ValueError(f"layer {layer}: neurons must be in [0, {widths[network] - 1}], not {kept[0]}..{kept[-1]}")
        take_neurons(state, f"encoder.layers.{layer}", layers[layer], network, kept)
        new = layers[layer].model_copy(update={"ffn": (*widths[:network], len(kept), *widths[network + 1 :])})
        for part in () if kept else ("inner", "outer"):
            new = ranked(new, f"ffn.{network}.{part}", 0)
        for i in _users(layers, layer, "ffn"):
            layers[i] = layers[i].model_copy(update={"ffn": new.ffn, "ffn_ranks": new.ffn_ranks})
    return rebuild(model, model.blueprint.with_layers(tuple(layers)), state)


def factorize(
    model: BertpressPreTrainedModel, factors: Mapping[tuple[int, str], tuple[Tensor, Tensor]]
) -> BertpressPreTrainedModel:
    """Put products of two thinner matrices in place of matrices of layers; the biases stay.

    Args:
        model: any of our models whose activations are floats.
        factors: (layer, name of the map there, such as ``attention.query`` or ``ffn.0.inner``) -> the matrix behind,
            (outputs, rank), and the one before, (rank, inputs); they replace factors that are there.

    Raises:
        ValueError: for a map that is not there, factors that do not fit, or quantized activations.
    """
    state, layers = _state(model), _layers(model)
    if model.blueprint.activation_bits is not None:
        raise ValueError("matrices that read quantized activations cannot be factorized: quantize afterwards")
    for (layer, part), (up, down) in factors.items():
        unit = part.split(".")[0]
        _owned(layers, layer, unit, len(layers))
        maps = dict(model.encoder.layers[layer].maps())  # type: ignore[operator]
        if part not in maps:
            raise ValueError(f"layer {layer}: {part} must be one of {', '.join(maps)}")
        shape, rank = (writer(maps[part]).out_features, reader(maps[part]).in_features), len(down)
        if not rank or (len(up), down.shape[1]) != shape or up.shape[1] != rank:
            told = f"{tuple(up.shape)} and {tuple(down.shape)}"
            raise ValueError(f"layer {layer}: factors {told} do not make {part}, which is {shape}")
        name = f"encoder.layers.{layer}.{part}"
        bias = state[f"encoder.layers.{layer}.{layers[layer].writer(part)}.bias"]
        drop(state, f"{name}.")
        state |= {f"{name}.down.weight": down, f"{name}.up.weight": up, f"{name}.up.bias": bias}
        for i in _users(layers, layer, unit):
            layers[i] = ranked(layers[i], part, rank)
    return rebuild(model, model.blueprint.with_layers(tuple(layers)), state)


_UNIT_PARTS = {"attention": ("attention.", "mixer.", "narrow.", "narrow_query."), "ffn": ("ffn.", "widen.")}


def _unit_names(state: State, layer: int, unit: str) -> list[str]:
    starts = tuple(f"encoder.layers.{layer}.{part}" for part in _UNIT_PARTS[unit])
    return [name for name in state if name.startswith(starts)]


def keep_layers(model: BertpressPreTrainedModel, kept: Sequence[int]) -> BertpressPreTrainedModel:
    """Keep these layers, in this order; where a layer that owned shared weights goes, its first heir owns them.

    Raises:
        ValueError: if ``kept`` is empty, repeats a layer, is not increasing or names one that is not there.
    """
    state, layers = _state(model), _layers(model)
    if not kept or list(kept) != sorted(set(kept)) or not 0 <= kept[0] <= kept[-1] < len(layers):
        raise ValueError(f"layers={list(kept)} must be increasing numbers in [0, {len(layers) - 1}], at least one")
    new_state = {name: tensor for name, tensor in state.items() if not name.startswith("encoder.layers.")}
    new_layers: list[LayerSpec] = []
    heirs: dict[tuple[str, int], int] = {}
    for new, old in enumerate(kept):
        owners: dict[str, int | None] = {"origin": old if layers[old].origin is None else layers[old].origin}
        for unit in ("attention", "ffn"):
            owner = getattr(layers[old], f"{unit}_from")
            owner = old if owner is None else owner
            owners[f"{unit}_from"] = heirs.get((unit, owner))
            if (unit, owner) not in heirs:
                heirs[unit, owner] = new
                for name in _unit_names(state, owner, unit):
                    tail = name.removeprefix(f"encoder.layers.{owner}.")
                    new_state[f"encoder.layers.{new}.{tail}"] = state[name]
        last = old == kept[-1]  # where the model's own head is the exit
        for name in (name for name in state if name.startswith(f"encoder.layers.{old}.exit.") and not last):
            new_state[name.replace(f".{old}.", f".{new}.", 1)] = state[name]
        new_layers.append(layers[old].model_copy(update=owners | ({"exit": None} if last else {})))
    blueprint = model.blueprint
    rule = blueprint.exit if any(layer.exit for layer in new_layers) else None
    if rule is not None and len(new_layers) < len(layers):  # bounds of another depth say nothing
        rule = rule.model_copy(update={"tables": ()})
    return rebuild(model, blueprint.replace(layers=tuple(new_layers), exit=rule), new_state)


def share(
    model: BertpressPreTrainedModel,
    owners: Mapping[int, int],
    *,
    unit: Unit = "all",
    start: Literal["mean"] | int = 0,
) -> BertpressPreTrainedModel:
    """Let layers compute with the weights of an earlier layer (ALBERT); the weights are stored once.

    Args:
        model: any of our models; its sub-units to be shared must have one shape.
        owners: layer -> the earlier layer whose weights it shall use.
        unit: what is shared.
        start: the shared weights begin as those of the layer at this place among all that share them, of which the
            owner is 0, or as the mean over all.

    Raises:
        ValueError: where an owner is not earlier, shares itself, or differs in shape, or ``start`` is no such place.
    """
    state, layers = _state(model), _layers(model)
    for part in ("attention", "ffn") if unit == "all" else (unit,):
        for owner in sorted(set(owners.values())):
            members = [owner, *sorted(layer for layer, of in owners.items() if of == owner)]
            if sharing := [i for i in members if getattr(layers[i], f"{part}_from") is not None]:
                raise ValueError(f"layers {sharing}: share their {part} weights already")
            if start != "mean" and not 0 <= start < len(members):
                raise ValueError(f"layers {members}: start={start} must be in [0, {len(members) - 1}]")
            for name in _unit_names(state, owner, part):
                tail = name.removeprefix(f"encoder.layers.{owner}.")
                if missing := [i for i in members if f"encoder.layers.{i}.{tail}" not in state]:
                    raise ValueError(
                        f"layers {missing}: without {tail}, which layer {owner} has, nothing can be shared"
                    )
                tensors = [state[f"encoder.layers.{member}.{tail}"] for member in members]
                if any(tensor.shape != tensors[0].shape for tensor in tensors):
                    raise ValueError(f"layers {members}: {tail} must have one shape to be shared")
                averaged = start == "mean" and tensors[0].is_floating_point()
                state[name] = torch.stack(tensors).mean(0) if averaged else tensors[0 if start == "mean" else start]
        for layer, owner in owners.items():
            for name in _unit_names(state, layer, part):
                del state[name]
            layers[layer] = layers[layer].model_copy(update={f"{part}_from": owner})
    return rebuild(model, model.blueprint.with_layers(tuple(layers)), state)


def keep_hidden(model: BertpressPreTrainedModel, kept: Sequence[int]) -> BertpressPreTrainedModel:
    """Keep these hidden dimensions everywhere; norms average over what is kept.

    Raises:
        ValueError: if ``kept`` is empty or names a dimension that is not there.
    """
    blueprint, state = model.blueprint, _state(model)
    index = torch.tensor(sorted(set(kept)), dtype=torch.long)
    if not len(index) or not 0 <= int(index[0]) <= int(index[-1]) < blueprint.hidden_size:
        raise ValueError(f"hidden dimensions must be in [0, {blueprint.hidden_size - 1}], at least one")
    for name in list(state):
        for axis in hidden_axes(blueprint, name, state[name]):
            state[name] = state[name].index_select(axis, index.to(state[name].device))
    embeddings = blueprint.embeddings
    if embeddings.project == "none":
        embeddings = embeddings.model_copy(update={"size": len(index)})
    return rebuild(model, blueprint.replace(hidden_size=len(index), embeddings=embeddings), state)


def keep_positions(model: BertpressPreTrainedModel, longest: int) -> BertpressPreTrainedModel:
    """End the position table where inputs of ``longest`` tokens do; one that ends before stays."""
    table, state = model.blueprint.embeddings, _state(model)
    if (kept := longest + table.first_position) >= table.positions:
        return model
    name = "encoder.embeddings.position.weight"
    state[name] = state[name][:kept]
    embeddings = table.model_copy(update={"positions": kept})
    return rebuild(model, model.blueprint.replace(embeddings=embeddings), state)
