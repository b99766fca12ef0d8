"""YAML as users write it: plain data, within bounds that no recipe and no study comes near."""

from __future__ import annotations

from typing import Any

import yaml

LONGEST = 2**20  # characters
LARGEST = 100_000  # values, aliases written out
BRACKETS = 5000  # opened; the time that the parser takes grows with the square of those that stay open


def parse(text: str) -> Any:
    """What a YAML text holds: mappings, lists and scalars; tags that make other objects are refused.

    An alias may stand for a value that holds aliases again, so that a few lines would unfold to more than any memory
    holds: values are counted before one of them is made.

    Raises:
        ValueError: it is not YAML, or beyond the bounds; one line.
    """
    if len(text) > LONGEST:
        raise ValueError(f"{len(text):,} characters, must be at most {LONGEST:,}")
    if (opened := text.count("[") + text.count("{")) > BRACKETS:
        raise ValueError(f"{opened:,} brackets are opened, must be at most {BRACKETS:,}")
    try:
        loader = yaml.SafeLoader(text)
        try:
            root = loader.get_single_node()
            if root is None:
                return None
            if _count(root, {}) > LARGEST:
                raise ValueError(f"more than {LARGEST:,} values, aliases written out")
            return loader.construct_document(root)
        finally:
            loader.dispose()
    except yaml.YAMLError as fault:
        mark = getattr(fault, "problem_mark", None)
        line = f"line {mark.line + 1}: " if mark else ""
        raise ValueError(f"{line}not YAML: {getattr(fault, 'problem', None) or fault}") from None
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _count(node: yaml.Node, known: dict[int, float]) -> float:
    """Values below a node; one that holds itself has infinitely many."""
    if id(node) not in known:
        known[id(node)] = float("inf")
        children = node.value if isinstance(node, yaml.CollectionNode) else ()
        parts = [part for child in children for part in (child if isinstance(child, tuple) else (child,))]
        known[id(node)] = 1 + sum(_count(part, known) for part in parts)
    return known[id(node)]
