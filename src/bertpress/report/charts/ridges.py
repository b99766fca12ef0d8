"""How latencies spread: a density for each candidate on one axis, its median and 90th percentile marked."""

from collections.abc import Sequence
from dataclasses import dataclass

from bertpress.report.charts import axes
from bertpress.report.markup import Markup, element
from bertpress.report.numerals import milliseconds, typeset

WIDTH, ROW, LEFT, RIGHT = 420, 58, 8, 412
BINS = 72


@dataclass(frozen=True)
class Distribution:
    """Raw samples of one candidate, in milliseconds (positive), with their median and 90th percentile."""

    label: str
    role: str
    samples: Sequence[float]
    median: float | None
    p90: float | None


def ridges(distributions: Sequence[Distribution], *, title: str) -> Markup:
    """Draw the densities under one another; each is scaled to its own peak.

    Args:
        distributions: at least one, each with at least one sample.
        title: read aloud in place of the picture.
    """
    across = axes.fitting([sample for d in distributions for sample in d.samples], LEFT + 4, RIGHT - 4)
    floor = ROW * len(distributions) + 6
    drawing = axes.below(across, floor, 4, axes.short(milliseconds))
    for index, distribution in enumerate(distributions):
        drawing.append(_ridge(distribution, across, base=ROW * (index + 1)))
    return element(
        "svg",
        drawing,
        viewBox=f"0 0 {WIDTH} {floor + 22}",
        role="img",
        aria_label=title,
        class_="chart ridges",
    )


def _ridge(distribution: Distribution, across: axes.Axis, *, base: float) -> Markup:
    heights = density([across(sample) for sample in distribution.samples], across.start, across.end)
    width = (across.end - across.start) / BINS
    outline = [f"{across.start + (i + 0.5) * width:.1f} {base - 34 * h:.1f}" for i, h in enumerate(heights)]
    figures = f"{milliseconds(distribution.median)}, p90 {milliseconds(distribution.p90)}"
    parts = [
        element(
            "title",
            f"{distribution.label}: ",
            typeset(f"median {figures}, {len(distribution.samples)} samples"),
        ),
        element("path", d=f"M{across.start} {base}L{'L'.join(outline)}L{across.end} {base}Z", class_="density"),
    ]
    for found, name in ((distribution.median, "median"), (distribution.p90, "p90")):
        if found is not None:
            x = across(found)
            parts.append(element("line", x1=x, x2=x, y1=base - 34, y2=base, class_=name))
    parts.append(element("text", distribution.label, x=LEFT, y=base - 42, class_="label"))
    parts.append(element("text", typeset(figures), x=RIGHT, y=base - 42, text_anchor="end", class_="figure"))
    return element("g", parts, class_=f"ridge {distribution.role}")


def density(positions: Sequence[float], start: float, end: float) -> list[float]:
    """Smoothed histogram of positions in [start, end], in ``BINS`` bins, scaled so that its peak is 1."""
    counts = [0.0] * BINS
    for position in positions:
        counts[min(BINS - 1, int((position - start) / (end - start) * BINS))] += 1
    for _ in range(2):  # a binomial kernel, twice: enough to calm sixty samples, too little to hide two modes
        padded = [counts[0], *counts, counts[-1]]
        counts = [(padded[i] + 2 * padded[i + 1] + padded[i + 2]) / 4 for i in range(BINS)]
    peak = max(counts)
    return [value / peak for value in counts]
