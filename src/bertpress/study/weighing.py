"""How claims are weighed: pairs of runs, drops, sizes and clocks, each with an interval of its own."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
from scipy.stats import spearmanr

from bertpress.measure.statistics import median_interval
from bertpress.study.claims import Claim, Verdict, decide, judged
from bertpress.study.evidence import Cell, Evidence, Run

Which: TypeAlias = "Callable[[Run], Any]"
"""Whether a run is of a kind; what it returns is taken as true or false."""
Near: TypeAlias = "Callable[[Run, Run], bool]"
"""Whether two runs may be compared."""

SAME_SIZE = 0.15
"""Two files are of one size if they differ by no more than this share of the larger."""
RESAMPLES = 2000


def same_size(one: Run, other: Run) -> bool:
    """Whether the packed files are of one size."""
    return _close(one.percent, other.percent)


def same_encoder(one: Run, other: Run) -> bool:
    """Whether as many parameters are left beside the embeddings."""
    return _close(one.parameters_without, other.parameters_without)


def same_depth(one: Run, other: Run) -> bool:
    """Whether as many layers are left."""
    return len(one.layers) == len(other.layers) > 0


def same_shape(one: Run, other: Run) -> bool:
    """Whether depth, heads, neurons and parameters agree."""
    return one.layers == other.layers and one.parameters_without == other.parameters_without


def _close(one: float | None, other: float | None) -> bool:
    return bool(one and other) and abs(one - other) <= SAME_SIZE * max(one, other)  # type: ignore[operator,type-var]


def pairs(runs: Sequence[Run], better: Which, worse: Which, near: Near) -> Iterator[tuple[Run, Run]]:
    """Every run of the better kind with the best comparable one of the other, on the same model, task and seed."""
    for one in runs:
        if one.score is None or not better(one):
            continue
        others = [
            other
            for other in runs
            if other.cell == one.cell and other.score is not None and worse(other) and near(one, other)
        ]
        if others:
            yield one, max(others, key=lambda other: other.score or 0.0)


def by_cell(values: Sequence[tuple[Cell, float]]) -> list[float]:
    """Means over what shares model, task and seed, which is not independent of each other."""
    found: dict[Cell, list[float]] = defaultdict(list)
    for cell, value in values:
        found[cell].append(value)
    return [sum(each) / len(each) for each in found.values()]


def advantage(
    claim: Claim, evidence: Evidence, better: Which, worse: Which, near: Near, *, margin: float = 0.0
) -> Verdict:
    """That one kind of run scores higher than the other, or lower by less than a margin."""
    found = list(pairs(evidence.runs, better, worse, near))
    gains = [(one.cell, (one.score or 0.0) - (other.score or 0.0)) for one, other in found]
    compared = dict.fromkeys(f"{one.label} against {other.label}" for one, other in found)
    return decide(claim, by_cell(gains), above=-margin, evidence=tuple(compared))


def keeps(claim: Claim, evidence: Evidence, which: Which, *, most: float) -> Verdict:
    """That runs of a kind lose less than so many points: the best line of the table is weighed.

    The interval is widened by the number of lines that it was chosen from (Bonferroni).  The value is what is left of
    the permitted loss.
    """
    lines: dict[str, list[tuple[Cell, float]]] = defaultdict(list)
    for run in evidence.runs:
        if run.drop is not None and which(run):
            lines[run.label].append((run.cell, most - run.drop))
    if not lines:
        return decide(claim, [])
    best = max(lines, key=lambda label: float(np.mean([value for _, value in lines[label]])))
    confidence = 1 - 0.05 / len(lines)
    return decide(claim, by_cell(lines[best]), evidence=[best], confidence=confidence)


def no_faster(claim: Claim, evidence: Evidence, which: Which, *, most: float) -> Verdict:
    """That the median speed-up of runs of a kind stays below ``most``; the value is what is left to it."""
    return _clocks(claim, evidence, which, lambda speedup: most - speedup)


def faster(claim: Claim, evidence: Evidence, which: Which) -> Verdict:
    """That runs of a kind are faster than their teachers on the same engine."""
    return _clocks(claim, evidence, which, lambda speedup: speedup - 1)


def _clocks(claim: Claim, evidence: Evidence, which: Which, judge: Callable[[float], float]) -> Verdict:
    """The median over the blocks of texts of all runs of a kind, with its distribution-free interval."""
    timed = [run for run in evidence.runs if run.speedups and which(run)]
    values = [judge(speedup) for run in timed for speedup in run.speedups]
    verdict = decide(claim, values, unit="times", evidence=tuple(dict.fromkeys(run.label for run in timed)))
    if verdict.low is None:
        return verdict
    low, high = median_interval(values)
    found = {"value": float(np.median(values)), "low": low, "high": high, "verdict": judged(low, high)}
    return verdict.model_copy(update=found)


def outpaces(claim: Claim, evidence: Evidence, better: Which, worse: Which, near: Near) -> Verdict:
    """That one kind of run is faster than the fastest comparable one of the other; the value is a percentage.

    Runs are compared by their speed-ups over the same teacher; the blocks of either are drawn again on their own.
    """
    compared: dict[str, tuple[list[float], list[float]]] = {}
    for one in evidence.runs:
        rivals = [
            other
            for other in evidence.runs
            if other.cell == one.cell and other.speedups and worse(other) and near(one, other) and not better(other)
        ]
        if one.speedups and better(one) and rivals:
            other = max(rivals, key=lambda rival: float(np.median(rival.speedups)))
            compared[f"{one.label} against {other.label}, {one.cell[1]}"] = (one.speedups, other.speedups)
    if not compared or min(len(side) for sides in compared.values() for side in sides) < 5:
        return decide(claim, [], unit="percent", evidence=tuple(compared))
    rng = np.random.default_rng(0)
    drawn = np.mean([_drawn(ours, rng) - _drawn(theirs, rng) for ours, theirs in compared.values()], axis=0)
    value = float(np.mean([np.log(ours).mean() - np.log(theirs).mean() for ours, theirs in compared.values()]))
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Verdict(
        claim=claim, pairs=len(compared), value=_percent(value), low=_percent(low), high=_percent(high), unit="percent",
        verdict=judged(low, high), evidence=tuple(compared),
    )  # fmt: skip


def _drawn(samples: Sequence[float], rng: np.random.Generator) -> Any:
    logs = np.log(samples)
    return logs[rng.integers(0, len(logs), (RESAMPLES, len(logs)))].mean(axis=1)


def _percent(log: float) -> float:
    return 100 * (float(np.exp(log)) - 1)


def lighter(claim: Claim, evidence: Evidence, better: Which, worse: Which, near: Near) -> Verdict:
    """That one kind of run needs less memory than each comparable one of the other; the value is a percentage."""
    found = [
        (one, other)
        for one in evidence.runs
        for other in evidence.runs
        if one.cell == other.cell and better(one) and worse(other) and near(one, other)
    ]
    saved = [
        100 * (1 - one.peak_bytes / other.peak_bytes) for one, other in found if one.peak_bytes and other.peak_bytes
    ]
    compared = dict.fromkeys(f"{one.label} against {other.label}" for one, other in found)
    return decide(claim, saved, unit="percent", evidence=tuple(compared))


def ranks_agree(
    claim: Claim, points: Sequence[tuple[float, float]], *, least: float, evidence: Sequence[str]
) -> Verdict:
    """That two quantities put things in one order: Spearman's correlation, with a bootstrap over the things."""
    if len(points) < 5:
        return decide(claim, [], unit="rank correlation", evidence=evidence)
    values, rng = np.asarray(points), np.random.default_rng(0)
    picks = (rng.integers(0, len(values), len(values)) for _ in range(RESAMPLES))
    drawn = [_spearman(values[pick]) for pick in picks if len(np.unique(pick)) > 2]
    low, high = (float(bound) for bound in np.percentile(drawn, [2.5, 97.5]))
    return Verdict(
        claim=claim, pairs=len(values), value=_spearman(values), low=low, high=high, unit="rank correlation",
        verdict=judged(low, high, least), evidence=tuple(evidence),
    )  # fmt: skip


def _spearman(values: Any) -> float:
    if (values == values[0]).all(axis=0).any():
        return 0.0
    return float(spearmanr(values[:, 0], values[:, 1]).statistic)
