"""The breakdown of a model as a table for the terminal."""

from __future__ import annotations

from typing import Any

from rich.table import Table

NAMES = {
    "embeddings": "Embeddings",
    "mixer": "Convolutions and LSTMs",
    "attention_in": "Linear before attention",
    "attention": "Multi-head attention",
    "attention_out": "Linear after attention",
    "ffn": "Feed-forward",
    "head": "Head",
}


def breakdown_table(figures: dict[str, Any], length: dict[str, Any] | None = None) -> Table:
    """One row a component, then what no component accounts for, then the whole model.

    Args:
        figures: what :func:`bertpress.measure.profile.profile` returned.
        length: one of ``figures["lengths"]``; the first where absent.
    """
    at = length or figures
    title = (
        f"{figures['model']}: {at['tokens']} tokens, batch {at['batch']}, "
        f"{figures['engine']} on {figures['device']}, {figures['threads']} threads"
    )
    table = Table(title=title, title_justify="left")
    table.add_column("component")
    for column in ("parameters", "share", "MACs", "share", "memory", "latency alone", "share"):
        table.add_column(column, justify="right")
    for key, row in at["components"].items():
        table.add_row(
            NAMES.get(key, key),
            millions(row["parameters"]),
            percent(row["parameters"] / figures["parameters"]),
            millions(row["macs"]),
            percent(row["macs"] / at["macs"] if at["macs"] else 0),
            mebibytes(row["memory_bytes"]),
            milliseconds(row["latency_ms"]["median"]),
            percent(row["latency_share"]),
        )
    rest = at["unattributed"]
    table.add_row(
        "not attributed", "", "", "", "", "", milliseconds(rest["latency_ms"]), percent(rest["latency_share"])
    )
    table.add_section()
    table.add_row(
        "whole model",
        millions(figures["parameters"]),
        "100 %",
        millions(at["macs"]),
        "100 %",
        mebibytes(at["memory_bytes"]),
        milliseconds(at["latency_ms"]["median"]),
        "100 %",
    )
    return table


def millions(count: float) -> str:
    """A count in millions.

    >>> millions(109_482_240)
    '109.48 M'
    """
    return f"{count / 1e6:,.2f} M"


def percent(share: float) -> str:
    """A share as a percentage with one decimal."""
    return f"{100 * share:.1f} %"


def mebibytes(count: float) -> str:
    """Bytes in MiB."""
    return f"{count / 2**20:.2f} MiB"


def milliseconds(value: float) -> str:
    """Milliseconds with two decimals."""
    return f"{value:.2f} ms"
