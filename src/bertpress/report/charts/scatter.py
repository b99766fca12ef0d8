"""Score against cost: points with interval bars, the baseline's level as a dashed line."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

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

TOO_MUCH = 0.4
"""Share of a label that others may hide before it is left out; hovering still tells."""

Box = tuple[float, float, float, float]
Place = tuple[float, float, str]
"""x, y of the text's baseline, and its text-anchor."""


@dataclass(frozen=True)
class Point:
    """One thing that was measured; ``role`` decides its mark and colour, ``link`` joins its marks in several charts."""

    label: str
    role: str
    x: float
    y: float
    low: float | None = None
    high: float | None = None
    link: str | None = field(default=None, kw_only=True)


def scatter(
    points: Sequence[Point],
    *,
    title: str,
    x_label: str,
    y_label: str,
    show_x: Callable[[float | None], str],
    curve: Sequence[Point] = (),
) -> Markup:
    """Draw the points; lower x and higher y are better.

    Args:
        points: at least one.
        title: read aloud in place of the picture.
        x_label: what the horizontal axis counts.
        y_label: what the vertical axis counts.
        show_x: format of x values.
        curve: those of them that a line joins, in this order.
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
    if curve:
        path = "L".join(f"{across(point.x):.1f} {upward(point.y):.1f}" for point in curve)
        drawing.append(element("g", element("path", d=f"M{path}", class_="line"), class_=curve[0].role))
    placed = [(point, across(point.x), upward(point.y)) for point in points]
    for point, x, y in sorted(placed, key=lambda drawn: drawn[0].role == "artifact"):  # it lies on top
        drawing.append(_mark(point, x, y, upward, show_x))
    whiskers = [
        (x - 4, upward(p.high), x + 4, upward(p.low)) for p, x, _ in placed if p.low is not None and p.high is not None
    ]
    labels = place_labels([(p.label, x, y) for p, x, y in placed], whiskers, within=(LEFT, TOP, RIGHT, BOTTOM))
    for point, label in zip(points, labels, strict=True):
        if label is not None:
            x, y, anchor = label
            drawing.append(element("text", point.label, x=x, y=y, text_anchor=anchor, class_="label"))
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
    return element("g", parts, class_=f"point {point.role}", data_link=point.link)


def place_labels(
    points: Sequence[tuple[str, float, float]], obstacles: Sequence[Box] = (), *, within: Box
) -> list[Place | None]:
    """Put each label beside its point where it hits no mark, no obstacle and no label before it.

    Args:
        points: (label, x, y) of each, the most important first.
        obstacles: left, top, right, bottom of what is not to be hidden.
        within: left, top, right, bottom of the room.

    Returns:
        For each the place with the least overlap; None where that is still ``TOO_MUCH`` of the label.
    """
    marks = [(x - 8, y - 8, x + 8, y + 8) for _, x, y in points]
    taken: list[Box] = [*obstacles]
    places: list[Place | None] = []
    for index, (label, x, y) in enumerate(points):
        width = LETTER * len(label)
        others = [*taken, *marks[:index], *marks[index + 1 :]]
        choices: list[Place] = [
            (x + side, y + lift, anchor) for lift in (-8, 16, -24, 32) for side, anchor in ((11, "start"), (-11, "end"))
        ]
        costs = [_cost(_box(choice, width), others, within) for choice in choices]
        least = min(costs)
        best = choices[costs.index(least)]
        if least > TOO_MUCH:
            places.append(None)
        else:
            places.append(best)
            taken.append(_box(best, width))
    return places


def _cost(box: Box, others: Sequence[Box], room: Box) -> float:
    """How much of the box is hidden or lies outside, as a share of its size."""
    size = (box[2] - box[0]) * (box[3] - box[1])
    hidden = sum(_overlap(box, other) for other in others)
    return (hidden + 4 * (size - _overlap(box, room))) / (size or 1)


def _box(place: Place, width: float) -> Box:
    x, y, anchor = place
    left = x - width if anchor == "end" else x
    return (left, y - 11, left + width, y + 3)


def _overlap(one: Box, other: Box) -> float:
    across = min(one[2], other[2]) - max(one[0], other[0])
    down = min(one[3], other[3]) - max(one[1], other[1])
    return max(0.0, across) * max(0.0, down)
