"""A bit a value or a block, and the values that are not zero: exact, of foretold size, refused where they disagree."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pydantic import ValidationError

from bertpress.artifact import packing
from bertpress.artifact.codecs import Packed, Stored, TensorSpec, on_grid, spec_of
from bertpress.artifact.codecs.bitmap import LARGEST, Bitmap, thinned
from bertpress.artifact.codecs.codebook import by_number
from bertpress.encoder.grids import affine_grid, quantize, symmetric_grid


@st.composite
def pruned(draw):
    shape = draw(hnp.array_shapes(min_dims=1, max_dims=3, max_side=7))
    values = st.sampled_from([0.0, 0.0, -0.0, 1.5, -2.0]) | st.floats(-9, 9, width=32)
    weight = torch.from_numpy(draw(hnp.arrays("float32", shape, elements=values)))
    return weight, tuple(draw(st.integers(1, 4)) for _ in shape)


@given(pruned())
@settings(max_examples=200, deadline=None)
def test_every_value_comes_back_and_the_size_is_foretold(case):
    weight, block = case
    stored = Stored((Bitmap(block=block),))
    packed = stored.encode(weight)
    back = stored.decode(packed, spec_of(weight))
    assert (back + 0.0).numpy().tobytes() == (weight + 0.0).numpy().tobytes()  # -0.0 counts as 0.0
    assert {name: spec_of(part) for name, part in packed.parts.items()} == stored.layout(spec_of(weight), packed.counts)


def test_bits_and_values_by_hand():
    weight = torch.tensor([[0.0, 2.0, 0.0], [3.0, 0.0, -1.0], [0.0, 0.0, 0.0]])
    single = Stored((Bitmap(block=(1, 1)),)).encode(weight)
    assert single.parts["bitmap"].tolist() == [0b00101010, 0]
    assert single.parts["values"].tolist() == [2.0, 3.0, -1.0]
    rows = Stored((Bitmap(block=(1, 3)),)).encode(weight)
    assert rows.parts["bitmap"].tolist() == [0b011]
    assert rows.parts["values"].tolist() == [0.0, 2.0, 0.0, 3.0, 0.0, -1.0]
    assert rows.counts == ({"kept": 6},)


@pytest.mark.parametrize(("bits", "made"), [(8, symmetric_grid), (4, symmetric_grid), (3, affine_grid)])
def test_codes_of_a_grid_keep_their_zeros_out(bits, made):
    torch.manual_seed(0)
    weight = torch.randn(40, 50) * (torch.rand(40, 50) < 0.1)
    grid = made(weight, bits, (1, 0))
    weight = quantize(weight, grid)
    stored = thinned(weight, on_grid(grid))
    kinds = ["uniform", "bitmap", "bits"]
    assert [codec.kind for codec in stored.codecs] == kinds[: 2 if bits == 8 else 3]
    packed = stored.encode(weight)
    assert torch.equal(stored.decode(packed, spec_of(weight)), weight)
    kept = int((weight != 0).sum())
    size = 40 * 50 // 8 + -(-kept * bits // 8) + 40 * (4 if made is symmetric_grid else 5)
    assert sum(part.nbytes for part in packed.parts.values()) == size
    assert thinned(weight, stored) == stored


def test_a_codebook_numbers_what_the_bitmap_leaves():
    weight = torch.zeros(30, 30)
    weight[::3, ::5] = 0.5
    weight[4, 4] = 9.0
    stored = thinned(weight, by_number(torch.tensor([0.5, -0.5])))
    assert [codec.kind for codec in stored.codecs] == ["bitmap", "codebook", "bits"]
    packed = stored.encode(weight)
    assert packed.parts["outliers"].tolist() == [9.0]
    assert torch.equal(stored.decode(packed, spec_of(weight)), weight)


def test_a_bitmap_is_made_where_it_pays_alone():
    dense, sparse = torch.ones(32, 32), torch.ones(32, 32)
    sparse[0, :] = 0  # 32 zeros save 128 bytes and cost 128
    assert thinned(dense, None) is None
    assert thinned(sparse, None) is None
    sparse[1, 0] = 0
    assert thinned(sparse, None).codecs == (Bitmap(block=(1, 1)),)
    assert thinned(dense, Stored((Bitmap(block=(1, 1)),))) is None
    assert thinned(torch.zeros(4096), None) is None, "a vector stays as it is"
    assert thinned(torch.zeros(32, 32, dtype=torch.float16), None) is None


def test_zeros_that_lie_together_share_a_bit():
    weight = torch.zeros(64, 64)
    weight[:8] = 1.0
    rows, single = thinned(weight, None, (1, 64)), thinned(weight, None)
    sizes = [sum(part.nbytes for part in stored.encode(weight).parts.values()) for stored in (rows, single)]
    assert sizes == [8 + 4 * 512, 512 + 4 * 512]
    assert thinned(weight, rows) == rows, "the blocks of a bitmap that is there are kept"


def test_the_file_is_as_small_as_ninety_percent_of_zeros_allow(tmp_path):
    torch.manual_seed(0)
    weight = torch.randn(512, 512)
    weight[torch.rand(512, 512) < 0.9] = 0
    packing.write(tmp_path / "m.safetensors", {"w": weight}, {})
    assert (tmp_path / "m.safetensors").stat().st_size <= 0.14 * weight.nbytes
    state, storage = packing.read(tmp_path / "m.safetensors")
    assert torch.equal(state["w"], weight)
    assert [codec.kind for codec in storage["w"].codecs] == ["bitmap"]


def test_bits_that_disagree_with_the_values_are_refused():
    stored, spec = Stored((Bitmap(block=(1, 1)),)), TensorSpec(torch.float32, (4, 2))
    parts = {"bitmap": torch.tensor([0b111], dtype=torch.uint8), "values": torch.ones(2)}
    with pytest.raises(ValueError, match="2 values for 3 bits that are set"):
        stored.decode(Packed(parts, ({"kept": 2},)), spec)
    with pytest.raises(ValueError, match="9 values must be at most 8"):
        stored.layout(spec, ({"kept": 9},))
    with pytest.raises(ValueError, match="block"):
        Stored((Bitmap(block=(1,)),)).layout(spec)
    with pytest.raises(ValidationError, match="at most"):
        Bitmap(block=(LARGEST, 2))
