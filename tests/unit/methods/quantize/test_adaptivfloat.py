"""Numbers of the format and the nearest of them, against all of them written out."""

import math

import pytest
import torch
from pydantic import ValidationError

from bertpress.artifact import packing
from bertpress.artifact.codecs import spec_of
from bertpress.encoder.blueprint import HeadSpec, uniform
from bertpress.encoder.model import build_model
from bertpress.encoder.transforms import put, transformed
from bertpress.methods.base import Context
from bertpress.methods.quantize.adaptivfloat import Adaptivfloat, FloatQuantizer, adaptivfloat, exponent_bias
from bertpress.methods.transform import bake

CONTEXT = Context(task=None, tokenizer=None, seed=0)
NAME = "encoder.layers.0.attention.query.weight"
FORMATS = [(bits, exponent) for bits in range(4, 9) for exponent in range(2, bits)]
every_format = pytest.mark.parametrize(("bits", "exponent_bits"), FORMATS)
both = pytest.mark.parametrize("range_", ["paper", "released"])


def tiny(kind="sequence"):
    torch.manual_seed(1)
    shape = uniform(layers=2, hidden_size=32, heads=2, ffn=48, vocabulary=64, head=HeadSpec(kind=kind))
    return build_model(shape)


def numbers(peak, bits, exponent_bits, range_):
    """All numbers of the format for a tensor with this largest magnitude, ascending, float64."""
    top, mantissa = math.floor(math.log2(peak)), bits - 1 - exponent_bits
    count = 2**exponent_bits - (2 if range_ == "released" else 0)
    positive = [
        2.0**exponent * (1 + k / 2**mantissa)
        for exponent in range(top - count + 1, top + 1)
        for k in range(2**mantissa)
    ]
    if range_ == "paper":
        positive = positive[1:]  # the code of the lowest value means 0
    positive = torch.tensor(positive, dtype=torch.float64)
    return torch.cat([-positive.flip(0), torch.zeros(1, dtype=torch.float64), positive])


def drawn(count=4000, seed=0):
    """Values over many binades, so that every part of a format is reached."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, generator=generator) * torch.rand(count, generator=generator).pow(6)


def rounded(weight, bits=8, exponent_bits=3, range_="paper"):
    return adaptivfloat(weight, bits, exponent_bits, exponent_bias(weight, exponent_bits), range_)


@every_format
def test_the_papers_numbers_and_always_the_nearest(bits, exponent_bits):
    weight = drawn()
    every = numbers(float(weight.abs().max()), bits, exponent_bits, "paper")
    assert len(every) == 2**bits - 1
    made = rounded(weight, bits, exponent_bits).double()
    assert torch.isin(made, every).all()
    distance = (weight.double()[:, None] - every).abs().min(1).values
    assert torch.equal((weight.double() - made).abs(), distance)


@every_format
def test_the_released_numbers_flush_what_is_smaller(bits, exponent_bits):
    weight = drawn()
    every = numbers(float(weight.abs().max()), bits, exponent_bits, "released")
    made = rounded(weight, bits, exponent_bits, "released").double()
    assert torch.isin(made, every).all()
    smallest = every[every > 0].min()
    distance = (weight.double()[:, None] - every[every != 0]).abs().min(1).values
    kept = weight.double().abs() >= smallest
    assert torch.equal((weight.double() - made).abs()[kept], distance[kept])
    assert not made[~kept].any()
    assert kept.any()
    assert exponent_bits > 5 or not kept.all()


def test_numbers_by_hand():
    # 4 bits, 2 of them exponent, top exponent 1: 0, 0.375, 0.5, 0.75, 1, 1.5, 2, 3
    weight = torch.tensor([2.6, 3.9, -3.9, 0.2, 0.187, 0.3, 0.44, 0.6, 1.25, 1.75, 1.8, -0.7])
    paper = [3, 3, -3, 0.375, 0, 0.375, 0.5, 0.5, 1.0, 2.0, 2.0, -0.75]
    assert rounded(weight, 4, 2).tolist() == paper
    # the code: exponents 0 and 1 alone
    released = [3, 3, -3, 0, 0, 0, 0, 0, 1.0, 2.0, 2.0, 0]
    assert rounded(weight, 4, 2, "released").tolist() == released


def test_without_a_mantissa_a_tie_goes_up_at_every_exponent():
    # 1.5 times a power of two lies in the middle: torch.round takes the even 2
    weight = torch.tensor([8.0, 6.0, 3.0, 1.5, 0.75, 5.9])
    assert rounded(weight, 4, 3).tolist() == [8, 8, 4, 2, 1, 4]


@both
@every_format
def test_scales_by_powers_of_two_signs_and_twice(bits, exponent_bits, range_):
    weight = drawn(seed=bits)
    made = rounded(weight, bits, exponent_bits, range_)
    for power in (-20, -1, 1, 30):
        assert torch.equal(rounded(weight * 2.0**power, bits, exponent_bits, range_), made * 2.0**power) or power < -10
    assert torch.equal(rounded(-weight, bits, exponent_bits, range_), -made)
    assert torch.equal(rounded(made, bits, exponent_bits, range_), made)
    assert not torch.signbit(made[made == 0]).any()


def test_the_exponent_follows_the_largest_magnitude():
    for peak, top in [(1.0, 0), (0.999, -1), (2.0, 1), (1.999, 0), (0.25, -2), (3e38, 127), (2.0**-100, -100)]:
        assert exponent_bias(torch.tensor([0.0, -peak]), 3) == top - 7
    assert exponent_bias(torch.tensor([2.0**-126]), 3) == -126
    assert exponent_bias(torch.zeros(3), 3) == -7


def test_rounding_never_passes_the_largest():
    weight = torch.tensor([1.99, -1.999, 1.96])
    assert rounded(weight, 8, 3).tolist() == [1.9375, -1.9375, 1.9375]
    assert rounded(weight, 4, 3).tolist() == [1.0, -1.0, 1.0]
    huge = torch.tensor([3.4e38, -3e38])
    assert rounded(huge).isfinite().all()


@both
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize(
    "weight",
    [torch.zeros(3, 4), torch.full((4,), 0.5), torch.tensor(-0.25), torch.zeros(0, 3), torch.tensor([1e-40, -1e-38])],
    ids=["zeros", "constant", "scalar", "none", "denormal"],
)
def test_degenerate_weights(weight, bits, range_):
    made = rounded(weight, bits, 3, range_)
    assert made.shape == weight.shape
    assert made.isfinite().all()
    if not weight.any() or float(weight.abs().max()) > 1e-30:
        assert torch.equal(made, weight)


@both
@pytest.mark.parametrize("bits", [4, 5, 8])
def test_a_file_holds_what_was_made(bits, range_, tmp_path):
    made = Adaptivfloat(bits=bits, embedding_bits=6, range=range_).finish(tiny(), CONTEXT)
    packing.write(tmp_path / "model.safetensors", made.state_dict(), made.storage)
    state, storage = packing.read(tmp_path / "model.safetensors")
    assert all(torch.equal(state[name], tensor) for name, tensor in made.state_dict().items())
    assert storage.keys() == made.storage.keys()
    widths = {name: stored.codecs[0].bits for name, stored in storage.items()}
    assert widths[NAME] == bits
    assert widths["encoder.embeddings.word.weight"] == 6
    assert "head.classifier.weight" not in widths


def test_bits_of_tables_change_tables_alone():
    def changed(method):
        before, after = dict(tiny().unique_weights()), dict(method.finish(tiny(), CONTEXT).unique_weights())
        return {name for name in before if not torch.equal(before[name], after[name])}

    tables = {f"encoder.embeddings.{name}.weight" for name in ("word", "position", "segment")}
    assert changed(Adaptivfloat(bits=32)) == tables
    assert changed(Adaptivfloat(bits=32, segment_bits=32)) == tables - {"encoder.embeddings.segment.weight"}
    assert not changed(Adaptivfloat.noop())


def test_gradients_pass_within_the_range():
    weight = torch.tensor([1.0, 1.99, -1.99, 0.3, 1e-9], requires_grad=True)
    made = FloatQuantizer(8, 3, "paper")(weight)
    assert torch.equal(made, rounded(weight.detach()))
    (made * torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])).sum().backward()
    assert weight.grad.tolist() == [1.0, 0.0, 0.0, 4.0, 5.0]


@both
def test_what_was_trained_is_what_is_stored(range_):
    method, model = Adaptivfloat(bits=5, embedding_bits=7, range=range_, qat=True), tiny()
    model = method.attach(model, CONTEXT)
    ids = torch.tensor([[1, 2, 3]])
    model(ids).logits.sum().backward()
    original = model.get_submodule("encoder.layers.1.ffn.0.outer").parametrizations.weight.original
    assert original.grad.any()
    with torch.no_grad():
        original -= original.grad
    expected = model.eval()(ids).logits
    bake(model)
    model = method.finish(model, CONTEXT)
    assert torch.equal(model(ids).logits, expected)
    assert {*model.storage} == {*method.widths(model)}
    for name, stored in model.storage.items():
        weight = model.get_parameter(name).detach()
        assert torch.equal(stored.decode(stored.encode(weight), spec_of(weight)), weight)
    assert model.storage[NAME].codecs[0].bits == 5


class Mask(torch.nn.Module):
    def forward(self, weight):
        return weight * (weight.abs() > 0.02)


def test_zeros_of_a_mask_below_stay_zero():
    model = tiny()
    zeros = model.get_parameter(NAME).abs() <= 0.02
    for transform in (Mask(), FloatQuantizer(4, 3, "paper")):
        put(model, NAME, transform)
    bake(model)
    weight = model.get_parameter(NAME).detach()
    assert zeros.any()
    assert not weight[zeros].any()
    stored = model.storage[NAME]
    assert torch.equal(stored.decode(stored.encode(weight), spec_of(weight)), weight)


def test_in_a_stage_that_does_not_train_it_rounds_at_the_end():
    method = Adaptivfloat(qat=True)
    made = method.finish(method.attach(tiny(), CONTEXT), CONTEXT)
    once = Adaptivfloat().finish(tiny(), CONTEXT)
    assert not list(transformed(made))
    assert all(torch.equal(tensor, once.state_dict()[name]) for name, tensor in made.state_dict().items())
    assert made.storage.keys() == once.storage.keys()


@pytest.mark.parametrize("fields", [{"bits": 4}, {"embedding_bits": 4}, {"segment_bits": 3}])
def test_a_sign_needs_a_bit(fields):
    with pytest.raises(ValidationError, match=r"exponent_bits=4 must be below all bits, of which one is [34]"):
        Adaptivfloat(exponent_bits=4, **fields)
