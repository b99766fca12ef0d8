"""How many units stay, and which of many that have scores: pure functions of pruning methods and of students."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar

import torch
from pydantic import Field
from torch import Tensor

Key = TypeVar("Key", int, tuple[int, int])
Scope = Literal["layer", "model"]
Size = Annotated[int, Field(ge=1, le=65_536)] | Annotated[float, Field(gt=0, le=1)]


def normalized(scores: Mapping[Key, Tensor]) -> dict[Key, Tensor]:
    """The scores of each layer divided by their l2 norm (Michel et al. 2019, section 4.1)."""
    return {key: value / value.norm().clamp(min=1e-30) for key, value in scores.items()}


def keep_best(
    scores: Mapping[Key, Tensor],
    keep: float,
    *,
    scope: Scope,
    normalize: bool = False,
    multiple_of: int = 1,
    whole: Mapping[Key, int] | None = None,
) -> dict[Key, list[int]]:
    """Positions of the units that stay.

    Args:
        scores: key of a layer -> (units,) importances.
        keep: share of the units that stays, (0, 1].
        scope: ``layer`` keeps this share of every layer, at least one unit; ``model`` ranks all units together and
            may empty a layer.
        normalize: rank by :func:`normalized` scores.
        multiple_of: round the count of each layer to this multiple, at most to all; with ``model`` so that the total
            stays about the same.
        whole: how many units ``keep`` is a share of, by layer, where some have gone before; None: as many as scores.

    Returns:
        Key -> increasing positions; on ties the lower key and position stay.
    """
    scores = normalized(scores) if normalize else scores
    sizes = {key: len(value) for key, value in scores.items()}
    whole = sizes if whole is None else whole
    if scope == "layer":
        return {key: _top(value, rounded(whole[key] * keep, multiple_of, sizes[key])) for key, value in scores.items()}
    total = max(1, round(keep * sum(whole.values())))
    owners = [key for key, value in scores.items() for _ in range(len(value))]
    best = [owners[i] for i in _top(torch.cat(list(scores.values())), total)]
    counts = to_multiples([best.count(key) for key in scores], multiple_of, list(sizes.values()))
    return {key: _top(value, count) for (key, value), count in zip(scores.items(), counts, strict=True)}


def shares(units: int, keep: float, step: float) -> list[float]:
    """What stays after each of several steps, each of ``step`` of all units (at least one), the last ``keep``."""
    size, last = max(1, round(step * units)), max(1, round(keep * units))
    return [count / units for count in range(units - size, last, -size)] + [keep]


def rounded(count: float, multiple: int, limit: int) -> int:
    """``count`` to the nearest multiple, at least one multiple (or 1) and at most ``limit``."""
    return min(limit, max(1, round(count / multiple)) * multiple)


def count_of(size: Size | None, whole: int, name: str, *, multiple: int = 1) -> int:
    """A number stays one, a share of ``whole`` is rounded to the multiple, None is all.

    Raises:
        ValueError: if the number is larger than ``whole``; the message calls it ``name``.
    """
    if size is None:
        return whole
    if isinstance(size, float):
        return rounded(size * whole, multiple, whole)
    if size > whole:
        raise ValueError(f"{name}={size} must be at most the teacher's {whole}")
    return size


def to_multiples(counts: Sequence[int], multiple: int, limits: Sequence[int]) -> list[int]:
    """Counts rounded to multiples, those with the largest remainders up: their sum moves by half a multiple at most.

    A layer that has no more units than ``limits`` says keeps them all, multiple or not.
    """
    blocks = [count // multiple for count in counts]
    spare = max(1, round(sum(counts) / multiple)) - sum(blocks)
    for i in sorted(range(len(counts)), key=lambda i: -(counts[i] % multiple))[:spare]:
        blocks[i] += 1
    return [min(limit, block * multiple) for block, limit in zip(blocks, limits, strict=True)]


def note(scores: Mapping[Key, Mapping[int, float]], kept: Mapping[Key, Sequence[int]], most: int = 48) -> list[Any]:
    """What the report shows of a choice: an entry for each layer with the scores of its units, and whether they stay.

    Args:
        scores: key of a layer -> unit -> importance when it was last measured.
        kept: key of a layer -> the units that stay.
        most: a layer that has more units is told by so many, evenly spaced by their scores.
    """
    entries = []
    for key, units in sorted(scores.items()):
        order = sorted(units, key=lambda unit: units[unit])
        chosen = [order[i * len(order) // most] for i in range(most)] if len(order) > most else order
        stay = set(kept.get(key, ()))
        entries.append(
            {
                "layer": key[0] if isinstance(key, tuple) else key,
                "scores": [float(f"{units[unit]:.4g}") for unit in chosen],
                "kept": [unit in stay for unit in chosen],
            }
        )
    return entries


def _top(scores: Tensor, count: int) -> list[int]:
    order = torch.argsort(scores, descending=True, stable=True)
    return sorted(order[:count].tolist())
