"""The page of the quantization benchmark: which part bears few bits, and what each method costs, task by task."""

import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from bertpress.report import numerals
from bertpress.report.charts import bars
from bertpress.report.charts.lines import Line, Score, lines
from bertpress.report.charts.scatter import Point, scatter
from bertpress.report.document import Section, document
from bertpress.report.markup import Markup, element, join
from bertpress.report.reading import Results, items, mapping, mean, number, text
from bertpress.report.sections import capital, hint, missing
from bertpress.report.subjects import shortened

PARTS = {"embeddings": "engine", "encoder": "artifact", "both": "candidate"}
"""Which part is quantized, and the colour of its line."""

WORDS = {"embeddings": "embeddings alone", "encoder": "encoder alone", "both": "both"}
ROLES = {"baseline": "teacher", "artifact": "with training", "candidate": "without training"}
_SENSITIVITY = re.compile(r"sensitivity: (embeddings|encoder|both), ([0-9]{1,2}) bits")


class Row(NamedTuple):
    """All runs of one entry on one task: means over the seeds, the outermost bounds of their intervals."""

    name: str
    runs: Sequence[Results]
    value: float
    low: float | None
    high: float | None


def sensitivity_page(entries: Sequence[Any]) -> str:
    """Render the entries of ``results/quantize.json`` as one HTML page that needs nothing else.

    Args:
        entries: one mapping a run with ``name``, ``task``, ``metric``, ``baseline`` and sizes; any key may be missing,
            and entries without a score are left out.
    """
    tasks = list(dict.fromkeys(task for entry in entries if (task := text(entry, "task"))))
    found = {task: list(_rows([entry for entry in entries if text(entry, "task") == task])) for task in tasks}
    words = "The linear quantizer on one part of the model at a time, the other part float."
    parts = [
        Section(
            "sensitivity",
            "Which part is sensitive",
            join(
                hint(f"{words} Vertical bars are 95 % intervals; the dashed line is the teacher."),
                bars.legend([(role, WORDS[part]) for part, role in PARTS.items()]),
                _grid([_sensitivity(task, rows) for task, rows in found.items()]),
            ),
        ),
        Section(
            "methods",
            "Score against size",
            join(
                hint("Each method at its published bits. Names that find no room show under the pointer."),
                bars.legend(list(ROLES.items())),
                _grid([_methods(task, rows) for task, rows in found.items()]),
            ),
        ),
    ]
    header = join(
        element("p", "bertpress benchmark", class_="eyebrow"),
        element("h1", "Quantization: what few bits cost"),
        element("p", f"{len(entries)} runs. Tasks: {', '.join(tasks) or numerals.NOT_MEASURED}.", class_="lead"),
    )
    footer = element("p", "Scores are in percent, of packed files that were loaded again. Sizes are decimal.")
    return document("Quantization", header, parts, footer)


def _grid(figures: Sequence[Markup]) -> Markup:
    return element("div", figures, class_="grid two") if figures else missing("Tasks")


def _rows(entries: Sequence[Any]) -> Iterator[Row]:
    """Runs grouped by name, in their order; those without a score are left out."""
    for name in dict.fromkeys(name for entry in entries if (name := text(entry, "name"))):
        runs = [e for e in entries if text(e, "name") == name and number(e, "metric", "value") is not None]
        if runs:
            value = mean(runs, "metric", "value")
            low, high = (
                [b for run in runs if (b := number(run, "metric", end)) is not None] for end in ("low", "high")
            )
            assert value is not None
            yield Row(name, runs, value, min(low, default=None), max(high, default=None))


def _first(rows: Sequence[Row], *path: str) -> float | None:
    """The value at a path of the first run that has one: the teacher's figures are the same in all."""
    return next((value for row in rows for run in row.runs if (value := number(run, *path)) is not None), None)


def _score_name(rows: Sequence[Row]) -> str:
    return next((name for row in rows for run in row.runs if (name := text(run, "metric", "name"))), "score")


def _figure(task: str, what: str, chart: Markup) -> Markup:
    return element("figure", element("figcaption", element("strong", task), f": {what}"), chart)


def _sensitivity(task: str, rows: Sequence[Row]) -> Markup:
    scores: dict[str, list[Score]] = {part: [] for part in PARTS}
    for row in rows:
        if match := _SENSITIVITY.fullmatch(row.name):
            scores[match[1]].append(Score(float(match[2]), row.value, row.low, row.high))
    series = [
        Line(WORDS[part], role, sorted(scores[part], key=lambda score: score.x))
        for part, role in PARTS.items()
        if scores[part]
    ]
    title = f"{_score_name(rows)} against bits"
    if not series:
        return _figure(task, title, missing(capital(title)))
    level = _first(rows, "baseline", "value")
    return _figure(task, title, lines(series, level=level, title=title, x_label="bits", y_label="percent"))


def _methods(task: str, rows: Sequence[Row]) -> Markup:
    points = [*_teacher(rows)]
    for row in rows:
        x = mean(row.runs, "weight_bytes")
        if x is not None and not row.name.startswith("sensitivity:"):
            trained = any(mapping(stage, "train") for stage in items(row.runs[0], "recipe", "stages"))
            points.append(
                Point(shortened(row.name), "artifact" if trained else "candidate", x, row.value, row.low, row.high)
            )
    title = f"{_score_name(rows)} against size"
    if all(point.role == "baseline" for point in points):
        return _figure(task, title, missing(capital(title)))
    chart = scatter(points, title=title, x_label="file", y_label="percent", show_x=numerals.size)
    return _figure(task, title, chart)


def _teacher(rows: Sequence[Row]) -> Iterator[Point]:
    """The teacher's point: its score, and its size from a file and what percentage of the teacher's that is."""
    value, low, high = (_first(rows, "baseline", key) for key in ("value", "low", "high"))
    for row in rows:
        size, share = number(row.runs[0], "weight_bytes"), number(row.runs[0], "percent_of_teacher")
        if value is not None and size is not None and share is not None and share > 0:
            yield Point("teacher", "baseline", 100 * size / share, value, low, high)
            return
