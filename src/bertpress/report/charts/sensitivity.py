"""How sensitive each part of a model is, as bars, and the bits that it was given for it."""

from collections.abc import Sequence
from dataclasses import dataclass

from bertpress.report.charts import axes
from bertpress.report.markup import Markup, element
from bertpress.report.numerals import typeset

WIDTH, ROW, RIGHT = 420, 24, 352


@dataclass(frozen=True)
class Part:
    """One part: its measure, its bits, and what is said of it."""

    label: str
    measure: float | None
    bits: float | None
    words: str


def sensitivity(parts: Sequence[Part], *, title: str, left: int = 30) -> Markup:
    """A bar for each part, on a logarithmic axis where the measures spread over several-fold.

    Args:
        parts: at least one of which has a measure.
        title: read aloud in place of the picture.
        left: room for the labels.
    """
    measures = [part.measure for part in parts if part.measure is not None]
    across = axes.fitting(measures, left, RIGHT, ticks=5)
    if not across.logarithmic:
        across = axes.linear(measures, left, RIGHT, ticks=5, zero=True)
    floor = ROW * len(parts) + 6
    most = max((part.bits for part in parts if part.bits is not None), default=None)
    drawing = [
        *axes.below(across, floor, 4, axes.plain),
        [_row(part, across, left, ROW * index + 6, most) for index, part in enumerate(parts)],
    ]
    return element(
        "svg", drawing, viewBox=f"0 0 {WIDTH} {floor + 22}", role="img", aria_label=title, class_="chart sensitivity"
    )


def _row(part: Part, across: axes.Axis, left: int, top: float, most: float | None) -> Markup:
    origin = across.start if across.logarithmic else across(0.0)
    bits = "" if part.bits is None else f"{part.bits:,.4g} bits"
    drawn = [element("text", part.label, x=left - 8, y=top + 13, text_anchor="end", class_="tick")]
    if part.measure is not None:
        end = across(part.measure)
        drawn.append(element("title", typeset(part.words)))
        start, width = min(origin, end), max(1.0, abs(end - origin))
        drawn.append(element("rect", x=start, y=top + 2, width=width, height=ROW - 9, rx=2, class_="amount"))
    drawn.append(element("text", bits, x=WIDTH, y=top + 13, text_anchor="end", class_="label") if bits else Markup())
    return element("g", drawn, class_="artifact" if part.bits is not None and part.bits == most else "baseline")
