"""Models with early exits: segments in a chain, and of each batch only the rows that have not left go on.

Whatever the engine, this is the loop: run a segment, let rows leave by the rule of :mod:`bertpress.encoder.leaving`,
gather the others, cut pads that none of them needs, go on.  Answers come back in the order of the rows.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from bertpress.encoder.blueprint import Blueprint
from bertpress.encoder.leaving import Leaving
from bertpress.engines.base import STATES, Array, Part, bytes_of, inputs_of


class Staged:
    """Runs the segments of a model at one speed.

    Attributes:
        speed: 0 to 1.
        left: (exits,), how many rows have left at each exit since the model was loaded.
    """

    name: ClassVar[str] = "staged"

    def __init__(self, parts: Sequence[Part], blueprint: Blueprint, speed: float) -> None:
        assert blueprint.exit is not None
        self._parts, self._rule, self._exits = parts, blueprint.exit, blueprint.exits
        self.speed = speed
        self.left: NDArray[np.int64] = np.zeros(len(parts), dtype=np.int64)
        self._turn = threading.Lock()

    def logits(self, batch: Mapping[str, Any]) -> Array:
        """See :class:`bertpress.engines.base.Engine`."""
        arrays: dict[str, Array] = dict(inputs_of(batch, self._parts[0].inputs))
        rows = np.arange(len(arrays["input_ids"]))
        leaving = Leaving(self._rule, self.speed, self._exits)
        found: Array = np.empty(0)
        for number, part in enumerate(self._parts):
            logits, *handed_on = part.run(arrays)
            done = leaving.rows(logits)
            if not number:
                found = np.empty_like(logits)
            found[rows[done]] = logits[done]
            with self._turn:
                self.left[number] += done.sum()
            if done.all():
                break
            arrays = {STATES: handed_on[0], "attention_mask": arrays["attention_mask"]}
            if done.any():
                rows, arrays = rows[~done], _kept(arrays, ~done)
                leaving.stay(~done)
        return found

    def file_bytes(self) -> int:
        """All segments."""
        return bytes_of(*self._parts)


def _kept(arrays: Mapping[str, Array], rows: NDArray[np.bool_]) -> dict[str, Array]:
    """These rows, without the last columns if all of them are pads."""
    read = np.flatnonzero(arrays["attention_mask"][rows].sum(0))
    tokens = read[-1] + 1 if len(read) else None
    return {name: np.ascontiguousarray(array[rows, :tokens]) for name, array in arrays.items()}


def blueprint_of(folder: Path) -> Blueprint | None:
    """The shape of an artifact with exits; None for every other folder."""
    try:
        shape = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("blueprint")
    except (OSError, ValueError, AttributeError):
        return None
    return Blueprint.model_validate(shape) if isinstance(shape, dict) and shape.get("exit") else None


def own_speed(folder: Path, blueprint: Blueprint) -> float:
    """What an artifact runs at unless told: the speed chosen when it was calibrated, else that of its rule, else 0."""
    assert blueprint.exit is not None
    try:
        calibrated = json.loads((folder / "bertpress.json").read_text(encoding="utf-8")).get("exits") or {}
    except (OSError, ValueError):
        calibrated = {}
    return float(calibrated.get("speed", blueprint.exit.speed or 0.0))
