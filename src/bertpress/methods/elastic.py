"""What methods share that train one model to run as many: units in the order of their importance."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from bertpress.encoder.subnetworks import obstacle, reorder
from bertpress.errors import RecipeError
from bertpress.methods.base import Context, Model
from bertpress.training.importance import head_gates, neuron_gates, neuron_input_gates, task_importance


def unit_importance(
    model: Model, ctx: Context, examples: int
) -> tuple[dict[int, Tensor], dict[tuple[int, int], Tensor]]:
    """Importance of every head, by layer, and of every neuron, by (layer, network).

    Source: Hou et al. 2020, arXiv:2004.04037, section 2.1.  Of a head it is |dL/dgate|, of a neuron
    |sum_j W1_ij g_ij + b1_i g_i| + |sum_j W2_ji g_ji| with the gradients g of the weights that lead in and out, which
    are the derivatives by a gate before and by one behind its activation.
    Departs from it: absolute values are taken for each example, not for each batch.
    """
    heads, before, behind = head_gates(model), neuron_input_gates(model), neuron_gates(model)
    gates: dict[Any, tuple[nn.Module, int]] = {
        **heads,
        **{("before", key): gate for key, gate in before.items()},
        **{("behind", key): gate for key, gate in behind.items()},
    }
    scores = task_importance(model, ctx.task, gates, ctx.batches(examples))
    return {key: scores[key] for key in heads}, {key: scores["before", key] + scores["behind", key] for key in behind}


def in_order_of_importance(model: Model, ctx: Context, examples: int, method: str) -> Model:
    """The same model with the heads and neurons of each layer in descending importance; of equals the first stays so.

    Raises:
        RecipeError: its layers cannot be narrowed.
    """
    if (reason := obstacle(model.blueprint)) is not None:
        raise RecipeError(f"{method}: {reason}")
    heads, neurons = unit_importance(model, ctx, examples)
    return reorder(
        model,
        {key: descending(scores) for key, scores in heads.items()},
        {key: descending(scores) for key, scores in neurons.items()},
    )


def descending(scores: Tensor) -> list[int]:
    """Positions of (units,) scores, the largest first."""
    order: list[int] = torch.argsort(scores, descending=True, stable=True).tolist()
    return order
