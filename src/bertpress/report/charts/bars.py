"""Horizontal bars by component, one panel a quantity; HTML, so that the text keeps its size on a phone."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from bertpress.report.markup import Markup, element
from bertpress.report.numerals import NOT_MEASURED, exact, percent, typeset


class Bar(NamedTuple):
    """One bar: whose it is (its colour), what it counts, and the whole that it is a share of."""

    role: str
    owner: str
    value: float | None
    whole: float | None


def panel(
    title: str,
    groups: Sequence[tuple[str, Sequence[Bar]]],
    show: Callable[[float | None], str],
    *,
    note: str = "",
) -> Markup:
    """A panel with a group of bars for each component; all bars share one scale from zero.

    Args:
        title: what is counted.
        groups: (component, its bars); a value of None is said to be not measured, without a bar.
        show: format of the values.
        note: a line under the title, such as the total.
    """
    largest = max((bar.value or 0 for _, bars in groups for bar in bars), default=0) or 1
    return element(
        "figure",
        element("figcaption", element("strong", title), " ", element("span", typeset(note), class_="muted")),
        [
            element("div", element("div", label, class_="component"), [_bar(bar, largest, show) for bar in bars])
            for label, bars in groups
        ],
        class_="panel",
    )


def _bar(bar: Bar, largest: float, show: Callable[[float | None], str]) -> Markup:
    if bar.value is None:
        return element("div", element("span", NOT_MEASURED, class_="muted"), class_=f"bar {bar.role}")
    share = None if not bar.whole else bar.value / bar.whole
    words = "" if share is None else f", {percent(share)} of its total"
    return element(
        "div",
        element(
            "span",
            element("span", class_="fill", style=f"width:{100 * max(0.0, bar.value) / largest:.2f}%"),
            class_="track",
        ),
        element("span", typeset(show(bar.value)), class_="figure"),
        element("span", "" if share is None else typeset(percent(share)), class_="share"),
        class_=f"bar {bar.role}",
        title=typeset(f"{bar.owner}: {exact(bar.value)}{words}"),
    )


def legend(entries: Sequence[tuple[str, str]]) -> Markup:
    """Swatches for (role, owner) pairs."""
    return element(
        "p",
        [element("span", element("i", class_=f"swatch {role}"), owner) for role, owner in entries],
        class_="legend",
    )
