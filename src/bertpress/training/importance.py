"""How much the loss depends on a head, a neuron or a feed-forward network: gates that multiply its output.

Source: Michel, Levy & Neubig 2019, arXiv:1905.10650, equation 2.  For a gate of 1 on an activation a the derivative
of an example's loss is the sum of a * dL/da; the importance is its absolute value, averaged over the examples.
Ablation, section 3.2 there, closes each gate instead and looks at the loss.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from bertpress import tasks
from bertpress.encoder.layers import EncoderLayer, FeedForward
from bertpress.encoder.model import BertpressPreTrainedModel
from bertpress.errors import RecipeError
from bertpress.tasks import Task
from bertpress.training.frozen import frozen_but
from bertpress.training.teacher import model_inputs

Measure = Literal["gradient", "ablation"]
PIECE = 8  # examples that are differentiated together; more take more memory, not less time


Gates = Mapping[Any, tuple[nn.Module, int]]
"""Key -> (module whose output the gates multiply, channels in each group)."""
Loss = Callable[[Tensor, dict[str, Tensor]], Tensor]
"""Of one example, from its logits (1, ...), of two sentences (2, ...), and its batch of one."""


def gate_gradients(
    model: BertpressPreTrainedModel, gates: Gates, batches: Sequence[dict[str, Tensor]], loss: Loss
) -> Iterator[dict[Any, Tensor]]:
    """dL/dgate of each example for groups of neighbouring channels, some examples at a time.

    Args:
        model: computes without dropout; its weights and its mode stay as they are.
        gates: of the model.
        batches: padded batches; every example counts once.
        loss: of one example.

    Yields:
        Key -> (examples, groups), float64.

    Raises:
        RecipeError: there are no gates.
    """
    if not gates:
        raise RecipeError("the model has no units of that kind to rank (convolutions and LSTMs have none)")
    signed: dict[Any, Tensor] = {}

    def record(key: Any, size: int) -> Callable[[Any, Any, Tensor], Tensor]:
        def hook(_module: Any, _inputs: Any, activation: Tensor) -> Tensor:
            if not activation.requires_grad:  # the first gate: nothing below it has to be differentiated
                activation = activation.detach().requires_grad_()
            value = activation.detach()

            def add(gradient: Tensor) -> None:
                found = _per_example(value, gradient, size, count)
                signed[key] = signed[key] + found if key in signed else found

            activation.register_hook(add)
            return activation

        return hook

    hooks = [module.register_forward_hook(record(key, size)) for key, (module, size) in gates.items()]
    try:
        # weights need no gradient: theirs, and the inputs kept for them, would take most of the memory
        with frozen_but(model):
            for piece in (piece for batch in batches for piece in tasks.pieces_of(batch, PIECE)):
                signed.clear()
                count = tasks.examples_of(piece)
                logits = model(**model_inputs(piece)).logits
                _sum_of_examples(logits, piece, loss).backward()
                yield dict(signed)
    finally:
        for hook in hooks:
            hook.remove()


def gate_importance(
    model: BertpressPreTrainedModel, gates: Gates, batches: Sequence[dict[str, Tensor]], loss: Loss
) -> dict[Any, Tensor]:
    """Mean over the examples of |dL/dgate|, key -> (groups,), float64; see :func:`gate_gradients`."""
    total: dict[Any, Tensor] = {}
    for signed in gate_gradients(model, gates, batches, loss):
        for key, value in signed.items():
            total[key] = total.get(key, torch.zeros(())) + value.abs().sum(0)
    count = sum(tasks.examples_of(batch) for batch in batches)
    return {key: total[key] / count for key in gates}


def _per_example(activation: Tensor, gradient: Tensor, size: int, examples: int) -> Tensor:
    """(rows, tokens, channels) to (examples, groups): the derivative of each example's loss by each group's gate."""
    groups = (activation * gradient).sum(1).double().unflatten(-1, (-1, size)).sum(-1)
    found: Tensor = groups.unflatten(0, (examples, -1)).sum(1)
    return found


def _sum_of_examples(logits: Tensor, batch: dict[str, Tensor], loss: Loss) -> Tensor:
    rows = len(logits) // tasks.examples_of(batch)
    pieces = zip(logits.split(rows), tasks.pieces_of(batch, 1), strict=True)
    return torch.stack([loss(own, piece) for own, piece in pieces]).sum()


def gate_ablation(
    model: BertpressPreTrainedModel, gates: Gates, batches: Sequence[dict[str, Tensor]], loss: Loss
) -> dict[Any, Tensor]:
    """How much the mean loss of the examples rises when one gate is closed; negative where it falls.

    Args and return value: as for :func:`gate_importance`.
    """
    training, device = model.training, next(model.parameters()).device
    model.eval()

    def mean_loss() -> Tensor:
        with torch.no_grad():
            pairs = [(model(**model_inputs(batch)).logits, batch) for batch in batches]
            losses = [_sum_of_examples(logits, batch, loss).double() for logits, batch in pairs]
        return torch.stack(losses).sum() / sum(tasks.examples_of(batch) for batch in batches)

    def hooked(slot: nn.Module, hook: Callable[[Any, Any, Tensor], Tensor | None]) -> Tensor:
        handle = slot.register_forward_hook(hook)
        try:
            return mean_loss()
        finally:
            handle.remove()

    def rises(slot: nn.Module, size: int) -> Tensor:
        widths: list[int] = []
        whole = hooked(slot, lambda _module, _inputs, activation: widths.append(activation.shape[-1]))

        def without(group: int) -> Tensor:
            index = torch.tensor([group], device=device)
            return hooked(
                slot, lambda _module, _inputs, x: x.unflatten(-1, (-1, size)).index_fill(-2, index, 0).flatten(-2)
            )

        return torch.stack([without(group) for group in range(widths[0] // size)]) - whole

    try:
        return {key: rises(slot, size).cpu() for key, (slot, size) in gates.items()}
    finally:
        model.train(training)


def task_importance(
    model: BertpressPreTrainedModel,
    task: Task,
    gates: Gates,
    batches: Sequence[dict[str, Tensor]],
    measure: Measure = "gradient",
) -> dict[Any, Tensor]:
    """:func:`gate_importance` (or :func:`gate_ablation`) under the task's own loss."""
    of = gate_importance if measure == "gradient" else gate_ablation
    return of(model, gates, batches, partial(tasks.loss, task))


def task_gradients(
    model: BertpressPreTrainedModel, task: Task, gates: Gates, batches: Sequence[dict[str, Tensor]]
) -> dict[Any, Tensor]:
    """:func:`gate_gradients` of all examples under the task's own loss, key -> (examples, groups), float32."""
    pieces = [
        {key: value.float() for key, value in piece.items()}
        for piece in gate_gradients(model, gates, batches, partial(tasks.loss, task))
    ]
    return {key: torch.cat([piece[key] for piece in pieces]) for key in gates}


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


def network_gates(model: BertpressPreTrainedModel) -> dict[tuple[int, int], tuple[nn.Module, int]]:
    """(layer, network) -> the slot of its inner neurons as one group: all of the network but its output bias."""
    return {(i, j): (slot, model.blueprint.layers[i].ffn[j]) for (i, j), (slot, _) in neuron_gates(model).items()}


def _layers(model: BertpressPreTrainedModel) -> Iterator[tuple[int, EncoderLayer]]:
    for i, layer in enumerate(model.encoder.layers):
        assert isinstance(layer, EncoderLayer)
        yield i, layer
