"""One declaration, four uses: a pydantic Field's bounds as check, as message, as documentation and as search range."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_args, get_origin

import annotated_types
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from bertpress.errors import RecipeError

Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True)
class Bounds:
    """Where a number may lie; None is unbounded."""

    low: float | None = None
    high: float | None = None
    low_open: bool = False
    high_open: bool = False

    def __str__(self) -> str:
        """An interval, such as ``(0, 1]``."""
        left = "(" if self.low_open or self.low is None else "["
        right = ")" if self.high_open or self.high is None else "]"
        low = "-inf" if self.low is None else f"{self.low:g}"
        high = "inf" if self.high is None else f"{self.high:g}"
        return f"{left}{low}, {high}{right}"


def bounds_of(metadata: Sequence[Any]) -> Bounds | None:
    """The interval that annotated constraints describe; None if they describe none."""
    found: dict[str, Any] = {}
    for item in metadata:
        if isinstance(item, annotated_types.Ge):
            found |= {"low": item.ge, "low_open": False}
        elif isinstance(item, annotated_types.Gt):
            found |= {"low": item.gt, "low_open": True}
        elif isinstance(item, annotated_types.Le):
            found |= {"high": item.le, "high_open": False}
        elif isinstance(item, annotated_types.Lt):
            found |= {"high": item.lt, "high_open": True}
    return Bounds(**found) if found else None


def allowed(field: FieldInfo) -> str:
    """What a field accepts, in words: an interval, a list of choices, or a type; unions joined by "or"."""
    if (bounds := bounds_of(field.metadata)) is not None:
        return f"in {bounds}"
    return " or ".join(_allowed_type(field.annotation)) or "anything"


def _allowed_type(annotation: Any) -> list[str]:
    if annotation is type(None):
        return ["null"]
    origin = get_origin(annotation)
    if origin is Literal:
        return ["one of " + ", ".join(str(value) for value in get_args(annotation))]
    metadata = getattr(annotation, "__metadata__", None)
    if metadata is not None:
        inner = [item for part in metadata for item in (part.metadata if isinstance(part, FieldInfo) else [part])]
        name = getattr(get_args(annotation)[0], "__name__", "value")
        bounds = bounds_of(inner)
        return [f"{_named(name)} in {bounds}" if bounds else _named(name)]
    if isinstance(annotation, type) and origin is None:
        return [_named(annotation.__name__)]
    if origin in (tuple, list):
        return ["a list"]
    return [text for part in get_args(annotation) for text in _allowed_type(part)]


def _named(name: str) -> str:
    return {"int": "a whole number", "float": "a number", "str": "text", "bool": "true or false"}.get(name, name)


def suggest(name: str, known: Sequence[str]) -> str:
    """``; did you mean "x"?`` or the list of what there is."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f'did you mean "{close[0]}"?' if close else "known: " + ", ".join(known)


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """The first fault as one line: ``keep=1.4 must be in (0, 1]``."""
    fault = error.errors(include_url=False)[0]
    name = str(fault["loc"][0]) if fault["loc"] else ""
    value = fault.get("input")
    if fault["type"] == "extra_forbidden":
        return f'unknown field "{name}"; {suggest(name, list(model.model_fields))}'
    if fault["type"] == "missing":
        return f"{name} is missing"
    if name not in model.model_fields:
        return str(fault["msg"]).removeprefix("Value error, ")
    if fault["type"] in ("value_error", "assertion_error"):
        return f"{name}={value!r}: {str(fault['msg']).removeprefix('Value error, ')}"
    field = model.model_fields[name]
    place = fault["loc"][1] if len(fault["loc"]) > 1 else None
    if isinstance(place, int) and (item := _item(field.annotation)) is not None:
        return f"{name}[{place}]={value!r} must be {' or '.join(_allowed_type(item))}"
    return f"{name}={value!r} must be {allowed(field)}"


def _item(annotation: Any) -> Any:
    """What a list of this type holds; None where it is of no list."""
    if get_origin(annotation) in (tuple, list):
        return get_args(annotation)[0]
    return next((found for part in get_args(annotation) if (found := _item(part)) is not None), None)


def validated(model: type[Model], fields: Any, place: str) -> Model:
    """An instance of these fields.

    Raises:
        RecipeError: the first fault, after the place.
    """
    if not isinstance(fields, dict):
        raise RecipeError(f"{place}: must be a mapping, not {fields!r}")
    try:
        return model(**{str(key): value for key, value in fields.items()})
    except ValidationError as fault:
        raise RecipeError(f"{place}: {explain(fault, model)}") from None
