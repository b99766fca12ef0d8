"""Five codes to a byte: by hand, without loss, to the byte, and nothing but three values."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from bertpress.artifact import packing
from bertpress.artifact.codecs import Packed, Stored, TensorSpec, spec_of
from bertpress.artifact.codecs.trits import Trits, in_trits, pack_trits, unpack_trits
from bertpress.encoder.grids import symmetric_grid
from bertpress.errors import ArtifactError


def test_by_hand():
    codes = torch.tensor([1, 0, 2, 0, 0, 2, 2, 2, 2, 2, 1], dtype=torch.uint8)
    assert pack_trits(codes).tolist() == [1 + 2 * 9, 242, 1]
    assert unpack_trits(torch.tensor([19, 242, 1], dtype=torch.uint8), 11).tolist() == codes.tolist()


@pytest.mark.parametrize("count", [0, 1, 4, 5, 6, 10, 1001])
def test_all_counts_come_back_in_a_fifth_of_the_bytes(count):
    codes = torch.randint(0, 3, (count,), generator=torch.Generator().manual_seed(count)).to(torch.uint8)
    packed = pack_trits(codes)
    assert packed.numel() == -(-count // 5)
    assert torch.equal(unpack_trits(packed, count), codes)


def test_every_byte_below_243_is_its_digits_to_base_3():
    codes = unpack_trits(torch.arange(243, dtype=torch.uint8), 5 * 243).reshape(-1, 5).tolist()
    assert [sum(digit * 3**i for i, digit in enumerate(row)) for row in codes] == list(range(243))


SIGNS = hnp.arrays("int8", hnp.array_shapes(min_dims=1, max_dims=3, max_side=7), elements=st.integers(-1, 1))


@given(SIGNS, st.floats(2**-30, 2**10, width=32), st.booleans())
@settings(max_examples=100, deadline=None)
def test_ternary_weights_come_back_bit_for_bit(signs, scale, rows):
    weight = torch.from_numpy(signs).float() * scale
    stored = in_trits(symmetric_grid(weight, 2, tuple(int(rows and i == 0) for i in range(weight.ndim))))
    packed = stored.encode(weight)
    assert torch.equal(stored.decode(packed, spec_of(weight)), weight)
    assert packed.parts["values"].nbytes == -(-weight.numel() // 5)
    assert {name: spec_of(part) for name, part in packed.parts.items()} == stored.layout(spec_of(weight))


def test_a_code_above_2_is_refused():
    with pytest.raises(ValueError, match="code 3 must be below 3"):
        Stored((Trits(),)).encode(torch.tensor([0, 3], dtype=torch.uint8))
    with pytest.raises(ValueError, match="packs uint8, got float32"):
        Stored((Trits(),)).encode(torch.zeros(5))


def test_other_grids_are_refused():
    with pytest.raises(ValueError, match=r"integers -7\.\.7 must be -1\.\.1"):
        in_trits(symmetric_grid(torch.ones(2, 2), 4, (0, 0)))


def test_a_byte_above_242_is_refused(tmp_path):
    given = TensorSpec(torch.uint8, (5,))
    with pytest.raises(ValueError, match="byte 243 must be below 243"):
        Stored((Trits(),)).decode(Packed({"values": torch.tensor([243], dtype=torch.uint8)}, ({},)), given)
    path = tmp_path / "model.safetensors"
    weight = torch.full((9, 11), -2.0)
    packing.write(path, {"w": weight}, {"w": in_trits(symmetric_grid(weight, 2, (0, 0)))})
    content = path.read_bytes()
    assert content.count(bytes([242])) == 19
    path.write_bytes(content.replace(bytes([242]), bytes([255])))
    with pytest.raises(ArtifactError, match="w cannot be decoded: trits: byte 255 must be below 243"):
        packing.read(path)
