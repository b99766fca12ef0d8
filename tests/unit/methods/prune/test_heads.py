"""Sheet S2: per-layer normalisation, the least important heads go, counts and order."""

import torch

from bertpress.encoder.blueprint import HeadSpec, uniform
from bertpress.encoder.model import build_model
from bertpress.methods.base import Context
from bertpress.methods.prune.heads import Heads
from bertpress.methods.prune.neurons import Neurons
from bertpress.methods.selection import keep_best, rounded
from bertpress.tasks import resolve

TASK = resolve("sst2").replace(labels=("negative", "positive"))
BATCH = {
    "input_ids": torch.randint(5, 50, (6, 7), generator=torch.Generator().manual_seed(0)),
    "attention_mask": (torch.arange(7) < torch.tensor([[7], [5], [3], [7], [1], [6]])).long(),
    "labels": torch.tensor([0, 1, 1, 0, 1, 0]),
}
CTX = Context(task=TASK, tokenizer=None, seed=0, calibration=lambda _: [BATCH])


def tiny():
    torch.manual_seed(3)
    return build_model(
        uniform(layers=3, hidden_size=16, heads=4, ffn=24, vocabulary=50, head=HeadSpec(kind="sequence"))
    )


def test_global_ranking_by_hand():
    scores = {0: torch.tensor([3.0, 4.0]), 1: torch.tensor([0.3, 0.4])}
    assert keep_best(scores, 0.5, scope="model") == {0: [0, 1], 1: []}
    assert keep_best(scores, 0.5, scope="model", normalize=True) == {0: [1], 1: [1]}  # 0.6 0.8 in both layers
    assert keep_best(scores, 0.5, scope="layer") == {0: [1], 1: [1]}
    assert keep_best({0: torch.zeros(3)}, 0.34, scope="layer") == {0: [0]}  # ties: the lower position stays


def test_widths_are_rounded_to_multiples():
    assert rounded(100 * 0.5, 32, 100) == 64
    assert rounded(3, 32, 100) == 32
    assert rounded(99, 32, 100) == 96
    assert rounded(20, 32, 20) == 20


def test_heads_that_do_nothing_go_first():
    model = tiny()
    for layer, head in ((0, 1), (0, 2), (2, 3)):
        model.encoder.layers[layer].attention.output.weight.data[:, head * 4 : head * 4 + 4] = 0
    cut = Heads(keep=0.75).attach(model, CTX)
    assert [layer.attention.heads for layer in cut.blueprint.layers] == [(0, 3), (0, 1, 2, 3), (0, 1, 2)]
    with torch.no_grad():
        inputs = {key: BATCH[key] for key in ("input_ids", "attention_mask")}
        torch.testing.assert_close(cut(**inputs).logits, model(**inputs).logits, atol=1e-6, rtol=0)


def test_keeping_all_reproduces_the_model():
    model = tiny()
    for method in (Heads.noop(), Neurons.noop()):
        same = method.attach(model, CTX)
        assert same.blueprint == model.blueprint
        assert all(
            torch.equal(a, b) for a, b in zip(same.state_dict().values(), model.state_dict().values(), strict=True)
        )
