"""Claims of the literature, checked on our own runs: paired scores in, a verdict out.

Each claim says that one way beats another at equal size.  A pair is two runs that differ in nothing else: the same
task, seed, and number of layers or parameters.  The verdict follows from the bootstrap interval of the mean difference.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict

from bertpress.tasks.bootstrap import mean_interval

FEWEST = 5
"""Pairs that a verdict needs: with fewer, a bootstrap of their mean draws nearly the same pairs again and again."""


class Claim(BaseModel):
    """A statement that paired runs can speak for or against.

    Attributes:
        text: the statement.
        cite: who made it.
        better: what scores higher if it is true.
        worse: what it is compared with.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    text: str
    cite: str
    better: str
    worse: str


class Verdict(BaseModel):
    """What the runs say of a claim.

    Attributes:
        claim: that was checked.
        pairs: how many there were.
        value: mean difference in points, positive for the claim; None without pairs.
        low: of its 95 % interval; None where there are too few pairs.
        high: likewise.
        verdict: it holds if the whole interval lies above 0.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    claim: Claim
    pairs: int
    value: float | None = None
    low: float | None = None
    high: float | None = None
    verdict: Literal["holds", "does not hold here", "not enough runs"]


BOTTOM_LAYERS = Claim(
    text="Bottom layers matter more than top ones.",
    cite="Sajjad et al., 2020",
    better="dropping the top layers",
    worse="dropping as many bottom layers",
)

HARMONY = Claim(
    text="Reducing all dimensions in harmony beats reducing one at equal size.",
    cite="Ganesh et al., 2021",
    better="reducing depth, heads, neurons and hidden size together",
    worse="reducing one of them",
)

ATTENTION = Claim(
    text="Adding attention, values included, beats logits and hidden states alone.",
    cite="Ganesh et al., 2021",
    better="logits, hidden states, attention scores and values",
    worse="logits and hidden states",
)

COMBINING = Claim(
    text="Combining targets of distillation beats each of them.",
    cite="Ganesh et al., 2021",
    better="several targets together",
    worse="the best of them alone",
)

GENERAL_FIRST = Claim(
    text="Distillation on text before that on the task beats distillation on the task alone.",
    cite="Ganesh et al., 2021",
    better="a stage on unlabelled text, then the task",
    worse="the task alone",
)


def check(claim: Claim, better: Sequence[float], worse: Sequence[float], *, seed: int = 0) -> Verdict:
    """Weigh a claim.

    Args:
        claim: that ``better`` scores higher than ``worse``.
        better: scores in percent, one a pair.
        worse: scores of the same pairs, in the same order.
        seed: of the bootstrap.

    Raises:
        ValueError: the two are not of one length.
    """
    differences = [one - other for one, other in zip(better, worse, strict=True)]
    pairs = len(differences)
    if pairs < FEWEST:
        mean = sum(differences) / pairs if pairs else None
        return Verdict(claim=claim, pairs=pairs, value=mean, verdict="not enough runs")
    value, low, high = mean_interval(differences, seed=seed)
    verdict: Literal["holds", "does not hold here"] = "holds" if low > 0 else "does not hold here"
    return Verdict(claim=claim, pairs=pairs, value=value, low=low, high=high, verdict=verdict)


def bottom_layers_matter(dropped_top: Sequence[float], dropped_bottom: Sequence[float], *, seed: int = 0) -> Verdict:
    """:data:`BOTTOM_LAYERS` on scores after the top k and the bottom k layers were dropped, pair by pair."""
    return check(BOTTOM_LAYERS, dropped_top, dropped_bottom, seed=seed)


def harmony_wins(all_dimensions: Sequence[float], one_dimension: Sequence[float], *, seed: int = 0) -> Verdict:
    """:data:`HARMONY` on scores after all dimensions and after one was reduced to the same size, pair by pair."""
    return check(HARMONY, all_dimensions, one_dimension, seed=seed)
