"""What is searched for, what was found of each candidate, and which of them is best: pure functions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from bertpress.tasks.bootstrap import Drop

Target = Literal["latency", "size", "memory"]
Kind = Literal["anchor", "cut", "student", "compound"]

REDUCTION = 3
"""Of so many candidates one is trained on, so many times longer (successive halving, Jamieson & Talwalkar 2016)."""
GAIN = 2 / 3
"""What is left of a student's loss after a run that is :data:`REDUCTION` times as long, as seen on sst2."""
WIDTH_OF_INTERVAL = 2 * 1.96
"""Of a 95 % interval, in standard errors."""


class Aim(BaseModel):
    """What is to become small, and what it may cost."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    target: Target = "latency"
    max_drop: float = Field(1.0, ge=0, le=100, description="Points that may be lost against the teacher.")
    confidence: float = Field(0.8, ge=0.5, lt=1, description="Probability that the winner keeps the limit.")

    def keeps(self, drop: Drop | None) -> bool:
        """Whether a loss keeps the limit as surely as is asked for."""
        return probability(drop, self.max_drop) >= self.confidence


class Tried(BaseModel):
    """A candidate and what came of it; scores are of the rows chosen on.

    Attributes:
        name: of its folder.
        kind: ``anchor`` (bits alone, which all are compared with), ``cut`` without training, ``student``, ``compound``.
        rung: how far it was trained: 0 shortest.
        recipe: as plain data.
        choices: what the sampler chose, of a student.
        trial: its number at the sampler.
        seconds: that it took.
        cost: milliseconds predicted by the table, or bytes, as the target asks.
        drop: against the teacher.
        metric: with its interval.
        figures: sizes and shape.
        failure: why there is no artifact.
    """

    model_config = ConfigDict(extra="forbid")

    name: str
    kind: Kind
    rung: int = 0
    recipe: dict[str, Any]
    choices: dict[str, Any] | None = None
    trial: int | None = None
    seconds: float = 0.0
    cost: float | None = None
    drop: Drop | None = None
    metric: dict[str, Any] | None = None
    figures: dict[str, Any] = Field(default_factory=dict)
    failure: str | None = None

    @property
    def price(self) -> float:
        """The cost; infinite where there is no artifact."""
        return math.inf if self.cost is None else self.cost

    @property
    def lost(self) -> float:
        """Points; infinite where there is no artifact."""
        return math.inf if self.drop is None else self.drop.value


def probability(drop: Drop | None, limit: float) -> float:
    """That a loss is at most the limit, from its bootstrap interval taken as a normal one.

    >>> round(probability(Drop(value=0.5, low=-0.48, high=1.48), 1.0), 2)
    0.84
    """
    if drop is None:
        return 0.0
    error = (drop.high - drop.low) / WIDTH_OF_INTERVAL
    if error <= 0:
        return float(drop.value <= limit)
    return 0.5 * (1 + math.erf((limit - drop.value) / error / math.sqrt(2)))


def finalists(tried: Sequence[Tried], aim: Aim, count: int) -> list[Tried]:
    """The cheapest of those that keep the limit by the aim's confidence; where none does, the likeliest to keep it."""
    sure = [each for each in tried if aim.keeps(each.drop)]
    if not sure:
        made = [each for each in tried if each.drop is not None]
        return sorted(made, key=lambda each: -probability(each.drop, aim.max_drop))[:1]
    return sorted(sure, key=lambda each: (each.price, each.lost))[:count]


def best_cost(tried: Sequence[Tried], aim: Aim) -> float:
    """Cost of the cheapest that keeps the limit; infinite where none does.

    Compounds are left out: a dearer student may become cheaper than they are, by what complements it.
    """
    sure = (each.price for each in tried if each.kind != "compound" and aim.keeps(each.drop))
    return min(sure, default=math.inf)


def foreseen(tried: Tried, rung: int) -> float:
    """Points that a student would lose after a longer run, if each rung leaves :data:`GAIN` of them."""
    return tried.lost * GAIN ** (rung - tried.rung)


def promotion(tried: Sequence[Tried], aim: Aim, rungs: int, *, eager: bool = False) -> Tried | None:
    """The student that is trained on, or None.

    Of the students of a rung, one in :data:`REDUCTION` goes on: the cheapest of those that will keep the limit after
    the longest run, as far as can be foreseen.  Those that cost as much as something that keeps it already do not.

    Args:
        tried: everything so far.
        aim: of the search.
        rungs: how many there are.
        eager: whether to go on although there are too few to choose from, and with the one that will lose least where
            none will keep the limit, as time is left for nothing else.
    """
    bound = best_cost(tried, aim)
    students = [each for each in tried if each.kind == "student"]
    for rung in reversed(range(rungs - 1)):
        here = [each for each in students if each.rung == rung]
        gone_on = {each.trial for each in students if each.rung > rung}
        if not eager and len(here) < REDUCTION * (len(gone_on) + 1):
            continue
        waiting = [
            each
            for each in here
            if each.trial not in gone_on and (each.price < bound or (each.price == bound and not aim.keeps(each.drop)))
        ]
        hopeful = [each for each in waiting if foreseen(each, rungs - 1) <= aim.max_drop]
        if hopeful:
            return min(hopeful, key=lambda each: (each.price, each.lost))
        if eager and waiting:
            return min(waiting, key=lambda each: (each.lost, each.price))
    return None
