"""Which texts leave at an exit: pure functions of the exits' answers, the same for every engine.

Each row of a batch is judged by its own answers alone.  Source: entropy, Xin et al. 2020, arXiv:2004.12993, section 2;
normalised entropy, Liu et al. 2020, arXiv:2004.02178, section 3.4; patience, Zhou et al. 2020, arXiv:2006.04152,
section 3.3; a bound on the layer from the first exit's entropy, Tambe et al. 2020, arXiv:2011.14203.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from bertpress.encoder.exit_specs import ExitRule, ExitTable

Array: TypeAlias = NDArray[Any]
Mask: TypeAlias = NDArray[np.bool_]


def entropy(logits: Array) -> Array:
    """Entropy of the softmax in nats: (rows, classes) to (rows,), float64, for logits of any finite size."""
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    logs = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return np.asarray(-(np.exp(logs) * logs).sum(-1))


def uncertainty(logits: Array) -> Array:
    """Entropy as a share of its largest value: (rows, classes) to (rows,) in [0, 1]; 1 for a uniform answer."""
    return entropy(logits) / math.log(logits.shape[-1])


def agree(before: Array, now: Array, tolerance: float) -> Mask:
    """Whether two exits in a row say the same: the same class, or scores less than ``tolerance`` apart; (rows,)."""
    if now.shape[-1] == 1:
        return np.asarray(np.abs(now - before)[:, 0] < tolerance)
    return np.asarray(now.argmax(-1) == before.argmax(-1))


def patience(speed: float, layers: int) -> int:
    """Exits in a row that must agree with the one before: all layers at speed 0, one at speed 1."""
    return max(1, round((1 - speed) * layers))


def bound(table: ExitTable, first: Array) -> NDArray[np.int64]:
    """The layer, from 1, by which a text leaves, from the uncertainty of its first exit; (rows,) to (rows,)."""
    return np.asarray(table.layers)[np.searchsorted(np.asarray(table.edges), first, side="right")]


def table_for(rule: ExitRule, speed: float) -> ExitTable | None:
    """The table of the largest speed that is not above this one, whose bounds are late enough; None: no bounds."""
    known = [table for table in rule.tables if table.speed <= speed]
    return max(known, key=lambda table: table.speed, default=None)


class Leaving:
    """Asked exit by exit which of a batch's rows leave.

    Args:
        rule: of the model.
        speed: 0, nobody leaves early, to 1, everybody at the first exit that the rule allows.
        exits: the layers, from 1, behind which there is an exit; the last is the model's own head.
    """

    def __init__(self, rule: ExitRule, speed: float, exits: Sequence[int]) -> None:
        self._rule, self._speed, self._exits = rule, speed, exits
        self._table = table_for(rule, speed)
        self._asked = 0
        self._before: Array | None = None
        self._streak: NDArray[np.int64] | None = None
        self._bound: NDArray[np.int64] | None = None

    def rows(self, logits: Array) -> Mask:
        """Which rows leave at the next exit, from its answers (rows, classes) for the rows that are still there."""
        layer = self._exits[self._asked]
        self._asked += 1
        if layer == self._exits[-1]:
            return np.ones(len(logits), dtype=bool)
        if self._speed <= 0:
            return np.zeros(len(logits), dtype=bool)
        return self._patient(logits) if self._rule.criterion == "patience" else self._sure(logits, layer)

    def stay(self, rows: Mask) -> None:
        """Forget all rows but these, a choice among those that were asked about last."""
        self._before, self._streak, self._bound = (
            None if each is None else each[rows] for each in (self._before, self._streak, self._bound)
        )

    def _sure(self, logits: Array, layer: int) -> Mask:
        if self._speed >= 1:
            return np.ones(len(logits), dtype=bool)
        unsure = uncertainty(logits)
        done = unsure < self._speed if self._rule.criterion == "entropy" else unsure <= self._speed
        if self._table is not None:
            if self._bound is None:
                self._bound = bound(self._table, unsure)
            done |= self._bound <= layer
        return np.asarray(done)

    def _patient(self, logits: Array) -> Mask:
        if self._before is None or self._streak is None:
            self._streak = np.zeros(len(logits), dtype=np.int64)
        else:
            self._streak = np.where(agree(self._before, logits, self._rule.tolerance), self._streak + 1, 0)
        self._before = logits
        return np.asarray(self._streak >= patience(self._speed, self._exits[-1]))


def chosen_exits(rule: ExitRule, speed: float, exits: Sequence[int], logits: Array) -> NDArray[np.int64]:
    """At which exit each row leaves.

    Args:
        rule: of the model.
        speed: 0 to 1.
        exits: as for :class:`Leaving`.
        logits: (rows, exits, classes), the answers of all of them.

    Returns:
        (rows,), positions in ``exits``.
    """
    leaving = Leaving(rule, speed, exits)
    done = np.stack([leaving.rows(logits[:, number]) for number in range(len(exits))], axis=1)
    return np.asarray(done.argmax(1), dtype=np.int64)


def speeds(rule: ExitRule, layers: int) -> list[float]:
    """Settings worth a point on a curve, rising from 0."""
    if rule.criterion == "patience":
        return [0.0, *((layers - streak) / layers for streak in range(layers - 1, 0, -1))]
    fine, coarse = (step / 100 for step in range(20)), (step / 20 for step in range(4, 21))
    return [*fine, *coarse]  # the first hundredths let most rows out
