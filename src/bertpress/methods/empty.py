"""Heads and neurons that pruning has left without weights: cut for real, so that the model gets faster too.

An inner channel that nothing leaves adds nothing.  One that nothing enters adds the same vector to every token, which
moves into the bias of the output map: attention maps sum to 1, so a head without value weights gives its value bias.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bertpress.encoder.factors import matrix, reader, writer
from bertpress.encoder.layers import EncoderLayer
from bertpress.encoder.overwrite import ACTIVATIONS
from bertpress.encoder.surgery import keep_heads, keep_neurons
from bertpress.methods.base import Model


def idle(into: Tensor, out: Tensor, size: int) -> Tensor:
    """Which groups of inner channels nothing enters, or nothing leaves.

    Args:
        into: (channels, inputs), of the map into them.
        out: (outputs, channels), of the map behind them.
        size: channels in a group, such as the width of a head.

    Returns:
        Bool (groups,).
    """
    silent, unheard = (into == 0).all(1), (out == 0).all(0)
    return silent.reshape(-1, size).all(1) | unheard.reshape(-1, size).all(1)


@torch.no_grad()
def cut_empty(model: Model, multiple_of: int = 1) -> Model:
    """The model without its idle heads and neurons, computing the same; what is left keeps its storage plan.

    Args:
        model: without transforms.
        multiple_of: as many idle neurons stay as make the width of a network a multiple of this.
    """
    heads: dict[int, list[int]] = {}
    neurons: dict[tuple[int, int], list[int]] = {}
    shifts: dict[tuple[int, str], Tensor] = {}
    for i, layer in enumerate(model.encoder.layers):
        assert isinstance(layer, EncoderLayer)
        if layer.spec.attention_from is None and layer.spec.attention.heads:
            unit, size = layer.attention, layer.spec.attention.value_size
            gone = _gone(unit.value, unit.output, size)
            if bool(gone.any()):
                heads[i] = [head for head, no in zip(unit.spec.heads, gone.tolist(), strict=True) if not no]
                constant = unit.context_slot(writer(unit.value).bias)
                shifts[i, "attention.output"] = _constant(unit.output, constant, gone, size)
        for j, network in enumerate(layer.networks() if layer.spec.ffn_from is None else []):
            gone = _gone(network.inner, network.outer, 1) if network.width else torch.zeros(0, dtype=torch.bool)
            gone[gone.nonzero()[: -int((~gone).sum()) % multiple_of]] = False
            if bool(gone.any()):
                neurons[i, j] = (~gone).nonzero().flatten().tolist()
                constant = network.inner_slot(ACTIVATIONS[network.activation](writer(network.inner).bias))
                shifts[i, f"ffn.{j}.outer"] = _constant(network.outer, constant, gone, 1)
    if not shifts:
        return model
    cut = keep_neurons(keep_heads(model, heads), neurons)
    for (i, part), shift in shifts.items():
        cut.get_parameter(f"encoder.layers.{i}.{cut.blueprint.layers[i].writer(part)}.bias").add_(shift)
    carry_storage(model, cut)
    return cut


def carry_storage(model: Model, cut: Model) -> None:
    """Let the weights of ``model`` that a cut left whole be stored in ``cut`` as they were."""
    shapes = {name: weight.shape for name, weight in model.unique_weights()}
    same = {name for name, weight in cut.unique_weights() if weight.shape == shapes.get(name)}
    cut.storage = {name: stored for name, stored in model.storage.items() if name in same}


def _gone(into: nn.Module, out: nn.Module, size: int) -> Tensor:
    return idle(writer(into).weight, reader(out).weight, size)


def _constant(out: nn.Module, inner: Tensor, gone: Tensor, size: int) -> Tensor:
    """What the idle channels add to every token, (outputs,)."""
    return matrix(out) @ (inner * gone.repeat_interleave(size))
