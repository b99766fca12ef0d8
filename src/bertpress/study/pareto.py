"""Which of many artifacts are worth a look: those that no other beats in cost and in drop."""

from __future__ import annotations

from collections.abc import Sequence


def dominated(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Whether another point is at most as large in both coordinates and smaller in one.

    Args:
        points: cost and drop of each, both the less the better.

    Returns:
        One answer a point; points that coincide do not dominate each other.

    >>> dominated([(1, 5), (2, 3), (3, 3), (2, 3)])
    [False, False, True, False]
    """
    found = [False] * len(points)
    least, at = float("inf"), float("inf")  # the smallest drop so far, and the cost that it was first had for
    for index in sorted(range(len(points)), key=points.__getitem__):
        cost, drop = points[index]
        found[index] = drop > least or (drop == least and cost > at)
        if drop < least:
            least, at = drop, cost
    return found
