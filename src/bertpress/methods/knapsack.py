"""Which of several sizes each part of a model gets, so that all together cost no more than a budget and lose least."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def choose(
    losses: Sequence[Sequence[float]], costs: Sequence[Sequence[float]], budget: float, *, bins: int = 10_000
) -> list[int]:
    """A choice for each part with the least sum of losses whose costs sum up to the budget at most.

    Dynamic programming over a budget in equal bins, costs rounded up to whole ones.  What rounding has left of the
    budget goes to the next larger sizes that still fit, those that win most first; so none fits in the end.

    Args:
        losses: of each part at each of its sizes, the smallest first.
        costs: of the same; not decreasing, 0 for the smallest.
        budget: not negative, in the unit of the costs.
        bins: more of them come closer to the optimum and take longer.

    Returns:
        Positions among the sizes.
    """
    if not budget:
        return _filled([0] * len(costs), losses, costs, budget)
    best = np.zeros(bins + 1)  # least loss of the parts so far, by bins that may be used
    taken: list[np.ndarray[tuple[int], np.dtype[np.int64]]] = []
    used = [np.ceil(np.asarray(cost) * (bins / budget) - 1e-9) for cost in costs]
    for loss, need in zip(losses, used, strict=True):
        found, which = np.full(bins + 1, np.inf), np.zeros(bins + 1, np.int64)
        for size, bins_used in enumerate(need):
            if bins_used > bins:
                break
            low = int(bins_used)
            total = best[: bins + 1 - low] + loss[size]
            better = total < found[low:]
            found[low:][better], which[low:][better] = total[better], size
        best = found
        taken.append(which)
    chosen: list[int] = []
    left = bins
    for which, need in zip(reversed(taken), reversed(used), strict=True):
        chosen.insert(0, int(which[left]))
        left -= int(need[chosen[0]])
    return _filled(chosen, losses, costs, budget)


def _filled(
    chosen: list[int], losses: Sequence[Sequence[float]], costs: Sequence[Sequence[float]], budget: float
) -> list[int]:
    left = budget * (1 + 1e-9) - sum(cost[size] for cost, size in zip(costs, chosen, strict=True))
    while True:
        larger = [
            (loss[size] - loss[size + 1], -part)
            for part, (loss, cost, size) in enumerate(zip(losses, costs, chosen, strict=True))
            if size + 1 < len(cost) and cost[size + 1] - cost[size] <= left
        ]
        if not larger:
            return chosen
        part = -max(larger)[1]
        left -= costs[part][chosen[part] + 1] - costs[part][chosen[part]]
        chosen[part] += 1
