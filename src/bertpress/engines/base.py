"""What every engine is: a model folder in, then padded batches of ids in and logits out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from bertpress.errors import EngineError

Array: TypeAlias = NDArray[Any]
INPUTS = ("input_ids", "attention_mask", "token_type_ids")
METADATA = "metadata.json"
"""Beside the graphs of an export: what they take, and what the numbers mean."""
STATES = "states"
"""What goes in between the parts of a model, float32 (batch, tokens, hidden)."""


class Part(Protocol):
    """A loaded graph, or a stretch of a model: arrays in, arrays out.

    Attributes:
        inputs: names of what it reads.
        files: that were loaded; parts may have some in common.
    """

    inputs: tuple[str, ...]
    files: tuple[Path, ...]

    def run(self, arrays: Mapping[str, Array]) -> list[Array]:
        """Run one batch; arrays that are not read may be there, and outputs are the caller's to keep."""


class Engine(Protocol):
    """One loaded model, which threads of the caller may share: answers are those of one thread."""

    name: ClassVar[str]

    def logits(self, batch: Mapping[str, Any]) -> Array:
        """Run one padded batch.

        Args:
            batch: ``input_ids``, ``attention_mask`` and, where the model has segments, ``token_type_ids``: integers
                (batch, tokens), arrays or CPU tensors; other keys are ignored.

        Returns:
            float32: (batch, labels), (batch, tokens, labels), or (batch, size) of an embedding.
        """

    def file_bytes(self) -> int:
        """Bytes of the files that were loaded."""


class Loader(Protocol):
    """How an engine loads a model folder."""

    @classmethod
    def load(cls, folder: Path, threads: int | None = None) -> Engine:
        """Load the model of ``folder``, to run on so many threads (None: all cores).

        Raises:
            EngineError: the package is missing, or the folder has no file for this engine.
        """

    @classmethod
    def load_parts(cls, folder: Path, names: Sequence[str], threads: int | None = None) -> Sequence[Part]:
        """Load parts of a model (:func:`bertpress.encoder.segments.parts`) by their names.

        Raises:
            EngineError: as for :meth:`load`, or the model has no such part.
        """


@dataclass(frozen=True)
class Halves:
    """One loaded model whose lower layers read the two texts apart, as its two parts.

    Attributes:
        below: ``input_ids``, ``attention_mask`` and ``token_type_ids`` to states.
        above: states and ``attention_mask`` to logits.
    """

    below: Part
    above: Part

    def lower(self, batch: Mapping[str, Any]) -> Array:
        """Padded rows of one segment each, as of :meth:`Engine.logits`, to float32 (batch, tokens, hidden)."""
        return self.below.run(inputs_of(batch, INPUTS))[0]

    def upper(self, states: Array, mask: Array) -> Array:
        """Joined states, float32 (batch, tokens, hidden), and mask, int64 (batch, tokens), to logits."""
        return self.above.run({STATES: states, "attention_mask": mask})[0]

    def file_bytes(self) -> int:
        """Bytes of the files that were loaded."""
        return bytes_of(self.below, self.above)


def bytes_of(*parts: Part) -> int:
    """Bytes of the files of these parts; one that several read counts once."""
    return sum(path.stat().st_size for path in {path for part in parts for path in part.files})


def inputs_of(batch: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, NDArray[np.int64]]:
    """The named inputs as contiguous int64 arrays; segments that are not given are 0.

    Raises:
        EngineError: ``input_ids`` or ``attention_mask`` is missing.
    """
    found = {}
    for name in names:
        if name in batch:
            found[name] = np.ascontiguousarray(batch[name], dtype=np.int64)
        elif name == "token_type_ids":
            found[name] = np.zeros_like(found["input_ids"])
        else:
            raise EngineError(f"batch has no {name}; it has {', '.join(batch) or 'nothing'}")
    return found


def checked_threads(threads: int | None) -> int | None:
    """``threads``, if it is a number that makes sense.

    Raises:
        EngineError: it is below 1.
    """
    if threads is not None and threads < 1:
        raise EngineError(f"threads={threads} must be at least 1")
    return threads


def exported_file(folder: Path, kind: str, name: str) -> Path:
    """The path of an exported file.

    Raises:
        EngineError: it is not there; the message says how to make it.
    """
    path = folder / kind / name
    if not path.is_file():
        raise EngineError(f"{folder}: has no {kind}/{name}; make it with: bertpress export {folder} --to {kind}")
    return path
