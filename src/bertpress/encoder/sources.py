"""Where a model comes from: a folder, a hub name, or a well-known shape; no weight is read here."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bertpress.encoder import shapes
from bertpress.encoder.blueprint import HeadSpec
from bertpress.errors import ModelError
from bertpress.places import exists, is_dir

CONFIG = "config.json"
MODULES = "modules.json"
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_HUB_FILES = ["*.json", "*.txt", "*.model", "model*.safetensors", "*/model*.safetensors"]
_UNLIMITED = 10**6  # a tokenizer without a limit states an astronomical one
_POOLINGS = ("cls", "mean", "max")


@dataclass(frozen=True)
class Source:
    """A model that has been found.

    Attributes:
        name: as the user gave it, or the folder's full path.
        folder: where its files lie; None for a shape.
        config: the content of config.json.
        revision: the hub's commit, where it came from the hub.
        embedding: the head that the modules of a sentence-transformers folder make up.
        max_length: tokens that such a folder truncates to.
        root: where the tokenizer lies; differs from ``folder`` in old sentence-transformers folders only.
    """

    name: str
    folder: Path | None
    config: dict[str, Any]
    revision: str | None = None
    embedding: HeadSpec | None = None
    max_length: int | None = None
    root: Path | None = None

    @property
    def place(self) -> str:
        """How an error names the config."""
        return self.name if self.folder is None else str(self.folder / CONFIG)


def find(model: str | Path, revision: str | None = None) -> Source:
    """Find a model: a folder, ``shape:NAME``, or a hub name (``NAME@REVISION`` too).

    Raises:
        ModelError: nothing of that name, or a folder that is no model.
    """
    text = str(model)
    if text.startswith(shapes.PREFIX):
        model_type, fields = shapes.shape(text)
        return Source(text, None, {"model_type": model_type, **fields})
    path = Path(text).expanduser()
    if is_dir(path):
        return _in_folder(path.resolve(), str(path.resolve()), None)
    if exists(path):
        raise ModelError(f"{path}: a file; a model is a folder with {CONFIG} and model.safetensors")
    name, _, tag = text.partition("@")
    if isinstance(model, Path) or not _HUB_NAME.fullmatch(name):
        raise ModelError(f"{path}: no such folder")
    return _on_hub(name, revision or tag or None)


def _on_hub(name: str, revision: str | None) -> Source:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=_HUB_FILES))
    except (HfHubHTTPError, OSError, ValueError) as error:
        at = f" at revision {revision}" if revision else ""
        reason = f"{type(error).__name__}: {_short(' '.join(str(error).split()))}"
        raise ModelError(f"{name}: no folder of that name, and the hub gave no model{at} ({reason})") from None
    found = _in_folder(folder, name, folder.name)
    if found.folder is None or not list(found.folder.glob("model*.safetensors")):
        raise ModelError(
            f"{name}: the hub has no model.safetensors for it, and only safetensors are read; load it with "
            "transformers, save_pretrained it, and give that folder"
        )
    return found


def _short(text: str, limit: int = 120) -> str:
    return text if len(text) <= limit else text[:limit].rstrip() + "..."


def _in_folder(folder: Path, name: str, revision: str | None) -> Source:
    embedding, max_length, root = None, None, folder
    if (folder / MODULES).is_file():
        folder, embedding, max_length = _sentence_modules(folder)
    if not (folder / CONFIG).is_file():
        raise ModelError(f"{folder}: no model, it has no {CONFIG}")
    config = read_json(folder / CONFIG, dict)
    return Source(name, folder, config, revision, embedding, max_length, root)


def _sentence_modules(root: Path) -> tuple[Path, HeadSpec | None, int | None]:
    """The transformer's folder, the head, and the truncation of a sentence-transformers folder."""
    place = root / MODULES
    folder, pooling, normalize = root, None, False
    for i, module in enumerate(read_json(place, list)):
        kind = str(module.get("type", "")).rpartition(".")[2] if isinstance(module, dict) else ""
        if (kind == "Transformer") != (i == 0) or kind not in ("Transformer", "Pooling", "Normalize"):
            known = "Transformer, then Pooling and Normalize"
            raise ModelError(f"{place}: module {i} {kind or module!r} is not supported (supported: {known})")
        if kind == "Transformer":
            folder = _below(root, module)
        elif kind == "Pooling":
            pooling = _pooling(_below(root, module) / CONFIG)
        else:
            normalize = True
    if pooling is None:
        if normalize:
            raise ModelError(f"{place}: has Normalize, but no Pooling module")
        return folder, None, _max_length(root, folder)  # a cross-encoder of sentence-transformers 6
    head = HeadSpec.model_validate({"kind": "embedding", "pooling": pooling, "normalize": normalize})
    return folder, head, _max_length(root, folder)


def _max_length(root: Path, folder: Path) -> int | None:
    """Where sentence-transformers truncates: version 6 leaves that to the tokenizer."""
    for path, key in (
        (folder / "sentence_bert_config.json", "max_seq_length"),
        (root / "tokenizer_config.json", "model_max_length"),
    ):
        length = read_json(path, dict).get(key) if path.is_file() else None
        if isinstance(length, int) and 0 < length < _UNLIMITED:
            return length
    return None


def _below(root: Path, module: dict[str, Any]) -> Path:
    path = (root / str(module.get("path", ""))).resolve()
    if not path.is_relative_to(root.resolve()):
        raise ModelError(f"{root / MODULES}: path {module.get('path')!r} leads outside the folder")
    return root / str(module.get("path", ""))


def _pooling(path: Path) -> str:
    """The one pooling mode of a Pooling module, as sentence-transformers 6 writes it or versions before."""
    fields = read_json(path, dict)
    modes = fields.get("pooling_mode")
    if modes is None:  # a switch for each mode: pooling_mode_mean_tokens
        prefix = "pooling_mode_"
        modes = [key.removeprefix(prefix) for key, on in fields.items() if key.startswith(prefix) and on]
    given = [modes] if isinstance(modes, str) else list(modes)
    found: list[str] = [str(mode).partition("_token")[0] for mode in given]
    if len(found) != 1 or found[0] not in _POOLINGS:
        shown = ", ".join(found) or "none"
        raise ModelError(f"{path}: pooling_mode={shown} must be one of {', '.join(_POOLINGS)}")
    return found[0]


def read_json(path: Path, kind: type) -> Any:
    """The content of a JSON file.

    Raises:
        ModelError: it cannot be read, or is something else than ``kind``.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path}: cannot be read ({type(error).__name__}: {error})") from None
    if not isinstance(content, kind):
        raise ModelError(f"{path}: must hold a JSON {'object' if kind is dict else 'list'}")
    return content
