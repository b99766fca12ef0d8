"""Half a step, exact zero, idempotent, the integer path; slots, state dicts, pads."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bertpress.encoder.blueprint import HeadSpec, uniform
from bertpress.encoder.grids import quantize, symmetric_around, symmetric_grid
from bertpress.encoder.model import build_model
from bertpress.encoder.observers import observing
from bertpress.encoder.quantizers import ActivationQuantizer, DynamicQuantizer, WeightQuantizer, bounds, quantizers
from bertpress.encoder.transforms import put


def tiny(**changes):
    torch.manual_seed(0)
    shape = uniform(layers=2, hidden_size=8, heads=2, ffn=12, vocabulary=30, head=HeadSpec(kind="sequence"))
    return build_model(shape.replace(**changes))


def steps(scale):
    return symmetric_around(scale, (1, 0), 127)


def quantizer(scale, zero):
    made = ActivationQuantizer()
    made.set(scale, zero)
    return made


@given(st.floats(1e-3, 1e2), st.integers(0, 255), st.integers(0, 2**31))
@settings(deadline=None, max_examples=50)
def test_half_a_step_inside_the_range_exact_zero_idempotent(scale, zero, seed):
    q = quantizer(scale, zero)
    low, high = -zero * scale, (255 - zero) * scale
    x = torch.empty(200).uniform_(low * 1.5 - 1, high * 1.5 + 1, generator=torch.Generator().manual_seed(seed))
    y = q(x)
    inside = (x >= low) & (x <= high)
    assert ((x - y).abs()[inside] <= scale * 0.5001).all()
    assert (y >= low - 1e-5 * scale * 256).all()
    assert (y <= high + 1e-5 * scale * 256).all()
    assert q(torch.zeros(1)) == 0
    assert torch.equal(q(y), y)
    assert len(y.unique()) <= 256


def test_three_values_by_hand():
    assert quantizer(0.5, 10)(torch.tensor([0.6, -7.0, 200.0])).tolist() == [0.5, -5.0, 122.5]


def test_off_until_it_has_a_scale():
    q, x = ActivationQuantizer(), torch.randn(5)
    assert q(x) is x
    assert not q.active
    q.set(0.1, 3)
    assert q.active
    assert not torch.equal(q(x), x)
    q.set(0, 0)
    assert q(x) is x


@pytest.mark.parametrize(
    ("scale", "zero", "message"),
    [
        (-1.0, 0, "scale=-1.0 must be finite and at least 0"),
        (float("nan"), 0, "scale=nan must be finite and at least 0"),
        (1.0, 256, "zero_point=256 must be in 0..255"),
    ],
)
def test_impossible_grids_are_refused(scale, zero, message):
    with pytest.raises(ValueError, match=message):
        ActivationQuantizer().set(scale, zero)


def test_gradient_is_one_inside_the_range_and_zero_outside():
    x = torch.tensor([0.2, -6.0, 300.0], requires_grad=True)
    quantizer(0.5, 10)(x).sum().backward()
    assert x.grad.tolist() == [1.0, 0.0, 0.0]
    weight = torch.tensor([[0.2, 9.0]], requires_grad=True)
    WeightQuantizer(steps(torch.tensor([[0.01]])))(weight).sum().backward()
    assert weight.grad.tolist() == [[1.0, 0.0]]


def test_integer_matrix_product_equals_the_simulation():
    random = torch.Generator().manual_seed(1)
    x, w, b = (torch.randn(shape, generator=random) for shape in ((7, 33), (5, 33), (5,)))
    activation, weight = quantizer(0.03, 101), WeightQuantizer(symmetric_grid(w, 8, (1, 0)))
    weight.freeze(w)
    codes = (torch.round(x / 0.03) + 101).clamp(0, 255).long()
    sums = codes @ weight.integers.long().T - 101 * weight.integers.long().sum(1)
    simulated = torch.nn.functional.linear(activation(x), WeightQuantizer(symmetric_grid(w, 8, (1, 0)))(w), b)
    assert torch.allclose(sums * 0.03 * weight.scale + b, simulated, atol=1e-5)


@pytest.mark.parametrize("axis", [0, 1, None])
def test_weights_by_axis(axis):
    w = torch.randn(4, 6, generator=torch.Generator().manual_seed(2))
    scale = w.abs().amax() / 127 if axis is None else w.abs().amax(1 - axis) / 127
    made = WeightQuantizer(symmetric_grid(w, 8, tuple(int(i == axis) for i in range(2))))
    by_hand = scale if axis is None else scale[:, None] if axis == 0 else scale[None]
    assert torch.allclose(made(w), torch.round(w / by_hand) * by_hand, atol=1e-7)
    made.freeze(w)
    assert made.integers.dtype == torch.int8
    assert torch.equal(made.integers, torch.round(w / by_hand).to(torch.int8))


@pytest.mark.parametrize("bits", range(2, 9))
def test_fewer_bits_have_fewer_levels_and_the_wider_grid_of_exports_has_the_same_values(bits, monkeypatch):
    x = torch.linspace(-3, 5, 1001)
    for signed, zero in ((False, 1), (True, 0)):
        low, high = bounds(bits, signed=signed)
        assert high - low == 2**bits - 1
        made = ActivationQuantizer(low, high)
        made.set(0.37, zero)
        by_hand = ((x / 0.37).round() + zero).clamp(low, high).sub(zero) * 0.37
        torch.testing.assert_close(made(x), by_hand)
        assert made(torch.tensor([1e9, -1e9])).tolist() == pytest.approx([(high - zero) * 0.37, (low - zero) * 0.37])
        with monkeypatch.context() as patch:
            patch.setattr("bertpress.encoder.quantizers.traced", lambda: True)
            torch.testing.assert_close(made(x), by_hand)


def dynamic(bits=8):
    made = DynamicQuantizer(bits)
    made.on.fill_(True)
    return made


def test_each_token_has_a_scale_of_its_own_by_hand():
    x = torch.tensor([[[1.27, -0.634, 0.006], [0.0, 0.0, 0.0]], [[-254.0, 3.1, 1.0], [1e-42, 0.0, 0.0]]])
    expected = [[[1.27, -0.63, 0.01], [0.0, 0.0, 0.0]], [[-254.0, 4.0, 0.0], [0.0, 0.0, 0.0]]]
    assert torch.allclose(dynamic()(x), torch.tensor(expected), atol=1e-6)
    coarse = dynamic(2)(torch.tensor([[4.0, 1.9, -2.1, -4.0]]))  # -1, 0 and 1 of them
    assert coarse.tolist() == [[4.0, 0.0, -4.0, -4.0]]
    assert DynamicQuantizer()(x) is x


@given(st.integers(2, 8), st.integers(0, 2**31))
@settings(deadline=None, max_examples=30)
def test_dynamic_grids_are_the_symmetric_ones_of_their_rows(bits, seed):
    x = torch.randn(5, 9, generator=torch.Generator().manual_seed(seed)) * torch.logspace(-3, 3, 5)[:, None]
    grid = symmetric_grid(x, bits, (1, 0))
    torch.testing.assert_close(dynamic(bits)(x), quantize(x, grid))
    assert ((dynamic(bits)(x) - x).abs() <= grid.scale * 0.5001).all()
    assert all(len(row.unique()) <= 2**bits - 1 for row in dynamic(bits)(x))


def test_dynamic_gradients_pass_straight_through():
    x = torch.randn(4, 7, requires_grad=True)
    (dynamic(4)(x) * torch.arange(28.0).reshape(4, 7)).sum().backward()
    assert torch.allclose(x.grad, torch.arange(28.0).reshape(4, 7), rtol=1e-5)


def test_integers_times_both_scales_are_the_dynamic_simulation():
    random = torch.Generator().manual_seed(1)
    x, w, b = (torch.randn(shape, generator=random) for shape in ((7, 33), (5, 33), (5,)))
    weight = WeightQuantizer(symmetric_grid(w, 8, (1, 0)))
    weight.freeze(w)
    scale = x.abs().amax(1, keepdim=True) / 127
    sums = torch.round(x / scale).long() @ weight.integers.long().T
    simulated = torch.nn.functional.linear(dynamic()(x), WeightQuantizer(symmetric_grid(w, 8, (1, 0)))(w), b)
    assert torch.allclose(sums * scale * weight.scale + b, simulated, atol=1e-5)


def test_which_slots_are_filled():
    by_default = set(quantizers(tiny(activation_bits=8)))
    operands = {f"encoder.layers.{i}.attention.{slot}_slot" for i in (0, 1) for slot in ("map", "value")}
    scores = {name.replace("map", "query").replace("value", "key") for name in operands}
    assert set(quantizers(tiny(activation_bits=8, quantized_maps=True))) == by_default | operands
    assert set(quantizers(tiny(activation_bits=8, activation_scales="dynamic"))) == by_default - scores
    with pytest.raises(ValueError, match="quantized_maps=true must go with activation_bits and static"):
        tiny(activation_bits=8, activation_scales="dynamic", quantized_maps=True)


def test_quantized_maps_are_averages_of_values_on_both_grids():
    model, ids = tiny(activation_bits=4, quantized_maps=True), torch.tensor([[3, 4, 5, 6]])
    unit, seen = model.encoder.layers[0].attention, {}
    unit.map_slot.quantizer.set(1 / 15, 0)
    unit.value_slot.quantizer.set(0.1, 0)
    unit.context_slot.register_forward_pre_hook(lambda _, args: seen.update(context=args[0]))
    with torch.no_grad():
        maps, value = (model(ids, capture=frozenset({name})).captured[name][0] for name in ("attentions", "values"))
        model(ids)  # without a tape that asks for maps
    expected = (maps * 15).round() / 15 @ ((value / 0.1).round().clamp(-8, 7) * 0.1)
    assert torch.allclose(seen["context"], expected.transpose(1, 2).flatten(2), atol=1e-6)


def test_a_transform_on_a_tied_table_reaches_the_decoder():
    model = build_model(tiny().blueprint.replace(head=HeadSpec(kind="masked_lm", activation="gelu")))
    ids = torch.tensor([[3, 4, 5]])
    put(model, "encoder.embeddings.word.weight", WeightQuantizer(steps(torch.full((30, 1), 0.01))))
    with torch.no_grad():
        transformed = model(ids).logits
        model.encoder.embeddings.word.parametrizations.weight.original.round_(decimals=2)
        assert torch.allclose(model(ids).logits, transformed, atol=1e-5)


def test_slots_are_filled_by_the_blueprint_and_travel_in_the_state_dict():
    model, again = tiny(activation_bits=8), tiny(activation_bits=8)
    assert all(isinstance(found, ActivationQuantizer) for found in quantizers(model).values())
    first = quantizers(model)["encoder.layers.0.attention.input_slot"]
    first.set(0.02, 130)
    again.load_state_dict(model.state_dict())
    copy = quantizers(again)["encoder.layers.0.attention.input_slot"]
    assert copy.active
    assert float(copy.scale) == float(first.scale)
    assert int(copy.zero_point) == 130
    ids = torch.tensor([[3, 4, 5]])
    with torch.no_grad():
        assert torch.equal(model(ids).logits, again(ids).logits)


def test_filled_but_switched_off_changes_nothing():
    model, ids = tiny(), torch.tensor([[3, 4, 5]])
    for options in ({}, {"activation_scales": "dynamic"}):
        filled = tiny(activation_bits=8, **options)
        assert quantizers(filled)
        with torch.no_grad():
            assert torch.equal(model(ids).logits, filled(ids).logits)


def test_observers_see_real_tokens_alone_and_go_away():
    model, seen = tiny(), {}
    names = ["encoder.layers.1.ffn.0.inner_slot", "head.dense_slot"]
    ids, mask = torch.tensor([[3, 4, 5, 0], [6, 0, 0, 0]]), torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0]])
    with torch.no_grad(), observing(model, {name: lambda x, name=name: seen.update({name: x}) for name in names}):
        model(input_ids=ids, attention_mask=mask)
    assert seen[names[0]].shape == (4, 12)
    assert seen[names[1]].shape == (2, 8)
    seen.clear()
    model(ids, mask)
    assert not seen
