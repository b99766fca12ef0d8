"""The section on early exits: what each speed saves and costs, and behind which layers texts left."""

from collections.abc import Iterator

from bertpress.report import comparison, numerals
from bertpress.report.charts.scatter import Point, scatter
from bertpress.report.markup import Markup, element, join
from bertpress.report.reading import Results, items, mapping, number, text
from bertpress.report.sections import capital, hint


def exits(results: Results) -> Markup | None:
    """The curve that the speed was chosen on, and the layers at which each engine let texts go; None without exits."""
    chosen = number(results, "artifact", "exit_curve", "speed")
    points = [
        Point(f"speed {speed:g}", "artifact" if speed == chosen else "candidate", saving, metric)
        for point in map(mapping, items(results, "artifact", "exit_curve", "curve"))
        if (speed := number(point, "speed")) is not None
        and (saving := number(point, "saving")) is not None
        and (metric := number(point, "metric")) is not None
    ]
    if not points:
        return None
    name = capital(comparison.metric_name(mapping(results, "artifact")))
    title = f"{name} against the arithmetic that exits save"
    chart = scatter(
        points, title=title, x_label="times fewer MACs", y_label="percent", show_x=numerals.quantity, curve=points
    )
    rows = numerals.exact(number(results, "artifact", "exit_curve", "rows"))
    words = f"One model, each speed a point, on {rows} rows that no stage has read. The filled one is what it runs at."
    return join(
        hint(words),
        element("figure", element("figcaption", element("strong", title)), chart),
        element("ul", [element("li", line) for line in _depths(results)]),
    )


def _depths(results: Results) -> Iterator[str]:
    for engine, figures in mapping(results, "artifact", "engines").items():
        mean, whole = number(mapping(figures), "exits", "mean_layer"), items(mapping(figures), "exits", "layers")
        if mean is not None and whole:
            yield f"{engine}: {mean:.2f} of {text({'last': whole[-1]}, 'last')} layers on average, validation split"
