"""Read measured values out of results: whatever is absent, null or not a number was not measured."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

Results: TypeAlias = Mapping[str, Any]

LARGEST = 1e100
"""No measurement is larger; what is (a loss that diverged) cannot be drawn either. What is nearer to zero than its
inverse is zero."""


def value(source: object, *path: str) -> object:
    """Follow keys into nested mappings; None as soon as one is missing.

    >>> value({"latency_ms": {"median": 1.5}}, "latency_ms", "median")
    1.5
    """
    for key in path:
        source = source.get(key) if isinstance(source, Mapping) else None
    return source


def number(source: object, *path: str) -> float | None:
    """The number at a path, or None; booleans, NaN and what exceeds ``LARGEST`` count as not measured."""
    found = value(source, *path)
    if isinstance(found, bool) or not isinstance(found, (int, float)):
        return None
    if not abs(found) <= LARGEST:  # also of NaN
        return None
    return found if abs(found) >= 1 / LARGEST else 0


def change_bounds(source: object, *path: str) -> tuple[float | None, float | None]:
    """The lowest and the highest change that a drop's ``low`` and ``high`` leave open; None where one is missing.

    >>> change_bounds({"drop": {"low": -0.3, "high": 1.2}}, "drop")
    (-1.2, 0.3)
    """
    low, high = (None if (end := number(source, *path, bound)) is None else -end for bound in ("high", "low"))
    return low, high


def numbers(source: object, *path: str) -> list[float]:
    """The finite numbers of the list at a path; empty when there is none."""
    return [found for item in items(source, *path) if (found := number({"item": item}, "item")) is not None]


def text(source: object, *path: str) -> str | None:
    """The scalar at a path as text, or None when it is missing, empty or a container."""
    found = value(source, *path)
    if found is None or isinstance(found, (Mapping, list, tuple)):
        return None
    return str(found) or None


def mapping(source: object, *path: str) -> Results:
    """The mapping at a path, or the source itself without one; empty when it is none."""
    found = value(source, *path)
    return found if isinstance(found, Mapping) else {}


def items(source: object, *path: str) -> Sequence[Any]:
    """The list at a path; empty when there is none."""
    found = value(source, *path)
    return found if isinstance(found, (list, tuple)) else ()


def mean(sources: Sequence[object], *path: str) -> float | None:
    """The mean of what the sources have at a path; None where none has anything."""
    return average([number(source, *path) for source in sources])


def average(values: Sequence[float | None]) -> float | None:
    """The mean of what was measured; None where nothing was."""
    found = [value for value in values if value is not None]
    return sum(found) / len(found) if found else None
