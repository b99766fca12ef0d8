"""Static integers of 8 bits on a tiny model."""

import pytest
import torch

from bertpress.artifact import packing
from bertpress.artifact.codecs.uniform import Uniform
from bertpress.encoder.blueprint import HeadSpec, uniform
from bertpress.encoder.model import build_model
from bertpress.encoder.quantizers import DynamicQuantizer, quantizers
from bertpress.methods.activations import activation_ranges
from bertpress.methods.base import Context
from bertpress.methods.quantize.int8 import Int8
from bertpress.training.teacher import model_inputs


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
    return Context(task=None, tokenizer=None, seed=0, calibration=lambda *_: [batch(0), batch(1)])


def test_pads_do_not_count():
    model, names = tiny(), lambda slot: slot.endswith("ffn.0.inner_slot")
    found = [activation_ranges(model, [model_inputs(batch(0, pad))], names, "minmax", 100.0) for pad in (0, 3)]
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
        assert stored.codecs == (Uniform(bits=8, block=(1, 0)),)
        codes = stored.encode(weights[name]).parts["values"]
        steps = torch.where(codes > 127, codes.float() - 255, codes.float())
        assert torch.equal(steps * stored.parts["scale"], weights[name])
        assert ((weights[name] - before[name]).abs() <= stored.parts["scale"] * 0.5001).all()


def test_which_activations_are_integers():
    def idle(**options):
        made = Int8(**options).finish(tiny(), context())
        return {name for name, quantizer in quantizers(made).items() if not quantizer.active}

    scores = {f"encoder.layers.{i}.attention.{slot}_slot" for i in (0, 1) for slot in ("query", "key")}
    assert idle() == {"head.slot"}
    assert idle(classifier=True) == set()
    assert idle(scores=False) == {"head.slot"} | scores
    made = quantizers(Int8().finish(tiny(), context()))
    assert all((made[name].low, int(made[name].zero_point)) == (-128, 0) for name in scores)
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
    assert quantizers(made)["head.slot"].active


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


def dynamic(model=None, **options):
    ctx = Context(task=None, tokenizer=None, seed=0)  # without any text
    return Int8(activation_scales="dynamic", **options).finish(model or tiny(), ctx)


def test_dynamic_scales_need_no_text_and_leave_queries_and_keys_float():
    found = quantizers(dynamic())
    assert all(isinstance(quantizer, DynamicQuantizer) for quantizer in found.values())
    assert {name for name, quantizer in found.items() if not quantizer.active} == {"head.slot"}
    assert not [name for name in found if name.endswith(("query_slot", "key_slot", "map_slot", "value_slot"))]
    assert quantizers(dynamic(classifier=True))["head.slot"].active


def test_dynamic_answers_depend_on_no_batch_mate_and_no_pad():
    made, probe = dynamic(), batch(5)
    ids, mask = probe["input_ids"], probe["attention_mask"]
    with torch.no_grad():
        together = made(ids, mask).logits
        shuffled = made(ids[[2, 0, 3, 1]], mask[[2, 0, 3, 1]]).logits
        alone = torch.cat([made(row[None, : int(kept.sum())]).logits for row, kept in zip(ids, mask, strict=True)])
    assert 0 < (together - tiny()(ids, mask).logits).abs().max() < 0.02
    assert torch.allclose(shuffled, together[[2, 0, 3, 1]], atol=1e-6)
    assert torch.allclose(alone, together, atol=1e-5)


def test_dynamic_scales_are_saved_and_loaded(tmp_path):
    made, probe = dynamic(), batch(5)
    packing.write(tmp_path / "model.safetensors", made.state_dict(), made.storage)
    state, storage = packing.read(tmp_path / "model.safetensors")
    again = type(made).filled(type(made.config)(made.config.blueprint), state, storage)
    inputs = (probe["input_ids"], probe["attention_mask"])
    with torch.no_grad():
        assert torch.equal(again(*inputs).logits, made(*inputs).logits)
    assert quantizers(again)["encoder.layers.0.attention.input_slot"].active
