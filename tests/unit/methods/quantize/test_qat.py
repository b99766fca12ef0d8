"""Averages by hand, frozen in evaluation, few levels, straight-through, zeros stay zero."""

import pytest
import torch
from torch import nn

from bertpress.artifact.codecs import spec_of
from bertpress.encoder.blueprint import HeadSpec, uniform
from bertpress.encoder.grids import symmetric_grid
from bertpress.encoder.model import build_model
from bertpress.encoder.quantizers import ActivationQuantizer, DynamicQuantizer, quantizers
from bertpress.encoder.running import RunningQuantizer, Shown
from bertpress.encoder.transforms import put
from bertpress.methods.base import Context
from bertpress.methods.quantize.qat import Qat
from bertpress.methods.transform import FakeQuantizer, bake

QUERY = "encoder.layers.0.attention.query.weight"


def tiny():
    torch.manual_seed(1)
    shape = uniform(layers=2, hidden_size=16, heads=2, ffn=24, vocabulary=40, head=HeadSpec(kind="sequence"), dropout=0)
    return build_model(shape)


def batch(seed=0):
    random = torch.Generator().manual_seed(seed)
    mask = (torch.arange(9) < torch.tensor([[9], [4], [1], [7]])).long()
    return {"input_ids": torch.randint(5, 40, (4, 9), generator=random) * mask, "attention_mask": mask}


def context():
    return Context(task=None, tokenizer=None, seed=0, calibration=lambda *_: [batch(0), batch(1)])


def running(like=None, start=None, **options):
    made = RunningQuantizer(like or ActivationQuantizer(), Shown(), **{"decay": 0.9, "symmetric": False, **options})
    if start is not None:
        made.cover(*start)
    return made


def test_averages_by_hand():
    quantizer = running()
    for low, high in ((-1.0, 2.0), (-3.0, 1.0), (0.5, 5.0)):
        quantizer(torch.tensor([[low, high]]))
    bottom = 0.9 * (0.9 * -1.0 + 0.1 * -3.0) + 0.1 * 0.0  # 0 is always inside
    top = 0.9 * (0.9 * 2.0 + 0.1 * 1.0) + 0.1 * 5.0
    assert quantizer.ends.tolist() == pytest.approx([bottom, top])
    assert float(quantizer.scale) == pytest.approx((top - bottom) / 255)
    assert int(quantizer.zero_point) == round(-bottom / ((top - bottom) / 255))


def test_ranges_are_frozen_in_evaluation_mode():
    quantizer = running(start=(-1.0, 1.0))
    before = quantizer.ends.clone()
    quantizer.eval()
    quantizer(torch.tensor([[-50.0, 50.0]]))
    assert torch.equal(quantizer.ends, before)
    quantizer.train()
    quantizer(torch.tensor([[-50.0, 50.0]]))
    assert not torch.equal(quantizer.ends, before)


def test_the_first_batch_or_calibration_starts_the_range():
    quantizer = running(decay=0.9999)
    quantizer(torch.tensor([[-4.0, 8.0]]))
    assert quantizer.ends.tolist() == [-4.0, 8.0]
    assert running(start=(-2.0, 3.0)).ends.tolist() == [-2.0, 3.0]


def test_a_symmetric_range_has_its_zero_in_the_middle():
    quantizer = running(symmetric=True, start=(-1.27, 0.5))
    assert (float(quantizer.scale), int(quantizer.zero_point)) == (pytest.approx(0.01), 128)
    narrow = running(ActivationQuantizer(-128, 127), symmetric=True, start=(-0.3, 2.54))
    assert (float(narrow.scale), int(narrow.zero_point)) == (pytest.approx(0.02), 0)


def test_pads_never_count():
    model = Qat(decay=0.0).attach(tiny(), context())
    model.train()
    ends = []
    for pad in (0, 3):
        probe = batch(7)
        probe["input_ids"] = torch.where(probe["attention_mask"] == 0, pad, probe["input_ids"])
        model(**probe)
        ends.append(torch.stack([found.ends for name, found in quantizers(model).items() if name != "head.slot"]))
    assert torch.allclose(*ends, atol=1e-6)


def test_gradient_of_the_weight_equals_that_of_the_plain_operation_at_the_rounded_weight():
    x, linear = torch.randn(5, 6), nn.Linear(6, 4)
    weight = linear.weight.detach().clone()
    put(linear, "weight", FakeQuantizer(lambda w: symmetric_grid(w, 8, (1, 0))))
    linear(x).square().sum().backward()
    rounded = linear.weight.detach().clone().requires_grad_()
    nn.functional.linear(x, rounded, linear.bias.detach()).square().sum().backward()
    assert torch.equal(linear.parametrizations.weight.original.grad, rounded.grad)
    assert not torch.equal(rounded, weight)


@pytest.mark.parametrize("granularity", ["tensor", "channel"])
def test_trained_weights_have_few_levels_and_are_stored_bit_for_bit(granularity):
    model = Qat(granularity=granularity).attach(tiny(), context())
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for step in range(3):
        model(**batch(step)).logits.square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    expected = model(**batch(9)).logits
    bake(model)
    made = Qat(granularity=granularity).finish(model, context())
    assert torch.equal(made(**batch(9)).logits, expected)
    for name, stored in made.storage.items():
        weight = made.get_parameter(name).detach()
        for unit in [weight] if granularity == "tensor" and "embeddings" not in name else weight:
            assert unit.unique().numel() <= 255
        assert torch.equal(stored.decode(stored.encode(weight), spec_of(weight)), weight)
    assert all(type(found) is ActivationQuantizer for found in quantizers(made).values())
    assert not any(name.endswith(".ends") for name in made.state_dict())


def test_it_stacks_on_a_pruning_mask_and_zeros_stay_zero():
    class Mask(nn.Module):
        def forward(self, weight):
            return weight * (weight.abs() > weight.abs().median())

    model = tiny()
    put(model, QUERY, Mask())
    put(model, QUERY, FakeQuantizer(lambda w: symmetric_grid(w, 8, (1, 0))))
    sparse = model.get_submodule(QUERY.rpartition(".")[0]).parametrizations.weight.original.detach()
    zero = sparse.abs() <= sparse.abs().median()
    model(**batch()).logits.sum().backward()
    bake(model)
    weight = model.get_parameter(QUERY).detach()
    assert (weight[zero] == 0).all()
    assert (weight[~zero] != 0).any()


def test_activations_can_stay_float():
    method = Qat(activations=False, bits=4)
    model = method.attach(tiny(), context())
    assert model.blueprint.activation_bits is None
    bake(model)
    made = method.finish(model, context())
    assert {stored.codecs[0].bits for name, stored in made.storage.items() if "layers" in name} == {4}


def test_attached_after_a_mask_it_quantizes_what_the_mask_leaves():
    class Mask(nn.Module):
        def forward(self, weight):
            return weight * (weight.abs() > 0.02)

    model, names = tiny(), Qat().matrices(tiny())
    for name in names:
        put(model, name, Mask())
    masked = {name: model.get_parameter(name).detach().abs() <= 0.02 for name in names}
    assert Qat().matrices(model) == names
    method = Qat(activations=False)
    model = method.attach(model, context())
    bake(model)
    made = method.finish(model, context())
    assert set(names) <= set(made.storage)
    for name in names:
        assert not made.get_parameter(name)[masked[name]].any()
        assert made.get_parameter(name)[~masked[name]].any()


def test_first_ranges_are_those_of_the_rounded_weights():
    model = Qat(bits=2).attach(tiny(), context())
    quantizer, seen = quantizers(model)["encoder.layers.0.ffn.0.inner_slot"], []
    plain = Qat(bits=2, activations=False).attach(tiny(), context())
    plain.encoder.layers[0].ffn[0].inner_slot.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        for shown in (batch(0), batch(1)):
            plain(**shown)
            seen[-1] = seen[-1][shown["attention_mask"].bool()]
    values = torch.cat(seen)
    assert quantizer.ends.tolist() == pytest.approx([float(values.min()), float(values.max())])


def test_dynamic_scales_learn_no_range_and_train():
    method = Qat(activation_scales="dynamic", activation_bits=4)
    model = method.attach(tiny(), Context(task=None, tokenizer=None, seed=0))  # without any text
    model.train()
    model(**batch()).logits.square().sum().backward()
    assert model.get_parameter(QUERY).grad.any()
    model.eval()
    expected = model(**batch(9)).logits
    bake(model)
    made = method.finish(model, context())
    assert torch.equal(made(**batch(9)).logits, expected)
    found = quantizers(made)
    assert all(isinstance(quantizer, DynamicQuantizer) and quantizer.bits == 4 for quantizer in found.values())
    assert [name for name, quantizer in found.items() if not quantizer.active] == ["head.slot"]


@pytest.mark.parametrize("bits", [2, 6])
def test_activations_of_few_bits_have_few_levels(bits):
    method = Qat(activation_bits=bits)
    model = method.attach(tiny(), context())
    bake(model)
    made, seen = method.finish(model, context()), []
    made.encoder.layers[0].attention.query.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    made(**batch())
    assert 2 < seen[0].unique().numel() <= 2**bits
    assert made.blueprint.activation_bits == bits
