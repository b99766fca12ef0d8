"""A speed that is asked for as a mean time, ``"1.5ms"``: which setting of a model with early exits keeps it here.

The stored curve says where texts leave at each speed.  What it takes until each exit has answered is timed when the
model is loaded, for one text as long as half of those are that the curve was measured on; tokenizing comes on top.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, TypeAlias

import numpy as np

from bertpress.engines.base import STATES, Part, inputs_of
from bertpress.errors import EngineError

Speed: TypeAlias = float | str
"""0 (all layers) to 1 (out at the first exit that the rule allows), or a mean time in milliseconds: ``"1.5ms"``."""

WARM_UP, ROUNDS = 6, 30
_TIME = re.compile(r"(\d+(?:\.\d+)?) ?ms")


def understood(speed: Speed) -> tuple[float | None, float | None]:
    """The speed as a number, or the milliseconds; one of them is None.

    Raises:
        EngineError: it is neither.

    >>> understood(0.2), understood("0.2"), understood("1.5ms")
    ((0.2, None), (0.2, None), (None, 1.5))
    """
    if isinstance(speed, str) and (found := _TIME.fullmatch(speed.strip())) is not None:
        return None, float(found[1])
    try:
        number = float(speed)
    except ValueError:
        number = -1.0
    if not 0 <= number <= 1:
        raise EngineError(f"speed={speed} must be in [0, 1], or a mean time such as 1.5ms")
    return number, None


def speed_within(milliseconds: float, curve: Sequence[Mapping[str, Any]], times: Sequence[float]) -> float:
    """The speed that loses least among those whose mean time is permitted; of equal ones the slowest.

    Args:
        milliseconds: permitted on average.
        curve: points with ``speed``, ``drop`` and ``left``, how many texts left at each exit.
        times: milliseconds until each exit has answered.

    Raises:
        EngineError: no speed keeps it; the message has the least that one does.
    """
    means = [float(np.average(times, weights=point["left"])) for point in curve]
    kept = [(point["drop"], point["speed"]) for point, mean in zip(curve, means, strict=True) if mean <= milliseconds]
    if not kept:
        raise EngineError(f"speed={milliseconds:g}ms: must be at least {min(means):.3g}ms here, tokenizing not counted")
    return float(min(kept)[1])


def times_to_exits(parts: Sequence[Part], lengths: Sequence[int]) -> list[float]:
    """Milliseconds until each exit has answered one text, medians, warm.

    Args:
        parts: of the model, in their order.
        lengths: of the text, by turns: engines prepare anew for another length, as they must for real texts.
    """
    found: list[list[float]] = []
    for turn in range(WARM_UP + ROUNDS):
        ids = np.zeros((1, lengths[turn % len(lengths)]), np.int64)
        batch = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": ids}
        arrays: dict[str, Any] = dict(inputs_of(batch, parts[0].inputs))
        began, answered = time.perf_counter(), []
        for part in parts:
            _, *handed_on = part.run(arrays)
            answered.append(1000 * (time.perf_counter() - began))
            if handed_on:
                arrays = {STATES: handed_on[0], "attention_mask": batch["attention_mask"]}
        found.append(answered)
    return [median(each) for each in zip(*found[WARM_UP:], strict=True)]


def keeping(milliseconds: float, folder: Path, parts: Sequence[Part], lengths: Sequence[int]) -> float:
    """The speed at which this machine keeps a mean time.

    Args:
        milliseconds: permitted on average.
        folder: of the artifact.
        parts: of its model.
        lengths: that single texts are padded to, where the parts have graphs for them.

    Raises:
        EngineError: the artifact has no curve that says where texts leave, or no speed keeps it.
    """
    try:
        exits = json.loads((folder / "bertpress.json").read_text(encoding="utf-8"))["exits"]
        curve, tokens = exits["curve"], int(exits["tokens"])
        assert all(len(point["left"]) == len(parts) for point in curve)
    except (OSError, ValueError, KeyError, TypeError, AssertionError):
        raise EngineError(
            f"{folder}: has no curve that says where texts leave, so speed={milliseconds:g}ms means nothing; measure "
            "it with Artifact.calibrate_exits"
        ) from None
    padded = min((length for length in lengths if length >= tokens), default=None)
    turns = [tokens, max(1, tokens - 1)] if padded is None else [padded]
    return speed_within(milliseconds, curve, times_to_exits(parts, turns))
