import json
import struct

import pytest
import torch
from safetensors.torch import save_file

from bertpress.artifact import packing
from bertpress.artifact.codecs import Stored
from bertpress.artifact.codecs.uniform import Uniform
from bertpress.artifact.header import KEY, inspect
from bertpress.errors import ArtifactError


def header_of(path):
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def rewrite(path, change):
    """Write the same tensors under a header that ``change`` has edited."""
    header, data = header_of(path)
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def edit_plan(path, change):
    def edit(header):
        plan = json.loads(header["__metadata__"][KEY])
        change(plan)
        header["__metadata__"][KEY] = json.dumps(plan)

    rewrite(path, edit)


@pytest.fixture
def packed(tmp_path):
    path = tmp_path / "m.safetensors"
    scale = torch.tensor([[0.5], [0.25]])
    state = {"w": torch.tensor([[0.5, 1.0, -1.5], [0.25, 0.0, 2.0]]), "bias": torch.ones(2)}
    packing.write(path, state, {"w": Stored((Uniform(block=(1, 0)),), {"scale": scale})})
    return path


@pytest.mark.parametrize("length", [0, 4, 8, 60, -1, -5])
def test_a_cut_file_is_refused(packed, length):
    packed.write_bytes(packed.read_bytes()[:length])
    with pytest.raises(ArtifactError, match=r"m\.safetensors: not a whole safetensors file"):
        inspect(packed)


def test_a_header_that_claims_more_than_the_file_holds_is_refused(packed):
    def claim(header):
        header["bias"]["shape"] = [10**12]
        header["bias"]["data_offsets"][1] = header["bias"]["data_offsets"][0] + 4 * 10**12

    rewrite(packed, claim)
    with pytest.raises(ArtifactError, match="not a whole safetensors file"):
        inspect(packed)


def test_a_header_length_that_lies_is_refused(packed):
    data = packed.read_bytes()
    packed.write_bytes(struct.pack("<Q", 2**62) + data[8:])
    with pytest.raises(ArtifactError, match="not a whole safetensors file"):
        inspect(packed)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda plan: plan["weights"]["w"].update(shape=[10**6, 10**6]),
            r"w::values is uint8\[2, 3\], must be uint8\[1000000",
        ),
        (lambda plan: plan["weights"]["w"].update(shape=[3, 2]), r"w::values is uint8\[2, 3\], must be uint8\[3, 2\]"),
        (lambda plan: plan["weights"]["w"].update(shape=[-2, -3]), r"weights\.w\.shape\.0.*greater than or equal to 0"),
        (lambda plan: plan["weights"]["w"]["codecs"][0].update(block=[1]), r"block=\(1,\) must have a size"),
        (lambda plan: plan["weights"]["w"]["codecs"][0].update(kind="eval"), "codec kind 'eval' is unknown"),
        (lambda plan: plan["weights"]["w"]["codecs"][0].update(symmetric=False), r"w::zero_point is missing"),
        (lambda plan: plan["weights"]["w"].update(counts=[]), "0 counts for 1 codecs"),
        (lambda plan: plan["weights"]["w"].update(codecs=[]), r"weights\.w\.codecs"),
        (lambda plan: plan["weights"].update(v=plan["weights"]["w"]), "v::values is missing"),
        (lambda plan: plan["weights"].pop("w"), "w::scale is not in the storage plan"),
        (lambda plan: plan["ties"].update(x="gone"), "ties: x -> gone must name a new and a stored weight"),
        (lambda plan: plan["ties"].update(w="bias"), "ties: w -> bias"),
        (lambda plan: plan.update(format=2), "storage plan, format"),
    ],
)
def test_a_plan_that_contradicts_the_header_is_refused(packed, change, message):
    edit_plan(packed, change)
    with pytest.raises(ArtifactError, match=message) as caught:
        packing.read(packed)
    assert "\n" not in str(caught.value)


def test_parts_without_a_plan_are_refused(tmp_path):
    path = tmp_path / "m.safetensors"
    save_file({"w::values": torch.ones(2)}, path, metadata={"format": "pt"})
    with pytest.raises(ArtifactError, match="w::values is not in the storage plan"):
        inspect(path)


def test_an_unknown_dtype_is_refused(tmp_path):
    path = tmp_path / "m.safetensors"
    save_file({"w": torch.ones(2, dtype=torch.float8_e4m3fn)}, path)
    with pytest.raises(ArtifactError, match="w has dtype F8_E4M3, must be one of"):
        inspect(path)
