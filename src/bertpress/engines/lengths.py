"""Graphs of their own for some lengths: what serves texts one by one no longer pays for any length being possible.

A graph of any length prepares each of its operations anew whenever the next text has another length.  Here a single
text is padded to the next of the given lengths and runs in a graph made for that one; a batch, and a text that is
longer than all of them, runs in the graph of any length.  Pads are masked as in every batch.  Each graph holds the
weights once more in memory, and in the processor's caches: name few lengths, and measure.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np

from bertpress.engines.base import INPUTS, METADATA, Array, Engine, inputs_of
from bertpress.errors import EngineError


@runtime_checkable
class Fixable(Protocol):
    """A loaded graph, or a part of one, that can be made for a length."""

    def fix(self, length: int) -> None:
        """From now on run one row of this many tokens in a graph of its own."""


class FixedLengths:
    """An engine whose single rows are padded to the next of some lengths.

    Args:
        engine: which runs rows of these lengths in graphs of their own.
        lengths: in tokens, rising.
        pad_id: of the model.
    """

    name: ClassVar[str] = "fixed lengths"

    def __init__(self, engine: Engine, lengths: Sequence[int], pad_id: int) -> None:
        self.engine, self.lengths, self._pad_id = engine, tuple(lengths), pad_id

    def logits(self, batch: Mapping[str, Any]) -> Array:
        """See :class:`bertpress.engines.base.Engine`."""
        arrays = inputs_of(batch, INPUTS)
        rows, tokens = arrays["input_ids"].shape
        length = next((length for length in self.lengths if length >= tokens), None)
        if rows != 1 or length is None:
            return self.engine.logits(batch)
        pads = {"input_ids": self._pad_id}
        found = self.engine.logits({name: padded(array, length, pads.get(name, 0)) for name, array in arrays.items()})
        return found[:, :tokens] if found.ndim == 3 else found  # what is said of each token is said of pads, too

    def file_bytes(self) -> int:
        """Those of the engine: the graphs are made in memory."""
        return self.engine.file_bytes()


def padded(array: Array, length: int, value: int) -> Array:
    """(rows, tokens) to (rows, length), ``value`` behind; ``numpy.pad`` takes ten times as long for one row."""
    found = np.full((len(array), length), value, array.dtype)
    found[:, : array.shape[1]] = array
    return found


def with_lengths(engine: Engine, parts: Sequence[object], lengths: Sequence[int], folder: Path) -> Engine:
    """The same engine, with graphs for some lengths.

    Args:
        engine: one that is loaded.
        parts: that it runs.
        lengths: in tokens; none: the engine as it is.
        folder: that holds what tells the exported model's padding and positions.

    Raises:
        EngineError: the engine has one graph for all lengths; a length is below 1 or above the model's positions, or
            stands there twice; the folder does not say what it should.
    """
    if not lengths:
        return engine
    fixable = [part for part in parts if isinstance(part, Fixable)]
    if len(fixable) < len(parts):
        raise EngineError("lengths: this engine has one graph for all of them; openvino can have others beside it")
    pad_id, positions = _padding(folder / METADATA)
    for length in lengths:
        if length < 1 or 0 < positions < length:
            raise EngineError(f"lengths: {length} must be in [1, {positions or 'any'}]")
    if len(set(lengths)) < len(lengths):
        raise EngineError(f"lengths: {', '.join(map(str, lengths))} must differ")
    for length in lengths:
        for part in fixable:
            part.fix(length)
    return FixedLengths(engine, sorted(lengths), pad_id)


def _padding(path: Path) -> tuple[int, int]:
    """Padding id, and positions, 0 where a model can have any."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return int(found["pad_id"]), int(found["positions"] or 0)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EngineError(f"{path}: tells no padding and positions ({type(error).__name__}); export again") from None
