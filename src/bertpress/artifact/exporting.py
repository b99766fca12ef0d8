"""Exports of an artifact: into the artifact itself, hashes and all, or into a folder of their own."""

import shutil
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertpress.artifact import card
from bertpress.artifact import manifest as manifests
from bertpress.artifact.folder import alone, machine_errors, staged, sync, sync_directory
from bertpress.artifact.manifest import CARD, Manifest
from bertpress.artifact.save import update
from bertpress.errors import ArtifactError

if TYPE_CHECKING:
    from bertpress.artifact.artifact import Artifact

RUNTIMES = ("openvino", "onnx")
TARGETS = (*RUNTIMES, "transformers")


def export(artifact: "Artifact", to: str, folder: Path | None, **options: Any) -> tuple[Path, Manifest]:
    """Export, and return where the export lies and the manifest as it is now.

    Args:
        artifact: what to export.
        to: one of :data:`TARGETS`.
        folder: None puts the export of a runtime into the artifact.
        **options: of the exporter.

    Raises:
        ArtifactError: the target is unknown, ``transformers`` has no folder, or the folder is taken.
        EngineError: the runtime's converter is not installed.
        MachineError: no space, no permission; the artifact is valid, without the export.
    """
    if to not in TARGETS:
        raise ArtifactError(f"export to {to!r}: must be one of {', '.join(TARGETS)}")
    if folder is not None:
        return _beside(artifact, to, folder.absolute(), options), artifact.manifest
    if to not in RUNTIMES:
        raise ArtifactError(f"export to {to!r}: needs a folder, the artifact itself keeps {', '.join(RUNTIMES)}")
    with alone(artifact.path, waits=True):
        return artifact.path / to, _within(artifact, to, options)


def _write(artifact: "Artifact", to: str, folder: Path, options: dict[str, Any]) -> None:
    """Call ``bertpress.export.<to>.export``; the files go below ``folder / to``."""
    exporter = import_module(f"bertpress.export.{to}")
    exporter.export(artifact.model, folder, **{"metadata": _metadata(artifact), **options})


def _metadata(artifact: "Artifact") -> dict[str, Any]:
    """What a program without bertpress needs to know beside the graph."""
    task = artifact.task
    return {"name": artifact.manifest.name} | (
        {"task": task.name, "kind": task.kind, "max_length": task.max_length} if task else {}
    )


def _beside(artifact: "Artifact", to: str, folder: Path, options: dict[str, Any]) -> Path:
    tokenizer = artifact.tokenizer if artifact.has_tokenizer else None
    if to == "transformers":
        from bertpress.export.transformers import save_transformers

        length = artifact.task.max_length if artifact.task else None
        return save_transformers(artifact.model, folder, tokenizer, **{"max_length": length, **options})
    with staged(folder) as partial:
        _write(artifact, to, partial, options)
        if tokenizer is not None:
            tokenizer.save_pretrained(partial)
    return folder


def _within(artifact: "Artifact", to: str, options: dict[str, Any]) -> Manifest:
    """Leave the manifest, come into the folder whole, enter the manifest: valid at every instant."""
    path = artifact.path
    manifest = manifests.read(path)
    partial = path / f".{to}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        with machine_errors(path):
            partial.mkdir()
            _write(artifact, to, partial, options)
            sync(partial)
            rest = {name: record for name, record in manifest.files.items() if not name.startswith(f"{to}/")}
            manifest = manifest.replace(files=rest)
            manifests.write(path, manifest)
            shutil.rmtree(path / to, ignore_errors=True)
            (partial / to).rename(path / to)
            sync_directory(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    manifest = manifest.replace(files=manifest.files | manifests.records(path, to))
    return update(path, manifest, {CARD: card.render(manifest)})
