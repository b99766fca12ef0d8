"""Which axes of a weight run over the hidden dimensions."""

from __future__ import annotations

import re

from torch import Tensor

from bertpress.encoder.blueprint import Blueprint, LayerSpec


def hidden_obstacle(blueprint: Blueprint) -> str | None:
    """Why the hidden dimensions cannot be cut; None where they can."""
    if blueprint.shortening is not None or any(layer.mixer is not None for layer in blueprint.layers):
        return "hidden dimensions that convolutions or LSTMs read cannot be cut"
    if blueprint.head is not None and (blueprint.head.siamese or blueprint.head.dense_size):
        return "hidden dimensions under a siamese head or one with a width of its own cannot be cut"
    return None


def hidden_axes(blueprint: Blueprint, name: str, tensor: Tensor) -> tuple[int, ...]:
    """The axes of a weight that run over the hidden dimensions: what a hidden mask covers, and a cut slices.

    Raises:
        ValueError: the hidden dimensions of this model cannot be cut.
    """
    if (reason := hidden_obstacle(blueprint)) is not None:
        raise ValueError(reason)
    both: tuple[int, ...] = tuple(range(tensor.dim()))
    rows, columns = (0,), (tensor.dim() - 1,)
    unit = name.removeprefix("encoder.")
    if "slot" in name:
        return rows if name.endswith("input_slot.factor") else ()
    if unit.startswith("embeddings."):
        return _embedding_axes(blueprint, unit, rows, columns)
    if unit.startswith("head."):
        return _head_axes(blueprint, unit.removeprefix("head."), both, rows, columns)
    if not unit.startswith("layers."):
        return ()
    layer, part = blueprint.layers[int(unit.split(".")[1])], unit.split(".", 2)[2]
    if layer.exit is not None and part.startswith("exit."):
        in_head = _head_axes(blueprint, part.removeprefix("exit."), both, rows, columns)
        return in_head if layer.exit.kind != "branch" else columns if part == "exit.narrow.weight" else ()
    if (factor := re.search(r"\.(up|down)(?=\.)", part)) is not None:
        whole = _layer_axes(layer, part[: factor.start()] + part[factor.end() :], rows, columns)
        return whole if whole == (rows if factor[1] == "up" else columns) else ()
    return _layer_axes(layer, part, rows, columns)


def _layer_axes(layer: LayerSpec, part: str, rows: tuple[int, ...], columns: tuple[int, ...]) -> tuple[int, ...]:
    if layer.bottleneck is None:
        closes = part.startswith(("attention.output.", "attention.norm.")) or ".outer." in part or ".norm." in part
        if closes:
            return rows
        return columns if part.endswith(".weight") else ()
    source = layer.bottleneck.attention_input
    reads: tuple[str, ...] = ("narrow.dense.weight", "narrow_query.dense.weight")
    reads += ("attention.value.weight",) if source != "inner" else ()
    reads += ("attention.query.weight", "attention.key.weight") if source == "hidden" else ()
    if part in reads:
        return columns
    return rows if part.startswith("widen.") else ()


def _embedding_axes(
    blueprint: Blueprint, unit: str, rows: tuple[int, ...], columns: tuple[int, ...]
) -> tuple[int, ...]:
    if unit.startswith("embeddings.projection."):
        return rows
    project = blueprint.embeddings.project
    if unit == "embeddings.word.codes":
        return ()
    if project == "none" or (project == "tokens" and not unit.startswith("embeddings.word.")):
        return columns
    return ()


def _head_axes(
    blueprint: Blueprint, part: str, both: tuple[int, ...], rows: tuple[int, ...], columns: tuple[int, ...]
) -> tuple[int, ...]:
    head = blueprint.head
    assert head is not None
    if head.kind != "masked_lm":
        return both if part.startswith("dense.") else columns if part.endswith("weight") else ()
    if head.free_decoder:
        raise ValueError("hidden dimensions of a masked LM with an untied decoder part cannot be cut")
    square = blueprint.embeddings.project == "none" or blueprint.embeddings.factorized
    if part == "dense.weight":
        return both if square else columns
    return rows if square and part in ("dense.bias", "norm.weight", "norm.bias") else ()
