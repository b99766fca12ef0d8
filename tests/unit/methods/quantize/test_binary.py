"""Two values a unit, 0 is positive; a split model answers as the ternary one and has its latent weights."""

import pytest
import torch

from bertpress.artifact import packing
from bertpress.artifact.codecs import Stored, spec_of
from bertpress.artifact.codecs.bits import Bits
from bertpress.artifact.codecs.sign import Sign
from bertpress.artifact.codecs.trits import Trits
from bertpress.artifact.codecs.uniform import Uniform
from bertpress.encoder.blueprint import AttentionSpec, HeadSpec, LayerSpec, uniform
from bertpress.encoder.grids import block_of
from bertpress.encoder.model import build_model
from bertpress.encoder.quantizers import ActivationQuantizer, quantizers
from bertpress.encoder.transforms import put
from bertpress.errors import RecipeError
from bertpress.methods.base import Context
from bertpress.methods.low_bits import mean_size, ternary
from bertpress.methods.quantize.binary import Binarizer, Binary, binary, split
from bertpress.methods.quantize.ternary import Ternary
from bertpress.methods.transform import bake

QUERY = "encoder.layers.0.attention.query.weight"
WORDS = "encoder.embeddings.word.weight"
LOPSIDED = torch.cat([torch.full((2, 90), 0.069), torch.full((2, 10), -0.4)], 1)


def tiny(seed=1):
    torch.manual_seed(seed)
    shape = uniform(layers=2, hidden_size=16, heads=2, ffn=24, vocabulary=40, head=HeadSpec(kind="sequence"), dropout=0)
    return build_model(shape)


def batch(seed=0):
    random = torch.Generator().manual_seed(seed)
    mask = (torch.arange(9) < torch.tensor([[9], [4], [1], [7]])).long()
    return {"input_ids": torch.randint(5, 40, (4, 9), generator=random) * mask, "attention_mask": mask}


def context():
    return Context(task=None, tokenizer=None, seed=0, calibration=lambda *_: [batch(0), batch(1)])


def owner(model, name):
    return model.get_submodule(name.removesuffix(".weight"))


def binarized(weight, block):
    return binary(weight, mean_size(weight, block), block)


def halves(weight, block):
    """As they are trained: in float32."""
    return [half.float() for half in split(weight, block)]


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def trained(method, model, steps=3):
    model = method.attach(model, context())
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for step in range(steps):
        model(**batch(step)).logits.square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


def test_binary_by_hand_and_zero_is_positive():
    weight = torch.tensor([[1.0, -2.0, 0.0], [-0.0, 4.0, -5.0]])
    assert binarized(weight, (0, 0)).tolist() == [[2, -2, 2], [2, 2, -2]]
    assert binarized(weight, (1, 0)).tolist() == [[1, -1, 1], [3, 3, -3]]
    assert not binarized(torch.zeros(2, 2), (1, 0)).any()


def test_splitting_by_hand():
    first, second = halves(torch.tensor([[3.0, -1.0, 0.5, -0.5]]), (0, 0))  # threshold 0.875, scale 2, a 1/2, b 3/4
    assert first.tolist() == [[1.5, -0.5, 1.25, 0.75]]
    assert second.tolist() == [[1.5, -0.5, -0.75, -1.25]]
    first, second = halves(torch.tensor([[4.0, 1.0, 0.0]]), (0, 0))  # threshold 1.17, scale 4: a 3/8, b 7/4
    assert first.tolist() == [[1.5, 2.75, 1.75]]
    assert second.tolist() == [[2.5, -1.75, -1.75]]


@pytest.mark.parametrize("granularity", ["tensor", "channel"])
@pytest.mark.parametrize("shift", [0.0, 0.4, -0.8])
def test_halves_sum_to_the_latent_weight_and_their_signs_to_the_ternary_one(granularity, shift):
    weight = random(37, 53) * 0.04 + shift * 0.04
    block = block_of(weight.shape, granularity)
    first, second = halves(weight, block)
    expected, _ = ternary(weight, block)
    torch.testing.assert_close(first + second, weight, atol=1e-7, rtol=0)
    torch.testing.assert_close(binarized(first, block) + binarized(second, block), expected, atol=1e-6, rtol=0)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("block", [(0, 0), (1, 0)])
@pytest.mark.parametrize(
    "weight",
    [torch.zeros(3, 4), torch.full((3, 4), -0.5), torch.tensor([[7.0]]), torch.eye(3), LOPSIDED, -LOPSIDED],
    ids=["zeros", "constant", "single", "identity", "lopsided", "lopsided-down"],
)
def test_degenerate_weights_still_answer_alike(weight, block):
    first, second = halves(weight, block)
    expected, _ = ternary(weight, block)
    torch.testing.assert_close(binarized(first, block) + binarized(second, block), expected, atol=1e-6, rtol=0)
    assert first.isfinite().all()
    assert second.isfinite().all()
    if weight.shape != LOPSIDED.shape:
        assert torch.equal(first + second, weight)


def test_lopsided_blocks_start_from_their_ternary_weights():
    first, second = halves(torch.cat([LOPSIDED[:1], random(1, 100)]), (1, 0))
    torch.testing.assert_close((first + second)[:1], ternary(LOPSIDED[:1], (0, 0))[0])
    torch.testing.assert_close((first + second)[1:], random(1, 100))


def test_it_is_solved_in_double_precision():
    weight = random(700, 900, seed=4) * 0.02
    first, second = split(weight, (0, 0))
    kept = weight.abs() > 0.7 * weight.abs().mean()
    scale = weight.double()[kept].abs().mean()
    expected = torch.where(kept, scale * weight.double().sign(), 0.0)
    made = binarized(first, (0, 0)) + binarized(second, (0, 0))
    torch.testing.assert_close(made, expected, atol=1e-15, rtol=0)
    torch.testing.assert_close(first + second, weight.double(), atol=1e-16, rtol=0)


@pytest.mark.parametrize("activations", [False, True])
@pytest.mark.parametrize("granularity", ["tensor", "channel"])
def test_a_split_model_answers_as_the_ternary_one(granularity, activations):
    options = {"granularity": granularity, "activations": activations}
    expected = Ternary(**options).attach(tiny(), context())
    made = Binary(**options).attach(tiny(), context())
    with torch.no_grad():
        for seed in range(3):
            difference = (made(**batch(seed)).logits - expected(**batch(seed)).logits).abs().max()
            assert difference <= 1e-4
    plain = dict(tiny().unique_weights())
    for name in Binary().matrices(tiny()):
        parts = owner(made, name).parametrizations.weight
        assert isinstance(parts[0], Binarizer)
        torch.testing.assert_close(parts.original + parts[0].second, plain[name], atol=1e-7, rtol=0)


def test_both_halves_are_trained_by_the_gradient_of_the_sum():
    weight = random(4, 6).requires_grad_()
    transform = Binarizer((0, 0), random(4, 6, seed=1))
    upstream = random(4, 6, seed=2)
    transform(weight).backward(upstream)
    assert torch.equal(weight.grad, upstream)
    assert torch.equal(transform.second.grad, upstream)


@pytest.mark.parametrize("granularity", ["tensor", "channel"])
@pytest.mark.parametrize("pair", [False, True])
def test_a_trained_model_has_few_values_a_unit_and_the_file_holds_them(granularity, pair, tmp_path):
    method = Binary(granularity=granularity, split=pair)
    model = trained(method, tiny())
    expected = model(**batch(9)).logits
    bake(model)
    made = method.finish(model, context())
    assert torch.equal(made(**batch(9)).logits, expected)
    assert set(made.storage) == {WORDS, *method.matrices(made)}
    for name in method.matrices(made):
        weight, stored = made.get_parameter(name).detach(), made.storage[name]
        assert [codec.kind for codec in stored.codecs] == ["sign", "bits"]
        units = list(weight) if granularity == "channel" else [weight]
        assert all(unit.unique().numel() <= (4 if pair else 2) for unit in units)
        packed = stored.encode(weight)
        assert torch.equal(stored.decode(packed, spec_of(weight)), weight)
        terms = 2 if pair else 1
        assert sum(part.nbytes for part in packed.parts.values()) == terms * (weight.numel() / 8 + 4 * len(units))
    assert [codec.kind for codec in made.storage[WORDS].codecs] == ["uniform", "trits"]
    assert all(type(found) is ActivationQuantizer for found in quantizers(made).values())
    packing.write(tmp_path / "model.safetensors", made.state_dict(), made.storage)
    state, _ = packing.read(tmp_path / "model.safetensors")
    assert all(torch.equal(state[name], tensor) for name, tensor in made.state_dict().items())


def test_the_halves_part_while_training():
    model = trained(Binary(), tiny())
    parts = owner(model, QUERY).parametrizations.weight
    before = Binary().attach(tiny(), context())
    start = owner(before, QUERY).parametrizations.weight
    assert not torch.equal(parts.original, start.original)
    assert not torch.equal(parts[0].second, start[0].second)
    assert parts[0].scale[0] != parts[0].scale[1]


def test_a_mask_in_the_same_stage_is_refused():
    model = tiny()
    put(model, QUERY, torch.nn.Dropout(0.5))
    with pytest.raises(RecipeError, match=rf"quantize/binary: {QUERY} is masked in the same stage"):
        Binary().attach_matrix(model, QUERY)


def file_bytes(shape, terms):
    """Bytes of the file of a binary model of such a shape, by the layouts of its codecs: nothing is made."""
    with torch.device("meta"):
        model = build_model(shape)
    state = {name: spec_of(tensor) for name, tensor in model.state_dict().items()}
    sign = Stored((Sign(block=(0, 0), terms=terms), Bits(bits=terms)), {"scale": torch.ones(terms, 1, 1)})
    rows = Stored((Uniform(bits=2, block=(1, 0)), Trits()), {"scale": torch.ones(state[WORDS].shape[0], 1)})
    storage = dict.fromkeys(Binary().matrices(model), sign) | {WORDS: rows}
    plain = sum(spec.bytes for name, spec in state.items() if name not in storage)
    return plain + sum(part.bytes for name, stored in storage.items() for part in stored.layout(state[name]).values())


def test_a_model_of_berts_shape_takes_less_than_a_twentieth():
    head = HeadSpec(kind="sequence")
    whole = uniform(layers=12, hidden_size=768, heads=12, ffn=3072, head=head)
    attention = AttentionSpec(heads=tuple(range(6)), head_size=64, value_size=64)
    half = whole.with_layers((LayerSpec(attention=attention, ffn=(1536,)),) * 12)
    full = 4 * whole.total_parameters
    assert full == pytest.approx(437.9e6, rel=1e-3)
    assert file_bytes(half, 2) <= 0.045 * full
    assert file_bytes(whole, 1) <= 0.045 * full
    assert file_bytes(half, 2) == pytest.approx(file_bytes(whole, 1), rel=0.02)  # BinaryBERT's doubled width
