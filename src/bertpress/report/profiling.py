"""The page of a profile: where parameters, MACs, memory and time go, component by component."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from bertpress.report import numerals
from bertpress.report.charts import bars
from bertpress.report.document import Section, document
from bertpress.report.markup import Markup, element, join
from bertpress.report.numerals import NOT_MEASURED, typeset
from bertpress.report.reading import Results, items, mapping, number, text
from bertpress.report.run import environment
from bertpress.report.sections import COMPONENTS, cell, component_name

REST = "unattributed"
"""What the whole model takes beyond the sum of its components."""


class Panel(NamedTuple):
    """One quantity of a profile, at the same path of a component and of the whole."""

    title: str
    path: tuple[str, ...]
    show: Callable[[float | None], str]
    words: str
    """How the quantity stands in a sentence."""


PANELS = (
    Panel("Parameters", ("parameters",), numerals.count, "parameters"),
    Panel("MACs", ("macs",), numerals.quantity, "MACs"),
    Panel("Run-time memory", ("memory_bytes",), numerals.size, "allocated while it runs"),
    Panel("Latency", ("latency_ms", "median"), numerals.milliseconds, "a forward pass"),
)
"""The four panels of the survey's Figure 3."""


def profile_page(profile: Results) -> str:
    """Render a profile as one self-contained HTML page: four panels and a table for each input length.

    Args:
        profile: what ``bertpress profile --json`` prints; any key may be missing.
    """
    name = text(profile, "model") or text(profile, "name") or "a model"
    lengths = [{**profile, **mapping(at)} for at in items(profile, "lengths")] or [{**profile}]
    parts = [Section(f"length-{index}", _tokens(length), _length(length)) for index, length in enumerate(lengths)]
    parts.append(Section("environment", "Environment", environment(mapping(profile, "environment"))))
    header = join(
        element("p", "bertpress profile", class_="eyebrow"),
        element("h1", f"Where {name} spends its size and its time"),
        element("p", typeset(_totals(lengths[0])), class_="lead"),
    )
    footer = element(
        "p",
        "Each component is timed alone; what the whole takes beyond their sum is not attributed. "
        "Parameters and MACs are counted from the shape; FLOPs = 2 × MACs. Sizes are decimal.",
    )
    return document(f"Profile of {name}", header, parts, footer)


def _tokens(profile: Results) -> str:
    tokens = text(profile, "tokens")
    return f"{tokens} tokens" if tokens else "Input length not recorded"


def _totals(profile: Results) -> str:
    """The whole model in a sentence, with the conditions of its measurement."""
    totals = [
        f"{panel.show(total)} {panel.words}" for panel in PANELS if (total := number(profile, *panel.path)) is not None
    ]
    conditions = [
        f"{shown} {unit}".rstrip()
        for key, unit in (
            ("tokens", "tokens"),
            ("batch", "in a batch"),
            ("engine", ""),
            ("threads", "threads"),
        )
        if (shown := text(profile, key))
    ]
    return f"{', '.join(totals) or NOT_MEASURED} ({', '.join(conditions) or 'conditions not recorded'})."


def _length(profile: Results) -> Markup:
    parts = _components(profile)
    panels = [_panel(panel, parts, number(profile, *panel.path)) for panel in PANELS]
    notes = [f"{panel.title}: {note}." for panel in PANELS if (note := text(profile, "notes", panel.path[0]))]
    return join(
        element("div", panels, class_="grid two"),
        _table(profile, parts),
        element("p", " ".join(notes), class_="notes") if notes else None,
    )


def _components(profile: Results) -> dict[str, Results]:
    """Components from input to output, then others, then the rest, whose latency is one number."""
    found = mapping(profile, "components")
    ordered = [key for key in COMPONENTS if key in found]
    ordered += [key for key in found if key not in COMPONENTS and key != REST]
    parts = {key: mapping(found, key) for key in ordered}
    rest = number(profile, REST, "latency_ms")
    return parts if rest is None else {**parts, REST: {"latency_ms": {"median": rest}}}


def _panel(panel: Panel, parts: Mapping[str, Results], whole: float | None) -> Markup:
    groups = [
        (component_name(key), [bars.Bar("artifact", component_name(key), number(data, *panel.path), whole)])
        for key, data in parts.items()
        if key != REST or number(data, *panel.path) is not None
    ]
    return bars.panel(panel.title, groups, panel.show, note=panel.show(whole))


def _table(profile: Results, parts: Mapping[str, Results]) -> Markup:
    head = element("tr", [element("th", heading, scope="col") for heading in ("Component", *(p.title for p in PANELS))])
    body = [_row(component_name(key), data, blank=key == REST) for key, data in parts.items()]
    body.append(_row("Whole model", profile, class_="whole"))
    table = element("table", element("thead", head), element("tbody", body), class_="profile")
    return element("div", table, class_="scroll")


def _row(name: str, data: Results, *, blank: bool = False, class_: str | None = None) -> Markup:
    figures = [panel.show(number(data, *panel.path)) for panel in PANELS]
    shown = ["" if blank and figure == NOT_MEASURED else figure for figure in figures]
    return element("tr", element("th", name, scope="row"), [cell(figure) for figure in shown], class_=class_)
