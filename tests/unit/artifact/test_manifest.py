import json
import os

import pytest

from bertpress.artifact import manifest as manifests
from bertpress.artifact.folder import inside
from bertpress.artifact.manifest import Manifest, hash_file, records
from bertpress.errors import ArtifactError

ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2's own example


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "a"
    (folder / "openvino").mkdir(parents=True)
    for name in ("config.json", "model.safetensors", "openvino/model.xml"):
        (folder / name).write_text("abc")
    manifests.write(folder, Manifest(bertpress="1", name="a", files=records(folder), metrics={"x": 0.1}))
    return folder


def seal(folder, **changes):
    """Write a manifest that someone edited and hashed again."""
    fields = json.loads((folder / manifests.NAME).read_text())
    fields.pop("sha256")
    fields.update(changes)
    import hashlib

    digest = hashlib.sha256(manifests._canonical(fields).encode()).hexdigest()
    (folder / manifests.NAME).write_text(manifests._canonical({**fields, "sha256": digest}) + "\n")


def test_hashes_are_sha_256(folder):
    assert hash_file(folder / "config.json").model_dump() == {"bytes": 3, "sha256": ABC}


def test_it_comes_back_as_it_was(folder):
    found = manifests.read(folder)
    assert set(found.files) == {"config.json", "model.safetensors", "openvino/model.xml"}
    assert found.metrics == {"x": 0.1}
    manifests.verify(folder, found)


def test_every_changed_byte_of_the_manifest_is_seen(folder):
    path = folder / manifests.NAME
    data = path.read_bytes()
    for i in range(len(data)):
        path.write_bytes(data[:i] + bytes([data[i] ^ 1]) + data[i + 1 :])
        with pytest.raises(ArtifactError) as caught:
            manifests.read(folder)
        assert "\n" not in str(caught.value)
    for text in (data[:-1], data + b"\n", data.replace(b"\n", b"\r\n"), b"", b"[]", b"\xff"):
        path.write_bytes(text)
        with pytest.raises(ArtifactError, match=r"bertpress\.json"):
            manifests.read(folder)


def test_a_changed_manifest_names_both_hashes(folder):
    path = folder / manifests.NAME
    path.write_text(path.read_text().replace("0.1", "0.9"))
    with pytest.raises(ArtifactError, match=r"SHA-256 must be [0-9a-f]{64}, found [0-9a-f]{64}"):
        manifests.read(folder)
    assert manifests.read(folder, verify=False).metrics == {"x": 0.9}


def test_a_changed_file_names_both_hashes(folder):
    found = manifests.read(folder)
    (folder / "openvino/model.xml").write_text("abd")
    with pytest.raises(ArtifactError, match=rf"model\.xml: must have SHA-256 {ABC} and 3 bytes, found a52d159f"):
        manifests.verify(folder, found)
    manifests.verify(folder, found, manifests.REQUIRED)
    (folder / "openvino/model.xml").unlink()
    with pytest.raises(ArtifactError, match=rf"model\.xml: missing, must have SHA-256 {ABC}"):
        manifests.verify(folder, found)


@pytest.mark.parametrize(
    "name", ["../secret", "/etc/passwd", "a/../../b", "..", "", ".", "a\\b", "C:/x", "//host/x", "a//b", "a\0b", "./a"]
)
def test_names_that_leave_the_folder_are_refused(folder, name):
    with pytest.raises(ArtifactError, match="must be a relative path inside the folder"):
        inside(folder, name)
    files = {**json.loads((folder / manifests.NAME).read_text())["files"], name: {"bytes": 3, "sha256": ABC}}
    seal(folder, files=files)
    with pytest.raises(ArtifactError):
        manifests.read(folder)


def test_links_that_leave_the_folder_are_refused(folder, tmp_path):
    (tmp_path / "secret").write_text("abc")
    (folder / "config.json").unlink()
    (folder / "config.json").symlink_to(tmp_path / "secret")
    with pytest.raises(ArtifactError, match=r"config\.json: a link to .*secret, outside the folder"):
        manifests.read(folder)
    (folder / "config.json").unlink()
    (folder / "config.json").symlink_to("model.safetensors")
    manifests.verify(folder, manifests.read(folder))


def test_a_linked_directory_is_refused(folder, tmp_path):
    (folder / "openvino").rename(tmp_path / "elsewhere")
    (folder / "openvino").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    with pytest.raises(ArtifactError, match="outside the folder"):
        manifests.read(folder)


def test_the_cache_of_the_hub_is_made_of_links(folder, tmp_path):
    snapshot = tmp_path / "models--user--name" / "snapshots" / "0123"
    blobs = tmp_path / "models--user--name" / "blobs"
    blobs.mkdir(parents=True)
    (snapshot / "openvino").mkdir(parents=True)
    for i, name in enumerate(["bertpress.json", "config.json", "model.safetensors", "openvino/model.xml"]):
        (folder / name).rename(blobs / str(i))
        (snapshot / name).symlink_to(os.path.relpath(blobs / str(i), (snapshot / name).parent))
    manifests.verify(snapshot, manifests.read(snapshot))
    (snapshot / "config.json").unlink()
    (snapshot / "config.json").symlink_to(tmp_path / "secret")
    with pytest.raises(ArtifactError, match="outside the folder"):
        manifests.read(snapshot)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, r"format: .* \(written by bertpress 1\)"),
        ({"surprise": 1}, "surprise: Extra inputs"),
        ({"files": {}}, r"files: config\.json must be listed"),
        ({"files": {"config.json": {"bytes": -1, "sha256": ABC}}}, r"files\.config\.json\.bytes"),
        ({"files": {"config.json": {"bytes": 1, "sha256": "abc"}}}, r"files\.config\.json\.sha256"),
    ],
)
def test_fields_are_checked(folder, changes, message):
    seal(folder, **changes)
    with pytest.raises(ArtifactError, match=message):
        manifests.read(folder)


def test_a_folder_without_one_is_no_artifact(tmp_path):
    with pytest.raises(ArtifactError, match=r"no bertpress\.json, so no artifact of bertpress"):
        manifests.read(tmp_path)


def test_nesting_without_end_is_refused(folder):
    (folder / manifests.NAME).write_text("[" * 200_000)
    with pytest.raises(ArtifactError, match="not valid JSON"):
        manifests.read(folder)
