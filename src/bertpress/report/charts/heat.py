"""A heat map: a row for each layer, a column for each of its parts, and blocks with columns of their own."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from bertpress.report.markup import Markup, element
from bertpress.report.numerals import percent, significant, typeset

WIDTH, LEFT, ROW, GAP, TOP = 420, 40, 24, 2, 18
PALEST, DARKEST, MOST_BITS = 0.06, 0.5, 32  # the darkest still lets text be read on it


@dataclass(frozen=True)
class Cell:
    """One place of the map: how dark it is, what stands in it, and ``words`` that say what lies there."""

    opacity: float
    shown: str
    words: str


def bits_cell(bits: float, words: str) -> Cell:
    """A place that takes so many bits a weight: the more, the darker."""
    return Cell(shade(bits), significant(bits), words)


def share_cell(share: float, words: str) -> Cell:
    """A place of which a share, from 0 to 1, is left: the more, the darker."""
    return Cell(tint(share), percent(share), words)


@dataclass(frozen=True)
class Block:
    """Rows that share their columns; a place without a cell stays empty."""

    columns: Sequence[str]
    rows: Sequence[tuple[str, Sequence[Cell | None]]]


def heat(blocks: Sequence[Block], *, title: str) -> Markup:
    """Draw the blocks under one another.

    Args:
        blocks: each with at least one column.
        title: read aloud in place of the picture.
    """
    columns = max((len(block.columns) for block in blocks), default=1)
    width = (WIDTH - LEFT) / columns
    drawing: list[Markup] = []
    top = 0.0
    for block in blocks:
        places = [LEFT + width * index for index in range(len(block.columns))]
        drawing += [
            element("text", name, x=x + width / 2, y=top + 12, text_anchor="middle", class_="tick")
            for x, name in zip(places, block.columns, strict=True)
        ]
        top += TOP
        for label, cells in block.rows:
            drawing.append(element("text", label, x=LEFT - 10, y=top + 15, text_anchor="end", class_="tick"))
            drawing += [_cell(cell, x, top, width) for x, cell in zip(places, cells, strict=True)]
            top += ROW
        top += 14
    return element(
        "svg", drawing, viewBox=f"0 0 {WIDTH} {top - 12:.0f}", role="img", aria_label=title, class_="chart heat"
    )


def _cell(cell: Cell | None, x: float, top: float, width: float) -> Markup:
    place = {"x": x + GAP / 2, "y": top, "width": width - GAP, "height": ROW - GAP, "rx": 3.0}
    if cell is None:
        return element("rect", **place, class_="empty")
    return element(
        "g",
        element("title", typeset(cell.words)),
        element("rect", **place, class_="heat", fill_opacity=cell.opacity),
        element("text", typeset(cell.shown), x=x + width / 2, y=top + 15, text_anchor="middle"),
    )


def tint(share: float) -> float:
    """Opacity of a cell, from 0 to 1 of whatever it counts."""
    return PALEST + (DARKEST - PALEST) * min(max(share, 0.0), 1.0)


def shade(bits: float) -> float:
    """Opacity of a number of bits: logarithmic, from 1 bit to ``MOST_BITS``."""
    return tint(math.log2(min(max(bits, 1.0), MOST_BITS)) / math.log2(MOST_BITS))
