"""What a search found: a page with its front, and a table for the terminal."""

from collections.abc import Callable

import yaml
from rich.table import Table
from rich.text import Text

from bertpress.report import numerals
from bertpress.report.charts import bars
from bertpress.report.charts.scatter import Point, scatter
from bertpress.report.document import Section, document
from bertpress.report.fronts import ROLES
from bertpress.report.markup import Markup, element, join
from bertpress.report.numerals import NOT_MEASURED, interval, points, typeset
from bertpress.report.reading import Results, change_bounds, items, mapping, number, text
from bertpress.report.run import environment
from bertpress.report.sections import definitions, hint, missing

COSTS: dict[str, tuple[str, Callable[[float | None], str]]] = {
    "latency": ("predicted latency, one text at a time", numerals.milliseconds),
    "size": ("bytes of the artifact", numerals.size),
    "memory": ("bytes that the engine loads", numerals.size),
}
HEADINGS = ("Candidate", "Cost", "Measured", "Drop on the rows chosen on", "Keeps the limit", "Took")


def search_page(found: Results) -> str:
    """Render ``search.json`` as one HTML page that needs nothing else.

    Args:
        found: any key may be missing.
    """
    winner = mapping(found, "winner")
    task, target = text(found, "task", "name") or "", text(found, "aim", "target") or ""
    parts = [
        Section("front", "What a point costs", _front(found)),
        Section("sure", "How sure it is", definitions(_sure(found))),
        Section("candidates", "Candidates", _candidates(found)),
        Section("recipe", "The winner's recipe", element("pre", _recipe(winner))),
        Section("environment", "Environment", environment(mapping(found, "environment"))),
    ]
    header = join(
        element("p", "bertpress search", class_="eyebrow"),
        element("h1", f"{task}: {text(winner, 'name') or NOT_MEASURED}"),
        element("p", f"The least {target} within {text(found, 'aim', 'max_drop')} points. ",
                text(winner, "recipe", "summary") or "", class_="lead"),
    )  # fmt: skip
    command = text(found, "command")
    return document(f"search, {task}", header, parts, element("pre", command, class_="command") if command else None)


def search_table(found: Results) -> Table:
    """The front and the winner, for a terminal."""
    table = Table(
        title=f"winner: {text(found, 'winner', 'name')}; {text(found, 'sure', 'holds')}", title_justify="left"
    )
    for heading in HEADINGS:
        table.add_column(heading, justify="left" if heading == "Candidate" else "right")
    front = items(found, "front")
    for each in map(mapping, items(found, "candidates")):
        if text(each, "name") in front:
            table.add_row(*map(Text, _cells(found, each)))
    return table


def _costs(found: Results) -> tuple[str, Callable[[float | None], str]]:
    return COSTS.get(text(found, "aim", "target") or "", COSTS["latency"])


def _cells(found: Results, each: Results) -> list[str]:
    show = _costs(found)[1]
    drop = [number(each, "drop", key) for key in ("value", "low", "high")]
    return [
        text(each, "name") or "",
        show(number(each, "cost")),
        _measured(found, each),
        text(each, "failure") or points(*drop),
        numerals.percent(number(each, "probability")),
        numerals.duration(number(each, "seconds")),
    ]


def _measured(found: Results, each: Results) -> str:
    """The target as it was measured of a finalist."""
    target = text(found, "aim", "target")
    if target == "memory":
        return numerals.size(number(each, "measured", "peak_memory_bytes"))
    return numerals.milliseconds(number(each, "measured", "latency_ms", "median"))


def _front(found: Results) -> Markup:
    x_label, show = _costs(found)
    names, drawn = items(found, "front"), []
    for each in map(mapping, items(found, "candidates")):
        x, drop, name = number(each, "cost"), number(each, "drop", "value"), text(each, "name") or ""
        if x is None or drop is None:
            continue
        role = "artifact" if name in names else "dominated"
        drawn.append(Point(name, role, x, -drop, *change_bounds(each, "drop"), link=name))
    if not drawn:
        return missing("Trade-offs")
    ours = sorted((point for point in drawn if point.role == "artifact"), key=lambda point: point.x)
    title = f"change against {text(found, 'aim', 'target')}"
    chart = scatter(drawn, title=title, x_label=x_label, y_label="points", show_x=show, curve=ours)
    words = "On rows which no candidate learnt from. Vertical bars are 95 % intervals."
    shown = [(role, ROLES[role]) for role in ("artifact", "dominated")]
    return join(hint(words), bars.legend(shown), element("figure", chart))


def _sure(found: Results) -> list[tuple[str, str]]:
    rows, report = mapping(found, "rows"), mapping(found, "winner", "validation")
    bounds = ("value", "low", "high")
    kept = numerals.percent(number(found, "sure", "probability"))
    where = "of selection" if rows.get("split") == "selection" else "cut from train"
    cut, seen = (
        points(*(number(source, "drop", key) for key in bounds)) for source in (mapping(found, "winner"), report)
    )
    score = interval(*(number(report, "metric", key) for key in bounds))
    return [
        ("Chosen on", f"{text(rows, 'chosen_on')} rows {where}: {cut}; keeps the limit with {kept} probability"),
        ("Reported on", f"{text(rows, 'validation')} rows of validation, once: {seen}; score {score}"),
        ("Verdict", text(found, "sure", "holds") or NOT_MEASURED),
    ]


def _candidates(found: Results) -> Markup:
    head = element("tr", [element("th", heading, scope="col") for heading in HEADINGS])
    lines = [
        element("tr", [element("td", typeset(cell)) for cell in _cells(found, mapping(each))])
        for each in items(found, "candidates")
    ]
    return element("div", element("table", element("thead", head), element("tbody", lines)), class_="scroll")


def _recipe(winner: Results) -> str:
    return yaml.safe_dump(dict(mapping(winner, "recipe")), sort_keys=False, allow_unicode=True)
