"""Slices of a state dict for :mod:`bertpress.encoder.surgery`: the weights of one unit, cut in place.

Of a factored map a cut takes from the factor that has the units: rows of the second, columns of the first.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from bertpress.encoder.blueprint import LayerSpec, NetworkRanks

State = dict[str, Tensor]


def rows(index: Iterable[int], size: int) -> Tensor:
    """Row numbers of the heads at these positions, ``size`` rows each."""
    return torch.tensor([i * size + j for i in index for j in range(size)], dtype=torch.long)


def drop(state: State, prefix: str) -> None:
    """Remove everything under a prefix."""
    for name in [name for name in state if name.startswith(prefix)]:
        del state[name]


def drop_map(state: State, layer: str, spec: LayerSpec, part: str) -> None:
    """Remove a map of a layer but for its bias."""
    bias = state[f"{layer}.{spec.writer(part)}.bias"]
    drop(state, f"{layer}.{part}.")
    state[f"{layer}.{part}.bias"] = bias


def ranked(spec: LayerSpec, part: str, rank: int) -> LayerSpec:
    """The layer with another rank of one matrix."""
    unit, *place = part.split(".")
    changed = {place[-1]: rank}
    if unit == "attention":
        ranks = spec.attention.ranks.model_copy(update=changed)
        return spec.model_copy(update={"attention": spec.attention.model_copy(update={"ranks": ranks})})
    networks = list(spec.network_ranks)
    networks[int(place[0])] = networks[int(place[0])].model_copy(update=changed)
    whole = all(each == NetworkRanks() for each in networks)
    return spec.model_copy(update={"ffn_ranks": () if whole else tuple(networks)})


def take_heads(state: State, layer: str, spec: LayerSpec, positions: Sequence[int]) -> None:
    """Keep the heads at these positions."""
    if not spec.attention.heads:
        return
    if not positions:
        drop_map(state, layer, spec, "attention.output")
        for part in ("query", "key", "value", "input_slot", "value_input_slot", "map_slot", "context_slot", "pattern"):
            drop(state, f"{layer}.attention.{part}")
        return
    queries, values = (rows(positions, size) for size in (spec.attention.head_size, spec.attention.value_size))
    take_dimensions(state, layer, spec, queries, values)
    pattern = spec.attention.pattern
    for name in () if pattern is None else pattern.per_head:
        state[f"{layer}.attention.pattern.{name}"] = state[f"{layer}.attention.pattern.{name}"][list(positions)]


def take_dimensions(state: State, layer: str, spec: LayerSpec, queries: Tensor, values: Tensor) -> None:
    """Keep these rows of queries and keys, and these of values."""
    for part, _ in spec.attention.projections:
        kept = values if part == "value" else queries
        _take_outputs(state, f"{layer}.{spec.writer(f'attention.{part}')}", kept)
    _take_inputs(state, f"{layer}.{spec.reader('attention.output')}", values)


def take_neurons(state: State, layer: str, spec: LayerSpec, network: int, kept: Sequence[int]) -> None:
    """Keep these neurons of a network."""
    part = f"ffn.{network}"
    if not spec.ffn[network]:
        return
    if not kept:
        drop_map(state, layer, spec, f"{part}.outer")
        for name in ("inner.", "input_slot", "inner_slot"):
            drop(state, f"{layer}.{part}.{name}")
        return
    index = torch.tensor(kept)
    _take_outputs(state, f"{layer}.{spec.writer(f'{part}.inner')}", index)
    _take_inputs(state, f"{layer}.{spec.reader(f'{part}.outer')}", index)
    if (factor := f"{layer}.{part}.inner_slot.factor") in state:
        state[factor] = state[factor][index]


def _take_outputs(state: State, linear: str, kept: Tensor) -> None:
    for name in (f"{linear}.weight", f"{linear}.bias"):
        state[name] = state[name][kept]


def _take_inputs(state: State, linear: str, kept: Tensor) -> None:
    state[f"{linear}.weight"] = state[f"{linear}.weight"][:, kept]
