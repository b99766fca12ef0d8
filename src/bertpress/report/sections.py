"""The sections of a run's page, each a function of the results."""

from collections.abc import Callable

from bertpress.report import comparison, numerals
from bertpress.report.charts import bars, depth
from bertpress.report.charts.ridges import Distribution, ridges
from bertpress.report.charts.scatter import Point, scatter
from bertpress.report.markup import Markup, element, join
from bertpress.report.numerals import NOT_MEASURED, typeset
from bertpress.report.reading import Results, items, mapping, number, numbers, text, value
from bertpress.report.subjects import COLUMNS, Subject, cells, subjects

COMPONENTS = {
    "embeddings": "Embeddings",
    "mixer": "Convolutions and LSTMs",
    "attention_in": "Linear layers before attention",
    "attention": "Multi-head attention",
    "attention_out": "Linear layer after attention",
    "ffn": "Feed-forward",
    "head": "Task head",
}

ROLES = {
    "baseline": "baseline",
    "artifact": "artifact",
    "engine": "artifact on other engines",
    "candidate": "other candidates",
}


def component_name(key: str) -> str:
    """A component's key in words; unknown ones keep their key."""
    return COMPONENTS.get(key) or key.replace("_", " ").capitalize()


def capital(name: str) -> str:
    """The name with a capital first letter, the rest as it is."""
    return name[:1].upper() + name[1:]


def hint(words: str) -> Markup:
    """A line on how to read what follows."""
    return element("p", words, class_="hint")


def missing(what: str) -> Markup:
    """Say that something was not measured."""
    return element("p", f"{what}: {NOT_MEASURED}.", class_="muted")


def before_after(results: Results) -> Markup:
    """The main table."""
    names = [text(results, side, "name") for side in ("baseline", "artifact")]
    head = element(
        "tr",
        element("th", "Measure", scope="col"),
        [
            element("th", role, element("small", name) if name else None, scope="col")
            for role, name in zip(("Before", "After"), names, strict=True)
        ],
        element("th", "Change", scope="col"),
    )
    body = [
        element(
            "tr",
            element("th", row.label, scope="row"),
            cell(row.before, title=row.exact_before),
            cell(row.after, title=row.exact_after),
            element("td", typeset(row.change), class_={1: "better", -1: "worse"}.get(row.verdict)),
        )
        for row in comparison.rows(results)
    ]
    return element("table", element("thead", head), element("tbody", body), class_="comparison")


def cell(shown: str, **attributes: str | None) -> Markup:
    """A table cell; what was not measured steps back."""
    return element("td", typeset(shown), class_="missing" if shown == NOT_MEASURED else None, **attributes)


def engines(results: Results) -> Markup:
    """A row for the baseline, the artifact on each engine, and each other candidate."""
    everyone = subjects(results)
    if not everyone:
        return missing("Engines")
    headings = ["Engine", *COLUMNS]
    head = element("tr", [element("th", heading, scope="col") for heading in headings])
    body = [
        element(
            "tr",
            element("th", _who(subject), scope="row"),
            [cell(shown, data_label=heading) for heading, shown in zip(COLUMNS, cells(subject), strict=True)],
            class_=subject.role,
        )
        for subject in everyone
    ]
    table = element("table", element("thead", head), element("tbody", body), class_="engines")
    words = (
        "Latencies are of one text at a time, text in and label out unless they say model alone. "
        "Same labels: the share that agrees with the artifact in PyTorch."
    )
    return join(hint(words), element("div", table, class_="scroll"))


def _who(subject: Subject) -> Markup:
    role = {"baseline": "baseline", "artifact": "artifact", "engine": "artifact"}.get(subject.role)
    notes = [role or subject.name, text(subject.data, "error")]
    if (agreement := number(subject.data, "parity", "label_agreement")) is not None:
        notes.append(typeset(f"{agreement:.4g} % same labels"))
    return join(subject.engine, [element("small", note) for note in notes if note])


def trade_offs(results: Results) -> Markup:
    """Score against size, and score against latency."""
    name = capital(comparison.metric_name(mapping(results, "baseline"), mapping(results, "artifact")))
    size = _score_against(results, f"{name} against size", "file that the engine loads", numerals.size, "weight_bytes")
    latency = _score_against(
        results,
        f"{name} against latency",
        "median latency, text to label, one text at a time",
        numerals.milliseconds,
        "latency_ms",
        "median",
    )
    words = "Vertical bars are 95 % intervals; the dashed line is the level of the baseline."
    roles = dict.fromkeys(subject.role for subject in subjects(results))
    legend = bars.legend([(role, ROLES[role]) for role in roles])
    return join(hint(words), legend, element("div", size, latency, class_="grid"))


def _score_against(
    results: Results, title: str, x_label: str, show: Callable[[float | None], str], *path: str
) -> Markup:
    points = []
    for subject in subjects(results):
        x, y = number(subject.data, *path), number(subject.data, "metric", "value")
        if x is not None and y is not None:
            bounds = (number(subject.data, "metric", bound) for bound in ("low", "high"))
            points.append(Point(subject.label, subject.role, x, y, *bounds))
    chart = scatter(points, title=title, x_label=x_label, y_label="percent", show_x=show) if points else missing(title)
    return element("figure", element("figcaption", element("strong", title)), chart)


def breakdown(results: Results) -> Markup:
    """Parameters, MACs and bytes of each component, before and after."""
    sides = [(role, mapping(results, role, "breakdown")) for role in ("baseline", "artifact")]
    if not any(parts for _, parts in sides):
        return missing("Breakdown by component")
    present = {key for _, parts in sides for key in parts}
    keys = [key for key in COMPONENTS if key in present] + sorted(present - COMPONENTS.keys())
    panels = [
        _breakdown_panel(title, keys, sides, quantity, show)
        for title, quantity, show in (
            ("Parameters", "parameters", numerals.count),
            ("MACs", "macs", numerals.quantity),
            ("Bytes on disk", "bytes", numerals.size),
        )
    ]
    return join(
        hint("The percentages are shares of the model's own total."),
        bars.legend([("baseline", "before"), ("artifact", "after")]),
        element("div", panels, class_="grid"),
    )


def _breakdown_panel(
    title: str,
    keys: list[str],
    sides: list[tuple[str, Results]],
    quantity: str,
    show: Callable[[float | None], str],
) -> Markup:
    totals = {role: _total(parts, quantity) for role, parts in sides}
    words = {"baseline": "before", "artifact": "after"}
    groups = [
        (
            component_name(key),
            [bars.Bar(role, words[role], number(parts, key, quantity), totals[role]) for role, parts in sides],
        )
        for key in keys
    ]
    return bars.panel(title, groups, show, note=" → ".join(show(total) for total in totals.values()))


def _total(parts: Results, quantity: str) -> float | None:
    found = [amount for key in parts if (amount := number(parts, key, quantity)) is not None]
    return sum(found) if found else None


def layers(results: Results) -> Markup:
    """What is left of each layer."""
    plans = [items(results, side, "layers") for side in ("baseline", "artifact")]
    if value(results, "artifact", "layers") is None or not any(plans):
        return missing("Layers of the artifact")
    before, after = (depth.summary(mapping(results, side)) for side in ("baseline", "artifact"))
    sourced = any(value(layer, "source") is not None for layer in plans[1])
    place = "each layer stands where it came from" if sourced else "layers are matched by their depth"
    return join(
        hint(f"Before: {before}. After: {after}. Filled is what is left; {place}."),
        element("div", depth.layers(*plans), class_="scroll"),
    )


def latencies(results: Results) -> Markup:
    """Spread of the raw latency samples, with and without tokenizing."""
    figures = []
    for title, key in (("Text in, label out", "latency_ms"), ("Model alone", "model_latency_ms")):
        spread = [
            Distribution(
                subject.label,
                subject.role,
                samples,
                number(subject.data, key, "median"),
                number(subject.data, key, "p90"),
            )
            for subject in subjects(results)
            if (samples := [sample for sample in numbers(subject.data, key, "samples") if sample > 0])
        ]
        chart = ridges(spread, title=f"Latency samples: {title}") if spread else missing("Latency samples")
        figures.append(element("figure", element("figcaption", element("strong", title)), chart))
    words = "Raw samples, each scaled to its own peak. Solid: median; dotted: 90th percentile (p90)."
    return join(hint(words), element("div", figures, class_="grid"))


def definitions(pairs: list[tuple[str, str]]) -> Markup:
    """A list of names and what they are."""
    return element("dl", [join(element("dt", name), element("dd", shown)) for name, shown in pairs], class_="facts")
