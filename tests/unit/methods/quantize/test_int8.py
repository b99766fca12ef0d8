"""Sheet Q0's oracles on the mathematics, and the method on a tiny model."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bertpress.artifact import Int8 as Int8Codec
from bertpress.encoder.blueprint import HeadSpec, uniform
from bertpress.encoder.model import build_model
from bertpress.encoder.quantizers import slots
from bertpress.methods.base import Context
from bertpress.methods.quantize.int8 import (
    Int8,
    activation_ranges,
    affine_grid,
    from_integers,
    symmetric_scale,
    to_integers,
)

ZERO = torch.tensor(0)


def tiny(kind="sequence", **head):
    torch.manual_seed(1)
    shape = uniform(layers=2, hidden_size=16, heads=2, ffn=24, vocabulary=40, head=HeadSpec(kind=kind, **head))
    return build_model(shape)


def batch(seed=0, pad=0):
    random = torch.Generator().manual_seed(seed)
    mask = (torch.arange(9) < torch.tensor([[9], [4], [1], [7]])).long()
    ids = torch.randint(5, 40, (4, 9), generator=random) * mask + pad * (1 - mask)
    return {"input_ids": ids, "attention_mask": mask, "labels": torch.zeros(4)}


def context():
    return Context(task=None, tokenizer=None, seed=0, calibration=lambda _: [batch(0), batch(1)])


@given(st.integers(0, 2**31), st.integers(2, 8), st.sampled_from([0, 1, None]), st.floats(1e-3, 1e3))
@settings(deadline=None, max_examples=60)
def test_symmetric_half_a_step_exact_zero_idempotent_few_values(seed, bits, axis, size):
    x = torch.randn(5, 7, generator=torch.Generator().manual_seed(seed)) * size
    x[2, 3] = 0
    top = 2 ** (bits - 1) - 1
    scale = symmetric_scale(x, axis, bits)
    wide = scale if axis is None else scale[:, None] if axis == 0 else scale[None]
    q = to_integers(x, wide, ZERO, -top, top)
    y = from_integers(q, wide, ZERO)
    assert ((x - y).abs() <= wide * 0.5001).all()
    assert y[2, 3] == 0
    assert torch.equal(to_integers(y, wide, ZERO, -top, top), q)
    assert q.abs().max() == top


@given(st.floats(-100, 100), st.floats(0, 100), st.integers(2, 8))
@settings(deadline=None, max_examples=100)
def test_affine_half_a_step_exact_zero(low, width, bits):
    scale, zero = affine_grid(low, low + width, bits)
    assert 0 <= zero <= 2**bits - 1
    x = torch.linspace(low, low + width, 77)
    y = from_integers(
        to_integers(x, torch.tensor(scale), torch.tensor(zero), 0, 2**bits - 1), torch.tensor(scale), zero
    )
    # the zero-point is rounded, so at the two ends up to a whole step may be cut
    assert ((x - y).abs() <= scale * 1.001).all()
    assert ((x - y).abs()[5:-5] <= scale * 0.501).all() or width < 12 * scale
    assert from_integers(torch.tensor(zero), torch.tensor(scale), zero) == 0


def test_grids_by_hand():
    assert affine_grid(-1.0, 1.55) == (pytest.approx(0.01), 100)
    assert affine_grid(2.0, 5.1) == (pytest.approx(5.1 / 255), 0)
    assert affine_grid(-5.1, -2.0) == (pytest.approx(5.1 / 255), 255)
    assert symmetric_scale(torch.tensor([[1.27, -0.3], [0.0, -2.54]])).tolist() == pytest.approx([0.01, 0.02])


def test_constants_zeros_and_single_values():
    assert affine_grid(0.0, 0.0) == (1.0, 0)
    assert symmetric_scale(torch.zeros(3, 4)).tolist() == [1.0] * 3
    assert symmetric_scale(torch.tensor(-2.54), None) == pytest.approx(0.02)
    assert symmetric_scale(torch.full((2, 3), 1e-44)).tolist() == [1.0] * 2
    with pytest.raises(ValueError, match=r"range \[-inf, 0.0\] must be finite"):
        affine_grid(float("-inf"), 0.0)


def test_more_bits_less_error():
    x = torch.randn(50, 50, generator=torch.Generator().manual_seed(0))
    errors = []
    for bits in range(2, 9):
        top, scale = 2 ** (bits - 1) - 1, symmetric_scale(x, 0, bits)[:, None]
        errors.append((x - from_integers(to_integers(x, scale, ZERO, -top, top), scale, ZERO)).square().mean())
    assert errors == sorted(errors, reverse=True)


def test_pads_do_not_count():
    model, names = tiny(), lambda slot: slot.endswith("ffn.0.inner_slot")
    found = [activation_ranges(model, [batch(0, pad)], names, "minmax", 100.0) for pad in (0, 3)]
    assert found[0].keys() == found[1].keys()
    assert len(found[0]) == 2
    for name, ends in found[0].items():
        assert found[1][name] == pytest.approx(ends, abs=1e-6)


def test_weights_lie_on_their_grids_and_the_source_is_untouched():
    model = tiny()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    made = Int8().finish(model, context())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert model.storage == {}
    assert model.blueprint.activation_bits is None
    assert made.blueprint.activation_bits == 8
    weights = dict(made.unique_weights())
    assert set(made.storage) == {
        name for name, weight in weights.items() if weight.ndim == 2 and name != "head.classifier.weight"
    }
    for name, stored in made.storage.items():
        assert stored.codecs == (Int8Codec(axis=0),)
        packed = stored.encode(weights[name])
        assert packed.parts["values"].dtype == torch.int8
        assert torch.equal(packed.parts["values"].float() * stored.parts["scale"][:, None], weights[name])
        assert ((weights[name] - before[name]).abs() <= stored.parts["scale"][:, None] * 0.5001).all()


def test_which_activations_are_integers():
    def idle(**options):
        return {
            name for name, slot in slots(Int8(**options).finish(tiny(), context())).items() if not slot.quantizer.active
        }

    scores = {f"encoder.layers.{i}.attention.{slot}_slot" for i in (0, 1) for slot in ("query", "key")}
    assert idle() == {"head.slot"}
    assert idle(classifier=True) == set()
    assert idle(scores=False) == {"head.slot"} | scores
    made = slots(Int8().finish(tiny(), context()))
    assert all((made[name].quantizer.low, int(made[name].quantizer.zero_point)) == (-128, 0) for name in scores)
    assert "head.classifier.weight" in Int8(classifier=True).finish(tiny(), context()).storage


def test_embedding_bits_change_the_tables_alone():
    whole, tables = Int8().finish(tiny(), context()), Int8(embedding_bits=32).finish(tiny(), context())
    changed = {
        name for name, weight in whole.unique_weights() if not torch.equal(weight, dict(tables.unique_weights())[name])
    }
    assert changed == {f"encoder.embeddings.{table}.weight" for table in ("word", "position", "segment")}
    assert set(whole.storage) - set(tables.storage) == changed


def test_a_tied_decoder_is_stored_once_and_its_dense_layer_is_quantized():
    made = Int8().finish(tiny("masked_lm", activation="gelu"), context())
    assert "encoder.embeddings.word.weight" in made.storage
    assert slots(made)["head.slot"].quantizer.active


def test_weights_alone_leave_activations_float():
    made = Int8(activations=False).finish(tiny(), context())
    assert made.blueprint.activation_bits is None
    assert made.storage


def test_the_answers_hardly_change_and_each_is_its_own():
    model = tiny()
    made, probe = Int8(ranges="minmax").finish(model, context()), batch(5)
    inputs = {name: probe[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        before, after = model(**inputs).logits, made(**inputs).logits
        alone = torch.cat(
            [made(ids[None, : int(mask.sum())]).logits for ids, mask in zip(*inputs.values(), strict=True)]
        )
    assert 0 < (before - after).abs().max() < 0.02 * before.abs().max() + 0.01
    assert torch.allclose(alone, after, atol=2e-3)  # a value at a boundary may round the other way


def test_same_text_same_bits():
    first, second = (Int8().finish(tiny(), context()).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
