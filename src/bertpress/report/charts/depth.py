"""What is left of each layer: its heads as a grid, the width of its feed-forward network as a bar."""

from collections.abc import Sequence
from typing import Any

from bertpress.report.markup import Markup, element
from bertpress.report.numerals import typeset
from bertpress.report.reading import Results, items, number, numbers, value

CELL, GAP, MOST_COLUMNS = 11, 3, 12


def layers(baseline: Sequence[Any], artifact: Sequence[Any]) -> Markup:
    """A row for each layer of the baseline, and for layers that only the artifact has.

    A layer of the artifact stands beside the one that its ``source`` names, or that has its depth.

    Args:
        baseline: one mapping a layer with ``heads`` (ids) and ``ffn`` (widths), or a blueprint's layer.
        artifact: the same; may also hold ``source``, ``attention_from`` and ``ffn_from`` (depths).
    """
    kept = {source_of(layer, depth): layer for depth, layer in enumerate(artifact)}
    widest = max((sum(numbers(layer, "ffn")) for layer in [*baseline, *artifact]), default=0) or 1
    head = element("tr", [element("th", name, scope="col") for name in ("Layer", "Attention heads", "FFN width")])
    body = []
    for depth in sorted({*range(len(baseline)), *kept}):
        before = baseline[depth] if depth < len(baseline) else None
        after = kept.get(depth)
        number_cell = element("th", str(depth + 1), scope="row")
        cells = [element("td", _heads(before, after)), element("td", _ffn(before, after, widest))]
        body.append(element("tr", number_cell, cells, class_=None if after is not None else "gone"))
    return element("table", element("thead", head), element("tbody", body), class_="layers")


def source_of(layer: object, depth: int) -> int:
    """The baseline's layer that a layer came from: its ``source``, or its own depth."""
    source = number(layer, "source")
    return depth if source is None else int(source)


def heads_of(layer: object) -> Sequence[Any]:
    """Ids of a layer's heads: its ``heads``, or those of its ``attention`` (a blueprint's layer)."""
    return items(layer, "heads") or items(layer, "attention", "heads")


def _heads(before: object, after: object) -> Markup:
    shared = number(after, "attention_from")
    was = [str(head) for head in heads_of(before)]
    left = {str(head) for head in heads_of(after)}
    everyone = [*was, *sorted(left - set(was), key=lambda head: (len(head), head))]
    note = f"{len(left)} of {len(was)}" if before is not None and after is not None else str(len(left or was))
    if after is None:
        note = "layer removed"
    if shared is not None:
        note += f", shared with layer {int(shared) + 1}"
    columns = len(everyone) if len(everyone) <= MOST_COLUMNS else -(-len(everyone) // 2)
    step = CELL + GAP
    cells = [
        element(
            "rect",
            element("title", f"head {head}: {'kept' if head in left else 'removed'}"),
            x=step * (index % columns) + 0.5,
            y=step * (index // columns) + 0.5,
            width=CELL,
            height=CELL,
            rx=2.5,
            class_="kept" if head in left else "removed",
        )
        for index, head in enumerate(everyone)
    ]
    width, height = step * columns, step * -(-len(everyone) // columns) if columns else 0
    grid = element("svg", cells, width=width, height=height, role="img", aria_label=note, class_="heads")
    return element("div", grid if everyone else None, element("span", note, class_="muted"), class_="left")


def _ffn(before: object, after: object, widest: float) -> Markup:
    was, left = numbers(before, "ffn"), numbers(after, "ffn")
    shared = number(after, "ffn_from")
    note = " + ".join(f"{width:,.0f}" for width in left) or "0"
    if value(before, "ffn") is not None:
        note += f" of {sum(was):,.0f}"
    if shared is not None:
        note += f", shared with layer {int(shared) + 1}"
    if after is None:
        note = f"0 of {sum(was):,.0f}"
    fills = [
        element("span", class_=kind, style=f"width:{100 * sum(widths) / widest:.2f}%")
        for kind, widths in (("was", was), ("left", left))
    ]
    return element(
        "div",
        element("span", fills, class_="width"),
        element("span", typeset(note), class_="muted"),
        class_="left",
    )


def summary(side: Results) -> str:
    """The shape in words: ``12 layers, 144 heads, 18,432 FFN neurons``."""
    plan = items(side, "layers")
    heads = sum(len(heads_of(layer)) for layer in plan)
    neurons = sum(sum(numbers(layer, "ffn")) for layer in plan)
    return f"{len(plan)} layers, {heads} heads, {neurons:,.0f} FFN neurons"
