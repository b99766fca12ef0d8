"""Single values of a recipe that are set from outside: ``stages.0.train.epochs=1``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from bertpress import plain_yaml
from bertpress.errors import RecipeError
from bertpress.methods.fields import suggest

_SECTIONS = ("train", "fine_tune", "tasks")  # may be overridden although the file does not write them out


def scalar(text: str) -> Any:
    """A value as YAML reads it.

    Raises:
        RecipeError: it is none.
    """
    try:
        return plain_yaml.parse(text)
    except ValueError:
        raise RecipeError(f"--set: {text!r} is not a YAML value") from None


def override_all(raw: dict[str, Any], items: Iterable[str], example: str) -> None:
    """Make all changes of the form ``path=value``.

    Raises:
        RecipeError: one has another form, or no place.
    """
    for item in items:
        path, equals, value = item.partition("=")
        if not equals:
            raise RecipeError(f'--set {item}: must have the form path=value, such as "{example}"')
        override(raw, path.strip(), scalar(value), f"--set {item}")


def override(raw: dict[str, Any], path: str, value: Any, place: str) -> None:
    """Set the value at a dotted path; every step but the last must exist.

    Raises:
        RecipeError: there is no such place; says what there is.
    """
    node: Any = raw
    *parents, last = path.split(".")
    for step in parents:
        node = _descend(node, step, place)
    if isinstance(node, list):
        raise RecipeError(f'{place}: "{path}" ends in a list; name a field of one of its items')
    if not isinstance(node, dict):
        raise RecipeError(f'{place}: "{path}" leads through a value that has no fields')
    node[last] = value


def _descend(node: Any, step: str, place: str) -> Any:
    if isinstance(node, dict):
        if step in _SECTIONS:
            node.setdefault(step, {})
        if step in node:
            if node[step] is None:
                node[step] = {}
            return node[step]
        raise RecipeError(f'{place}: there is no "{step}"; {suggest(step, [str(key) for key in node])}')
    if isinstance(node, list):
        return _item(node, step, place)
    raise RecipeError(f'{place}: "{step}" leads through a value that has no fields')


def _item(node: list[Any], step: str, place: str) -> Any:
    """An item of a list of stages or of methods, by number or by name."""
    for i, item in enumerate(node):
        if isinstance(item, str):  # a method without parameters
            item = node[i] = {item: {}}
        stage = isinstance(item, dict) and ("use" in item or "train" in item)
        name = item.get("name") if stage else next(iter(item), None) if isinstance(item, dict) else None
        if step in (str(i), name):
            if stage or not isinstance(item, dict) or len(item) != 1:
                return item
            item[name] = item[name] or {}
            return item[name]
    raise RecipeError(f'{place}: there is no item "{step}"; there are {len(node)}, numbered from 0')
