"""The page of a profile: where parameters, MACs, memory and time go, component by component."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from bertpress.report import numerals
from bertpress.report.charts import bars
from bertpress.report.document import Section, document
from bertpress.report.markup import Markup, element, join
from bertpress.report.numerals import typeset
from bertpress.report.reading import Results, mapping, number, text
from bertpress.report.run import environment
from bertpress.report.sections import COMPONENTS, cell, component_name


class Panel(NamedTuple):
    """One quantity of a profile: where a component and the whole keep it (the first path that is there)."""

    title: str
    component: tuple[tuple[str, ...], ...]
    whole: tuple[tuple[str, ...], ...]
    show: Callable[[float | None], str]


PANELS = (
    Panel("Parameters", (("parameters",),), (("parameters",),), numerals.count),
    Panel("MACs", (("macs",),), (("macs",),), numerals.quantity),
    Panel(
        "Run-time memory",
        (("memory_bytes",), ("peak_memory_bytes",)),
        (("memory_bytes",), ("peak_memory_bytes",)),
        numerals.size,
    ),
    Panel(
        "Latency",
        (("latency_ms", "median"), ("latency_ms",)),
        (("latency_ms", "median"), ("latency_ms",)),
        numerals.milliseconds,
    ),
)
"""The four panels of the survey's Figure 3."""


def figure(source: Results, paths: Sequence[tuple[str, ...]]) -> float | None:
    """The first number that one of the paths leads to."""
    return next((found for path in paths if (found := number(source, *path)) is not None), None)


def component_keys(profile: Results) -> list[str]:
    """Components in their order from input to output, unknown ones (such as the unattributed rest) last."""
    present = list(mapping(profile, "components"))
    return [key for key in COMPONENTS if key in present] + [key for key in present if key not in COMPONENTS]


def profile_page(*profiles: Results) -> str:
    """Render profiles of one model (say, for 128 and for 256 tokens) as one self-contained HTML page.

    Args:
        profiles: at least one; each what ``bertpress profile --json`` prints; any key may be missing.
    """
    first = profiles[0]
    name = text(first, "name") or text(first, "model") or "a model"
    parts = [
        Section(f"profile-{index}", _conditions(profile).capitalize(), _profile(profile))
        for index, profile in enumerate(profiles)
    ]
    parts.append(Section("environment", "Environment", environment(mapping(first, "environment"))))
    header = join(
        element("p", "bertpress profile", class_="eyebrow"),
        element("h1", f"Where {name} spends its size and its time"),
        element("p", typeset(_totals(first)), class_="lead"),
    )
    footer = element(
        "p",
        "Each component is timed alone; what the whole takes beyond their sum stands on a line of its own. "
        "MACs are counted from the blueprint; FLOPs = 2 × MACs. Sizes are decimal.",
    )
    return document(f"Profile of {name}", header, parts, footer)


def _conditions(profile: Results) -> str:
    found = [
        f"{shown} {unit}"
        for key, unit in (("tokens", "tokens"), ("batch", "in a batch"), ("threads", "threads"))
        if (shown := text(profile, key))
    ]
    return ", ".join(found) or "conditions not recorded"


def _totals(profile: Results) -> str:
    return ", ".join(f"{panel.title}: {panel.show(figure(profile, panel.whole))}" for panel in PANELS)


def _profile(profile: Results) -> Markup:
    keys = component_keys(profile)
    parts = mapping(profile, "components")
    panels = [_panel(panel, keys, parts, figure(profile, panel.whole)) for panel in PANELS]
    return join(element("div", panels, class_="grid"), _table(profile, keys, parts))


def _panel(panel: Panel, keys: Sequence[str], parts: Results, whole: float | None) -> Markup:
    groups = [
        (
            component_name(key),
            [bars.Bar("artifact", component_name(key), figure(mapping(parts, key), panel.component), whole)],
        )
        for key in keys
    ]
    return bars.panel(panel.title, groups, panel.show, note=panel.show(whole))


def _table(profile: Results, keys: Sequence[str], parts: Results) -> Markup:
    head = element("tr", [element("th", h, scope="col") for h in ("Component", *(p.title for p in PANELS))])
    body = [
        _row(
            component_name(key),
            [panel.show(figure(mapping(parts, key), panel.component)) for panel in PANELS],
        )
        for key in keys
    ]
    body.append(_row("Whole model", [panel.show(figure(profile, panel.whole)) for panel in PANELS], "whole"))
    table = element("table", element("thead", head), element("tbody", body), class_="profile")
    return element("div", table, class_="scroll")


def _row(name: str, shown: Sequence[str], class_: str | None = None) -> Markup:
    return element("tr", element("th", name, scope="row"), [cell(figure) for figure in shown], class_=class_)
