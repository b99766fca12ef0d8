"""The breakdown as the survey's four panels, drawn into a PNG with Pillow; the HTML page is the report's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

COLOURS = ("#4269d0", "#efb118", "#3ca951", "#97bbf5")
SHORT = {
    "embeddings": "Embed-\ndings",
    "mixer": "Mixers",
    "attention_in": "Linear\nbefore",
    "attention": "Multi-head\nattention",
    "attention_out": "Linear\nafter",
    "ffn": "Feed-\nforward",
    "head": "Head",
    "unattributed": "not\nattributed",
}


class Bars(NamedTuple):
    """Values of one series, one a component."""

    name: str
    values: tuple[float, ...]


class Panel(NamedTuple):
    """One panel: title with unit, components, and a series of bars for each length (one for parameters)."""

    title: str
    components: tuple[str, ...]
    series: tuple[Bars, ...]


def panels(figures: dict[str, Any]) -> list[Panel]:
    """The four panels of what :func:`bertpress.measure.profile.profile` returned."""
    lengths = figures.get("lengths") or [figures]
    names = tuple(figures["components"])

    def by_length(*path: str, scale: float) -> tuple[Bars, ...]:
        return tuple(
            Bars(f"{at['tokens']} tokens", tuple(_at(at["components"][name], path) / scale for name in names))
            for at in lengths
        )

    latency = tuple(
        bars._replace(values=(*bars.values, at["unattributed"]["latency_ms"]))
        for bars, at in zip(by_length("latency_ms", "median", scale=1), lengths, strict=True)
    )
    weights = (Bars("any length", tuple(figures["components"][name]["parameters"] / 1e6 for name in names)),)
    return [
        Panel("Parameters (million)", names, weights),
        Panel("Multiply-accumulates (million)", names, by_length("macs", scale=1e6)),
        Panel("Run-time memory (MiB)", names, by_length("memory_bytes", scale=2**20)),
        Panel("Latency, each alone (ms)", (*names, "unattributed"), latency),
    ]


def _at(source: Any, path: Sequence[str]) -> float:
    for key in path:
        source = source[key]
    return float(source)


def heading(figures: dict[str, Any]) -> str:
    """What the picture shows, in one line."""
    total = figures["parameters"] / 1e6
    share = 100 * figures["embedding_share"]
    return (
        f"{figures['model']}: {total:.2f} M parameters, {share:.1f} % of them embeddings; "
        f"batch {figures['batch']}, {figures['threads']} threads, {figures['engine']}"
    )


def _colour(bars: Bars, figures: dict[str, Any]) -> str:
    lengths = [f"{at['tokens']} tokens" for at in figures.get("lengths") or [figures]]
    return COLOURS[lengths.index(bars.name) % (len(COLOURS) - 1)] if bars.name in lengths else COLOURS[-1]


def write_png(figures: dict[str, Any], path: Path, *, width: int = 1400, height: int = 900) -> None:
    """Draw the panels into a PNG file.

    Args:
        figures: what :func:`bertpress.measure.profile.profile` returned.
        path: of the file; replaced if there is one.
        width: pixels.
        height: pixels.
    """
    from PIL import Image, ImageDraw

    fine = 2  # drawn at twice the size and shrunk, so that edges and letters are smooth
    image = Image.new("RGB", (width * fine, height * fine), "white")
    canvas = Canvas(ImageDraw.Draw(image), fine)
    canvas.text((24, 18), heading(figures), size=20)
    for i, panel in enumerate(panels(figures)):
        left, top = 20 + (i % 2) * (width - 20) / 2, 60 + (i // 2) * (height - 70) / 2
        colours = [_colour(bars, figures) for bars in panel.series]
        canvas.panel(panel, colours, (left, top, left + (width - 60) / 2, top + (height - 100) / 2))
    image.resize((width, height), Image.Resampling.LANCZOS).save(path)


class Canvas:
    """Bars, lines and letters in pixels of the finished picture."""

    def __init__(self, draw: Any, fine: int) -> None:
        self._draw, self._fine = draw, fine

    def text(
        self, at: tuple[float, float], words: str, *, size: int = 14, anchor: str = "la", grey: bool = False
    ) -> float:
        """Write words and tell how wide they are.

        ``anchor`` is Pillow's (horizontal l m r, vertical a m s d); further lines go below the first.
        """
        from PIL import ImageFont

        font = ImageFont.load_default(size * self._fine)
        for i, line in enumerate(words.split("\n")):
            x, y = at[0] * self._fine, (at[1] + i * size * 1.15) * self._fine
            self._draw.text((x, y), line, fill="#666666" if grey else "#222222", font=font, anchor=anchor)
        return max(float(self._draw.textlength(line, font=font)) for line in words.split("\n")) / self._fine

    def line(self, start: tuple[float, float], end: tuple[float, float], colour: str) -> None:
        """A thin line."""
        points = [value * self._fine for value in (*start, *end)]
        self._draw.line(points, fill=colour, width=self._fine)

    def bar(self, box: tuple[float, float, float, float], colour: str) -> None:
        """A filled box: left, top, right, bottom."""
        self._draw.rectangle([value * self._fine for value in box], fill=colour)

    def panel(self, panel: Panel, colours: Sequence[str], box: tuple[float, float, float, float]) -> None:
        """A title, a legend, groups of bars with their values above and their names below."""
        left, top, right, bottom = box[0] + 10, box[1] + 56, box[2] - 10, box[3] - 48
        self.text((box[0] + 10, box[1] + 4), panel.title, size=16)
        x = right
        for bars, colour in reversed(list(zip(panel.series, colours, strict=True))):
            x -= self.text((x, box[1] + 5), bars.name, size=13, anchor="ra")
            self.bar((x - 20, box[1] + 7, x - 8, box[1] + 19), colour)
            x -= 44
        values = [value for bars in panel.series for value in bars.values]
        high, low = max(*values, 1e-9), min(*values, 0.0)
        zero = bottom + (bottom - top) * low / (high - low)
        scale = (bottom - top) / (high - low)
        slot = (right - left) / len(panel.components)
        thick = slot * 0.78 / len(panel.series)
        for i, component in enumerate(panel.components):
            for j, (bars, colour) in enumerate(zip(panel.series, colours, strict=True)):
                x = left + i * slot + slot * 0.11 + j * thick
                tip = zero - scale * bars.values[i]
                self.bar((x, min(tip, zero), x + thick * 0.94, max(tip, zero)), colour)
                above = (x + thick / 2, min(tip, zero) - 4)
                self.text(above, amount(bars.values[i]), size=12, anchor="ms", grey=True)
            label = SHORT.get(component, component)
            self.text((left + (i + 0.5) * slot, bottom + 10), label, size=13, anchor="ma")
        self.line((left, zero), (right, zero), "#888888")


def amount(value: float) -> str:
    """A number short enough to stand above a bar.

    >>> amount(23.84), amount(0.059), amount(1811.9)
    ('23.8', '0.06', '1812')
    """
    if abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
