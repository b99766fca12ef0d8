"""Find methods by name.  The folder is the registry; packages add theirs by the entry points ``bertpress.methods``."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path

from bertpress.errors import RecipeError
from bertpress.methods.base import Method
from bertpress.methods.fields import suggest

_registered: dict[str, type[Method]] = {}


def register(name: str, method: type[Method]) -> None:
    """Make ``method`` known to recipes as ``name``, which has the form ``family/name``.

    Raises:
        ValueError: if the name has another form or is taken.
    """
    if name.count("/") != 1:
        raise ValueError(f'method name "{name}" must have the form family/name')
    if name in names() and _registered.get(name) is not method:
        raise ValueError(f'method name "{name}" is taken')
    _registered[name] = method


@cache
def _shipped() -> dict[str, str]:
    """Recipe name -> module, from the files beside this one; nothing is imported."""
    root = Path(__file__).parent
    found = {}
    for family in pkgutil.iter_modules([str(root)]):
        if family.ispkg:
            for module in pkgutil.iter_modules([str(root / family.name)]):
                if not module.name.startswith("_"):
                    found[f"{family.name}/{module.name}"] = f"bertpress.methods.{family.name}.{module.name}"
    return found


@cache
def _plugins() -> dict[str, type[Method]]:
    return {point.name: point.load() for point in entry_points(group="bertpress.methods")}


def names() -> list[str]:
    """All method names, sorted."""
    return sorted({*_shipped(), *_plugins(), *_registered})


def find(name: str) -> type[Method]:
    """The method class of that name.

    Raises:
        RecipeError: if there is none; the message suggests the nearest.
    """
    if name in _registered:
        return _registered[name]
    if (plugin := _plugins().get(name)) is not None:
        return plugin
    if name not in _shipped():
        raise RecipeError(f'unknown method "{name}"; {suggest(name, names())}')
    module = importlib.import_module(_shipped()[name])
    classes = [
        value
        for value in vars(module).values()
        if inspect.isclass(value) and issubclass(value, Method) and value.__module__ == module.__name__
    ]
    if len(classes) != 1:
        raise TypeError(f"{module.__name__} must define exactly one Method, not {len(classes)}")
    return classes[0]
