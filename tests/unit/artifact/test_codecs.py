from collections.abc import Mapping
from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor

from bertpress.artifact.codecs import Codec, Dense, Packed, Stored, TensorSpec, spec_of
from bertpress.artifact.codecs.bits import Bits, pack_bits, unpack_bits
from bertpress.artifact.codecs.uniform import Uniform, on_grid
from bertpress.encoder.grids import Grid, affine_grid, quantize, symmetric_grid

ROWS = Uniform(block=(1, 0))
SHAPES = hnp.array_shapes(min_dims=1, max_dims=3, max_side=7)
VALUES = st.floats(-1e4, 1e4, width=32)


@st.composite
def weights(draw):
    return torch.from_numpy(draw(hnp.arrays("float32", draw(SHAPES), elements=VALUES)))


@st.composite
def gridded(draw):
    """A weight that torch's own fake quantizer made, and the plan that describes it."""
    weight = draw(weights())
    symmetric = draw(st.booleans())
    width = draw(st.integers(2, 8))
    axis = draw(st.none() | st.integers(0, weight.ndim - 1))
    block = tuple(int(i == axis) for i in range(weight.ndim))
    low, high = (1 - 2 ** (width - 1), 2 ** (width - 1) - 1) if symmetric else (0, 2**width - 1)
    count = () if axis is None else (weight.shape[axis],)
    scale = torch.from_numpy(draw(hnp.arrays("float32", count, elements=st.floats(2**-30, 2**20, width=32))))
    points = st.just(0) if symmetric else st.integers(0, high)
    zero = torch.from_numpy(draw(hnp.arrays("int32", count, elements=points)))
    if axis is None:
        weight = torch.fake_quantize_per_tensor_affine(weight, scale, zero, low, high)
    else:
        weight = torch.fake_quantize_per_channel_affine(weight, scale, zero, axis, low, high)
    shape = [weight.shape[i] if i == axis else 1 for i in range(weight.ndim)]
    grid = Grid(scale.reshape(shape), zero.reshape(shape), block, low, high)
    return weight, on_grid(grid)


def bits(tensor: Tensor) -> bytes:
    return tensor.contiguous().numpy().tobytes()


@given(gridded())
@settings(max_examples=200, deadline=None)
def test_integers_decode_bit_for_bit_what_torch_fake_quantization_gives(case):
    weight, stored = case
    packed = stored.encode(weight)
    assert packed.parts["values"].dtype == torch.uint8
    assert bits(stored.decode(packed, spec_of(weight)) + 0.0) == bits(weight + 0.0)  # -0.0 counts as 0.0


@given(gridded())
@settings(max_examples=50, deadline=None)
def test_layout_foretells_every_part(case):
    weight, stored = case
    packed = stored.encode(weight)
    assert {name: spec_of(part) for name, part in packed.parts.items()} == stored.layout(spec_of(weight), packed.counts)


@given(weights(), st.sampled_from(["float32", "float16", "bfloat16"]))
@settings(max_examples=100, deadline=None)
def test_dense_keeps_what_its_format_can_hold(weight, dtype):
    weight = weight.to(getattr(torch, dtype)).float()
    stored = Stored((Dense(dtype=dtype),))
    packed = stored.encode(weight)
    assert bits(stored.decode(packed, spec_of(weight))) == bits(weight)
    assert packed.parts["values"].dtype == getattr(torch, dtype)


def test_codes_by_hand():
    weight = torch.tensor([[0.5, -1.0], [0.0, 2.0]])
    packed = Stored((Uniform(block=(1, 0)),), {"scale": torch.tensor([[0.5], [2.0]])}).encode(weight)
    assert packed.parts["values"].tolist() == [[1, 253], [0, 1]]  # 255 levels: -2 is 253
    plan = Stored(
        (Uniform(bits=3, block=(0, 0), symmetric=False),),
        {"scale": torch.tensor([[0.5]]), "zero_point": torch.tensor([[2]])},
    )
    assert plan.encode(weight).parts["values"].tolist() == [[1, 6], [0, 4]]  # 0 stands for 0, whatever the zero-point


@given(weights(), st.integers(2, 8), st.booleans(), st.data())
@settings(max_examples=200, deadline=None)
def test_blocks_of_any_form_come_back_bit_for_bit(weight, width, symmetric, data):
    block = tuple(data.draw(st.integers(0, size + 1)) for size in weight.shape)
    grid = (symmetric_grid if symmetric else affine_grid)(weight, width, block)
    weight, stored = quantize(weight, grid), on_grid(grid)
    packed = stored.encode(weight)
    assert bits(stored.decode(packed, spec_of(weight)) + 0.0) == bits(weight + 0.0)
    size = sum(part.nbytes for part in packed.parts.values())
    assert size == -(-weight.numel() * width // 8) + grid.scale.numel() * (4 if symmetric else 5)


@pytest.mark.parametrize("width", range(1, 9))
@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 16, 1001])
def test_bits_pack_without_a_gap(width, count):
    codes = torch.randint(0, 2**width, (count,), generator=torch.Generator().manual_seed(count)).to(torch.uint8)
    packed = pack_bits(codes, width)
    assert packed.nbytes == -(-count * width // 8)
    assert torch.equal(unpack_bits(packed, width, count), codes)
    number = int.from_bytes(packed.numpy().tobytes(), "little")
    assert [(number >> (i * width)) % 2**width for i in range(count)] == codes.tolist()


def test_a_code_too_large_for_its_bits_is_refused():
    with pytest.raises(ValueError, match="code 4 must be below 4"):
        Stored((Bits(bits=2),)).encode(torch.tensor([4], dtype=torch.uint8))
    with pytest.raises(ValueError, match="packs uint8, got float32"):
        Stored((Bits(bits=2),)).encode(torch.zeros(1))


def test_grid_says_what_torch_needs():
    grid = Stored((Uniform(block=(0, 1)),), {"scale": torch.tensor([[0.5, 2.0]])}).grid()
    assert (grid.axis, grid.low, grid.high) == (1, -127, 127)
    assert grid.zero_point.tolist() == [[0, 0]]
    assert grid.zero_point.dtype == torch.int32
    assert Stored((Dense(),)).grid() is None


@pytest.mark.parametrize(
    ("codec", "parts", "message"),
    [
        (ROWS, {"scale": torch.tensor([[1.0], [0.0]])}, "scale must be positive and finite"),
        (ROWS, {"scale": torch.tensor([[1.0], [float("nan")]])}, "scale must be positive and finite"),
        (ROWS, {"scale": torch.ones(3, 1)}, "must match"),
        (ROWS, {"scale": torch.ones(2, 1, dtype=torch.float64)}, r"scale float64\[2, 1\]"),
        (Uniform(block=(1,)), {"scale": torch.ones(2)}, r"block=\(1,\) must have a size"),
        (
            Uniform(block=(0, 0), symmetric=False),
            {"scale": torch.ones(1, 1), "zero_point": torch.tensor([[256]])},
            r"zero_point must be in 0\.\.255",
        ),
    ],
)
def test_wrong_fixed_parts_are_refused(codec, parts, message):
    with pytest.raises((ValueError, RuntimeError), match=message):
        Stored((codec,), parts).encode(torch.zeros(2, 2))


def test_a_chain_needs_exactly_its_fixed_parts():
    with pytest.raises(ValueError, match=r"codec uniform: fixed parts must be \['scale'\], got \[\]"):
        Stored((ROWS,))
    with pytest.raises(ValueError, match="at least one"):
        Stored(())


def test_a_kind_belongs_to_one_class():
    with pytest.raises(TypeError, match="codec kind 'uniform' of Other is taken by Uniform"):

        class Other(Dense):
            kind: Literal["uniform"] = "uniform"


class Bitmap(Codec):
    """Where the non-zeros are, and they alone: shows that a chain can carry sizes that depend on the data."""

    kind: Literal["test-bitmap"] = "test-bitmap"

    def layout(self, given: TensorSpec, counts: Mapping[str, int]) -> dict[str, TensorSpec]:
        size = TensorSpec(given.dtype, (counts.get("kept", 0),))
        return {"values": size, "bitmap": TensorSpec(torch.bool, given.shape)}

    def encode(self, tensor: Tensor, fixed: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"values": tensor[tensor != 0], "bitmap": tensor != 0}

    def decode(self, parts: Mapping[str, Tensor], given: TensorSpec) -> Tensor:
        if int(parts["bitmap"].sum()) != len(parts["values"]):
            raise ValueError("bitmap and values disagree")
        return torch.zeros(given.shape, dtype=given.dtype).masked_scatter(parts["bitmap"], parts["values"])

    def counts(self, parts: Mapping[str, Tensor]) -> dict[str, int]:
        return {"kept": len(parts["values"])}


@given(gridded(), st.randoms())
@settings(max_examples=100, deadline=None)
def test_codecs_chain(case, random):
    weight, stored = case
    keep = torch.tensor([random.random() < 0.3 for _ in range(weight.numel())]).reshape(weight.shape)
    weight = weight * keep
    chain = Stored((stored.codecs[0], Bitmap(), *stored.codecs[1:]), stored.parts)
    packed = chain.encode(weight)
    assert set(packed.parts) == {*stored.parts, "bitmap", "values"}
    assert packed.counts[1] == {"kept": int((weight != 0).sum())}
    assert torch.equal(chain.decode(packed, spec_of(weight)), weight)
    assert chain.layout(spec_of(weight), packed.counts) == {k: spec_of(v) for k, v in packed.parts.items()}


def test_two_codecs_may_not_use_one_name():
    chain = Stored((Bitmap(), Bitmap()))
    with pytest.raises(ValueError, match="part bitmap is used twice"):
        chain.layout(TensorSpec(torch.float32, (4,)))
    with pytest.raises(ValueError, match="part bitmap is used twice"):
        chain.encode(torch.ones(4))


def test_a_layout_that_does_not_hold_is_a_fault():
    class Liar(Dense):
        kind: Literal["test-liar"] = "test-liar"

        def encode(self, tensor, fixed):
            return {"values": tensor.double()}

    with pytest.raises(ValueError, match=r"test-liar gave values float64\[2\], must be values float32\[2\]"):
        Stored((Liar(),)).encode(torch.zeros(2))


def test_decode_needs_every_part():
    stored = Stored((ROWS,), {"scale": torch.ones(2, 1)})
    with pytest.raises(KeyError):
        stored.decode(Packed({"scale": torch.ones(2, 1)}, ({},)), TensorSpec(torch.float32, (2, 2)))
