"""The same tables without a page: Markdown for model cards and READMEs, rich for the terminal."""

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from bertpress.report import comparison
from bertpress.report.markup import escape
from bertpress.report.numerals import NOT_MEASURED
from bertpress.report.reading import Results, text
from bertpress.report.subjects import COLUMNS, Subject, cells, subjects

VERDICT_STYLES = {1: "green", 0: "", -1: "red"}


def markdown(results: Results) -> str:
    """Verdict, before/after table, table of engines and the command, in GitHub's Markdown.

    Args:
        results: what ``results.json`` holds; any key may be missing.
    """
    before, after = _headings(results)
    rows = [(row.label, row.before, row.after, row.change) for row in comparison.rows(results)]
    everyone = subjects(results)
    engines = [[_who(subject), *cells(subject)] for subject in everyone]
    command, seed = text(results, "command"), text(results, "seed") or "not recorded"
    parts = [
        f"**{comparison.verdict(results)}**",
        pipes(("Measure", before, after, "Change"), rows),
        pipes(("Model and engine", *COLUMNS), engines) if engines else None,
        f"Scores are in percent with 95 % bootstrap intervals. Seed: {_inline(seed)}.",
        _fenced(command) if command else None,
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _headings(results: Results) -> tuple[str, str]:
    baseline, artifact = (text(results, side, "name") for side in ("baseline", "artifact"))
    return (f"Before: {baseline}" if baseline else "Before", f"After: {artifact}" if artifact else "After")


def _who(subject: Subject) -> str:
    note = text(subject.data, "error")
    return f"{subject.name}, {subject.engine}" + (f" ({note})" if note else "")


def pipes(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown, all columns but the first to the right."""
    lines = [headings, ["---", *["---:"] * (len(headings) - 1)], *rows]
    return "\n".join("| " + " | ".join(_inline(cell) for cell in line) + " |" for line in lines)


def _inline(cell: str) -> str:
    """Text that stays text in a Markdown cell: one line, no HTML, no markup characters."""
    flat = escape(" ".join(cell.split())).replace("&#x27;", "'").replace("&quot;", '"')
    if set(flat) <= set("-:"):
        return flat
    for special in "\\`*_|":
        flat = flat.replace(special, f"\\{special}")
    return flat.replace("](", "]\\(")


def _fenced(command: str) -> str:
    """A code block whose fence is longer than any run of backticks inside."""
    fence = "```"
    while fence in command:
        fence += "`"
    return f"{fence}\n{command}\n{fence}"


def table(results: Results) -> Table:
    """The before/after table for a terminal; better is green, worse is red.

    Args:
        results: what ``results.json`` holds; any key may be missing.
    """
    shown = Table(title=Text(comparison.verdict(results), style="bold"), title_justify="left")
    shown.add_column("Measure")
    for heading in _headings(results):
        shown.add_column(Text(heading), justify="right", overflow="fold")
    shown.add_column("Change", justify="right")
    for row in comparison.rows(results):
        cells = [_dim(row.before), _dim(row.after), Text(row.change, style=VERDICT_STYLES[row.verdict])]
        shown.add_row(Text(row.label), *cells)
    return shown


def engines_table(results: Results) -> Table:
    """The baseline, the artifact on each engine and other candidates, for a terminal."""
    return _lines("Engines", subjects(results))


def bench_table(figures: Sequence[Results]) -> Table:
    """Candidates that were timed in one interleaved run, the baseline first, for a terminal."""
    roles = ["baseline", *["candidate"] * len(figures)]
    return _lines(
        "Bench",
        [Subject(text(data, "name") or role, role, data) for role, data in zip(roles, figures, strict=False)],
    )


def _lines(title: str, everyone: Sequence[Subject]) -> Table:
    shown = Table(title=Text(title, style="bold"), title_justify="left")
    shown.add_column("Model and engine", overflow="fold")
    for heading in COLUMNS:
        shown.add_column(heading, justify="right")
    for subject in everyone:
        shown.add_row(Text(_who(subject)), *(_dim(cell) for cell in cells(subject)))
    return shown


def _dim(cell: str) -> Text:
    return Text(cell, style="dim" if cell == NOT_MEASURED else "")
