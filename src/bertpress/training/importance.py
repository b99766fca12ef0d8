"""How much the loss depends on a head or a neuron: gradients of gates that multiply its output.

Source: Michel, Levy & Neubig 2019, arXiv:1905.10650, equation 2.  For a gate of 1 on an activation a the derivative
of an example's loss is the sum of a * dL/da; the importance is its absolute value, averaged over the examples.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from bertpress import tasks
from bertpress.encoder.layers import EncoderLayer
from bertpress.encoder.model import BertpressPreTrainedModel
from bertpress.encoder.slots import Slot
from bertpress.tasks import Task
from bertpress.training.frozen import frozen_but
from bertpress.training.teacher import model_inputs

PIECE = 8  # examples that are differentiated together; more take more memory, not less time


def gate_importance(
    model: BertpressPreTrainedModel,
    gates: Mapping[Hashable, tuple[Slot, int]],
    batches: Sequence[dict[str, Tensor]],
    loss: Callable[[Tensor, dict[str, Tensor]], Tensor],
) -> dict[Hashable, Tensor]:
    """Mean over the examples of |dL/dgate| for groups of neighbouring channels.

    Args:
        model: computes without dropout; its weights and its mode stay as they are.
        gates: key -> (activation slot, channels in each group).
        batches: padded batches; every example counts once.
        loss: of one example, from its logits (1, ...) and its batch of one.

    Returns:
        Key -> (groups,) importances, float64.
    """
    signed: dict[Hashable, Tensor] = {}
    total: dict[Hashable, Tensor] = {}
    count = 0

    def record(key: Hashable, size: int) -> Callable[[Any, Any, Tensor], Tensor]:
        def hook(_module: Any, _inputs: Any, activation: Tensor) -> Tensor:
            if not activation.requires_grad:  # the first gate: nothing below it has to be differentiated
                activation = activation.detach().requires_grad_()
            value = activation.detach()

            def add(gradient: Tensor) -> None:
                found = _per_example(value, gradient, size)
                signed[key] = signed[key] + found if key in signed else found

            activation.register_hook(add)
            return activation

        return hook

    hooks = [slot.register_forward_hook(record(key, size)) for key, (slot, size) in gates.items()]
    try:
        # weights need no gradient: theirs, and the inputs kept for them, would take most of the memory
        with frozen_but(model):
            for piece in (piece for batch in batches for piece in _pieces(batch)):
                signed.clear()
                logits = model(**model_inputs(piece)).logits
                _sum_of_examples(logits, piece, loss).backward()
                count += len(logits)
                for key, value in signed.items():
                    total[key] = total.get(key, torch.zeros(())) + value.abs().sum(0)
    finally:
        for hook in hooks:
            hook.remove()
    return {key: total[key] / count for key in gates}


def _pieces(batch: dict[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    for at in range(0, len(batch["input_ids"]), PIECE):
        yield {name: tensor[at : at + PIECE] for name, tensor in batch.items()}


def _per_example(activation: Tensor, gradient: Tensor, size: int) -> Tensor:
    """(batch, tokens, channels) to (batch, groups): the derivative of each example's loss by each group's gate."""
    groups: Tensor = (activation * gradient).sum(1).double().unflatten(-1, (-1, size))
    return groups.sum(-1)


def _sum_of_examples(
    logits: Tensor, batch: dict[str, Tensor], loss: Callable[[Tensor, dict[str, Tensor]], Tensor]
) -> Tensor:
    losses = [
        loss(logits[i : i + 1], {name: value[i : i + 1] for name, value in batch.items()}) for i in range(len(logits))
    ]
    return torch.stack(losses).sum()


def task_importance(
    model: BertpressPreTrainedModel,
    task: Task,
    gates: Mapping[Any, tuple[Slot, int]],
    batches: Sequence[dict[str, Tensor]],
) -> dict[Any, Tensor]:
    """:func:`gate_importance` under the task's own loss."""
    return gate_importance(model, gates, batches, lambda logits, batch: tasks.loss(task, logits, batch))


def head_gates(model: BertpressPreTrainedModel) -> dict[int, tuple[Slot, int]]:
    """Layer -> the slot where its heads lie side by side, and the width of one; layers without heads are absent."""
    return {
        i: (layer.attention.context_slot, layer.spec.attention.value_size)
        for i, layer in _layers(model)
        if layer.spec.attention_from is None and layer.spec.attention.heads
    }


def neuron_gates(model: BertpressPreTrainedModel) -> dict[tuple[int, int], tuple[Slot, int]]:
    """(layer, network) -> the slot of its inner neurons, each a group of its own."""
    return {
        (i, j): (network.inner_slot, 1)
        for i, layer in _layers(model)
        if layer.spec.ffn_from is None
        for j, network in enumerate(layer.networks())
        if network.width
    }


def _layers(model: BertpressPreTrainedModel) -> Iterator[tuple[int, EncoderLayer]]:
    for i, layer in enumerate(model.encoder.layers):
        assert isinstance(layer, EncoderLayer)
        yield i, layer
