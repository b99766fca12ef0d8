"""Values that change while training: thresholds, sparsities, replacing rates, learning rates.

Pure functions of the step, so that a resumed run needs no state of theirs.
"""

import math
from typing import Literal

Decay = Literal["linear", "cosine", "constant"]


def ramp(step: float, *, begin: float, end: float) -> float:
    """Progress from ``begin`` to ``end``, clamped to [0, 1]; a jump at ``begin`` where the two are equal.

    Raises:
        ValueError: if ``end`` is before ``begin``.
    """
    if end < begin:
        raise ValueError(f"end={end} must be at least begin={begin}")
    if end == begin:
        return 1.0 if step >= end else 0.0
    return min(max((step - begin) / (end - begin), 0.0), 1.0)


def linear(step: float, *, initial: float, final: float, begin: float, end: float) -> float:
    """From ``initial`` to ``final`` in equal steps between ``begin`` and ``end``."""
    progress = ramp(step, begin=begin, end=end)
    return final if progress == 1 else initial + (final - initial) * progress


def cubic(step: float, *, initial: float, final: float, begin: float, end: float) -> float:
    """From ``initial`` to ``final``, fast first, level at ``end``: final + (initial - final)(1 - t)^3 (Zhu & Gupta)."""
    return final + (initial - final) * (1 - ramp(step, begin=begin, end=end)) ** 3


def learning_rate(step: int, *, total: int, warmup: int, decay: Decay) -> float:
    """Factor on the peak learning rate for update ``step`` of ``total``, counted from 0.

    Rises linearly from 0 during the first ``warmup`` updates, then falls to 0 at ``total`` (or stays).
    """
    if step < warmup:
        return step / warmup
    if decay == "constant":
        return 1.0
    left = 1 - ramp(step, begin=warmup, end=max(total, warmup + 1))
    return left if decay == "linear" else 0.5 * (1 - math.cos(math.pi * left))
