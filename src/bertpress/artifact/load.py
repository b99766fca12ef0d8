"""Reading artifacts: everything is checked against the manifest and the file's header before anything is allocated."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from pydantic import ValidationError
from torch import Tensor

from bertpress.artifact import manifest as manifests
from bertpress.artifact import packing
from bertpress.artifact.codecs import Stored
from bertpress.artifact.folder import inside, refuse_pickles
from bertpress.artifact.header import Listing, inspect
from bertpress.artifact.manifest import REQUIRED, WEIGHTS, Manifest
from bertpress.encoder.blueprint import Blueprint
from bertpress.encoder.model import SHELLS, BertpressConfig, BertpressModel, BertpressPreTrainedModel
from bertpress.encoder.tokenizers import check_ids, read_tokenizer
from bertpress.errors import ArtifactError, MachineError, ModelError
from bertpress.places import is_dir
from bertpress.tasks import Task

_SHELLS: dict[str, type[BertpressPreTrainedModel]] = {shell.__name__: shell for shell in (*SHELLS, BertpressModel)}


@dataclass(frozen=True)
class Checked:
    """A folder whose manifest, hashes, configuration and weight header agree; no weight has been read."""

    folder: Path
    manifest: Manifest
    blueprint: Blueprint
    listing: Listing


def check(folder: Path, *, verify: bool = True, whole: bool = True) -> Checked:
    """Look at an artifact without reading its weights into memory.

    Args:
        folder: of the artifact.
        verify: compare files with the hashes in the manifest.
        whole: all files; otherwise the configuration and the weights alone.

    Raises:
        ArtifactError: no artifact, a pickle in it, a file that is missing, cut or changed, or parts that disagree.
        MachineError: decoded weights would not fit into memory.
    """
    if not is_dir(folder):
        raise ArtifactError(f"{folder}: no such folder")
    refuse_pickles(folder)
    manifest = manifests.read(folder, verify=verify)
    if verify:
        manifests.verify(folder, manifest, None if whole else REQUIRED)
    blueprint = _blueprint(inside(folder, "config.json"))
    listing = inspect(inside(folder, WEIGHTS))
    _agree(folder, blueprint, listing)
    return Checked(folder, manifest, blueprint, listing)


def _blueprint(path: Path) -> Blueprint:
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        return Blueprint.model_validate(fields["blueprint"])
    except ValidationError as error:
        told = manifests.first_fault(error)
        nested = bool(error.errors()[0]["loc"])
        raise ArtifactError(f"{path}: blueprint{'.' + told if nested else told.removeprefix('the object')}") from None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ArtifactError(f"{path}: no configuration with a blueprint ({type(error).__name__}: {error})") from None


def _agree(folder: Path, blueprint: Blueprint, listing: Listing) -> None:
    """A configuration may not ask for more than the file holds, nor the file for more than the machine has."""
    asked, held = blueprint.total_parameters, listing.elements
    if asked > held:
        raise ArtifactError(f"{folder / 'config.json'}: asks for {asked:,} parameters, {WEIGHTS} holds {held:,}")
    needed = 2 * sum(spec.bytes for spec in listing.weights.values())  # decoded, and in the model
    free = psutil.virtual_memory().available
    if needed > free:
        raise MachineError(f"{listing.path}: needs {needed / 1e9:.1f} GB of memory, {free / 1e9:.1f} GB are free")


def task_of(folder: Path, manifest: Manifest, blueprint: Blueprint) -> Task | None:
    """What the manifest says that the model was trained for.

    Raises:
        ArtifactError: it is no task, or not this model's.
    """
    if manifest.task is None:
        return None
    place = f"{folder / manifests.NAME}: task"
    try:
        task = Task.model_validate(manifest.task)
    except ValidationError as error:
        raise ArtifactError(f"{place}: {manifests.first_fault(error)}") from None
    answers = blueprint.head.labels if blueprint.head else None
    if task.labels is not None and answers and len(task.labels) != answers:
        raise ArtifactError(f"{place}: has {len(task.labels)} labels, its model tells {answers} apart")
    return task


def read_tokenizer_for(folder: Path, blueprint: Blueprint) -> Any:
    """The tokenizer in the folder.

    Raises:
        ArtifactError: there is none, it is damaged, or it has ids that the model lacks.
    """
    try:
        tokenizer = read_tokenizer(folder)
        check_ids(tokenizer, blueprint.embeddings.vocabulary, folder)
    except ModelError as error:
        raise ArtifactError(str(error)) from None
    return tokenizer


def load_model(checked: Checked) -> BertpressPreTrainedModel:
    """Decode the weights into a model of the shape that ``config.json`` states, in evaluation mode.

    Raises:
        ArtifactError: the names or shapes of weights are not those of the configuration.
    """
    folder = checked.folder
    config = BertpressConfig.read(folder)
    name = (config.architectures or [""])[0]
    if (shell := _SHELLS.get(name)) is None:
        raise ArtifactError(f"{folder / 'config.json'}: architectures: {name!r} must be one of {', '.join(_SHELLS)}")
    state, storage = packing.read(checked.listing.path, checked.listing)
    model = shell(config)
    _fill(model, state, checked.listing.path)
    model.storage = dict(storage)
    model.eval()
    return model


def _fill(model: BertpressPreTrainedModel, state: dict[str, Tensor], path: Path) -> None:
    """Load strictly; every name and shape must fit."""
    own = model.state_dict()
    for kind, names in (("missing", own.keys() - state.keys()), ("not of this model", state.keys() - own.keys())):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise ArtifactError(f"{path}: {min(names)}{more} {kind} by config.json")
    for name, tensor in own.items():
        if (found := state[name].shape) != tensor.shape:
            raise ArtifactError(f"{path}: {name} has shape {list(found)}, must be {list(tensor.shape)} by config.json")
    model.load_state_dict(state, strict=True)


def unpack(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """The decoded state dict and the storage plan for ``from_pretrained``; None where there is no artifact."""
    if not (folder / manifests.NAME).exists():
        return None
    checked = check(folder, whole=False)
    state, storage = packing.read(checked.listing.path, checked.listing)
    return state, dict[str, Stored](storage)
