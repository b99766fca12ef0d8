"""Score against cost: points with interval bars, the baseline's level as a dashed line."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bertpress.report.charts import axes
from bertpress.report.markup import Markup, element
from bertpress.report.numerals import interval, typeset

WIDTH, HEIGHT = 420, 300
LEFT, RIGHT, TOP, BOTTOM = 40, 406, 24, 254
LETTER = 6.6
"""Mean width of a letter of a label, in units of the drawing."""

SHAPES = {  # one for each role, so that colour is not needed to tell them apart
    "baseline": "M-6-6H6V6H-6Z",
    "artifact": "M-7 0A7 7 0 1 1 7 0A7 7 0 1 1-7 0Z",
    "engine": "M0-7L7 0L0 7L-7 0Z",
    "candidate": "M0-7L7 6H-7Z",
}

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Point:
    """One thing that was measured; ``role`` decides its mark and colour."""

    label: str
    role: str
    x: float
    y: float
    low: float | None = None
    high: float | None = None


def scatter(
    points: Sequence[Point], *, title: str, x_label: str, y_label: str, show_x: Callable[[float | None], str]
) -> Markup:
    """Draw the points; lower x and higher y are better.

    Args:
        points: at least one.
        title: read aloud in place of the picture.
        x_label: what the horizontal axis counts.
        y_label: what the vertical axis counts.
        show_x: format of x values.
    """
    across = axes.fitting([point.x for point in points], LEFT + 10, RIGHT)
    bounds = [bound for p in points for bound in (p.y, p.low, p.high) if bound is not None]
    upward = axes.linear(bounds, BOTTOM, TOP)
    drawing: list[Markup] = [
        *axes.beside(upward, LEFT, RIGHT, axes.plain),
        *axes.below(across, BOTTOM, TOP, axes.short(show_x), left=LEFT),
        element("text", x_label, x=(LEFT + RIGHT) / 2, y=HEIGHT - 10, text_anchor="middle", class_="name"),
        element("text", y_label, x=4, y=12, class_="name"),
        element("text", "↖ better", x=RIGHT, y=12, text_anchor="end", class_="hint"),
    ]
    for point in points:
        if point.role == "baseline":
            y = upward(point.y)
            drawing.append(element("line", x1=LEFT, x2=RIGHT, y1=y, y2=y, class_="level"))
    placed = [(point, across(point.x), upward(point.y)) for point in points]
    for point, x, y in sorted(placed, key=lambda drawn: drawn[0].role == "artifact"):  # it lies on top
        drawing.append(_mark(point, x, y, upward, show_x))
    whiskers = [
        (x - 4, upward(p.high), x + 4, upward(p.low)) for p, x, _ in placed if p.low is not None and p.high is not None
    ]
    labels = place_labels([(p.label, x, y) for p, x, y in placed], whiskers, within=(LEFT, TOP, RIGHT, BOTTOM))
    for point, (label_x, label_y, anchor) in zip(points, labels, strict=True):
        drawing.append(element("text", point.label, x=label_x, y=label_y, text_anchor=anchor, class_="label"))
    return element(
        "svg", drawing, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=title, class_="chart scatter"
    )


def _mark(point: Point, x: float, y: float, upward: axes.Axis, show_x: Callable[[float | None], str]) -> Markup:
    words = typeset(f"{show_x(point.x)}, {interval(point.y, point.low, point.high)}")
    parts = [element("title", f"{point.label}: ", words)]
    if point.low is not None and point.high is not None:
        top, bottom = upward(point.high), upward(point.low)
        parts.append(element("line", x1=x, x2=x, y1=top, y2=bottom, class_="bar"))
        parts += [element("line", x1=x - 4, x2=x + 4, y1=end, y2=end, class_="bar") for end in (top, bottom)]
    parts.append(element("circle", cx=x, cy=y, r=14, class_="target"))
    shape = SHAPES.get(point.role, SHAPES["candidate"])
    parts.append(element("path", d=shape, transform=f"translate({x:.1f} {y:.1f})", class_="mark"))
    return element("g", parts, class_=f"point {point.role}")


def place_labels(
    points: Sequence[tuple[str, float, float]], obstacles: Sequence[Box] = (), *, within: Box
) -> list[tuple[float, float, str]]:
    """Put each label beside its point where it hits no mark, no obstacle and no label before it.

    Args:
        points: (label, x, y) of each.
        obstacles: left, top, right, bottom of what is not to be hidden.
        within: left, top, right, bottom of the room.

    Returns:
        (x, y of the text's baseline, text-anchor) of each; the least overlap where no place is free.
    """
    marks = [(x - 8, y - 8, x + 8, y + 8) for _, x, y in points]
    taken: list[Box] = [*obstacles]
    places = []
    for index, (label, x, y) in enumerate(points):
        width = LETTER * len(label)
        others = [*taken, *(mark for other, mark in enumerate(marks) if other != index)]
        choices = [
            (x + side, y + lift, anchor) for lift in (-8, 16, -24, 32) for side, anchor in ((11, "start"), (-11, "end"))
        ]

        def cost(place: tuple[float, float, str], width: float = width, others: list[Box] = others) -> float:
            box = _box(place, width)
            return sum(_overlap(box, other) for other in others) + 4 * _outside(box, within)

        best = min(choices, key=cost)
        places.append(best)
        taken.append(_box(best, width))
    return places


def _box(place: tuple[float, float, str], width: float) -> Box:
    x, y, anchor = place
    left = x - width if anchor == "end" else x
    return (left, y - 11, left + width, y + 3)


def _overlap(one: Box, other: Box) -> float:
    across = min(one[2], other[2]) - max(one[0], other[0])
    down = min(one[3], other[3]) - max(one[1], other[1])
    return max(0.0, across) * max(0.0, down)


def _outside(box: Box, room: Box) -> float:
    whole = (box[2] - box[0]) * (box[3] - box[1])
    return whole - _overlap(box, room)
