"""The section on storage: the bits that each weight takes, what is left of it, and how methods chose that."""

import re
from collections.abc import Callable, Iterator, Sequence
from math import prod
from typing import Any, NamedTuple

from bertpress.report.charts.heat import Block, Cell, bits_cell, heat, share_cell
from bertpress.report.charts.histogram import histogram
from bertpress.report.charts.sensitivity import Part, sensitivity
from bertpress.report.markup import Markup, element, join
from bertpress.report.numerals import exact, percent, significant, typeset
from bertpress.report.reading import Results, items, mapping, number, numbers, text
from bertpress.report.sections import hint, missing

MATRICES = {
    r"attention\.query": "query",
    r"attention\.key": "key",
    r"attention\.value": "value",
    r"attention\.output": "output",
    r"ffn\.\d+\.inner": "FFN inner",
    r"ffn\.\d+\.outer": "FFN outer",
    r"narrow(_query)?\.\w+|widen\.\w+": "bottleneck",
}
REST = {r"encoder\.embeddings\.(word|position|segment)\.weight": "", r"head\..*": "head", r".*": "other"}
ALWAYS = tuple(MATRICES.values())[:6]
TABLES = ("word", "position", "segment", "head")
_LAYER = re.compile(r"encoder\.layers\.(\d{1,4})\.(.+)\.weight")
_GROUP = re.compile(r"layers\.(\d{1,4})\.(.+)")
FLOAT_BITS = 32
OMEGA = "Omega = |mean| + standard deviation of the top Hessian eigenvalue over samples of training text."
RISE = "How much the loss on training text rises when this group of weights alone is quantized, by layer."


class Weight(NamedTuple):
    """How one weight is stored."""

    name: str
    shape: Sequence[float]
    bits: float
    kinds: str
    kept: float = 1.0

    @property
    def elements(self) -> float:
        """How many values it has; 1 where its shape makes no sense."""
        sound = len(self.shape) == 2 and all(1 <= size <= 1e9 for size in self.shape)
        return prod(self.shape) if sound else 1


def weights(results: Results) -> list[Weight]:
    """What ``artifact.storage`` says; entries without bits are left out."""
    found = []
    for entry in items(results, "artifact", "storage"):
        bits = number(entry, "bits")
        if bits is not None and bits >= 0:
            kinds = " + ".join(str(kind) for kind in items(entry, "kinds"))
            name, kept = text(entry, "name") or "unnamed", number(entry, "kept")
            share = 1.0 if kept is None else min(max(kept, 0.0), 1.0)
            found.append(Weight(name, numbers(entry, "shape"), bits, kinds or "not recorded", share))
    return found


def is_shown(results: Results) -> bool:
    """Whether there is anything to say: a weight is packed, or a method left notes on it."""
    packed = any(weight.kinds != "dense" or weight.bits < FLOAT_BITS for weight in weights(results))
    return packed or any(True for _ in _notes(results))


def storage(results: Results) -> Markup:
    """The map of bits, that of the weights that are left, and a panel for every stage that noted how it chose."""
    found = weights(results)
    figures = [_map(found, "Bits a weight", _bits) if found else missing("Bits of each weight")]
    if any(weight.kept < 1 for weight in found):
        figures.append(_map(found, "Weights that are not zero", _share))
    parts: list[Markup] = []
    for name, notes in _notes(results):
        if layers := _layers(mapping(notes, "bits")):
            figures.append(_sensitivity(name, "Sensitivity of each layer", layers, OMEGA))
        if groups := _groups(mapping(notes, "groups")):
            figures.append(_sensitivity(name, "Sensitivity of each group", groups, RISE, left=120))
        if pictures := items(notes, "gobo"):
            parts.append(_dictionaries(name, pictures))
    return join(_words(found) if found else None, element("div", figures, class_="grid two"), parts)


def _notes(results: Results) -> Iterator[tuple[str, Results]]:
    """Stages whose notes this section shows: name and notes."""
    for stage in items(results, "stages"):
        notes = mapping(stage, "notes")
        if mapping(notes, "bits") or mapping(notes, "groups") or items(notes, "gobo"):
            yield text(stage, "name") or "stage", notes


def _words(found: Sequence[Weight]) -> Markup:
    left = mean_kept(found)
    return hint(
        f"Stored bits a weight, scales and codebooks included; {FLOAT_BITS} is float. "
        f"Over all matrices and tables: {significant(mean_bits(found))} bits a weight"
        + (f"; {percent(left)} of the weights are not zero." if left < 1 else ".")
    )


def mean_bits(found: Sequence[Weight]) -> float:
    """Bits a weight over several, at least one."""
    return sum(weight.bits * weight.elements for weight in found) / sum(weight.elements for weight in found)


def mean_kept(found: Sequence[Weight]) -> float:
    """Share of the weights that are left, over several, at least one."""
    return sum(weight.kept * weight.elements for weight in found) / sum(weight.elements for weight in found)


def _map(found: Sequence[Weight], title: str, cell: Callable[[Sequence[Weight], str], Cell]) -> Markup:
    def at(here: Sequence[Weight] | None, owner: str) -> Cell | None:
        return cell(here, owner) if here else None

    layers: dict[int, dict[str, list[Weight]]] = {}
    rest: dict[str, list[Weight]] = {}
    for weight in found:
        depth, column = place(weight.name)
        (rest if depth is None else layers.setdefault(depth, {})).setdefault(column, []).append(weight)
    columns = [name for name in MATRICES.values() if name in ALWAYS or any(name in row for row in layers.values())]
    rows = [
        (str(depth + 1), [at(row.get(name), f"layer {depth + 1}, {name}") for name in columns])
        for depth, row in sorted(layers.items())
    ]
    line = [*TABLES, *(name for name in rest if name not in TABLES)]
    blocks = [Block(columns, rows)] if rows else []
    blocks.append(Block(line, [("", [at(rest.get(name), name) for name in line])]))
    return element("figure", element("figcaption", element("strong", title), " by layer"), heat(blocks, title=title))


def place(name: str) -> tuple[int | None, str]:
    """Layer and column of a weight, by its name; None for what belongs to no layer."""
    if match := _LAYER.fullmatch(name):
        for pattern, column in MATRICES.items():
            if re.fullmatch(rf"({pattern})(\.up|\.down)?", match[2]):
                return int(match[1]), column
    for pattern, column in REST.items():
        if match := re.fullmatch(pattern, name, re.DOTALL):
            return None, column or match[1]
    raise AssertionError("the last pattern takes all")


def _bits(found: Sequence[Weight], owner: str) -> Cell:
    kinds, bits = ", ".join(dict.fromkeys(weight.kinds for weight in found)), mean_bits(found)
    return bits_cell(bits, f"{owner}: {significant(bits, 4)} bits a weight ({kinds}), {_size(found)}")


def _share(found: Sequence[Weight], owner: str) -> Cell:
    share = mean_kept(found)
    return share_cell(share, f"{owner}: {percent(share)} of the weights are not zero, {_size(found)}")


def _size(found: Sequence[Weight]) -> str:
    if len(found) > 1:
        return f"mean of {len(found)} matrices"
    return " by ".join(exact(size) or "" for size in found[0].shape)


def _layers(notes: Results) -> list[Part]:
    """Layers of a note on bits in order; empty where none of them has a measure."""
    found = []
    for depth, entry in sorted(notes.items(), key=_order):
        label = str(int(depth) + 1) if _is_number(depth) else str(depth)
        samples = numbers(entry, "eigenvalues")
        spread = ""
        if samples:
            low, high = significant(min(samples)), significant(max(samples))
            spread = f", top eigenvalues from {low} to {high} in {len(samples)} samples"
        found.append(_part(label, f"layer {label}: Omega", number(entry, "omega"), number(entry, "bits"), spread))
    return _measured(found)


def _groups(notes: Results) -> list[Part]:
    """Groups of a note on bits, as the model has them; empty where none of them has a measure."""
    found = []
    for group, entry in notes.items():
        match = _GROUP.fullmatch(str(group))
        label = (f"{int(match[1]) + 1}, {match[2]}" if match else str(group)).replace("_", " ")
        found.append(_part(label, f"{label}: rise of", number(entry, "rise"), number(entry, "bits")))
    return _measured(found)


def _part(label: str, measured: str, measure: float | None, bits: float | None, more: str = "") -> Part:
    words = "" if measure is None else f"{measured} {significant(measure)}"
    return Part(label, measure, bits, words + ("" if bits is None else f", {bits:,.4g} bits") + more)


def _measured(parts: list[Part]) -> list[Part]:
    return parts if any(part.measure is not None for part in parts) else []


def _is_number(depth: object) -> bool:
    return re.fullmatch(r"[0-9]{1,4}", str(depth)) is not None


def _order(item: tuple[Any, Any]) -> tuple[bool, int, str]:
    depth = str(item[0])
    return (not _is_number(depth), int(depth) if _is_number(depth) else 0, depth)


def _sensitivity(stage: str, title: str, parts: Sequence[Part], words: str, left: int = 30) -> Markup:
    return element(
        "figure",
        element(
            "figcaption", element("strong", "Sensitivity and bits"), element("span", f" in {stage}", class_="muted")
        ),
        sensitivity(parts, title=title, left=left),
        element("p", words, class_="hint"),
    )


def _dictionaries(stage: str, pictures: Sequence[Any]) -> Markup:
    words = (
        "How often each value occurs, on a logarithmic scale. Below: the values that replace them; "
        "dashed: beyond lie outliers, which stay as they are."
    )
    return join(
        element("h3", f"Values and their dictionary in {stage}"),
        element("p", words, class_="hint"),
        element("div", [_dictionary(mapping(picture)) for picture in pictures], class_="grid small"),
    )


def _dictionary(picture: Results) -> Markup:
    name = text(picture, "name") or "unnamed"
    depth, column = place(name)
    short = name if depth is None else f"Layer {depth + 1}, {column}"
    start, end = (number(picture, "histogram", key) for key in ("start", "end"))
    counts, centroids = numbers(picture, "histogram", "counts"), numbers(picture, "centroids")
    limits = [limit for key in ("low", "high") if (limit := number(picture, key)) is not None]
    chart = missing("Histogram")
    if start is not None and end is not None and start < end and counts:
        chart = histogram(start, end, counts, ticks=centroids, limits=limits, title=f"Values of {short}")
    return element(
        "figure",
        element(
            "figcaption",
            element("strong", short),
            element("span", typeset(f" {len(centroids)} values, {_outliers(picture, sum(counts))}"), class_="muted"),
        ),
        chart,
    )


def _outliers(picture: Results, total: float) -> str:
    count = number(picture, "outliers")
    if count is None:
        return "outliers not measured"
    return f"{count:,.0f} outliers" + (f" ({percent(count / total)})" if total > 0 else "")
