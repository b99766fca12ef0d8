"""A score a block, its gradient, the cut model against the masked one, heads that go whole."""

from types import SimpleNamespace

import pytest
import torch

from bertpress.artifact import packing
from bertpress.artifact.codecs.bitmap import block_of_zeros
from bertpress.encoder.blueprint import HeadSpec, uniform
from bertpress.encoder.model import build_model
from bertpress.encoder.transforms import transforms
from bertpress.methods.base import Context
from bertpress.methods.prune.block_movement import BlockMovement, Threshold
from bertpress.methods.transform import bake
from bertpress.methods.weights import matrices
from bertpress.tasks import resolve
from bertpress.training import TrainSettings
from bertpress.training.optimizer import make_groups

TASK = resolve("sst2").replace(labels=("negative", "positive"))
IDS = torch.randint(5, 50, (3, 7), generator=torch.Generator().manual_seed(0))
MASK = (torch.arange(7) < torch.tensor([[7], [4], [1]])).long()
QUERY = "encoder.layers.0.attention.query.weight"


def tiny():
    torch.manual_seed(3)
    shape = uniform(layers=2, hidden_size=16, heads=2, ffn=12, vocabulary=50, head=HeadSpec(kind="sequence"))
    model = build_model(shape.replace(dropout=0.0, attention_dropout=0.0))
    for _, weight in model.unique_weights():
        weight.data += 0.1 * torch.randn_like(weight)
    return model


def attached(**options):
    ctx = Context(task=TASK, tokenizer=None, seed=0)
    method = BlockMovement(size=4, **options)
    return method, method.attach(tiny(), ctx), ctx


def logits(model):
    with torch.no_grad():
        return model(IDS, MASK).logits


def masks_of(ctx):
    return {name: mask for group in ctx.state["block_movement"].groups.values() for name, mask in group.items()}


def prune(ctx, gone):
    """Put scores so that these blocks, by weight, are under the threshold; returns nothing."""
    for name, where in gone.items():
        masks_of(ctx)[name].scores.data[where] = -10.0
    ctx.state["block_movement"].raise_to(0.1)


GONE = {
    # head 1 of layer 0: all of its values; some blocks elsewhere
    "encoder.layers.0.attention.value.weight": slice(2, 4),
    QUERY: (0, 1),
    "encoder.layers.1.attention.output.weight": (slice(None), slice(0, 2)),  # head 0 of layer 1: nothing leaves it
    "encoder.layers.0.ffn.0.inner.weight": [1, 5],
    "encoder.layers.0.ffn.0.outer.weight": (0, [5, 7, 8]),
}


def test_one_score_a_block_and_none_where_nothing_is_pruned():
    _, model, ctx = attached()
    shapes = {name.split(".", 3)[3]: tuple(mask.scores.shape) for name, mask in masks_of(ctx).items()}
    square = {f"attention.{part}.weight": (4, 4) for part in ("query", "key", "value", "output")}
    assert shapes == square | {"ffn.0.inner.weight": (12, 1), "ffn.0.outer.weight": (1, 12)}
    assert not transforms(model, "head.dense.weight")
    assert torch.equal(logits(model), logits(tiny()))  # the threshold begins at 0
    assert {name for name, _ in model.unique_weights()} == {name for name, _ in tiny().unique_weights()}


def test_gradients_through_the_model():
    _, model, ctx = attached()
    prune(ctx, {QUERY: (0, 1)})
    model(IDS, MASK, labels=torch.tensor([0, 1, 1])).loss.backward()
    plain = tiny()
    weight = plain.encoder.layers[0].attention.query.weight
    weight.data[:4, 4:8] = 0
    plain(IDS, MASK, labels=torch.tensor([0, 1, 1])).loss.backward()
    product = weight.grad * tiny().encoder.layers[0].attention.query.weight
    expected = product.unflatten(0, (4, 4)).unflatten(2, (4, 4)).sum((1, 3))
    torch.testing.assert_close(masks_of(ctx)[QUERY].scores.grad, expected, atol=1e-6, rtol=1e-4)
    assert not model.get_parameter(QUERY).grad[:4, 4:8].any()


def test_scores_have_a_rate_of_their_own_and_no_decay():
    _, model, ctx = attached(learning_rate=0.5)
    scores = {id(mask.scores) for mask in masks_of(ctx).values()}
    for group in make_groups([model, ctx.state], TrainSettings(weight_decay=0.1)):
        of_scores = {id(weight) for weight in group["params"]} & scores
        assert len(of_scores) in (0, len(group["params"]))
        if of_scores:
            assert (group["lr"], group["weight_decay"]) == (0.5, 0.0)
            scores -= of_scores
    assert not scores


def test_penalties_apart_and_rising_with_the_threshold():
    method, _, ctx = attached(attention=3.0, ffn=7.0, threshold=0.2, warmup=0.1, cooldown=0.4)
    terms = {term.name: term for term in method.objectives(ctx)}
    (callback,) = method.callbacks(ctx)
    assert isinstance(callback, Threshold)
    assert {name: term.weight for name, term in terms.items()} == {"attention_penalty": 3.0, "ffn_penalty": 7.0}
    for name, mask in masks_of(ctx).items():
        mask.scores.data.fill_(1.0 if "ffn" in name else 0.0)

    def values(step):
        callback.on_step_begin(None, SimpleNamespace(global_step=step, max_steps=100), None)
        with torch.no_grad():
            return [float(term(None)) for term in terms.values()]

    assert values(10) == [0.0, 0.0]
    assert values(35) == pytest.approx([0.5 * 0.875, 0.731059 * 0.875])  # half way: 1 - 0.5^3
    assert values(60) == pytest.approx([0.5, 0.731059])
    assert float(masks_of(ctx)[QUERY].threshold) == pytest.approx(0.2)
    callback.on_step_begin(None, SimpleNamespace(global_step=5, max_steps=100), None)
    callback.on_train_end(None, None, None)
    assert float(masks_of(ctx)[QUERY].threshold) == pytest.approx(0.2)
    assert [term.name for term in BlockMovement(ffn=0.0).objectives(ctx)] == ["attention_penalty"]


def test_cut_is_masked_and_whole_heads_go(tmp_path):
    method, model, ctx = attached(floor=0.0)
    prune(ctx, GONE)
    expected = logits(model)
    bake(model)
    cut = method.finish(model, ctx)
    torch.testing.assert_close(logits(cut), expected, atol=1e-5, rtol=0)
    assert [layer.attention.heads for layer in cut.blueprint.layers] == [(0,), (1,)]
    assert [layer.ffn for layer in cut.blueprint.layers] == [(8,), (12,)]  # 1, 5, 7 and 8 are gone
    unit = cut.encoder.layers[0].attention
    parts = (unit.query, unit.key, unit.value, unit.output)
    assert [tuple(part.weight.shape) for part in parts] == [(8, 16), (8, 16), (8, 16), (16, 8)]
    assert not unit.query.weight[:4, 4:8].any()
    assert block_of_zeros(cut.storage[QUERY]) == (4, 4)
    assert cut.blueprint.total_parameters == sum(weight.numel() for _, weight in cut.unique_weights())
    packing.write(tmp_path / "model.safetensors", cut.state_dict(), cut.storage)
    assert not [name for name in packing.read(tmp_path / "model.safetensors")[0] if "scores" in name or "param" in name]


def test_filled_heads_are_dense_and_empty_ones_gone():
    method, model, ctx = attached(floor=0.0, fill=True)
    prune(ctx, GONE)
    bake(model)
    cut = method.finish(model, ctx)
    assert [layer.attention.heads for layer in cut.blueprint.layers] == [(0,), (1,)]
    assert [layer.ffn for layer in cut.blueprint.layers] == [(8,), (12,)]
    whole = tiny()
    for part, rows in (("query", slice(0, 8)), ("key", slice(0, 8)), ("value", slice(0, 8))):
        found = getattr(cut.encoder.layers[0].attention, part).weight
        assert torch.equal(found, getattr(whole.encoder.layers[0].attention, part).weight[rows])
    found = cut.encoder.layers[1].attention.output.weight
    assert torch.equal(found, whole.encoder.layers[1].attention.output.weight[:, 8:])
    assert all(cut.get_parameter(name).all() for name in matrices(cut, head=False))
