"""Sensitivities against whole Hessians, bits that follow them, few values a group, small errors."""

import json
import math

import pytest
import torch
from pydantic import ValidationError
from torch import nn
from torch.func import functional_call

from bertpress import tasks
from bertpress.artifact import packing
from bertpress.artifact.codecs import spec_of
from bertpress.encoder.blueprint import HeadSpec, uniform
from bertpress.encoder.grids import affine_grid, blocks, quantize
from bertpress.encoder.model import build_model
from bertpress.encoder.quantizers import ActivationQuantizer, quantizers
from bertpress.encoder.surgery import keep_heads, share
from bertpress.encoder.transforms import put
from bertpress.methods import graphs
from bertpress.methods.base import Context
from bertpress.methods.quantize.qbert import (
    QBert,
    block_by_name,
    draw_samples,
    group_block,
    layer_bits,
    layer_eigenvalues,
    layer_weights,
    omega,
)
from bertpress.methods.transform import bake

TASK = tasks.resolve("sst2").replace(labels=("negative", "positive"))
CAPTURE = frozenset({"scores"})


def batch(seed=0, rows=6, width=7):
    random = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, width + 1, (rows, 1), generator=random)
    mask = (torch.arange(width) < lengths).long()
    return {
        "input_ids": torch.randint(5, 40, (rows, width), generator=random) * mask,
        "attention_mask": mask,
        "labels": torch.randint(0, 2, (rows,), generator=random),
        "index": torch.arange(rows),
    }


def tiny(layers=2, size=16, dropout=0.1, scale=0.0, ffn=24):
    torch.manual_seed(1)
    head = HeadSpec(kind="sequence")
    model = build_model(
        uniform(layers=layers, hidden_size=size, heads=2, ffn=ffn, vocabulary=40, head=head, dropout=dropout)
    )
    for _, weight in model.unique_weights():
        weight.data += scale * torch.randn_like(weight)
    return model


def context(folder=None, batches=None):
    given = [batch(0), batch(1)] if batches is None else batches
    return Context(task=TASK, tokenizer=None, seed=0, calibration=lambda *_: given, folder=folder)


def no_data(*_):
    raise AssertionError("asked for data")


def finished(method, model, ctx=None):
    ctx = ctx or context()
    model = method.attach(model, ctx)
    bake(model)
    return method.finish(model, ctx)


# --- sensitivity


def test_omega_by_hand():
    assert omega([1.0, -3.0]) == pytest.approx(1.0 + 2.0)  # mean -1, deviations of 2
    assert omega([4.0]) == 4.0
    assert omega([-4.0]) == 4.0
    assert omega([1.0, 2.0, 3.0]) == pytest.approx(2.0 + math.sqrt(2 / 3))


def whole_hessian_top(model, layer, given):
    """The eigenvalue of largest magnitude of the whole Hessian by one layer's weights, in float64."""
    model = model.double().eval()
    names = [name for name, _ in model.unique_weights() if name.startswith(f"encoder.layers.{layer}.")]
    state = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    shapes = [state[name].shape for name in names]
    theta = torch.cat([state[name].flatten() for name in names])

    def loss(flat):
        parts = flat.split([shape.numel() for shape in shapes])
        own = {name: part.view(shape) for name, part, shape in zip(names, parts, shapes, strict=True)}
        inputs = (given["input_ids"], given["attention_mask"])
        logits = functional_call(model, state | own, inputs, {"capture": CAPTURE}).logits
        return nn.functional.cross_entropy(logits, given["labels"])

    values = torch.linalg.eigvalsh(torch.autograd.functional.hessian(loss, theta))
    return float(values[values.abs().argmax()])


def test_eigenvalues_of_layers_against_whole_hessians():
    given = batch(3)
    pieces = [{name: tensor[at : at + 2] for name, tensor in given.items()} for at in (0, 2, 4)]
    expected = {layer: whole_hessian_top(tiny(size=4, scale=0.4, ffn=6), layer, given) for layer in (0, 1)}
    found = layer_eigenvalues(
        tiny(size=4, scale=0.4, ffn=6), TASK, pieces, torch.Generator().manual_seed(0), iterations=500, tolerance=1e-6
    )
    assert found == {layer: pytest.approx(value, rel=2e-3) for layer, value in expected.items()}
    assert found[0] != pytest.approx(found[1], rel=0.05)


def eigenvalues(model, pieces):
    return layer_eigenvalues(model, TASK, pieces, torch.Generator().manual_seed(0), iterations=20, tolerance=1e-3)


def test_dropout_and_pads_have_no_say_and_the_model_stays():
    given = batch(3)
    padded = {name: nn.functional.pad(tensor, (0, 4)) if tensor.ndim == 2 else tensor for name, tensor in given.items()}
    model = tiny(dropout=0.5, scale=0.2)
    model.head.classifier.weight.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    expected = eigenvalues(model, [given])
    model.train()
    assert eigenvalues(model, [given]) == expected
    assert model.training
    assert eigenvalues(model.eval(), [padded]) == pytest.approx(expected, rel=1e-3)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(weight.grad is None for weight in model.parameters())
    assert [name for name, weight in model.unique_weights() if not weight.requires_grad] == ["head.classifier.weight"]


def test_graphs_that_are_not_kept_give_the_same(monkeypatch):
    expected = eigenvalues(tiny(scale=0.2), [batch(3)])
    monkeypatch.setattr(graphs, "GRAPH_BYTES", 0)
    assert eigenvalues(tiny(scale=0.2), [batch(3)]) == pytest.approx(expected, rel=1e-4)


def test_graphs_have_no_more_examples_than_there_is_room_for(monkeypatch):
    def sizes():
        seen, model = set(), tiny(scale=0.2)
        model.register_forward_pre_hook(lambda _, args, named: seen.add(len(named["input_ids"])), with_kwargs=True)
        return eigenvalues(model, [given]), seen

    given = batch(3)
    expected, whole = sizes()
    example = given["input_ids"].shape[1] * graphs.token_bytes(tiny(scale=0.2).blueprint, graphs.TWICE)
    monkeypatch.setattr(graphs, "GRAPH_BYTES", 2 * example)
    found, cut = sizes()
    assert whole == {len(given["input_ids"])}
    assert max(cut) == 2
    assert found == pytest.approx(expected, rel=1e-4)
    monkeypatch.setattr(graphs, "GRAPH_BYTES", 1)
    assert sizes()[1] == {1}


def test_shared_layers_are_measured_once():
    model = share(tiny(3), {1: 0, 2: 0})
    assert list(layer_weights(model)) == [0]
    assert list(eigenvalues(model, [batch()])) == [0]


def test_samples_are_disjoint_and_spread_over_the_data():
    batches = [batch(0, 32) | {"index": torch.arange(32) + 32 * i} for i in range(8)]
    drawn = draw_samples(batches, 3, 64, torch.Generator().manual_seed(0))
    taken = [torch.cat([piece["index"] for piece in sample]).tolist() for sample in drawn]
    assert [len(sample) for sample in taken] == [64, 64, 64]
    assert len({row for sample in taken for row in sample}) == 192
    assert all(len({row // 32 for row in sample}) > 2 for sample in taken)
    other = draw_samples(batches, 3, 64, torch.Generator().manual_seed(1))
    assert not torch.equal(other[0][0]["index"], drawn[0][0]["index"])


def test_little_data_is_one_sample_and_pairs_stay_together():
    sample = draw_samples([batch(0, 20)], 10, 64, torch.Generator())
    assert sorted(row for piece in sample[0] for row in piece["index"].tolist()) == list(range(20))
    assert len(sample) == 1
    assert [len(piece["index"]) for [piece] in draw_samples([batch(0, 3)], 10, 1, torch.Generator())] == [1, 1, 1]
    pairs = {"input_ids": torch.arange(24)[:, None], "labels": torch.arange(12)}
    pieces = draw_samples([pairs], 1, 12, torch.Generator())[0]
    for piece in pieces:
        assert piece["input_ids"].flatten().tolist() == [
            2 * i + side for i in piece["labels"].tolist() for side in (0, 1)
        ]


# --- bits


def test_bits_never_fall_where_omega_rises():
    random = torch.Generator().manual_seed(0)
    for share_ in (0.0, 0.1, 0.25, 0.5, 0.9, 1.0):
        omegas = dict(enumerate(torch.rand(10, generator=random).tolist()))
        bits = layer_bits(omegas, 4, 2, share_)
        assert all(bits[a] >= bits[b] for a in omegas for b in omegas if omegas[a] > omegas[b])
        assert sum(width == 4 for width in bits.values()) == math.ceil(share_ * 10)


def test_bits_by_hand():
    assert layer_bits({0: 1.0, 1: 9.0, 2: 5.0}, 8, 3, 0.5) == {0: 3, 1: 8, 2: 8}  # half of three, rounded up
    assert layer_bits({0: 1.0, 1: 1.0}, 4, 2, 0.5) == {0: 4, 1: 2}
    assert layer_bits(dict.fromkeys(range(30), 1.0), 4, 2, 0.1) == {i: 4 if i < 3 else 2 for i in range(30)}


def test_the_layer_that_curves_most_keeps_more_bits():
    model, given = tiny(3, scale=0.2), batch()
    values = eigenvalues(model, [given])
    order = sorted(values, key=lambda layer: -abs(values[layer]))
    made = finished(QBert(activations=False, sensitive=0.3), model, context(batches=[given]))
    widths = [made.storage[f"encoder.layers.{layer}.ffn.0.inner.weight"].codecs[0].bits for layer in order]
    assert widths == [4, 2, 2]


def test_low_bits_are_at_most_bits():
    with pytest.raises(ValidationError, match="low_bits=4 must be at most bits=2"):
        QBert(bits=2, low_bits=4)


def test_bits_are_written_down_and_read_again(tmp_path):
    told = []
    ctx = context(tmp_path / "stage")
    ctx.say = told.append
    first = QBert().choose(tiny(), ctx)
    content = json.loads((tmp_path / "stage/bits.json").read_text())
    assert {int(layer): entry["bits"] for layer, entry in content.items()} == first
    assert all(entry["omega"] == omega(entry["eigenvalues"]) for entry in content.values())
    assert ctx.notes == {"bits": content}
    assert len(told) == 1
    ctx.calibration = no_data
    assert QBert().choose(tiny(), ctx) == first
    assert [path.name for path in (tmp_path / "stage").iterdir()] == ["bits.json"]


def test_one_precision_needs_no_analysis(tmp_path):
    for method in (QBert(low_bits=None, activations=False), QBert(bits=3, low_bits=3, activations=False)):
        ctx = context(tmp_path)
        ctx.calibration = no_data
        made = finished(method, tiny(), ctx)
        widths = {stored.codecs[0].bits for name, stored in made.storage.items() if "layers" in name}
        assert widths == {method.bits}
    assert not list(tmp_path.iterdir())


# --- groups


@pytest.mark.parametrize(
    ("shape", "groups", "heads", "block"),
    [
        ((768, 768), 128, {"head_rows": 64}, (4, 0)),  # 6 rows would straddle heads of 64
        ((768, 768), 12, {"head_rows": 64}, (64, 0)),
        ((768, 768), 2, {"head_rows": 64}, (64, 0)),  # a head is the coarsest
        ((768, 768), 1, {"head_rows": 64}, (0, 0)),
        ((768, 768), 128, {"head_columns": 64}, (69, 64)),  # 12 x 12 blocks
        ((3072, 768), 128, {}, (24, 0)),
        ((768, 3072), 128, {}, (6, 0)),
        ((384, 384), 128, {"head_rows": 32}, (2, 0)),
        ((5, 7), 128, {}, (1, 0)),
        ((1, 1), 128, {"head_rows": 1}, (1, 0)),
        ((15, 4), 2, {"head_rows": 5}, (5, 0)),
    ],
)
def test_groups_by_hand(shape, groups, heads, block):
    assert group_block(shape, groups, **heads) == block


def test_no_group_straddles_a_head_and_there_are_enough():
    for head in (1, 7, 12, 32, 64):
        for heads in (1, 3, 12):
            for groups in (2, 12, 128, 768):
                rows, whole = group_block((head * heads, 10), groups, head_rows=head)
                assert head % rows == 0
                assert whole == 0
                assert head * heads // rows >= min(groups, head * heads)
                made = blocks((50, head * heads), group_block((50, head * heads), groups, head_columns=head))
                assert made[1] == heads
                assert made[0] * made[1] >= min(groups, 50 * heads)


def test_blocks_follow_the_heads_that_are_left():
    model = keep_heads(tiny(size=24), {0: [1]})
    spec = model.blueprint

    def of(name, groups=2):
        return block_by_name(
            spec, f"encoder.layers.{name}.weight", model.get_parameter(f"encoder.layers.{name}.weight").shape, groups
        )

    assert of("0.attention.query") == (6, 0)
    assert of("0.attention.output") == (12, 12)
    assert of("1.attention.value") == (12, 0)
    assert of("1.attention.value", 3) == of("1.attention.key", 3) == (6, 0)
    assert of("1.attention.output") == (24, 12)
    assert of("1.ffn.0.inner", 3) == (8, 0)
    assert block_by_name(spec, "head.dense.weight", (24, 24), 6) == (4, 0)
    assert finished(QBert(), model).storage["encoder.layers.0.attention.output.weight"].parts["scale"].shape[1] == 1


def units(weight, block):
    """The values of each block."""
    rows, columns = (size or n for size, n in zip(block, weight.shape, strict=True))
    return [part for band in weight.split(rows) for part in band.split(columns, dim=1)]


def trained(method, steps=3):
    model = method.attach(tiny(), context())
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for step in range(steps):
        given = batch(step)
        nn.functional.cross_entropy(
            model(given["input_ids"], given["attention_mask"]).logits, given["labels"]
        ).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


@pytest.mark.parametrize("bits", range(2, 9))
def test_few_values_a_group_after_training_and_a_file_that_holds_them(bits, tmp_path):
    method = QBert(bits=bits, low_bits=None, groups=4)
    model = trained(method)
    probe = {name: batch(9)[name] for name in ("input_ids", "attention_mask")}
    expected = model(**probe).logits
    bake(model)
    made = method.finish(model, context())
    assert torch.equal(made(**probe).logits, expected)
    packing.write(tmp_path / "model.safetensors", made.state_dict(), made.storage)
    state, _ = packing.read(tmp_path / "model.safetensors")
    assert all(torch.equal(state[name], tensor) for name, tensor in made.state_dict().items())
    seen = 0
    for name, stored in made.storage.items():
        weight = made.get_parameter(name).detach()
        block = stored.codecs[0].block
        levels = 256 if "embeddings" in name else 2**bits
        for unit in units(weight, block):
            assert unit.unique().numel() <= levels
            seen = max(seen, unit.unique().numel())
        if "attention.query" in name:
            assert block == (4, 0)
    assert seen > min(2 ** (bits - 1), 40)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_error_of_groups_is_within_the_bound_of_the_matrix(bits):
    random = torch.Generator().manual_seed(0)
    weight = torch.randn(48, 20, generator=random) * torch.rand(48, 1, generator=random).exp()
    whole = affine_grid(weight, bits, (0, 0))
    bound = float(whole.scale) / 2
    for block in ((1, 0), (6, 0), (16, 5), (0, 0)):
        error = float((quantize(weight, affine_grid(weight, bits, block)) - weight).abs().max())
        assert error <= bound * (1 + 1e-5)
    assert error > bound * 0.5  # the bound is no idle one


def test_ranges_follow_the_weight_at_each_step():
    model = QBert(bits=2, low_bits=None, groups=1, activations=False).attach(tiny(), context())
    unit = model.encoder.layers[0].attention.query
    unit.parametrizations.weight.original.data[0, 0] = 3.0
    assert unit.weight.unique().numel() <= 4
    assert float((unit.weight.max() - unit.weight.min()).detach()) == pytest.approx(3.0, abs=0.4)
    unit.weight.sum().backward()
    assert (unit.parametrizations.weight.original.grad == 1).all()  # no weight lies outside of its range


@pytest.mark.parametrize("bits", [2, 8])
@pytest.mark.parametrize("value", [0.0, 0.25, -1e-42])
def test_constant_weights(bits, value):
    model = tiny()
    model.get_parameter("encoder.layers.0.ffn.0.inner.weight").data.fill_(value)
    weight = finished(QBert(bits=bits, low_bits=None), model).get_parameter("encoder.layers.0.ffn.0.inner.weight")
    assert weight.isfinite().all()
    torch.testing.assert_close(weight.detach(), torch.full_like(weight, value), atol=1e-6, rtol=0)


def test_zeros_of_a_mask_stay_zero():
    class Mask(nn.Module):
        def forward(self, weight):
            return weight * (weight.abs() > 0.02)

    name = "encoder.layers.1.ffn.0.outer.weight"
    model = tiny()
    zero = model.get_parameter(name).detach().abs() <= 0.02
    method = QBert(activations=False)
    put(model, name, Mask())
    made = finished(method, model)
    weight = made.get_parameter(name).detach()
    assert (weight[zero] == 0).all()
    assert weight.any()
    stored = made.storage[name]
    assert torch.equal(stored.decode(stored.encode(weight), spec_of(weight)), weight)


# --- embeddings, activations, size


def test_tables_have_bits_and_ranges_of_their_own():
    made = finished(QBert(embedding_bits=8, position_bits=4, segment_bits=32, activations=False), tiny())
    widths = {name.split(".")[2]: stored.codecs[0] for name, stored in made.storage.items() if "embeddings" in name}
    assert {name: codec.bits for name, codec in widths.items()} == {"word": 8, "position": 4}
    assert {codec.block for codec in widths.values()} == {(1, 0)}


def test_activations_are_of_8_bits_or_float():
    made = finished(QBert(), tiny())
    assert made.blueprint.activation_bits == 8
    assert all(type(found) is ActivationQuantizer for found in quantizers(made).values())
    assert finished(QBert(activations=False), tiny()).blueprint.activation_bits is None
    made = QBert(low_bits=None).attach(tiny(), context())
    ranges = {name: float(tensor) for name, tensor in made.state_dict().items() if name.endswith("quantizer.scale")}
    assert {name for name, scale in ranges.items() if not scale} == {"head.slot.quantizer.scale"}


def test_ranges_of_groups_are_counted():
    made = finished(QBert(bits=4, low_bits=None, groups=8, activations=False), tiny())
    weight = made.get_parameter("encoder.layers.0.ffn.0.inner.weight")  # 24 x 16 in 8 groups
    layout = made.storage["encoder.layers.0.ffn.0.inner.weight"].layout(spec_of(weight))
    assert sum(part.bytes for part in layout.values()) == 24 * 16 // 2 + 8 * (4 + 1)
