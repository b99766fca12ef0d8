"""What a point of the metric costs in a study: plots for its page, and who lies on the fronts, in Markdown."""

from collections.abc import Callable

from bertpress.report import numerals
from bertpress.report.charts import bars
from bertpress.report.charts.scatter import Point, scatter
from bertpress.report.markup import Markup, element, join
from bertpress.report.plain import pipes
from bertpress.report.reading import Results, change_bounds, items, mapping, number, text
from bertpress.report.sections import hint, missing
from bertpress.report.subjects import shortened

ROLES = {"baseline": "teacher", "artifact": "none beats it in both", "dominated": "another does"}
COSTS: dict[str, tuple[str, Callable[[float | None], str]]] = {
    "packed": ("packed file", numerals.size),
    "size": ("file that the engine loads", numerals.size),
    "latency": ("median latency, one text at a time", numerals.milliseconds),
}
HEADINGS = ("Task", "Cost", "Recipes that none beats in cost and change, cheapest first")


def fronts(study: Results) -> Markup:
    """Change of the score against each cost, a plot for each task; a line of the table is one mark in all of them."""
    charts = [chart for front in items(study, "fronts") if (chart := _front(mapping(front))) is not None]
    if not charts:
        return missing("Trade-offs")
    words = (
        "Grey: another recipe is at least as cheap and as good. Vertical bars are 95 % intervals. Pointing at a mark "
        "shows the same recipe everywhere."
    )
    return join(hint(words), bars.legend(list(ROLES.items())), element("div", charts, class_="grid two"))


def _front(front: Results) -> Markup | None:
    task, cost = text(front, "task") or "", text(front, "cost") or ""
    if cost not in COSTS:
        return None
    x_label, show = COSTS[cost]
    level = number(front, "teacher")
    points = [] if level is None else [Point("teacher", "baseline", level, 0.0)]
    for each in items(front, "points"):
        x, drop = number(each, "cost"), number(each, "drop")
        if x is None or drop is None:
            continue
        name = text(each, "label") or ""
        role = "dominated" if mapping(each).get("dominated") else "artifact"
        points.append(Point(shortened(name), role, x, -drop, *change_bounds(each), link=name))
    if not points:
        return None
    title = f"{task}: change against {cost}"
    ours = sorted((point for point in points if point.role == "artifact"), key=lambda point: point.x)
    chart = scatter(points, title=title, x_label=x_label, y_label="points", show_x=show, curve=ours)
    return element("figure", element("figcaption", element("strong", title)), chart)


def fronts_table(study: Results) -> str:
    """Who lies on each front of ``study.json``, with cost and change in points, in GitHub's Markdown."""
    rows = []
    for front in items(study, "fronts"):
        cost = text(front, "cost") or ""
        if cost not in COSTS:
            continue
        name, show = COSTS[cost]
        points = [mapping(point) for point in items(front, "points") if not mapping(point).get("dominated")]
        best = sorted(points, key=lambda point: number(point, "cost") or 0.0)
        told = [
            (text(point, "label"), show(number(point, "cost")), numerals.signed(-(number(point, "drop") or 0.0)))
            for point in best
        ]
        words = ", ".join(f"{label} ({price}, {change})" for label, price, change in told)
        rows.append((text(front, "task") or "", name, words))
    return pipes(HEADINGS, rows) + "\n"
