"""The sections of a run's page, each a function of the results."""

from collections.abc import Callable, Iterator

from bertpress.report import comparison, numerals
from bertpress.report.charts import bars, curves, depth
from bertpress.report.charts.ridges import Distribution, ridges
from bertpress.report.charts.scatter import Point, scatter
from bertpress.report.markup import Markup, element, join
from bertpress.report.numerals import NOT_MEASURED, typeset
from bertpress.report.reading import Results, items, mapping, number, numbers, text, value
from bertpress.report.subjects import COLUMNS, Subject, cells, subjects

COMPONENTS = {
    "embeddings": "Embeddings",
    "attention_in": "Linear layers before attention",
    "attention": "Multi-head attention",
    "attention_out": "Linear layer after attention",
    "ffn": "Feed-forward",
    "head": "Task head",
}


def component_name(key: str) -> str:
    """A component's key in words; unknown ones keep their key."""
    return COMPONENTS.get(key) or key.replace("_", " ").capitalize()


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
            element("td", typeset(row.before), title=row.exact_before),
            element("td", typeset(row.after), title=row.exact_after),
            element("td", typeset(row.change), class_={1: "better", -1: "worse"}.get(row.verdict)),
        )
        for row in comparison.rows(results)
    ]
    return element("table", element("thead", head), element("tbody", body), class_="comparison")


def engines(results: Results) -> Markup:
    """A row for the baseline, the artifact on each engine, and each other candidate."""
    everyone = subjects(results)
    if not everyone:
        return missing("Engines")
    headings = ["Model and engine", *COLUMNS]
    head = element("tr", [element("th", heading, scope="col") for heading in headings])
    body = [
        element(
            "tr",
            element("th", _who(subject), scope="row"),
            [
                element("td", typeset(cell), data_label=heading)
                for heading, cell in zip(COLUMNS, cells(subject), strict=True)
            ],
            class_=subject.role,
        )
        for subject in everyone
    ]
    table = element("table", element("thead", head), element("tbody", body), class_="engines")
    return element("div", table, class_="scroll")


def _who(subject: Subject) -> Markup:
    role = {"baseline": "baseline", "artifact": "artifact", "engine": "artifact"}.get(subject.role, "candidate")
    note = text(subject.data, "error") or (role if role == "baseline" else "")
    name = subject.engine if role == "artifact" else f"{subject.name}, {subject.engine}"
    return join(name, element("small", note, class_="muted") if note else None)


def trade_offs(results: Results) -> Markup:
    """Score against size, and score against latency."""
    name = text(results, "artifact", "metric", "name") or text(results, "baseline", "metric", "name") or "score"
    size = _score_against(
        results, f"{name} against size", "file that the engine loads", numerals.size, "weight_bytes"
    )
    latency = _score_against(
        results,
        f"{name} against latency",
        "median latency, text to label, one text at a time",
        numerals.milliseconds,
        "latency_ms",
        "median",
    )
    return element("div", size, latency, class_="grid")


def _score_against(
    results: Results, title: str, x_label: str, show: Callable[[float | None], str], *path: str
) -> Markup:
    points = []
    for subject in subjects(results):
        x, y = number(subject.data, *path), number(subject.data, "metric", "value")
        if x is not None and y is not None:
            bounds = (number(subject.data, "metric", bound) for bound in ("low", "high"))
            points.append(Point(subject.label, subject.role, x, y, *bounds))
    chart = (
        scatter(points, title=title, x_label=x_label, y_label="percent", show_x=show) if points else missing(title)
    )
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
        bars.legend([("baseline", "before"), ("artifact", "after")]), element("div", panels, class_="grid")
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
    return join(
        element("p", f"Before: {before}. After: {after}.", class_="muted"),
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
    return element("div", figures, class_="grid")


def training(results: Results) -> Markup:
    """Each stage: its methods, its cost, and its losses over the steps."""
    stages = items(results, "stages")
    return join([_stage(index, stage) for index, stage in enumerate(stages)]) if stages else missing("Stages")


def _stage(index: int, stage: Results) -> Markup:
    train = mapping(stage, "train")
    facts = [
        ("Methods", ", ".join(_method_names(stage)) or None),
        ("Time", numerals.duration(number(stage, "seconds"))),
        ("Epochs", text(train, "epochs")),
        ("Examples", numerals.exact(number(train, "examples"))),
        ("Metric after", comparison.metric(stage) if mapping(stage, "metric") else None),
    ]
    return join(
        element("h3", f"{index + 1}. {text(stage, 'name') or 'stage'}"),
        definitions([(name, shown) for name, shown in facts if shown]),
        element("div", list(_curves(items(train, "log"))), class_="grid small") if train else None,
    )


def _method_names(stage: Results) -> Iterator[str]:
    for method in items(stage, "methods"):
        yield from mapping({"method": method}, "method") or [str(method)]


def _curves(log: object) -> Iterator[Markup]:
    """The sum of the losses, its terms where there are several, and the learning rate."""
    records = [mapping({"record": record}, "record") for record in items({"log": log}, "log")]
    terms = dict.fromkeys(term for record in records for term in mapping(record, "terms"))
    wanted = [("loss", "total", ("loss",))]
    wanted += [(term, "term", ("terms", term)) for term in terms if len(terms) > 1]
    wanted += [("learning rate", "rate", ("learning_rate",))]
    for name, role, path in wanted:
        pairs = [
            (step, found)
            for position, record in enumerate(records)
            if (found := number(record, *path)) is not None
            and (step := number(record, "step") or float(position)) is not None
        ]
        if pairs:
            yield curves.curve(name, *zip(*pairs, strict=True), role=role)


def definitions(pairs: list[tuple[str, str]]) -> Markup:
    """A list of names and what they are."""
    return element("dl", [join(element("dt", name), element("dd", shown)) for name, shown in pairs], class_="facts")
