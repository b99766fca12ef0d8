"""``bertpress.json``: what an artifact is, how it was made, what was measured, and the hash of each of its files.

The manifest carries a hash of itself and is written in one canonical form, so a change anywhere in an artifact is seen.
The hashes find damage and accidents; they are no signature.
"""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bertpress.artifact.folder import inside, write_file
from bertpress.errors import ArtifactError

NAME = "bertpress.json"
WEIGHTS = "model.safetensors"
CARD = "README.md"
REQUIRED = ("config.json", WEIGHTS)
LIMIT_BYTES = 64 * 2**20  # a manifest is kilobytes: do not read what cannot be one

Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class FileRecord(BaseModel):
    """One file as it was written."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bytes: int = Field(ge=0)
    sha256: Digest


class Parent(BaseModel):
    """The model that was compressed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    sha256: Digest | None = Field(None, description="Of its weight file.")
    revision: str | None = Field(None, description="The hub's commit, where it came from the hub.")


class Manifest(BaseModel):
    """All that is known of an artifact."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    bertpress: str = Field(description="Version that wrote it.")
    name: str
    created: str | None = Field(None, description="UTC, ISO 8601.")
    task: dict[str, Any] | None = Field(None, description="Fields of bertpress.tasks.Task, labels and max_length too.")
    recipe: dict[str, Any] | None = None
    command: str | None = None
    seed: int | None = None
    versions: dict[str, str] = {}
    parent: Parent | None = None
    metrics: dict[str, Any] = Field({}, description="The objects `baseline` and `artifact` of results.json.")
    exits: dict[str, Any] | None = Field(None, description="Early exits: the usual `speed`, and the `curve` behind it.")
    files: dict[str, FileRecord] = {}

    def replace(self, **changes: Any) -> "Manifest":
        """A validated copy with some fields changed."""
        return Manifest(**{**{name: getattr(self, name) for name in type(self).model_fields}, **changes})


def hash_file(path: Path) -> FileRecord:
    """Length and SHA-256 of a file, read in pieces."""
    digest, count = hashlib.sha256(), 0
    with path.open("rb") as file:
        while piece := file.read(2**20):
            digest.update(piece)
            count += len(piece)
    return FileRecord(bytes=count, sha256=digest.hexdigest())


def records(folder: Path, under: str = "") -> dict[str, FileRecord]:
    """Records of every file in ``folder / under``, by path relative to ``folder``; the manifest itself is left out."""
    paths = sorted(path for path in (folder / under).rglob("*") if path.is_file())
    names = {path.relative_to(folder).as_posix(): path for path in paths}
    return {name: hash_file(path) for name, path in names.items() if name != NAME}


def _canonical(fields: dict[str, Any]) -> str:
    return json.dumps(fields, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)


def render(manifest: Manifest) -> str:
    """The text of the file, its own hash included."""
    fields = manifest.model_dump(mode="json")
    digest = hashlib.sha256(_canonical(fields).encode()).hexdigest()
    return _canonical({**fields, "sha256": digest}) + "\n"


def write(folder: Path, manifest: Manifest) -> None:
    """Replace the manifest of ``folder`` in one step."""
    write_file(folder / NAME, render(manifest))


def read(folder: Path, *, verify: bool = True) -> Manifest:
    """The manifest of ``folder``.

    Args:
        folder: of the artifact.
        verify: check the manifest's own hash.

    Raises:
        ArtifactError: there is none, it was changed, or a file name in it leaves the folder.
    """
    path = inside(folder, NAME)
    try:
        if path.stat().st_size > LIMIT_BYTES:
            raise ArtifactError(f"{path}: {path.stat().st_size:,} bytes, must be at most {LIMIT_BYTES:,}")
        text = path.read_bytes().decode("utf-8")
        fields = json.loads(text)
    except FileNotFoundError:
        raise ArtifactError(f"{folder}: no {NAME}, so no artifact of bertpress") from None
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{path}: not valid JSON ({error})") from None
    if not isinstance(fields, dict):
        raise ArtifactError(f"{path}: must hold an object")
    expected = fields.pop("sha256", None)
    if verify:
        _check_own(path, text, fields, expected)
    return _validated(folder, fields)


def _check_own(path: Path, text: str, fields: dict[str, Any], expected: object) -> None:
    try:
        canonical = _canonical(fields)
        found = hashlib.sha256(canonical.encode()).hexdigest()
        whole = _canonical({**fields, "sha256": found}) + "\n"
    except (ValueError, UnicodeEncodeError):
        found, whole = "none", ""
    if found != expected:
        raise ArtifactError(f"{path}: changed since it was written: SHA-256 must be {expected}, found {found}")
    if whole != text:
        found = hashlib.sha256(text.encode()).hexdigest()
        expected = hashlib.sha256(whole.encode()).hexdigest()
        raise ArtifactError(f"{path}: rewritten: SHA-256 of the file must be {expected}, found {found}")


def _validated(folder: Path, fields: dict[str, Any]) -> Manifest:
    try:
        manifest = Manifest.model_validate(fields)
    except ValidationError as error:
        writer = fields.get("bertpress", "an unknown version")
        raise ArtifactError(f"{folder / NAME}: {first_fault(error)} (written by bertpress {writer})") from None
    for name in manifest.files:
        inside(folder, name)
    if missing := [name for name in REQUIRED if name not in manifest.files]:
        raise ArtifactError(f"{folder / NAME}: files: {missing[0]} must be listed")
    return manifest


def first_fault(error: ValidationError) -> str:
    """Place and message of the first thing that is wrong."""
    first = error.errors()[0]
    place = ".".join(map(str, first["loc"])) or "the object"
    return f"{place}: {first['msg'].removeprefix('Value error, ')}"


def verify(folder: Path, manifest: Manifest, names: Iterable[str] | None = None) -> None:
    """Compare files with their records.

    Args:
        folder: of the artifact.
        manifest: as :func:`read` gave it.
        names: the files to look at; when None all of the manifest, but for those of a folder that is not there: what
            was exported for another runtime can be left out.

    Raises:
        ArtifactError: names the file, what was expected, what was found.
    """
    if names is None:
        names = [name for name in manifest.files if "/" not in name or inside(folder, name.split("/")[0]).is_dir()]
    wanted = {name: manifest.files[name] for name in names}
    for name, record in wanted.items():
        path = inside(folder, name)
        if not path.is_file():
            raise ArtifactError(f"{path}: missing, must have SHA-256 {record.sha256}")
        if (found := hash_file(path)) != record:
            raise ArtifactError(
                f"{path}: must have SHA-256 {record.sha256} and {record.bytes:,} bytes, "
                f"found {found.sha256} and {found.bytes:,} bytes"
            )
