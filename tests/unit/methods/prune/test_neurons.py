"""Neurons that do nothing go first, and widths follow the hardware where asked."""

import torch

from bertpress.encoder.blueprint import HeadSpec, uniform
from bertpress.encoder.model import build_model
from bertpress.methods.base import Context
from bertpress.methods.prune.neurons import Neurons
from bertpress.tasks import resolve

TASK = resolve("sst2").replace(labels=("negative", "positive"))
BATCH = {
    "input_ids": torch.randint(5, 50, (6, 7), generator=torch.Generator().manual_seed(0)),
    "attention_mask": (torch.arange(7) < torch.tensor([[7], [5], [3], [7], [1], [6]])).long(),
    "labels": torch.tensor([0, 1, 1, 0, 1, 0]),
}
CTX = Context(task=TASK, tokenizer=None, seed=0, calibration=lambda *_: [BATCH])


def tiny(ffn=24):
    torch.manual_seed(3)
    return build_model(
        uniform(layers=2, hidden_size=16, heads=4, ffn=ffn, vocabulary=50, head=HeadSpec(kind="sequence"))
    )


def test_dead_neurons_go_and_nothing_changes():
    model, dead = tiny(), [0, 3, 5, 8, 13, 21]
    for layer in model.encoder.layers:
        layer.ffn[0].outer.weight.data[:, dead] = 0
    cut = Neurons(keep=0.75).attach(model, CTX)
    assert [layer.ffn for layer in cut.blueprint.layers] == [(18,), (18,)]
    alive = [i for i in range(24) if i not in dead]
    assert torch.equal(cut.encoder.layers[1].ffn[0].inner.weight, model.encoder.layers[1].ffn[0].inner.weight[alive])
    inputs = {key: BATCH[key] for key in ("input_ids", "attention_mask")}
    with torch.no_grad():
        torch.testing.assert_close(cut(**inputs).logits, model(**inputs).logits, atol=1e-6, rtol=0)


def test_widths_are_multiples():
    cut = Neurons(keep=0.5, multiple_of=32).attach(tiny(100), CTX)
    assert [layer.ffn for layer in cut.blueprint.layers] == [(64,), (64,)]


def test_widths_of_the_whole_model_are_multiples_and_keep_their_sum():
    model = tiny(96)
    model.encoder.layers[0].ffn[0].outer.weight.data[:, :60] = 0  # the lower layer has less to say
    plain = Neurons(keep=0.5, scope="model", normalize=False).attach(model, CTX)
    even = Neurons(keep=0.5, scope="model", normalize=False, multiple_of=16).attach(model, CTX)
    (low, high), (a, b) = ([layer.ffn[0] for layer in cut.blueprint.layers] for cut in (plain, even))
    assert low + high == a + b == 96
    assert low < high
    assert a % 16 == b % 16 == 0
    assert abs(a - low) < 16
