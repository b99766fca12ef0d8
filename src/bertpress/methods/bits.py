"""How a method shared out bits: kept for a run that goes on, and for the report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bertpress.artifact.folder import write_file
from bertpress.methods.base import Context


def chosen_bits(ctx: Context) -> dict[str, dict[str, Any]]:
    """What :func:`note_bits` wrote down before the run was stopped; empty when it begins."""
    place = _bits_file(ctx)
    if place is None or not place.is_file():
        return {}
    found: dict[str, dict[str, Any]] = json.loads(place.read_text(encoding="utf-8"))
    return found


def note_bits(ctx: Context, name: str, content: dict[str, dict[str, Any]]) -> None:
    """Write down how bits were shared out, and on which measures: for a run that goes on, and for the report.

    Args:
        ctx: keeps it.
        name: of the note.
        content: part of the model -> ``bits``, and the measures.
    """
    ctx.notes[name] = content
    if (place := _bits_file(ctx)) is not None:
        place.parent.mkdir(parents=True, exist_ok=True)
        write_file(place, json.dumps(content, indent=1) + "\n")


def _bits_file(ctx: Context) -> Path | None:
    return None if ctx.folder is None else ctx.folder / "bits.json"
