"""Values of one matrix: how often each occurs, the few that replace them, and where outliers begin."""

import math
from collections.abc import Sequence

from bertpress.report.charts import axes
from bertpress.report.markup import Markup, element
from bertpress.report.numerals import significant, typeset

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM, FLOOR = 300, 150, 8, 292, 10, 116, 127


def histogram(
    start: float,
    end: float,
    counts: Sequence[float],
    *,
    ticks: Sequence[float],
    limits: Sequence[float],
    title: str,
) -> Markup:
    """Draw counts over [start, end] in bins of one width; heights are logarithmic, so that rare values show.

    Args:
        start: where the first bin begins.
        end: where the last one ends, above ``start``.
        counts: one a bin, at least one.
        ticks: values marked below the bars: the codebook.
        limits: values marked by dashed lines: beyond them lie the outliers.
        title: read aloud in place of the picture.
    """
    across = axes.linear([start, end], LEFT, RIGHT, ticks=6)
    heights = [math.log1p(max(0.0, count)) for count in counts]
    tallest = max(heights) or 1
    places = [across(start + (end - start) * index / len(counts)) for index in range(len(counts) + 1)]
    levels = [BOTTOM - (BOTTOM - TOP) * height / tallest for height in heights]
    outline = "".join(f"L{places[index]:.1f} {y:.1f}L{places[index + 1]:.1f} {y:.1f}" for index, y in enumerate(levels))
    drawing = [
        *axes.below(across, FLOOR, TOP, axes.plain, grid=False),
        element("path", d=f"M{places[0]:.1f} {BOTTOM}{outline}L{places[-1]:.1f} {BOTTOM}Z", class_="density"),
        [_mark(value, across(value), TOP - 4, BOTTOM, "limit", "outliers begin at") for value in limits],
        [_mark(value, across(value), BOTTOM + 2, FLOOR, "centroid", "centroid") for value in ticks],
    ]
    return element("svg", drawing, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=title, class_="chart values")


def _mark(value: float, x: float, top: float, bottom: float, kind: str, words: str) -> Markup:
    line = element("line", x1=x, x2=x, y1=top, y2=bottom, class_=kind)
    return element("g", element("title", typeset(f"{words} {significant(value)}")), line)
