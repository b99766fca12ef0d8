"""The section on pruning: what is left of each layer, and whether the important units are what was kept."""

from collections.abc import Iterator, Sequence
from typing import Any

from bertpress.report.charts.depth import heads_of, source_of
from bertpress.report.charts.heat import Block, Cell, heat, share_cell
from bertpress.report.charts.strips import Strip, strips
from bertpress.report.markup import Markup, element, join
from bertpress.report.reading import Results, items, mapping, number, numbers, text
from bertpress.report.sections import hint

UNITS = {"heads": "heads", "neurons": "FFN neurons"}
"""Keys of the notes that methods leave on importances, and what they are of."""


def is_shown(results: Results) -> bool:
    """Whether heads, neurons or layers have gone, or a method noted importances."""
    pairs = list(_layers(results))
    return any(left < was for pair in pairs for was, left in _amounts(*pair).values()) or any(_notes(results))


def pruning(results: Results) -> Markup:
    """The map of what is left, and the importances of every stage that noted them."""
    pairs = list(_layers(results))
    figures = [_map(pairs)] if pairs else []
    figures += [_importances(stage, unit, layers) for stage, unit, layers in _notes(results)]
    words = "Importances are those that decided, when they were last measured; filled was kept, hollow removed."
    return join(hint(words) if any(_notes(results)) else None, element("div", figures, class_="grid two"))


def _layers(results: Results) -> Iterator[tuple[Any, Any]]:
    """Each layer of the baseline with the one that came from it, or None; nothing where either side is unknown."""
    before, after = (items(results, side, "layers") for side in ("baseline", "artifact"))
    if before and after:
        left = {source_of(layer, depth): layer for depth, layer in enumerate(after)}
        yield from ((layer, left.get(depth)) for depth, layer in enumerate(before))


def _amounts(before: object, after: object) -> dict[str, tuple[float, float]]:
    """How many heads and neurons there were, and are."""
    neurons = [sum(numbers(layer, "ffn")) for layer in (before, after)]
    return {"heads": (len(heads_of(before)), len(heads_of(after))), "FFN neurons": (neurons[0], neurons[1])}


def _map(pairs: Sequence[tuple[Any, Any]]) -> Markup:
    rows = []
    for depth, (before, after) in enumerate(pairs):
        amounts = _amounts(before, after).items()
        cells = [None if after is None else _cell(f"layer {depth + 1}, {name}", *amount) for name, amount in amounts]
        rows.append((str(depth + 1), cells))
    title = "Percent left"
    caption = element("figcaption", element("strong", title), " of the heads and neurons of each layer")
    return element("figure", caption, heat([Block(list(UNITS.values()), rows)], title=title))


def _cell(owner: str, was: float, left: float) -> Cell | None:
    if not was:
        return None
    return share_cell(left / was, f"{owner}: {left:,.0f} of {was:,.0f}")


def _notes(results: Results) -> Iterator[tuple[str, str, list[Strip]]]:
    """Stage, kind of unit, and layers, of every note on importances that can be drawn."""
    for stage in items(results, "stages"):
        for key, unit in UNITS.items():
            layers = [_strip(entry) for entry in items(stage, "notes", key)]
            if any(layer.units for layer in layers):
                yield text(stage, "name") or "stage", unit, layers


def _strip(entry: object) -> Strip:
    depth = number(entry, "layer")
    known = zip(items(entry, "scores"), items(mapping(entry), "kept"), strict=False)
    units = [(score, kept is True) for found, kept in known if (score := number({"score": found}, "score")) is not None]
    return Strip("?" if depth is None else f"{depth + 1:.0f}", units)


def _importances(stage: str, unit: str, layers: Sequence[Strip]) -> Markup:
    title = f"Importance of {unit}"
    caption = element("figcaption", element("strong", title), element("span", f" in {stage}", class_="muted"))
    return element("figure", caption, strips(layers, title=title))
