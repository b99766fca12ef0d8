"""Claims of the literature, checked on our own runs: paired scores in, a verdict out.

Most claims say that one way beats another at equal size.  A pair is two runs that differ in nothing else: the same
task, seed, and number of layers or parameters.  The verdict follows from the bootstrap interval of the mean difference:
one that lies on both sides leaves the claim open.  One claim is of a vocabulary, and needs texts alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict

from bertpress.tasks.bootstrap import mean_interval

FEWEST = 5
"""Pairs that a verdict needs: with fewer, a bootstrap of their mean draws nearly the same pairs again and again."""


Answer = Literal["holds", "does not hold here", "not enough runs", "needs a GPU"]


class Claim(BaseModel):
    """A statement that runs can speak for or against.

    Attributes:
        text: the statement.
        cite: who made it.
        better: what scores higher if it is true, or the runs that it is about.
        worse: what it is compared with; empty where it is about runs of one kind.
        section: of the source.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    text: str
    cite: str
    better: str
    worse: str = ""
    section: str = ""


class Verdict(BaseModel):
    """What the runs say of a claim.

    Attributes:
        claim: that was checked.
        pairs: how many there were, or runs where nothing is paired.
        value: mean difference, positive for the claim; None without pairs.
        low: of its 95 % interval; None where there are too few pairs.
        high: likewise.
        verdict: it holds, or does not, if the whole interval lies on one side; else more runs are needed.
        unit: of the difference.
        evidence: what was looked at, in words.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    claim: Claim
    pairs: int
    value: float | None = None
    low: float | None = None
    high: float | None = None
    verdict: Answer
    unit: str = "points"
    evidence: tuple[str, ...] = ()


BOTTOM_LAYERS = Claim(
    text="Bottom layers matter more than top ones.",
    cite="Sajjad et al., 2020",
    better="dropping the top layers",
    worse="dropping as many bottom layers",
)

HARMONY = Claim(
    text="Reducing all dimensions in harmony beats reducing one at equal size.",
    cite="Ganesh et al., 2021",
    better="reducing heads, neurons and hidden size together",
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
    return decide(claim, [one - other for one, other in zip(better, worse, strict=True)], seed=seed)


def decide(
    claim: Claim,
    differences: Sequence[float],
    *,
    above: float = 0.0,
    unit: str = "points",
    evidence: Sequence[str] = (),
    confidence: float = 0.95,
    seed: int = 0,
) -> Verdict:
    """Weigh a claim by values that are large if it is true.

    Args:
        claim: that their mean lies above ``above``.
        differences: one a pair or a run, independent of each other.
        above: see there.
        unit: of the differences.
        evidence: what was looked at.
        confidence: of the interval; more than 95 % where the best of several is weighed.
        seed: of the bootstrap.
    """
    pairs, told = len(differences), {"unit": unit, "evidence": tuple(evidence)}
    if pairs < FEWEST:
        mean = sum(differences) / pairs if pairs else None
        return Verdict(claim=claim, pairs=pairs, value=mean, verdict="not enough runs", **told)
    value, low, high = mean_interval(differences, seed=seed, confidence=confidence)
    return Verdict(claim=claim, pairs=pairs, value=value, low=low, high=high, verdict=judged(low, high, above), **told)


def settled(claim: Claim, value: float, true: bool, *, unit: str, evidence: Sequence[str] = ()) -> Verdict:
    """The verdict on a claim that follows from a shape alone: there is nothing to draw again."""
    told = {"unit": unit, "evidence": tuple(evidence)}
    answer: Answer = "holds" if true else "does not hold here"
    return Verdict(claim=claim, pairs=1, value=value, low=value, high=value, verdict=answer, **told)


def judged(low: float, high: float, above: float = 0.0) -> Answer:
    """What an interval says of the claim that a value lies above another.

    >>> judged(0.1, 0.9), judged(-0.9, -0.1), judged(-0.1, 0.9)
    ('holds', 'does not hold here', 'not enough runs')
    """
    if low > above:
        return "holds"
    return "does not hold here" if high <= above else "not enough runs"
