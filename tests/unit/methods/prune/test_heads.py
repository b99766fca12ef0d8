"""Per-layer normalisation, the least important heads go, steps and ablation by brute force, counts."""

import pytest
import torch
from tiny_task import BATCH, TASK, context, logits, tiny

from bertpress import tasks
from bertpress.encoder.surgery import keep_heads
from bertpress.methods.prune.heads import Heads
from bertpress.methods.prune.neurons import Neurons
from bertpress.methods.selection import keep_best, note, rounded, shares, to_multiples

CTX = context()


def heads_of(model):
    return [layer.attention.heads for layer in model.blueprint.layers]


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


def test_widths_of_the_whole_model_keep_their_sum():
    # 100 / 32 = 3.1 blocks of 32, to be 3: floors 1, 0, 1 and one more where the remainder is largest
    assert to_multiples([40, 12, 48], 32, [96, 96, 96]) == [32, 0, 64]
    assert to_multiples([5, 5, 5], 1, [9, 9, 9]) == [5, 5, 5]
    assert to_multiples([1, 2, 1], 32, [96, 96, 96]) == [0, 32, 0]  # never nothing at all
    assert to_multiples([100, 1], 64, [100, 100]) == [100, 0]  # all of a layer, although no multiple
    scores = {0: torch.tensor([9.0, 1.0, 2.5, 7.0]), 1: torch.tensor([2.0, 6.0, 3.0, 0.0])}
    assert keep_best(scores, 5 / 8, scope="model", multiple_of=2) == {0: [0, 3], 1: [1, 2]}  # by rank 3 and 2


def test_steps_by_hand():
    assert shares(10, 0.6, 0.1) == [0.9, 0.8, 0.7, 0.6]
    assert shares(10, 0.6, 0.3) == [0.7, 0.6]
    assert shares(10, 0.5, 1.0) == [0.5]
    assert shares(4, 0.5, 0.01) == [0.75, 0.5]  # one unit at least
    assert shares(10, 1.0, 0.1) == [1.0]
    assert shares(5, 0.3, 0.2) == [0.8, 0.6, 0.3]  # of five units two stay


@pytest.mark.parametrize("scope", ["layer", "model"])
def test_importance_is_measured_anew_after_each_step(scope):
    model = tiny(loud=True)
    found = Heads(keep=0.5, step=0.25, scope=scope).attach(model, CTX)
    first = Heads(keep=0.75, scope=scope).attach(model, CTX)
    assert heads_of(Heads(keep=2 / 3, scope=scope).attach(first, CTX)) == heads_of(found)
    assert sum(map(len, heads_of(found))) == 6


def loss_without(model, gone):
    cut = keep_heads(model, {i: [h for h in heads if (i, h) not in gone] for i, heads in enumerate(heads_of(model))})
    return float(tasks.loss(TASK, logits(cut), BATCH))


def test_ablation_is_greedy_by_brute_force():
    model = tiny(2, loud=True)
    gone = set()
    for _ in range(5):
        left = [(i, head) for i in range(2) for head in range(4) if (i, head) not in gone]
        gone.add(min(left, key=lambda unit: loss_without(model, gone | {unit})))
    found = Heads(keep=3 / 8, step=1 / 8, measure="ablation").attach(model, CTX)
    assert {(i, head) for i, heads in enumerate(heads_of(found)) for head in heads} == {
        (i, head) for i in range(2) for head in range(4)
    } - gone


def test_pruned_is_masked_and_every_head_saves_its_weights():
    model = tiny(loud=True)
    cut = Heads(keep=0.5, step=0.1).attach(model, CTX)
    masked = tiny(loud=True)
    for layer, heads in zip(masked.encoder.layers, heads_of(cut), strict=True):
        for head in set(range(4)) - set(heads):
            layer.attention.output.weight.data[:, head * 4 : head * 4 + 4] = 0
        assert list(heads) == sorted(heads)
    torch.testing.assert_close(logits(cut), logits(masked), atol=1e-5, rtol=0)
    saved = model.blueprint.total_parameters - cut.blueprint.total_parameters
    assert saved == 6 * (4 * 16 * 4 + 3 * 4)


def test_a_layer_may_lose_all_its_heads_and_others_go_on():
    model = tiny(loud=True)
    model.encoder.layers[1].attention.output.weight.data.zero_()
    cut = Heads(keep=0.5, step=0.1).attach(model, CTX)
    assert heads_of(cut)[1] == ()
    assert sum(map(len, heads_of(cut))) == 6


def test_what_the_report_is_told():
    ctx = context()
    cut = Heads(keep=0.5, step=0.2).attach(tiny(loud=True), ctx)
    for entry, heads in zip(ctx.notes["heads"], heads_of(cut), strict=True):
        assert len(entry["scores"]) == len(entry["kept"]) == 4
        assert sum(entry["kept"]) == len(heads)
    many = note({(2, 1): {unit: unit / 100 for unit in range(100)}}, {(2, 1): range(60, 100)}, most=10)
    assert many == [{"layer": 2, "scores": [i / 10 for i in range(10)], "kept": [False] * 6 + [True] * 4}]


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
