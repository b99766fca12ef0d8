"""Importance against finite differences of each example's loss."""

import pytest
import torch
import torch.nn.functional as F

from bertpress import tasks
from bertpress.encoder.blueprint import HeadSpec, uniform
from bertpress.encoder.model import build_model
from bertpress.training.importance import (
    gate_ablation,
    gate_importance,
    head_gates,
    network_gates,
    neuron_gates,
    task_gradients,
    task_importance,
)

IDS = torch.randint(5, 40, (4, 6), generator=torch.Generator().manual_seed(0))
MASK = (torch.arange(6) < torch.tensor([[6], [4], [2], [5]])).long()
LABELS = torch.tensor([0, 2, 1, 1])


def tiny():
    torch.manual_seed(1)
    shape = uniform(layers=2, hidden_size=12, heads=3, ffn=8, vocabulary=40, head=HeadSpec(kind="sequence", labels=3))
    model = build_model(shape, num_labels=3).double()
    for _, weight in model.unique_weights():
        weight.data += 0.3 * torch.randn_like(weight)
    return model


def loss(logits, batch):
    return F.cross_entropy(logits, batch["labels"])


def batches(sizes):
    parts = [
        {"input_ids": i, "attention_mask": m, "labels": y}
        for i, m, y in zip(IDS.split(sizes), MASK.split(sizes), LABELS.split(sizes), strict=True)
    ]
    return parts


def gated(model, ids, mask, slot, group, size, gate):
    """Logits with one group of channels multiplied by ``gate``."""

    def scale(_m, _i, out):
        factor = torch.ones(out.shape[-1], dtype=out.dtype)
        factor[group * size : (group + 1) * size] = gate
        return out * factor

    hook = slot.register_forward_hook(scale)
    with torch.no_grad():
        logits = model(ids, mask).logits
    hook.remove()
    return logits


def numeric(model, slot, group, size):
    """Mean over examples of |central difference of the example's loss by the gate|."""

    def losses(gate):
        return F.cross_entropy(gated(model, IDS, MASK, slot, group, size, gate), LABELS, reduction="none")

    step = 1e-5
    return ((losses(1 + step) - losses(1 - step)) / (2 * step)).abs().mean()


def test_heads_neurons_and_networks_match_finite_differences():
    model = tiny()
    for gates in (head_gates(model), neuron_gates(model), network_gates(model)):
        scores = gate_importance(model, gates, batches([4]), loss)
        for key, (slot, size) in gates.items():
            for group, score in enumerate(scores[key]):
                torch.testing.assert_close(score, numeric(model, slot, group, size), atol=1e-7, rtol=1e-4)


def test_importance_does_not_depend_on_batching_and_is_no_gradient_of_the_mean():
    model = tiny()
    gates = head_gates(model)
    together, apart = (gate_importance(model, gates, batches(sizes), loss) for sizes in ([4], [1, 2, 1]))
    for layer in gates:
        torch.testing.assert_close(together[layer], apart[layer])
    signed = gate_importance(model, gates, batches([4]), lambda z, b: loss(z, b) * (-1) ** int(b["labels"]))
    for layer in gates:
        torch.testing.assert_close(signed[layer], together[layer])


def test_a_head_without_output_scores_zero_and_the_model_is_left_alone():
    model = tiny().train()
    model.encoder.layers[0].attention.value.weight.data[:4] = 0
    model.encoder.layers[0].attention.value.bias.data[:4] = 0
    before = {name: weight.clone() for name, weight in model.unique_weights()}
    scores = gate_importance(model, head_gates(model), batches([2, 2]), loss)
    assert scores[0][0] == 0
    assert (scores[0][1:] > 0).all()
    assert model.training
    assert all(weight.grad is None for _, weight in model.unique_weights())
    assert all(torch.equal(weight, before[name]) for name, weight in model.unique_weights())


def test_two_sentences_are_one_example():
    """Their cosine is what the loss looks at, so that both sides of each score together."""
    scores = tasks.from_records([{"sentence1": "a", "sentence2": "b", "label": x} for x in (0.0, 5.0)], split="train")
    task = tasks.with_labels(tasks.resolve("sentence-similarity"), scores)
    torch.manual_seed(1)
    model = build_model(uniform(layers=2, hidden_size=12, heads=3, ffn=8, vocabulary=40, head=task.head())).double()
    examples = 5
    ids = torch.randint(5, 40, (2 * examples, 6), generator=torch.Generator().manual_seed(0))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": torch.arange(5.0)}
    slot, size = head_gates(model)[1]

    def losses(head, gate):
        vectors = gated(model, ids, batch["attention_mask"], slot, head, size, gate)
        cosine = F.cosine_similarity(*vectors.unflatten(0, (-1, 2)).unbind(1))
        return (cosine - batch["labels"] / 5).square()

    gradient = task_importance(model, task, {1: (slot, size)}, [batch])[1]
    ablation = task_importance(model, task, {1: (slot, size)}, [batch], "ablation")[1]
    signed = task_gradients(model, task, {1: (slot, size)}, [batch])[1]
    assert signed.shape == (examples, 3)
    for head in range(3):
        slope = (losses(head, 1 + 1e-5) - losses(head, 1 - 1e-5)) / 2e-5
        torch.testing.assert_close(signed[:, head].double(), slope, rtol=1e-4, atol=1e-6)
        assert float(gradient[head]) == pytest.approx(float(slope.abs().mean()), rel=1e-3)
        rise = (losses(head, 0.0) - losses(head, 1.0)).mean()
        assert float(ablation[head]) == pytest.approx(float(rise), rel=1e-3, abs=1e-7)


def test_ablation_is_the_loss_without_the_head():
    model = tiny()
    rises = gate_ablation(model, head_gates(model), batches([1, 3]), loss)
    with torch.no_grad():
        whole = F.cross_entropy(model(IDS, MASK).logits, LABELS)
        for layer, head in ((0, 2), (1, 0)):
            silent = tiny()
            silent.encoder.layers[layer].attention.output.weight.data[:, head * 4 : head * 4 + 4] = 0
            expected = F.cross_entropy(silent(IDS, MASK).logits, LABELS) - whole
            torch.testing.assert_close(rises[layer][head], expected, atol=1e-12, rtol=0)
            assert abs(expected) > 1e-4
