"""Codes of subvectors give the weight back bit for bit, whatever the table, and a hostile file nothing at all."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bertpress.artifact import packing
from bertpress.artifact.codecs import Packed, Stored, spec_of
from bertpress.artifact.codecs.product import Product, by_centroids, lookup, nearest
from bertpress.errors import ArtifactError

TABLE = torch.tensor([[0.0, 1.0], [-2.0, 0.5], [3.0, 3.0]])


def bits(tensor):
    return (tensor + 0.0).contiguous().numpy().tobytes()  # -0.0 counts as 0.0


@st.composite
def coded(draw):
    """A weight, the plan that describes it, and what its file must take."""
    seed, dim, entries = draw(st.integers(0, 2**31)), draw(st.integers(1, 5)), draw(st.integers(1, 256))
    random = torch.Generator().manual_seed(seed)
    shape = (*draw(st.lists(st.integers(0, 5), max_size=2)), dim * draw(st.integers(0, 6)))
    centroids, scale = torch.randn(entries, dim, generator=random), None
    if draw(st.booleans()):
        centroids, scale = torch.randint(-127, 128, (entries, dim), generator=random).to(torch.int8), torch.tensor(0.01)
    floats = centroids if scale is None else centroids.float() * scale
    count = torch.Size(shape).numel()
    codes = torch.randint(0, entries, (count // dim,), generator=random).to(torch.uint8)
    masked = draw(st.booleans())
    kept = torch.rand(shape, generator=random) < 0.6 if masked else None
    stored = by_centroids(centroids, scale, masked=masked)
    table = entries * dim * (4 if scale is None else 1) + (0 if scale is None else 4)
    return lookup(floats, codes, shape, kept), stored, count // dim + table + masked * -(-count // 8)


@given(coded())
@settings(max_examples=200, deadline=None)
def test_what_comes_back_is_what_went_in_and_its_size_was_foretold(case):
    weight, stored, size = case
    packed = stored.encode(weight)
    assert bits(stored.decode(packed, spec_of(weight))) == bits(weight)
    assert {name: spec_of(part) for name, part in packed.parts.items()} == stored.layout(spec_of(weight), packed.counts)
    assert sum(part.nbytes for part in packed.parts.values()) == size


def test_codes_by_hand():
    weight = torch.tensor([[3.0, 3.0, 0.0, 1.0], [-2.0, 0.5, 3.0, 3.0]])
    packed = by_centroids(TABLE).encode(weight)
    assert packed.parts["values"].tolist() == [[2, 0], [1, 2]]
    pruned = torch.tensor([[3.0, 0.0, 0.0, 0.0], [0.0, 0.5, 0.0, 1.0]])
    packed = by_centroids(TABLE, masked=True).encode(pruned)
    assert packed.parts["values"][:, 0].tolist() == [2, 1]
    assert packed.parts["mask"].tolist() == [0b10100001]
    integers = by_centroids(torch.tensor([[2, -4]], dtype=torch.int8), torch.tensor(0.5))
    assert integers.decode(integers.encode(torch.tensor([[1.0, -2.0]])), spec_of(torch.ones(1, 2))).tolist() == [
        [1, -2]
    ]


@pytest.mark.parametrize("masked", [False, True])
def test_centroids_that_nearly_coincide_are_told_apart(masked):
    random = torch.Generator().manual_seed(0)
    table = torch.randn(1, 8, generator=random).repeat(256, 1)
    for i in range(255):  # neighbours in float32: their distances are all rounding
        table[i + 1] = table[i]
        table[i + 1, i % 8] = torch.nextafter(table[i, i % 8], torch.tensor(9.0))
    weight = lookup(table, torch.arange(256, dtype=torch.uint8).flip(0), (64, 32))
    weight[:, ::5] *= not masked
    stored = by_centroids(table, masked=masked)
    assert torch.equal(stored.decode(stored.encode(weight), spec_of(weight)), weight)


@pytest.mark.parametrize("weights", [None, torch.rand(9000, 3, generator=torch.Generator().manual_seed(2)) + 0.1])
def test_nearest_is_nearest_and_the_last_chunk_counts_too(weights):
    random = torch.Generator().manual_seed(1)
    points, centroids = torch.randn(9000, 3, generator=random), torch.randn(200, 3, generator=random)
    scale = torch.ones(9000, 3) if weights is None else weights
    distances = ((points[:, None].double() - centroids.double()).square() * scale[:, None].double()).sum(2)
    found = nearest(points, centroids, weights).long()
    assert found.dtype == torch.int64
    least = distances.min(1)
    assert (found == least.indices).float().mean() > 0.999
    torch.testing.assert_close(distances[torch.arange(9000), found], least.values, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("stored", "weight", "message"),
    [
        (by_centroids(TABLE), torch.ones(2, 3), r"rows of a multiple of 2, got float32\[2, 3\]"),
        (by_centroids(TABLE), torch.ones(()), "rows of a multiple of 2"),
        (by_centroids(TABLE), torch.ones(2, 2, dtype=torch.float64), "packs float32"),
        (by_centroids(TABLE), torch.tensor([[0.0, 1.001]]), "none of the centroids"),
        (by_centroids(TABLE), torch.tensor([[float("nan"), 1.0]]), "none of the centroids"),
        (by_centroids(TABLE * float("inf")), torch.ones(2, 2), "centroids must be finite"),
        (
            Stored((Product(dim=2, entries=4),), {"centroids": TABLE}),
            torch.tensor([[0.0, 1.0]]),
            r"centroids float32\[3",
        ),
    ],
)
def test_what_it_cannot_pack_is_refused(stored, weight, message):
    with pytest.raises(ValueError, match=message):
        stored.encode(weight)


def test_a_code_outside_of_the_table_is_refused_not_read():
    stored, weight = by_centroids(TABLE), torch.zeros(1, 4)
    parts = {"centroids": TABLE, "values": torch.tensor([[2, 3]], dtype=torch.uint8)}
    with pytest.raises(ValueError, match="product: code 3 must be below 3"):
        stored.decode(Packed(parts, ({},)), spec_of(weight))


def test_a_file_holds_what_was_packed_and_a_changed_one_is_refused(tmp_path):
    path, weight = tmp_path / "model.safetensors", TABLE[[2, 1, 0, 0]].reshape(2, 4)
    packing.write(path, {"w": weight}, {"w": by_centroids(TABLE)})
    assert torch.equal(packing.read(path)[0]["w"], weight)
    whole = path.read_bytes()
    codes = bytes([2, 1, 0, 0])
    assert whole.count(codes) == 1
    path.write_bytes(whole.replace(codes, bytes([2, 1, 0, 200])))
    with pytest.raises(ArtifactError, match="w cannot be decoded: product: code 200 must be below 3"):
        packing.read(path)
