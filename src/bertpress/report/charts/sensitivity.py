"""How sensitive each layer is, as bars, and the bits that it was given for it."""

from collections.abc import Sequence
from dataclasses import dataclass

from bertpress.report.charts import axes
from bertpress.report.markup import Markup, element
from bertpress.report.numerals import significant, typeset

WIDTH, ROW, LEFT, RIGHT = 420, 24, 30, 352


@dataclass(frozen=True)
class Layer:
    """One layer: its measure, the samples that it comes from, and its bits."""

    label: str
    omega: float | None
    samples: Sequence[float]
    bits: float | None


def sensitivity(layers: Sequence[Layer], *, title: str) -> Markup:
    """A bar for each layer, on a logarithmic axis where the measures spread over several-fold.

    Args:
        layers: at least one of which has a measure.
        title: read aloud in place of the picture.
    """
    measures = [layer.omega for layer in layers if layer.omega is not None]
    across = axes.fitting(measures, LEFT, RIGHT, ticks=5)
    if not across.logarithmic:
        across = axes.linear(measures, LEFT, RIGHT, ticks=5, zero=True)
    floor = ROW * len(layers) + 6
    most = max((layer.bits for layer in layers if layer.bits is not None), default=None)
    drawing = [
        *axes.below(across, floor, 4, axes.plain),
        [_row(layer, across, ROW * index + 6, most) for index, layer in enumerate(layers)],
    ]
    return element(
        "svg", drawing, viewBox=f"0 0 {WIDTH} {floor + 22}", role="img", aria_label=title, class_="chart sensitivity"
    )


def _row(layer: Layer, across: axes.Axis, top: float, most: float | None) -> Markup:
    origin = across.start if across.logarithmic else across(0.0)
    bits = "" if layer.bits is None else f"{layer.bits:,.4g} bits"
    parts = [element("text", layer.label, x=LEFT - 8, y=top + 13, text_anchor="end", class_="tick")]
    if layer.omega is not None:
        end = across(layer.omega)
        parts.append(element("title", typeset(_words(layer, layer.omega, bits))))
        left, width = min(origin, end), max(1.0, abs(end - origin))
        parts.append(element("rect", x=left, y=top + 2, width=width, height=ROW - 9, rx=2, class_="amount"))
    parts.append(element("text", bits, x=WIDTH, y=top + 13, text_anchor="end", class_="label") if bits else Markup())
    return element("g", parts, class_="artifact" if layer.bits is not None and layer.bits == most else "baseline")


def _words(layer: Layer, omega: float, bits: str) -> str:
    words = f"layer {layer.label}: Omega {significant(omega)}" + (f", {bits}" if bits else "")
    if layer.samples:
        low, high = significant(min(layer.samples)), significant(max(layer.samples))
        words += f", top eigenvalues from {low} to {high} in {len(layer.samples)} samples"
    return words
