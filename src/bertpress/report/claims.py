"""Verdicts on the claims of the literature in words: for the page of a study, and as a table in Markdown."""

from collections import Counter
from collections.abc import Sequence

from bertpress.report.numerals import NOT_MEASURED
from bertpress.report.plain import pipes
from bertpress.report.reading import Results, items, mapping, number, text

RATIOS = ("times", "rank correlation")
"""Units of which a tenth is much."""
HEADINGS = ("Claim", "Section", "Verdict", "Difference", "Pairs or samples", "Evidence")


def tally(claims: Sequence[Results]) -> str:
    """How many claims got which verdict.

    >>> tally([{"verdict": "holds"}, {"verdict": "not enough runs"}, {"verdict": "holds"}])
    '2 holds, 1 not enough runs'
    """
    counts = Counter(text(each, "verdict") or "" for each in claims)
    return ", ".join(f"{count} {answer}" for answer, count in counts.items())


def difference(claim: Results) -> str:
    """Its value with the interval and the unit.

    >>> difference({"value": 1.25, "low": 0.5, "high": 2.0, "unit": "points"})
    '+1.2 [+0.5, +2.0] points'
    """
    value, low, high = (number(claim, key) for key in ("value", "low", "high"))
    if value is None:
        return NOT_MEASURED
    unit = text(claim, "unit") or ""
    digits = 2 if unit in RATIOS else 1
    bounds = "" if low is None or high is None or low == high else f" [{low:+.{digits}f}, {high:+.{digits}f}]"
    return f"{value:+.{digits}f}{bounds} {unit}".rstrip()


def claims_table(study: Results) -> str:
    """All claims of ``study.json``, in GitHub's Markdown."""
    found = [mapping(claim) for claim in items(study, "claims")]
    rows = [
        (
            text(each, "claim", "text") or "",
            text(each, "claim", "section") or "",
            text(each, "verdict") or "",
            difference(each),
            f"{number(each, 'pairs') or 0:g}",
            "; ".join(map(str, items(each, "evidence"))),
        )
        for each in found
    ]
    return f"{tally(found)}.\n\n{pipes(HEADINGS, rows)}\n"
