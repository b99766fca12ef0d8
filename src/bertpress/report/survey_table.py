"""The table of a study for people: Markdown, CSV and LaTeX, all from the lines that ``study.json`` holds."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from bertpress.report.numerals import significant
from bertpress.report.plain import pipes

COLUMNS = (
    "Setup",
    "Device",
    "Size, %",
    "Without embeddings, %",
    "Of BERT-base, %",
    "Peak memory, MB",
    "GPU",
    "CPU",
    "Reference",
)
SIZES = ("size", "size_without", "of_bert_base")
SPEEDS = ("gpu", "cpu", "reference")
MEASURES = (*SIZES, "peak_memory_bytes", *SPEEDS)
FACTS = (
    "method",
    "origin",
    "group",
    "cite",
    "setup",
    "device",
    *MEASURES,
)
DASH = "-"
LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"} | {
    sign: f"\\{sign}" for sign in "&%$#_{}"
}


def tasks_of(table: Sequence[Mapping[str, Any]]) -> list[str]:
    """One column each: those of the published rows, then the others."""
    return list(dict.fromkeys(task for line in table for task in line["scores"]))


def cells(line: Mapping[str, Any], tasks: Sequence[str]) -> list[str]:
    """A row as text, in the order of ``COLUMNS``, then tasks, then the average drop as the change that it is."""
    memory, drop = line["peak_memory_bytes"], line["drop"]
    scores = [DASH if (score := line["scores"].get(task)) is None else f"{score:.1f}" for task in tasks]
    return [
        line["setup"] or DASH,
        line["device"] or DASH,
        *(DASH if line[key] is None else significant(line[key]) for key in SIZES),
        DASH if memory is None else f"{memory / 1e6:,.0f}",
        *(DASH if line[key] is None else f"{line[key]:.2f}x" for key in SPEEDS),
        *scores,
        DASH if drop is None else f"{-drop:+.2f}" if round(drop, 2) else "0.00",
    ]


def headings(tasks: Sequence[str]) -> list[str]:
    """Of all columns."""
    return ["Method", "Figures", *COLUMNS, *tasks, "Average drop"]


def markdown(table: Sequence[Mapping[str, Any]]) -> str:
    """GitHub's Markdown, a table for each group."""
    tasks = tasks_of(table)
    parts = []
    for group in dict.fromkeys(line["group"] for line in table):
        rows = [(line["method"], line["origin"], *cells(line, tasks)) for line in table if line["group"] == group]
        parts.append(f"**{group or 'Baselines'}**\n\n{pipes(headings(tasks), rows)}")
    return "\n\n".join(parts) + "\n"


def study_table(study: Mapping[str, Any]) -> Table:
    """The measured rows, for a terminal."""
    lines = [line for line in study["table"] if line["origin"] == "measured"]
    tasks = list(dict.fromkeys(task for line in lines for task in line["scores"]))
    shown = Table(title=study["study"], title_justify="left")
    for heading in headings(tasks):
        if heading != "Figures":
            shown.add_column(heading, justify="left" if heading == "Method" else "right", overflow="fold")
    for line in lines:
        shown.add_row(Text(line["method"]), *map(Text, cells(line, tasks)))
    return shown


def as_csv(table: Sequence[Mapping[str, Any]]) -> str:
    """One line a row, figures in full; empty where something was not measured."""
    tasks, out = tasks_of(table), io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*FACTS, *tasks, "drop", "runs", "notes"])
    for line in table:
        scores = [line["scores"].get(task) for task in tasks]
        values = [*(line[key] for key in FACTS), *scores, line["drop"], line["runs"], "; ".join(line["notes"])]
        writer.writerow(["" if value is None else value for value in values])
    return out.getvalue()


def latex(table: Sequence[Mapping[str, Any]]) -> str:
    """A ``tabular`` that needs no package."""
    tasks = tasks_of(table)
    head = headings(tasks)
    body = [_row(head), r"\hline"]
    for group in dict.fromkeys(line["group"] for line in table):
        if group:
            body += [r"\hline", rf"\multicolumn{{{len(head)}}}{{l}}{{\textit{{{escaped(group)}}}}} \\"]
        body += [
            _row([line["method"], line["origin"], *cells(line, tasks)]) for line in table if line["group"] == group
        ]
    columns = "ll" + "l" * 2 + "r" * (len(head) - 4)
    return "\n".join([rf"\begin{{tabular}}{{{columns}}}", *body, r"\end{tabular}"]) + "\n"


def _row(cells: Sequence[str]) -> str:
    return " & ".join(map(escaped, cells)) + r" \\"


def escaped(cell: str) -> str:
    """Text that LaTeX prints as it stands; a minus before a digit becomes one.

    >>> escaped("-0.63")
    '$-$0.63'
    """
    plain = "".join(LATEX.get(sign, sign) for sign in cell)
    return f"$-${plain[1:]}" if plain[:1] == "-" and plain[1:2].isdigit() else plain
