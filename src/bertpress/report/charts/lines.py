"""Scores over a setting, one line for each thing that was set, with interval bars and the baseline's level."""

from collections.abc import Sequence
from dataclasses import dataclass

from bertpress.report.charts import axes
from bertpress.report.charts.scatter import SHAPES
from bertpress.report.markup import Markup, element
from bertpress.report.numerals import interval, typeset

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 420, 300, 40, 406, 24, 254
APART = 5
"""Between bars of different lines at one place of the axis, in units of the drawing."""


@dataclass(frozen=True)
class Score:
    """A score at one setting, with its interval where it has one."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Line:
    """Scores that belong together, ascending by their setting; ``role`` decides mark and colour."""

    label: str
    role: str
    scores: Sequence[Score]


def lines(series: Sequence[Line], *, level: float | None, title: str, x_label: str, y_label: str) -> Markup:
    """Draw the lines over one axis with a tick at every setting.

    Args:
        series: at least one, each with at least one score.
        level: of the baseline, as a dashed line; None draws none.
        title: read aloud in place of the picture.
        x_label: what the horizontal axis sets.
        y_label: what the vertical axis counts.
    """
    scores = [score for line in series for score in line.scores]
    settings = sorted({score.x for score in scores})
    wide = axes.linear(settings, LEFT, RIGHT)
    across = axes.Axis(wide.low, wide.high, wide.start, wide.end, tuple(settings))
    bounds = [bound for s in scores for bound in (s.y, s.low, s.high) if bound is not None]
    upward = axes.linear([*bounds, *([] if level is None else [level])], BOTTOM, TOP)
    drawing: list[Markup] = [
        *axes.beside(upward, LEFT, RIGHT, axes.plain),
        *axes.below(across, BOTTOM, TOP, axes.plain, left=LEFT, grid=False),
        element("text", x_label, x=(LEFT + RIGHT) / 2, y=HEIGHT - 10, text_anchor="middle", class_="name"),
        element("text", y_label, x=4, y=12, class_="name"),
    ]
    if level is not None:
        y = upward(level)
        drawing.append(element("line", x1=LEFT, x2=RIGHT, y1=y, y2=y, class_="level"))
    middle = (len(series) - 1) / 2
    drawing += [_line(line, across, upward, APART * (index - middle)) for index, line in enumerate(series)]
    return element("svg", drawing, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=title, class_="chart lines")


def _line(line: Line, across: axes.Axis, upward: axes.Axis, shift: float) -> Markup:
    places = [(across(score.x) + shift, upward(score.y)) for score in line.scores]
    path = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
    marks = [_mark(line, score, x, y, upward) for score, (x, y) in zip(line.scores, places, strict=True)]
    return element("g", element("path", d=f"M{path}", class_="line"), marks, class_=f"point {line.role}")


def _mark(line: Line, score: Score, x: float, y: float, upward: axes.Axis) -> Markup:
    words = typeset(f"{axes.plain(score.x)}: {interval(score.y, score.low, score.high)}")
    parts = [element("title", f"{line.label}, ", words)]
    if score.low is not None and score.high is not None:
        parts.append(element("line", x1=x, x2=x, y1=upward(score.high), y2=upward(score.low), class_="bar"))
    parts.append(element("circle", cx=x, cy=y, r=10, class_="target"))
    shape = SHAPES.get(line.role, SHAPES["candidate"])
    parts.append(element("path", d=shape, transform=f"translate({x:.1f} {y:.1f}) scale(0.75)", class_="mark"))
    return element("g", parts)
