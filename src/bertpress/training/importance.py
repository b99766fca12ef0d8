"""How much the loss depends on a head or a neuron: gradients of gates that multiply its output.

Source: Michel, Levy & Neubig 2019, arXiv:1905.10650, equation 2.  For a gate of 1 on an activation a the derivative
of an example's loss is the sum of a * dL/da; the importance is its absolute value, averaged over the examples.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bertpress import tasks
from bertpress.encoder.layers import EncoderLayer, FeedForward
from bertpress.encoder.model import BertpressPreTrainedModel
from bertpress.tasks import Task
from bertpress.training.teacher import model_inputs


def gate_importance(
    model: BertpressPreTrainedModel,
    gates: Mapping[Hashable, tuple[nn.Module, int]],
    batches: Sequence[dict[str, Tensor]],
    loss: Callable[[Tensor, dict[str, Tensor]], Tensor],
) -> dict[Hashable, Tensor]:
    """Mean over the examples of |dL/dgate| for groups of neighbouring channels.

    Args:
        model: computes without dropout; its weights and its mode stay as they are.
        gates: key -> (module whose output the gates multiply, channels in each group).
        batches: padded batches; every example counts once.
        loss: of one example, from its logits (1, ...) and its batch of one.

    Returns:
        Key -> (groups,) importances, float64.
    """
    seen: dict[Hashable, list[Tensor]] = {key: [] for key in gates}
    total: dict[Hashable, Tensor] = {}
    training, count = model.training, 0
    model.eval()

    def record(key: Hashable) -> Callable[[Any, Any, Tensor], None]:
        def hook(_module: Any, _inputs: Any, activation: Tensor) -> None:
            activation.retain_grad()
            seen[key].append(activation)

        return hook

    hooks = [module.register_forward_hook(record(key)) for key, (module, _) in gates.items()]
    try:
        for batch in batches:
            for tensors in seen.values():
                tensors.clear()
            with torch.enable_grad():
                logits = model(**model_inputs(batch)).logits
                _sum_of_examples(logits, batch, loss).backward()
            count += len(logits)
            for key, (_, size) in gates.items():
                signed = sum(_per_example(activation, size) for activation in seen[key])
                assert isinstance(signed, Tensor)
                total[key] = total.get(key, torch.zeros(())) + signed.abs().sum(0)
    finally:
        for hook in hooks:
            hook.remove()
        model.zero_grad(set_to_none=True)
        model.train(training)
    return {key: value / count for key, value in total.items()}


def _per_example(activation: Tensor, size: int) -> Tensor:
    """(batch, tokens, channels) to (batch, groups): the derivative of each example's loss by each group's gate."""
    assert activation.grad is not None
    product = (activation.detach() * activation.grad).sum(1)
    groups: Tensor = product.double().unflatten(-1, (-1, size))
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
    gates: Mapping[Any, tuple[nn.Module, int]],
    batches: Sequence[dict[str, Tensor]],
) -> dict[Any, Tensor]:
    """:func:`gate_importance` under the task's own loss."""
    return gate_importance(model, gates, batches, lambda logits, batch: tasks.loss(task, logits, batch))


def head_gates(model: BertpressPreTrainedModel) -> dict[int, tuple[nn.Module, int]]:
    """Layer -> the slot where its heads lie side by side, and the width of one; layers without heads are absent."""
    return {
        i: (layer.attention.context_slot, layer.spec.attention.value_size)
        for i, layer in _layers(model)
        if layer.spec.attention_from is None and layer.spec.attention.heads
    }


def neuron_gates(model: BertpressPreTrainedModel) -> dict[tuple[int, int], tuple[nn.Module, int]]:
    """(layer, network) -> the slot of its inner neurons, each a group of its own."""
    return {key: (network.inner_slot, 1) for key, network in _networks(model)}


def neuron_input_gates(model: BertpressPreTrainedModel) -> dict[tuple[int, int], tuple[nn.Module, int]]:
    """(layer, network) -> the linear map that gives what its neurons take in, before their activation."""
    return {key: (network.inner, 1) for key, network in _networks(model)}


def _networks(model: BertpressPreTrainedModel) -> Iterator[tuple[tuple[int, int], FeedForward]]:
    for i, layer in _layers(model):
        if layer.spec.ffn_from is None:
            for j, network in enumerate(layer.networks()):
                if network.width:
                    yield (i, j), network


def _layers(model: BertpressPreTrainedModel) -> Iterator[tuple[int, EncoderLayer]]:
    for i, layer in enumerate(model.encoder.layers):
        assert isinstance(layer, EncoderLayer)
        yield i, layer
