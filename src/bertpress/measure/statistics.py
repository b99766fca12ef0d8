"""What is reported of many timings: a median, a tail, a paired ratio; the raw samples stay with them."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict


class Latency(BaseModel):
    """Milliseconds: the median, the 90th percentile and every sample in the order taken."""

    model_config = ConfigDict(frozen=True)

    median: float
    p90: float
    samples: tuple[float, ...]

    @classmethod
    def of(cls, milliseconds: Sequence[float]) -> "Latency":
        """Summarise timings.

        Raises:
            ValueError: there are none, or one is negative or not finite.

        >>> Latency.of([1.0, 2.0, 9.0]).median
        2.0
        """
        values = np.asarray(milliseconds, dtype=np.float64)
        if not values.size or not np.isfinite(values).all() or values.min() < 0:
            raise ValueError("latencies must be one or more finite numbers >= 0")
        return cls(
            median=round(float(np.median(values)), 4),
            p90=round(float(np.quantile(values, 0.9)), 4),
            samples=tuple(round(float(value), 4) for value in values),
        )


class Ratio(BaseModel):
    """Median of paired ratios with its interval; above 1 the candidate is faster than the baseline."""

    model_config = ConfigDict(frozen=True)

    value: float
    low: float
    high: float
    samples: tuple[float, ...]


def paired_ratio(baseline: Sequence[float], candidate: Sequence[float], confidence: float = 0.95) -> Ratio:
    """Compare timings that were taken in pairs, one shortly after the other, so that drift hits both alike.

    Args:
        baseline: time of each block with the baseline; > 0.
        candidate: time of the same blocks with the candidate, same order and unit; > 0.
        confidence: of the interval of the median.

    Returns:
        The median of baseline / candidate with :func:`median_interval`.

    Raises:
        ValueError: the two differ in length, are empty, or hold a time that is not above 0.

    >>> paired_ratio([2.0, 4.0, 9.0], [1.0, 2.0, 3.0]).value
    2.0
    """
    if len(baseline) != len(candidate) or not baseline:
        raise ValueError(f"paired timings must be of one length >= 1: {len(baseline)} and {len(candidate)}")
    above, below = np.asarray(baseline, dtype=np.float64), np.asarray(candidate, dtype=np.float64)
    if not (above.min() > 0 and below.min() > 0):
        raise ValueError("paired timings must all be above 0")
    ratios = above / below
    low, high = median_interval(ratios.tolist(), confidence)
    return Ratio(
        value=round(float(np.median(ratios)), 4),
        low=round(low, 4),
        high=round(high, 4),
        samples=tuple(round(float(ratio), 4) for ratio in ratios),
    )


def median_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """Distribution-free interval of the median from order statistics (the sign test turned round).

    With k the largest number for which P(Binomial(n, 1/2) < k) <= (1 - confidence) / 2, the interval runs
    from the k-th smallest to the k-th largest value.  Fewer than six values cannot reach 95 %; their range
    is returned.

    >>> median_interval(list(range(1, 11)))
    (2.0, 9.0)
    """
    ordered = sorted(float(value) for value in values)
    count = len(ordered)
    tail, below, rank = (1 - confidence) / 2, 0.0, 0
    while rank < count // 2:
        below += math.comb(count, rank) / 2**count
        if below > tail:
            break
        rank += 1
    rank = max(rank, 1)
    return ordered[rank - 1], ordered[count - rank]


def rounded(figures: Any, digits: int = 4) -> Any:
    """The same nested lists and dicts with floats rounded, so that files of raw samples stay readable."""
    if isinstance(figures, float):
        return round(figures, digits)
    if isinstance(figures, dict):
        return {key: rounded(value, digits) for key, value in figures.items()}
    if isinstance(figures, (list, tuple)):
        return [rounded(value, digits) for value in figures]
    return figures
