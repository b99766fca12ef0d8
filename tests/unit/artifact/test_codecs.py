from collections.abc import Mapping
from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor

from bertpress.artifact.codecs import Codec, Dense, Int8, Packed, Stored, TensorSpec, spec_of

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
    axis = draw(st.none() | st.integers(0, weight.ndim - 1))
    count = () if axis is None else (weight.shape[axis],)
    scale = torch.from_numpy(draw(hnp.arrays("float32", count, elements=st.floats(2**-30, 2**20, width=32))))
    scale = scale.reshape(count)
    points = st.just(0) if symmetric else st.integers(0, 255)
    zero = torch.from_numpy(draw(hnp.arrays("int32", count, elements=points))).reshape(count)
    bounds = (-127, 127) if symmetric else (0, 255)
    if axis is None:
        weight = torch.fake_quantize_per_tensor_affine(weight, scale, zero, *bounds)
    else:
        weight = torch.fake_quantize_per_channel_affine(weight, scale, zero, axis, *bounds)
    parts = {"scale": scale} if symmetric else {"scale": scale, "zero_point": zero}
    return weight, Stored((Int8(axis=axis, symmetric=symmetric),), parts)


def bits(tensor: Tensor) -> bytes:
    return tensor.contiguous().numpy().tobytes()


@given(gridded())
@settings(max_examples=200, deadline=None)
def test_int8_decodes_bit_for_bit_what_torch_fake_quantization_gives(case):
    weight, stored = case
    packed = stored.encode(weight)
    assert packed.parts["values"].dtype.itemsize == 1
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


def test_int8_by_hand():
    weight = torch.tensor([[0.5, -1.0], [0.0, 2.0]])
    packed = Stored((Int8(axis=0),), {"scale": torch.tensor([0.5, 2.0])}).encode(weight)
    assert packed.parts["values"].tolist() == [[1, -2], [0, 1]]
    plan = Stored((Int8(symmetric=False),), {"scale": torch.tensor(0.5), "zero_point": torch.tensor(2)})
    assert plan.encode(weight).parts["values"].tolist() == [[3, 0], [2, 6]]


def test_grid_says_what_torch_needs():
    grid = Stored((Int8(axis=1),), {"scale": torch.tensor([0.5, 2.0])}).grid()
    assert (grid.axis, grid.low, grid.high) == (1, -127, 127)
    assert grid.zero_point.tolist() == [0, 0]
    assert grid.zero_point.dtype == torch.int32
    assert Stored((Dense(),)).grid() is None


@pytest.mark.parametrize(
    ("codec", "parts", "message"),
    [
        (Int8(axis=0), {"scale": torch.tensor([1.0, 0.0])}, "scale must be positive and finite"),
        (Int8(axis=0), {"scale": torch.tensor([1.0, float("nan")])}, "scale must be positive and finite"),
        (Int8(axis=0), {"scale": torch.ones(3)}, "must match"),
        (Int8(axis=0), {"scale": torch.ones(2, dtype=torch.float64)}, r"scale float64\[2\]"),
        (Int8(axis=2), {"scale": torch.ones(2)}, "axis=2 must be below 2"),
        (
            Int8(symmetric=False),
            {"scale": torch.tensor(1.0), "zero_point": torch.tensor(256)},
            r"zero_point must be in 0\.\.255",
        ),
    ],
)
def test_wrong_fixed_parts_are_refused(codec, parts, message):
    with pytest.raises((ValueError, RuntimeError), match=message):
        Stored((codec,), parts).encode(torch.zeros(2, 2))


def test_a_chain_needs_exactly_its_fixed_parts():
    with pytest.raises(ValueError, match=r"codec int8: fixed parts must be \['scale'\], got \[\]"):
        Stored((Int8(axis=0),))
    with pytest.raises(ValueError, match="at least one"):
        Stored(())


def test_a_kind_belongs_to_one_class():
    with pytest.raises(TypeError, match="codec kind 'int8' of Other is taken by Int8"):

        class Other(Dense):
            kind: Literal["int8"] = "int8"


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
    if not stored.codecs[0].symmetric:
        return
    keep = torch.tensor([random.random() < 0.3 for _ in range(weight.numel())]).reshape(weight.shape)
    weight = weight * keep
    chain = Stored((*stored.codecs, Bitmap()), stored.parts)
    packed = chain.encode(weight)
    assert set(packed.parts) == {"scale", "bitmap", "values"}
    assert packed.parts["values"].dtype == torch.int8
    assert packed.counts == ({}, {"kept": int((weight != 0).sum())})
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
    stored = Stored((Int8(axis=0),), {"scale": torch.ones(2)})
    with pytest.raises(KeyError):
        stored.decode(Packed({"scale": torch.ones(2)}, ({},)), TensorSpec(torch.float32, (2, 2)))
