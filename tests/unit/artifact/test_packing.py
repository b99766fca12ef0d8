import hashlib
import json
import struct

import pytest
import torch
from safetensors.torch import load_file

from bertpress.artifact import packing, sizes
from bertpress.artifact.codecs import Dense, Stored, on_grid
from bertpress.artifact.codecs.bitmap import Bitmap
from bertpress.artifact.codecs.bits import Bits
from bertpress.artifact.codecs.codebook import Codebook
from bertpress.artifact.codecs.uniform import Uniform
from bertpress.artifact.header import inspect
from bertpress.encoder.blueprint import HeadSpec, uniform
from bertpress.encoder.grids import quantize, symmetric_grid
from bertpress.encoder.model import build_model
from bertpress.errors import BertpressError


def header_of(path):
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]


@pytest.mark.parametrize(
    ("block", "symmetric", "bits"),
    [((1, 0), True, 8), ((0, 0), True, 3), ((0, 1), False, 8), ((0, 0), False, 5), ((1, 4), True, 4)],
)
def test_a_state_dict_comes_back_bit_for_bit(model, quantized, tmp_path, block, symmetric, bits):
    quantized(model, block=block, symmetric=symmetric, bits=bits)
    path = tmp_path / "m.safetensors"
    packing.write(path, model.state_dict(), model.storage)
    state, storage = packing.read(path)
    own = model.state_dict()
    assert state.keys() == own.keys()
    assert all(torch.equal(state[name], own[name]) for name in own)
    assert storage.keys() == model.storage.keys()
    packing.write(tmp_path / "again.safetensors", state, storage)
    assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()


def test_without_a_plan_the_file_is_plain_safetensors(model, tmp_path):
    path = tmp_path / "m.safetensors"
    packing.write(path, model.state_dict(), {})
    assert header_of(path)[0]["__metadata__"] == {"format": "pt"}
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in load_file(path).items())


def test_other_dtypes_stay(tmp_path):
    state = {"n": torch.tensor([3], dtype=torch.int32), "h": torch.ones(2, dtype=torch.bfloat16), "e": torch.ones(0, 4)}
    packing.write(tmp_path / "m.safetensors", state, {})
    back, _ = packing.read(tmp_path / "m.safetensors")
    assert {name: (value.dtype, value.tolist()) for name, value in back.items()} == {
        "n": (torch.int32, [3]),
        "h": (torch.bfloat16, [1.0, 1.0]),
        "e": (torch.float32, []),
    }


def test_shared_weights_are_stored_once(tmp_path):
    table = torch.randn(5, 4)
    state = {"table": table, "decoder": table, "twin": table.clone()}
    storage = {"decoder": Stored((Dense(dtype="bfloat16"),))}
    table.copy_(table.bfloat16().float())
    path = tmp_path / "m.safetensors"
    packing.write(path, state, storage)
    assert set(header_of(path)[0]) == {"__metadata__", "table::values", "twin"}
    back, _ = packing.read(path)
    assert back["decoder"] is back["table"]
    assert torch.equal(back["decoder"], table)
    assert inspect(path).elements == 40


def test_contradicting_plans_for_one_weight_are_a_fault():
    table = torch.zeros(2, 2)
    storage = {"a": Stored((Dense(),)), "b": Stored((Dense(dtype="float16"),))}
    with pytest.raises(BertpressError, match="b shares the weight of a, but their storage plans differ"):
        packing.pack({"a": table, "b": table}, storage)


@pytest.mark.parametrize(
    ("value", "fault"),
    [(0.26, r"codec uniform would change a value by .*must be 0"), (float("nan"), "holds values that are not finite")],
)
def test_a_weight_off_its_grid_is_a_fault(value, fault):
    plan = {"w": Stored((Uniform(block=(0,)),), {"scale": torch.tensor([0.25])})}
    packing.pack({"w": torch.tensor([0.5, 0.25])}, plan)
    with pytest.raises(BertpressError, match=f"w: {fault}"):
        packing.pack({"w": torch.tensor([0.5, value])}, plan)


def test_faults_of_a_plan_are_named():
    scale = {"scale": torch.tensor([1.0])}
    with pytest.raises(BertpressError, match="storage plan names gone, which the model does not have"):
        packing.pack({}, {"gone": Stored((Dense(),))})
    with pytest.raises(BertpressError, match="w: codec uniform packs float32, got float16"):
        packing.pack({"w": torch.ones(1).half()}, {"w": Stored((Uniform(block=(1,)),), scale)})
    with pytest.raises(BertpressError, match=r"w: uniform: block=\(1, 0\) must have a size"):
        packing.pack({"w": torch.ones(1)}, {"w": Stored((Uniform(block=(1, 0)),), scale)})
    with pytest.raises(BertpressError, match="must not contain '::'"):
        packing.pack({"w::values": torch.ones(1)}, {})


def test_bytes_follow_from_the_plan(quantized, tmp_path):
    """[SIZE] at a shape whose header is small beside its data, as in any real model."""
    head = HeadSpec(kind="sequence", labels=2)
    model = quantized(build_model(uniform(layers=2, hidden_size=256, heads=4, ffn=1024, vocabulary=8000, head=head)))
    path = tmp_path / "m.safetensors"
    packing.write(path, model.state_dict(), model.storage)
    foretold = sizes.model_bytes(model)
    assert foretold == sizes.file_bytes(path)
    assert path.stat().st_size == pytest.approx(sum(foretold.values()), rel=0.02)
    ints = sum(w.numel() for _, w in model.unique_weights() if w.ndim == 2)
    rows = sum(len(w) for _, w in model.unique_weights() if w.ndim == 2)
    floats = sum(w.numel() for _, w in model.unique_weights() if w.ndim == 1)
    assert sum(foretold.values()) == ints + 4 * rows + 4 * floats
    dense = sizes.model_bytes(build_model(model.blueprint))
    assert dense == {name: 4 * count for name, count in model.blueprint.parameters().items()}


def test_bytes_follow_from_zeros_and_outliers_too(tmp_path):
    """[SIZE] of what depends on the data: counted, not packed, and what is written to the last byte."""
    random = torch.Generator().manual_seed(0)
    head = HeadSpec(kind="sequence", labels=2)
    model = build_model(uniform(layers=2, hidden_size=64, heads=4, ffn=128, vocabulary=400, head=head))
    codebook = torch.tensor([-0.5, 0.0, 0.25, 0.5])
    matrices = [name for name, w in model.unique_weights() if w.ndim == 2 and "layers" in name]
    assert len(matrices) == 12
    for i, name in enumerate(matrices):
        weight = model.get_parameter(name)
        values = codebook[torch.randint(0, 4, weight.shape, generator=random)] if i % 3 else torch.ones(weight.shape)
        values[torch.rand(weight.shape, generator=random) < 0.02] = 7.0  # outliers of the codebook
        values[torch.rand(weight.shape, generator=random) < (0.9, 0.0, 0.9)[i % 3]] = 0.0
        if i % 4 == 3:
            values[:8] = 0.0
            model.storage[name] = Stored((Bitmap(block=(8, 24)),))
        if i % 3:
            before = model.storage[name].codecs if name in model.storage else ()
            model.storage[name] = Stored((*before, Codebook(bits=2), Bits(bits=2)), {"codebook": codebook.clone()})
        weight.data.copy_(values)
    packing.write(tmp_path / "m.safetensors", model.state_dict(), model.storage)
    assert sizes.model_bytes(model) == sizes.file_bytes(tmp_path / "m.safetensors")
    state, storage = packing.read(tmp_path / "m.safetensors")
    assert packing.planned_bytes(state, storage) == inspect(tmp_path / "m.safetensors").bytes()
    chains = {tuple(codec.kind for codec in stored.codecs) for stored in storage.values()}
    assert chains == {("bitmap",), ("bitmap", "codebook", "bits"), ("codebook", "bits")}


def test_a_name_of_no_component_is_a_fault():
    with pytest.raises(BertpressError, match=r"probe\.weight: belongs to no component"):
        sizes.component("probe.weight")


def test_the_same_weights_give_the_same_bytes(model, quantized, tmp_path):
    """safetensors writes several metadata keys in an order that changes from call to call."""
    quantized(model)
    hashes = set()
    for i in range(8):
        packing.write(tmp_path / str(i), model.state_dict(), model.storage)
        hashes.add(hashlib.sha256((tmp_path / str(i)).read_bytes()).hexdigest())
    assert len(hashes) == 1


def test_others_may_read_the_file(model, tmp_path):
    (tmp_path / "other").touch()
    packing.write(tmp_path / "m.safetensors", model.state_dict(), {})
    assert (tmp_path / "m.safetensors").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_stored_bits_count_scales_and_name_the_codecs(tmp_path):
    grid = symmetric_grid(torch.randn(6, 16), 4, (1, 0))
    weight = quantize(torch.randn(6, 16), grid)
    half = torch.randn(2, 3).half().float()
    state = {
        "b.weight": torch.randn(4, 4),
        "a.weight": weight,
        "half": half,
        "bias": torch.ones(6),
        "e": torch.ones(0, 4),
    }
    state["tied"] = state["b.weight"]
    packing.write(
        tmp_path / "m.safetensors", state, {"a.weight": on_grid(grid), "half": Stored((Dense(dtype="float16"),))}
    )
    found = sizes.stored_bits(tmp_path / "m.safetensors")
    chain = [codec.kind for codec in on_grid(grid).codecs]
    assert found == [
        {"name": "a.weight", "shape": [6, 16], "bits": 4 + 6 * 32 / 96, "kinds": chain},
        {"name": "b.weight", "shape": [4, 4], "bits": 32, "kinds": ["dense"]},
        {"name": "half", "shape": [2, 3], "bits": 16, "kinds": ["dense"]},
    ]
    assert len(chain) == 2  # four bits are packed
    json.dumps(found)


def test_stored_bits_tell_what_a_bitmap_leaves(tmp_path):
    weight = torch.randn(8, 16)
    weight[2:] = 0
    packing.write(tmp_path / "m.safetensors", {"w.weight": weight, "x.weight": torch.ones(4, 4)}, {})
    sparse, dense = sizes.stored_bits(tmp_path / "m.safetensors")
    assert sparse == {"name": "w.weight", "shape": [8, 16], "bits": 1 + 32 / 4, "kinds": ["bitmap"], "kept": 0.25}
    assert "kept" not in dense
