"""Which of many scored units stay: pure functions that every structured pruning method uses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeVar

import torch
from torch import Tensor

Key = TypeVar("Key", int, tuple[int, int])
Scope = Literal["layer", "model"]


def keep_best(
    scores: Mapping[Key, Tensor], keep: float, *, scope: Scope, normalize: bool = False, multiple_of: int = 1
) -> dict[Key, list[int]]:
    """Positions of the units that stay.

    Args:
        scores: key of a layer -> (units,) importances.
        keep: share of the units that stays, (0, 1].
        scope: ``layer`` keeps this share of every layer, at least one unit; ``model`` ranks all units together and
            may empty a layer.
        normalize: divide the scores of each layer by their l2 norm first (Michel et al. 2019, section 4.1).
        multiple_of: with ``layer``, round each count to this multiple (at least one multiple, at most all).

    Returns:
        Key -> increasing positions; on ties the lower key and position stay.
    """
    scaled = {key: value / value.norm().clamp(min=1e-30) if normalize else value for key, value in scores.items()}
    if scope == "layer":
        return {key: _top(value, rounded(len(value) * keep, multiple_of, len(value))) for key, value in scaled.items()}
    order = [(key, position) for key, value in scaled.items() for position in range(len(value))]
    best = _top(torch.cat(list(scaled.values())), max(1, round(keep * len(order))))
    kept: dict[Key, list[int]] = {key: [] for key in scaled}
    for i in best:
        key, position = order[i]
        kept[key].append(position)
    return kept


def rounded(count: float, multiple: int, limit: int) -> int:
    """``count`` to the nearest multiple, at least one multiple (or 1) and at most ``limit``."""
    return min(limit, max(1, round(count / multiple)) * multiple)


def _top(scores: Tensor, count: int) -> list[int]:
    order = torch.argsort(scores, descending=True, stable=True)
    return sorted(order[:count].tolist())
