"""States of passages on disk: a file for each, named after the model and the tokens that it belongs to.

A file appears whole and is read through a memory map; one that was cut or changed counts as absent.  Nothing goes
stale: other weights, another engine, other tokens or another way to store have another name.
"""

from __future__ import annotations

import hashlib
import zlib
from pathlib import Path
from typing import Literal

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from bertpress.artifact.folder import machine_errors, write_bytes
from bertpress.engines.base import Array

FORMAT = 1
Store = Literal["float32", "float16", "int8"]


def packed(states: Array, store: Store) -> dict[str, Array]:
    """States as they are stored.

    Args:
        states: float32 (tokens, hidden).
        store: int8 has a scale for each token, its largest value over 127.
    """
    if store != "int8":
        return {"states": np.ascontiguousarray(states, dtype=store)}
    scale = np.maximum(np.abs(states).max(-1, keepdims=True, initial=0.0) / 127, np.finfo(np.float32).tiny)
    return {"states": np.rint(states / scale).astype(np.int8), "scale": scale.astype(np.float32)}


def unpacked(arrays: dict[str, Array]) -> Array:
    """The float32 states of :func:`packed`."""
    states = arrays["states"].astype(np.float32)
    return states * arrays["scale"] if "scale" in arrays else states


class States:
    """What a model says of passages, by their token ids.

    Args:
        folder: where the files lie.
        model: tells models and engines apart.
        store: how the states are kept.
    """

    def __init__(self, folder: Path, model: str, store: Store = "float32") -> None:
        self.folder, self.store = folder, store
        self._model = f"{FORMAT} {model} {store}".encode()

    def path(self, ids: Array) -> Path:
        """The file of a passage, (tokens,) ids."""
        digest = hashlib.sha256(self._model + np.ascontiguousarray(ids, dtype="<i8").tobytes()).hexdigest()
        return self.folder / digest[:2] / f"{digest[2:34]}.safetensors"

    def get(self, ids: Array) -> Array | None:
        """The states of a passage, float32 (tokens, hidden); None where there are none that are whole."""
        path = self.path(ids)
        if not path.is_file():
            return None
        try:
            with safe_open(path, framework="np") as file:
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                checksum = (file.metadata() or {}).get("crc32")
        except (OSError, SafetensorError):
            return None
        if checksum != _checksum(arrays) or arrays["states"].shape[:1] != (len(ids),):
            return None
        return unpacked(arrays)

    def put(self, ids: Array, states: Array) -> Array:
        """Keep the states of a passage; returns them as :meth:`get` will.

        Raises:
            MachineError: no space or no permission.
        """
        arrays, path = packed(states, self.store), self.path(ids)
        with machine_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, save(arrays, {"crc32": _checksum(arrays)}))
        return unpacked(arrays)


def _checksum(arrays: dict[str, Array]) -> str:
    found = 0
    for name in sorted(arrays):
        found = zlib.crc32(arrays[name].data, found)
    return str(found)
