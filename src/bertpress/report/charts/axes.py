"""Axes: from values to positions, with round ticks."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bertpress.report.markup import Markup, element

LOGARITHMIC_FROM = 4.0
"""A logarithmic axis is used when the largest value is at least so many times the smallest."""


@dataclass(frozen=True)
class Axis:
    """Maps [low, high] onto positions [start, end] of the drawing."""

    low: float
    high: float
    start: float
    end: float
    ticks: tuple[float, ...]
    logarithmic: bool = False

    def __call__(self, value: float) -> float:
        """Position of a value; values outside are held at the ends."""
        bent = math.log10 if self.logarithmic else float
        low, high = bent(self.low), bent(self.high)
        share = (bent(max(value, self.low)) - low) / (high - low)
        return self.start + min(1.0, max(0.0, share)) * (self.end - self.start)


def linear(values: Sequence[float], start: float, end: float, *, ticks: int = 5, zero: bool = False) -> Axis:
    """A linear axis around the values, with a margin of 6 % (none at zero), and ticks at 1, 2 or 5 x 10^n."""
    low, high = min(values), max(values)
    if zero:
        low, high = min(0.0, low), max(0.0, high)
    if high == low:
        margin = abs(high) * 0.1 or 1.0
        low, high = low - margin, high + margin
    else:
        margin = 0.06 * (high - low)
        low, high = (low if zero and low == 0 else low - margin), high + margin
    step = _round_step((high - low) / ticks)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return Axis(low, high, start, end, tuple(index * step for index in range(first, last + 1)))


def _round_step(rough: float) -> float:
    """The smallest of 1, 2, 5 x 10^n that is at least ``rough``."""
    magnitude = 10.0 ** math.floor(math.log10(rough))
    return next(factor * magnitude for factor in (1, 2, 5, 10) if factor * magnitude >= rough * (1 - 1e-9))


def logarithmic(values: Sequence[float], start: float, end: float, *, ticks: int = 6) -> Axis:
    """A logarithmic axis around positive values, a fraction of a decade wider on either side."""
    low, high = math.log10(min(values)), math.log10(max(values))
    margin = max(0.08, 0.08 * (high - low))
    low, high = low - margin, high + margin
    decades = range(math.floor(low), math.ceil(high) + 1)
    for factors in ((1, 2, 5), (1, 3), (1,)):
        marks = tuple(f * 10.0**d for d in decades for f in factors if low <= math.log10(f * 10.0**d) <= high)
        if len(marks) <= ticks:
            break
    return Axis(10**low, 10**high, start, end, marks, logarithmic=True)


def fitting(values: Sequence[float], start: float, end: float, *, ticks: int = 6) -> Axis:
    """Logarithmic where the values spread over several-fold and are positive, else linear."""
    if min(values) > 0 and max(values) / min(values) >= LOGARITHMIC_FROM:
        return logarithmic(values, start, end, ticks=ticks)
    return linear(values, start, end, ticks=ticks)


def below(
    axis: Axis,
    y: float,
    top: float,
    show: Callable[[float], str],
    *,
    left: float | None = None,
    grid: bool = True,
) -> list[Markup]:
    """Draw a horizontal axis at height ``y``, from ``left`` on, with grid lines up to ``top``."""
    parts: list[Markup] = []
    for tick in axis.ticks:
        x = axis(tick)
        if grid:
            parts.append(element("line", x1=x, x2=x, y1=top, y2=y, class_="grid"))
        parts.append(element("text", show(tick), x=x, y=y + 15, text_anchor="middle", class_="tick"))
    return [
        *parts,
        element("line", x1=axis.start if left is None else left, x2=axis.end, y1=y, y2=y, class_="axis"),
    ]


def beside(axis: Axis, x: float, right: float, show: Callable[[float], str]) -> list[Markup]:
    """Draw a vertical axis at ``x`` with grid lines up to ``right``."""
    parts: list[Markup] = []
    for tick in axis.ticks:
        y = axis(tick)
        parts.append(element("line", x1=x, x2=right, y1=y, y2=y, class_="grid"))
        parts.append(element("text", show(tick), x=x - 6, y=y + 4, text_anchor="end", class_="tick"))
    return parts


def plain(value: float) -> str:
    """A tick label without needless zeros: ``0.05``, ``2``, ``1,000``."""
    if value and abs(value) < 1e-4:
        return f"{value:.0e}".replace("e-0", "e-")
    return f"{value:,.10g}"


def short(show: Callable[[float | None], str]) -> Callable[[float], str]:
    """Shorten a format for ticks: ``10 MB`` in place of ``10.0 MB``."""

    def shown(value: float) -> str:
        figure, _, unit = show(value).partition(" ")
        trimmed = figure.rstrip("0").rstrip(".") if "." in figure else figure
        return f"{trimmed} {unit}".rstrip()

    return shown
