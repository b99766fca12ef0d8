"""What there is to choose from: methods with their fields, and shipped recipes, as plain data."""

from __future__ import annotations

import inspect
import json
import re
from importlib.resources import files
from typing import Any

import yaml
from rich.table import Table
from rich.text import Text

from bertpress.methods import registry
from bertpress.methods.base import Method
from bertpress.methods.fields import allowed
from bertpress.recipe import Recipe, shipped


def methods(name: str | None = None) -> list[dict[str, Any]]:
    """All methods with ``name``, ``family``, ``cite`` and ``summary``; or one, with its fields."""
    if name is None:
        return [_method(known, registry.find(known)) for known in registry.names()]
    return [{**_method(name, registry.find(name)), **_fields(registry.find(name))}]


def recipes(name: str | None = None) -> list[dict[str, Any]]:
    """All shipped recipes with ``name``, ``family``, ``cite`` and ``summary``; or one, resolved."""
    listed = []
    for known in shipped() if name is None else [name]:
        recipe = Recipe.load(known)
        families = dict.fromkeys(method.partition("/")[0] for _, method, _ in recipe.methods())
        entry: dict[str, Any] = {
            "name": recipe.name,
            "family": "+".join(families),
            "cite": recipe.cite,
            "summary": recipe.summary,
            "profiles": profiles_of(known),
        }
        listed.append(entry if name is None else {**entry, "recipe": recipe.to_dict()})
    return listed


def profiles_of(recipe: str) -> dict[str, Any]:
    """The profiles of a shipped recipe: names to overrides."""
    text = (files("bertpress") / "recipes" / f"{recipe}.yaml").read_text(encoding="utf-8")
    return dict(yaml.safe_load(text).get("profiles") or {})


def _method(name: str, method: type[Method]) -> dict[str, Any]:
    return {
        "name": name,
        "family": name.partition("/")[0],
        "cite": method.cite,
        "summary": method.summary(),
    }


def _about(method: type[Method]) -> str:
    """What its file says of sources and departures from them, as Markdown."""
    _, _, text = inspect.cleandoc(getattr(inspect.getmodule(method), "__doc__", None) or "").partition("\n\n")
    return re.sub(r":[a-z]+:`~?([^`]+)`", r"`\1`", text.replace("``", "`"))


def _fields(method: type[Method]) -> dict[str, Any]:
    return {
        "about": _about(method),
        "requires": sorted(need.value for need in method.requires),
        "provides": sorted(trait.value for trait in method.provides),
        "conflicts": sorted(trait.value for trait in method.conflicts),
        "fields": [
            {
                "name": name,
                "default": json.loads(json.dumps(field.get_default(call_default_factory=True), default=str)),
                "allowed": allowed(field),
                "description": field.description or "",
            }
            for name, field in method.model_fields.items()
        ],
    }


def overview(entries: list[dict[str, Any]]) -> Table:
    """A line for each method or recipe, for a terminal."""
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for heading in ("name", "summary", "source"):
        table.add_column(heading, overflow="fold", no_wrap=heading == "name")
    for entry in entries:
        table.add_row(Text(entry["name"]), Text(entry["summary"]), Text(entry["cite"], style="dim"))
    return table


def method_text(entry: dict[str, Any]) -> str:
    """One method with its fields, for a terminal."""
    lines = [entry["name"], "  " + entry["summary"], f"  {entry['cite']}"]
    lines += [f"  {kind}: {', '.join(entry[kind])}" for kind in ("requires", "provides", "conflicts") if entry[kind]]
    for field in entry["fields"]:
        lines.append(f"  {field['name']} = {json.dumps(field['default'])}    {field['allowed']}")
        lines.append(f"      {field['description']}")
    return "\n".join(lines)


def recipe_text(entry: dict[str, Any]) -> str:
    """One recipe with every default written out, and its profiles, as YAML."""
    profiles = {"profiles": entry["profiles"]} if entry["profiles"] else {}
    return yaml.safe_dump({**entry["recipe"], **profiles}, sort_keys=False, allow_unicode=True).rstrip()
