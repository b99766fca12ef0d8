"""Numbers of values, and the values that have none: exact, of foretold size, and safe to read from anyone's file."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from bertpress.artifact import packing
from bertpress.artifact.codecs import Packed, Stored, TensorSpec, spec_of
from bertpress.artifact.codecs.bits import Bits
from bertpress.artifact.codecs.codebook import Codebook, by_number
from bertpress.errors import ArtifactError

NUMBERS = st.floats(-1e4, 1e4, width=32)


@st.composite
def coded(draw):
    """A weight of which some values are in the codebook, which may hold a value twice and in any order."""
    bits = draw(st.integers(1, 8))
    codebook = torch.from_numpy(draw(hnp.arrays("float32", 2**bits, elements=NUMBERS)))
    values = st.sampled_from(codebook.tolist()) | NUMBERS
    shape = draw(hnp.array_shapes(min_dims=1, max_dims=3, max_side=6))
    return torch.from_numpy(draw(hnp.arrays("float32", shape, elements=values))), codebook


@given(coded())
@settings(max_examples=200, deadline=None)
def test_every_value_comes_back_and_the_size_is_foretold(case):
    weight, codebook = case
    stored = by_number(codebook)
    packed = stored.encode(weight)
    back = stored.decode(packed, spec_of(weight))
    assert (back + 0.0).numpy().tobytes() == (weight + 0.0).numpy().tobytes()  # -0.0 counts as 0.0
    assert {name: spec_of(part) for name, part in packed.parts.items()} == stored.layout(spec_of(weight), packed.counts)
    bits, outliers = stored.codecs[0].bits, sum(value not in codebook.tolist() for value in weight.flatten().tolist())
    size = sum(part.nbytes for part in packed.parts.values())
    assert size == -(-weight.numel() * bits // 8) + 4 * 2**bits + 8 * outliers


def test_codes_by_hand():
    weight = torch.tensor([[2.0, 7.0, -1.0], [0.5, 0.0, -9.0]])
    packed = Stored((Codebook(bits=2),), {"codebook": torch.tensor([2.0, -1.0, 0.0, 0.5])}).encode(weight)
    assert packed.parts["values"].tolist() == [[0, 0, 1], [3, 2, 0]]
    assert packed.parts["positions"].tolist() == [1, 5]
    assert packed.parts["outliers"].tolist() == [7.0, -9.0]
    assert packed.counts == ({"outliers": 2},)


def test_a_chain_ends_in_bits_where_codes_are_small():
    assert [codec.kind for codec in by_number(torch.zeros(8)).codecs] == ["codebook", "bits"]
    assert [codec.kind for codec in by_number(torch.zeros(256)).codecs] == ["codebook"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"values": torch.tensor([0, 4, 0], dtype=torch.uint8)}, "code 4 must be below 4"),
        ({"positions": torch.tensor([1, 3], dtype=torch.int32)}, r"must ascend within 0\.\.2"),
        ({"positions": torch.tensor([-1, 1], dtype=torch.int32)}, r"must ascend within 0\.\.2"),
        ({"positions": torch.tensor([1, 1], dtype=torch.int32)}, r"must ascend within 0\.\.2"),
        ({"positions": torch.tensor([2, 0], dtype=torch.int32)}, r"must ascend within 0\.\.2"),
    ],
)
def test_a_file_that_lies_is_refused(changed, message):
    stored = Stored((Codebook(bits=2),), {"codebook": torch.arange(4.0)})
    weight = torch.tensor([7.0, 1.0, 8.0])
    packed = stored.encode(weight)
    with pytest.raises(ValueError, match=f"codebook: .*{message}"):
        stored.decode(Packed(packed.parts | changed, packed.counts), spec_of(weight))


def test_such_a_file_is_refused_on_reading(tmp_path):
    path = tmp_path / "model.safetensors"
    stored = Stored((Codebook(bits=2), Bits(bits=3)), {"codebook": torch.arange(4.0)})
    packing.write(path, {"weight": torch.ones(3)}, {"weight": stored})
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    parts = load_file(path)
    parts["weight::values"][0] = 0b101  # fits three bits, and no codebook of four
    save_file(parts, path, metadata)
    with pytest.raises(ArtifactError, match="weight cannot be decoded: codebook: code 5 must be below 4"):
        packing.read(path)


@pytest.mark.parametrize(
    ("codebook", "message"),
    [
        (torch.tensor([0.0, float("nan")]), "values must be finite"),
        (torch.tensor([0.0, float("inf")]), "values must be finite"),
        (torch.zeros(3), r"codebook float32\[3\]"),
        (torch.zeros(0), "values must be finite"),
        (torch.zeros(2, dtype=torch.float64), "float64"),
    ],
)
def test_wrong_codebooks_are_refused(codebook, message):
    with pytest.raises(ValueError, match=message):
        Stored((Codebook(bits=1),), {"codebook": codebook}).encode(torch.zeros(3))


def test_a_layout_has_bounds():
    codec = Codebook(bits=1)
    with pytest.raises(ValueError, match="4 outliers must be at most 3"):
        codec.layout(TensorSpec(torch.float32, (3,)), {"outliers": 4})
    with pytest.raises(ValueError, match=r"at most 2\^31 float32, got uint8"):
        codec.layout(TensorSpec(torch.uint8, (3,)), {})
    with pytest.raises(ValueError, match=r"at most 2\^31 float32"):
        codec.layout(TensorSpec(torch.float32, (2**31 + 1,)), {})


def test_nothing_is_packed_too():
    stored, weight = by_number(torch.zeros(8)), torch.zeros(0, 4)
    assert torch.equal(stored.decode(stored.encode(weight), spec_of(weight)), weight)
