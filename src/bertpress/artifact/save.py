"""Writing artifacts: a folder appears whole, or not at all."""

import math
import platform
from collections.abc import Mapping
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertpress import __version__
from bertpress.artifact import card, packing, sizes
from bertpress.artifact import manifest as manifests
from bertpress.artifact.folder import staged, write_file
from bertpress.artifact.manifest import CARD, WEIGHTS, Manifest, Parent
from bertpress.encoder.model import BertpressPreTrainedModel
from bertpress.tasks import Task

if TYPE_CHECKING:
    from bertpress.artifact.artifact import Artifact

_PACKAGES = ("safetensors", "tokenizers", "torch", "transformers")
_TOKENIZER_BYTES = 4 * 2**20


def save(
    model: BertpressPreTrainedModel,
    tokenizer: Any,
    task: Task | None,
    folder: str | Path,
    *,
    recipe: Mapping[str, Any] | None = None,
    metrics: Mapping[str, Any] | None = None,
    seed: int | None = None,
    command: str | None = None,
    parent: Parent | None = None,
    overwrite: bool = False,
) -> "Artifact":
    """Write ``model`` as an artifact.

    Args:
        model: its ``storage`` says how each weight is packed; weights without an entry stay as they are.
        tokenizer: a transformers tokenizer, or None.
        task: what the model answers; its label names go into ``config.json`` too.
        folder: where; parents are made.
        recipe: the resolved recipe, as plain data.
        metrics: ``baseline``, ``artifact``, ``environment`` as in results.json; ``Artifact.record`` adds more.
        seed: of the run.
        command: that repeats it.
        parent: the model that was compressed.
        overwrite: replace a folder that is there.

    Raises:
        ArtifactError: the place is taken.
        MachineError: disk or permissions do not suffice; nothing is left behind, an old folder is as it was.
        BertpressError: a weight does not lie on the grid of its codec.
    """
    from bertpress.artifact.artifact import load

    folder = Path(folder).absolute()
    needed = sum(sizes.model_bytes(model).values()) + _TOKENIZER_BYTES
    with staged(folder, needed_bytes=needed, overwrite=overwrite) as partial:
        packing.write(partial / WEIGHTS, model.state_dict(), model.storage)
        _write_config(model, task, partial)
        if tokenizer is not None:
            tokenizer.save_pretrained(partial)
        fields = Manifest(
            bertpress=__version__,
            name=_name(folder, recipe, parent),
            created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            task=task.model_dump(mode="json") if task else None,
            recipe=finite(recipe) if recipe is not None else None,
            command=command,
            seed=seed,
            versions={"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}},
            parent=parent,
            metrics=finite(without_samples(metrics or {})),
        )
        write_file(partial / CARD, card.render(fields))
        manifests.write(partial, fields.replace(files=manifests.records(partial)))
    return load(folder, verify=False)


def _write_config(model: BertpressPreTrainedModel, task: Task | None, folder: Path) -> None:
    """The model's configuration, with the labels of the task and nothing about where the model came from."""
    config = type(model.config).from_dict(model.config.to_dict())
    config.architectures = [type(model).__name__]
    config.name_or_path = ""
    if task is not None and task.labels is not None:
        config.id2label = dict(enumerate(task.labels))
        config.label2id = {label: i for i, label in enumerate(task.labels)}
    if task is not None and (task.is_classification or task.kind == "text-regression"):
        single = "single_label_classification" if task.is_classification else "regression"
        config.problem_type = "multi_label_classification" if task.multi_label else single
    config.save_pretrained(folder)


def without_samples(value: Any) -> Any:
    """Figures without the raw timings that they were made of; those stay in results.json."""
    if isinstance(value, Mapping):
        return {key: without_samples(item) for key, item in value.items() if key != "samples"}
    return [without_samples(item) for item in value] if isinstance(value, list | tuple) else value


def finite(value: Any) -> Any:
    """Plain data that JSON can hold: NaN and infinities, which it cannot, become None."""
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _name(folder: Path, recipe: Mapping[str, Any] | None, parent: Parent | None) -> str:
    """What an artifact is called: the parent and the recipe where both are known."""
    if parent is None or recipe is None or not recipe.get("name"):
        return folder.name
    return f"{parent.name.rpartition('/')[2]}-{recipe['name']}"


def parent_of(name: str, folder: str | Path | None = None, revision: str | None = None) -> Parent:
    """How a manifest refers to the model that was compressed; hash and revision where they are known."""
    if Path(name).expanduser().is_dir():
        name = Path(name).expanduser().resolve().name  # where it lay is nobody else's business
    weights = None if folder is None else Path(folder) / WEIGHTS
    digest = manifests.hash_file(weights).sha256 if weights and weights.is_file() else None
    return Parent(name=name, sha256=digest, revision=revision)


def update(folder: Path, manifest: Manifest, files: Mapping[str, str]) -> Manifest:
    """Replace text files of an artifact and its manifest so that the artifact is valid at every instant.

    A file leaves the manifest, changes, and comes back: a kill in between leaves it unlisted, never at odds.

    Args:
        folder: of the artifact.
        manifest: the new one; its records of ``files`` are made here.
        files: new texts by path.
    """
    kept = {name: record for name, record in manifest.files.items() if name not in files}
    manifests.write(folder, manifest.replace(files=kept))
    for name, text in files.items():
        write_file(folder / name, text)
    changed = {name: manifests.hash_file(folder / name) for name in files}
    done = manifest.replace(files=kept | changed)
    manifests.write(folder, done)
    return done
