"""Signs times scales: by hand, without loss for one term and for sums, to the bit; hostile codes are refused."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from bertpress.artifact import packing
from bertpress.artifact.codecs import Stored, TensorSpec, spec_of
from bertpress.artifact.codecs.sign import Sign, of_signs
from bertpress.encoder.grids import blocks, spread
from bertpress.errors import ArtifactError


def test_one_term_by_hand():
    weight = torch.tensor([[0.5, -0.5, 0.5], [-2.0, -2.0, 2.0]])
    stored = of_signs(torch.tensor([[[0.5], [2.0]]]), (1, 0))
    assert Stored(stored.codecs[:1], stored.parts).encode(weight).parts["values"].tolist() == [[1, 0, 1], [0, 0, 1]]
    packed = stored.encode(weight)
    assert packed.parts["values"].tolist() == [0b100101]
    assert torch.equal(stored.decode(packed, spec_of(weight)), weight)


def test_two_terms_by_hand():
    weight = torch.tensor([[4.0, 2.0, -2.0, -4.0]])  # 3 + 1, 3 - 1, -3 + 1, -3 - 1
    stored = of_signs(torch.tensor([[[3.0]], [[1.0]]]), (0, 0))
    packed = stored.encode(weight)
    assert packed.parts["values"].tolist() == [0b00_10_01_11]
    assert torch.equal(stored.decode(packed, spec_of(weight)), weight)


@st.composite
def sums(draw):
    """A sum of binary matrices, made by brute force, and how it is stored."""
    shape = draw(hnp.array_shapes(min_dims=1, max_dims=3, max_side=6))
    block = tuple(draw(st.integers(0, size + 1)) for size in shape)
    terms, elements = draw(st.integers(1, 3)), st.floats(0, 2**10, width=32)
    scale = torch.from_numpy(draw(hnp.arrays("float32", (terms, *blocks(shape, block)), elements=elements)))
    weight = None
    for a in scale:
        term = torch.from_numpy(draw(hnp.arrays("int8", shape, elements=st.sampled_from([-1, 1]))))
        term = term.float() * spread(a, block, shape)
        weight = term if weight is None else weight + term
    return weight, of_signs(scale, block)


@given(sums())
@settings(max_examples=150, deadline=None)
def test_sums_of_signs_come_back_bit_for_bit(case):
    weight, stored = case
    packed = stored.encode(weight)
    assert torch.equal(stored.decode(packed, spec_of(weight)), weight)
    assert packed.parts["values"].nbytes == -(-weight.numel() * stored.codecs[0].terms // 8)
    assert {name: spec_of(part) for name, part in packed.parts.items()} == stored.layout(spec_of(weight))


def test_equal_scales_hold_a_zero():
    weight = torch.tensor([0.0, 1.0, -1.0])
    stored = of_signs(torch.full((2, 1), 0.5), (0,))
    packed = stored.encode(weight)
    assert packed.parts["values"].tolist() == [0b00_11_01]  # of the two codes for 0 the lower one
    assert torch.equal(stored.decode(packed, spec_of(weight)), weight)


def test_a_block_of_zeros_has_the_scale_zero():
    weight = torch.zeros(3, 4)
    stored = of_signs(torch.zeros(1, 3, 1), (1, 0))
    assert torch.equal(stored.decode(stored.encode(weight), spec_of(weight)), weight)
    grid = stored.grid()
    assert (grid.scale == 1).all()
    assert (grid.low, grid.high, grid.runs_as_integers) == (-1, 1, True)


def test_the_nearest_sum_is_taken():
    scale = torch.tensor([[1.0], [0.25]])
    levels = torch.tensor(sorted(a + b for a, b in itertools.product((-1.0, 1.0), (-0.25, 0.25))))
    weight = torch.linspace(-2, 2, 97)
    stored = of_signs(scale, (0,))
    made = stored.decode(stored.encode(weight), spec_of(weight))
    torch.testing.assert_close((made - weight).abs(), (weight[:, None] - levels).abs().amin(1))


def test_one_term_runs_as_integers_and_a_sum_does_not():
    grid = of_signs(torch.tensor([[[0.5]]]), (0, 0)).grid()
    assert (grid.low, grid.high, float(grid.scale)) == (-1, 1, 0.5)
    assert of_signs(torch.ones(2, 1, 1), (0, 0)).grid() is None


@pytest.mark.parametrize("scale", [-1.0, float("nan"), float("inf")])
def test_wrong_scales_are_refused(scale):
    with pytest.raises(ValueError, match="scale must be finite and at least 0"):
        of_signs(torch.full((1, 1), scale), (0,)).encode(torch.zeros(2))


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match=r"sign: block=\(1,\) must have a size"):
        of_signs(torch.ones(1, 1), (1,)).encode(torch.ones(2, 2))
    with pytest.raises(ValueError, match=r"scale float32\[1, 3, 1\]"):
        of_signs(torch.ones(1, 3, 1), (0, 0)).encode(torch.ones(3, 2))


def test_a_code_with_too_many_bits_is_refused(tmp_path):
    codec, parts = Sign(block=(0,)), {"values": torch.tensor([0, 2], dtype=torch.uint8), "scale": torch.ones(1, 1)}
    with pytest.raises(ValueError, match="code 2 must be below 2"):
        codec.decode(parts, TensorSpec(torch.float32, (2,)))
    path = tmp_path / "model.safetensors"
    plain = Stored((codec,), {"scale": torch.ones(1, 1)})
    packing.write(path, {"w": torch.full((23,), 1.0)}, {"w": plain})
    content = path.read_bytes()
    assert content.count(bytes([1]) * 23) == 1
    path.write_bytes(content.replace(bytes([1]) * 23, bytes([9]) * 23))
    with pytest.raises(ArtifactError, match="w cannot be decoded: sign: code 9 must be below 2"):
        packing.read(path)
