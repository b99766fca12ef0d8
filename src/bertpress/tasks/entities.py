"""Entities in a row of IOB2 tags."""

from collections.abc import Sequence


def entities(tags: Sequence[str]) -> list[tuple[str, int, int]]:
    """``(type, first word, one past the last)`` of each entity, as conlleval and seqeval count.

    An entity starts at B-x, and also at an I-x that does not continue an entity of type x.
    >>> entities(["B-person", "I-person", "O", "I-place"])
    [('person', 0, 2), ('place', 3, 4)]
    """
    found: list[tuple[str, int, int]] = []
    kind, start = "", 0
    for i, tag in enumerate([*tags, "O"]):
        prefix, _, name = tag.partition("-")
        inside = prefix in ("B", "I")
        if kind and not (prefix == "I" and name == kind):
            found.append((kind, start, i))
            kind = ""
        if inside and not kind:
            kind, start = name or "_", i
    return found
