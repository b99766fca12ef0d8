"""Importance of units, a strip for each layer: filled is what was kept, hollow what went."""

from collections.abc import Sequence
from dataclasses import dataclass

from bertpress.report.charts import axes
from bertpress.report.markup import Markup, element
from bertpress.report.numerals import significant, typeset

WIDTH, ROW, LEFT, RIGHT, RADIUS = 420, 22, 30, 412, 3.5


@dataclass(frozen=True)
class Strip:
    """One layer: the importance of each unit, and whether it was kept."""

    label: str
    units: Sequence[tuple[float, bool]]


def strips(layers: Sequence[Strip], *, title: str) -> Markup:
    """Draw the strips over one axis, logarithmic where the importances spread over several-fold.

    Args:
        layers: at least one of which has a unit.
        title: read aloud in place of the picture.
    """
    across = axes.fitting([score for layer in layers for score, _ in layer.units], LEFT + RADIUS, RIGHT, ticks=5)
    floor = ROW * len(layers) + 6
    drawing = [
        *axes.below(across, floor, 4, axes.plain, left=LEFT),
        [_strip(layer, across, ROW * index + 6) for index, layer in enumerate(layers)],
    ]
    return element(
        "svg", drawing, viewBox=f"0 0 {WIDTH} {floor + 22}", role="img", aria_label=title, class_="chart strips"
    )


def _strip(layer: Strip, across: axes.Axis, top: float) -> Markup:
    dots = [
        element(
            "circle",
            element("title", typeset(f"layer {layer.label}: {significant(score)}, {'kept' if kept else 'removed'}")),
            cx=across(score),
            cy=top + ROW / 2,
            r=RADIUS,
            class_="kept" if kept else "gone",
        )
        for score, kept in sorted(layer.units)
    ]
    return element("g", element("text", layer.label, x=LEFT - 8, y=top + 15, text_anchor="end", class_="tick"), dots)
