"""The paper's formula from the gradients of the weights; nothing rises after sorting."""

import pytest
import torch
from uneven_models import albert_like, mixed, mpnet_like

from bertpress import tasks
from bertpress.errors import RecipeError
from bertpress.methods.base import Context
from bertpress.methods.elastic import descending, in_order_of_importance, unit_importance
from bertpress.tasks import resolve

TASK = resolve("text-classification").replace(labels=("a", "b", "c"))
LENGTHS = (7, 5, 3, 7, 2, 6)
BATCH = {
    "input_ids": torch.randint(5, 50, (6, 7), generator=torch.Generator().manual_seed(0)),
    "attention_mask": (torch.arange(7) < torch.tensor(LENGTHS)[:, None]).long(),
    "labels": torch.tensor([0, 1, 2, 0, 1, 2]),
}
CTX = Context(task=TASK, tokenizer=None, seed=0, calibration=lambda *_: [BATCH])


def logits(model):
    with torch.no_grad():
        return model(BATCH["input_ids"], BATCH["attention_mask"]).logits


def by_the_formula(model, layer):
    """|sum W1 g + b1 g| + |sum W2 g| of every neuron, a mean over batches of one example."""
    network, total = model.encoder.layers[layer].ffn[0], 0
    for i, length in enumerate(LENGTHS):
        one = {key: value[i : i + 1] if key == "labels" else value[i : i + 1, :length] for key, value in BATCH.items()}
        model.zero_grad()
        tasks.loss(TASK, model(one["input_ids"], one["attention_mask"]).logits, one).backward()
        inner, outer = network.inner, network.outer
        leads_in = (inner.weight * inner.weight.grad).sum(1) + inner.bias * inner.bias.grad
        total = total + leads_in.abs() + (outer.weight * outer.weight.grad).sum(0).abs()
    model.zero_grad(set_to_none=True)
    return (total / len(LENGTHS)).detach().double()


def test_neurons_by_the_papers_formula():
    model = mixed(shapes=((12, 40), (12, 24)))
    _, neurons = unit_importance(model, CTX, 6)
    for layer in (0, 1):
        torch.testing.assert_close(neurons[layer, 0], by_the_formula(model, layer), atol=1e-8, rtol=1e-3)


@pytest.mark.parametrize("make", [lambda: mixed(shapes=((12, 40), (5, 24), (0, 0))), mpnet_like])
def test_importances_never_rise_after_sorting_and_outputs_stay(make):
    model = make()
    sorted_model = in_order_of_importance(model, CTX, 6, "x")
    torch.testing.assert_close(logits(sorted_model), logits(model), atol=1e-5, rtol=0)
    for before, after in zip(unit_importance(model, CTX, 6), unit_importance(sorted_model, CTX, 6), strict=True):
        for key, scores in after.items():
            assert not torch.equal(before[key], before[key].sort(descending=True).values)
            torch.testing.assert_close(scores, before[key].sort(descending=True).values, atol=1e-7, rtol=1e-3)
            assert (scores.diff() <= 1e-7 + 1e-3 * scores[:-1]).all()


def test_of_equals_the_first_stays_first():
    assert descending(torch.tensor([1.0, 3.0, 1.0, 3.0, 0.0])) == [1, 3, 0, 2, 4]


def test_shared_layers_are_refused():
    with pytest.raises(RecipeError, match="prune/x: layers that share weights cannot have widths of their own"):
        in_order_of_importance(albert_like(), CTX, 6, "prune/x")
