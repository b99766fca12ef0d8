"""The section on sub-networks: what one model scores at each of its widths and depths, and which of them pay."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from bertpress.report import comparison, numerals
from bertpress.report.charts import bars
from bertpress.report.charts.scatter import Point, scatter
from bertpress.report.markup import Markup, element, join
from bertpress.report.reading import Results, items, mapping, number
from bertpress.report.sections import capital, hint

ON, OFF = "artifact", "candidate"
WORDS = {ON: "none is both smaller and better", OFF: "another is"}


def subnetworks(results: Results) -> Markup | None:
    """Score against size and against arithmetic; None where nothing of the kind was measured.

    Args:
        results: with ``subnetworks``, or a stage whose notes have it: a list of mappings with ``width``, ``depth``,
            ``weight_bytes``, ``macs``, ``metric``.
    """
    found = list(_entries(results))
    name = capital(comparison.metric_name(*map(mapping, found))) if found else ""
    charts = [
        _chart(found, f"{name} against size", "packed file", numerals.size, "weight_bytes"),
        _chart(found, f"{name} against arithmetic", "MACs of one text", numerals.quantity, "macs"),
    ]
    if not any(charts):
        return None
    words = "Names are width by depth, as shares of the whole. Vertical bars are 95 % intervals."
    return join(hint(words), bars.legend(list(WORDS.items())), element("div", charts, class_="grid"))


def _entries(results: Results) -> Iterator[Results]:
    yield from map(mapping, items(results, "subnetworks"))
    for stage in items(results, "stages"):
        yield from map(mapping, items(stage, "notes", "subnetworks"))


def _chart(
    found: Sequence[Results], title: str, x_label: str, show: Callable[[float | None], str], key: str
) -> Markup | None:
    measured = []
    for entry in found:
        x, y = number(entry, key), number(entry, "metric", "value")
        if x is not None and y is not None:
            label = " × ".join(numerals.exact(number(entry, share)) or "?" for share in ("width", "depth"))
            measured.append(Point(label, OFF, x, y, *(number(entry, "metric", bound) for bound in ("low", "high"))))
    if not measured:
        return None
    curve = front(measured)
    chart = scatter(
        [*curve, *(point for point in measured if replace(point, role=ON) not in curve)],
        title=title,
        x_label=x_label,
        y_label="percent",
        show_x=show,
        curve=curve,
    )
    return element("figure", element("figcaption", element("strong", title)), chart)


def front(points: Sequence[Point]) -> list[Point]:
    """The Pareto front, by cost: points than which none is cheaper or equal in cost and better or equal in score."""
    best: list[Point] = []
    for point in sorted(points, key=lambda each: (each.x, -each.y)):
        if not best or point.y > best[-1].y:
            best.append(replace(point, role=ON))
    return best
