"""The page of the benchmark of dynamic inference: what each setting of a model saves, and what that costs."""

from collections.abc import Iterator, Sequence
from typing import Any

from bertpress.report import numerals
from bertpress.report.charts import bars
from bertpress.report.charts.scatter import Point, scatter
from bertpress.report.document import Section, document
from bertpress.report.markup import Markup, element, join
from bertpress.report.reading import change_bounds, mapping, number, text
from bertpress.report.sections import hint, missing
from bertpress.report.subjects import LONGEST_LABEL, shortened
from bertpress.report.subnetworks import ON, front

OFF = "dominated"
ONLY = "as it is"
"""The setting of a model that has no other."""
ROLES = {"baseline": "all layers and tokens", ON: "none beats it in both", OFF: "another does"}
FORMS = {"float32": "float32 on PyTorch", "int8": "int8 on OpenVINO"}
MEASURES = {
    "one text at a time": ("batch_1", "speedup"),
    "one text at a time, graphs for some lengths": ("fixed_lengths", "speedup"),
    "32 texts at a time": ("batch_32",),
}


def dynamic_page(entries: Sequence[Any]) -> str:
    """Render the entries of ``results/dynamic.json`` as one HTML page that needs nothing else.

    Args:
        entries: one mapping a run with ``name``, ``task`` and ``timing``: by form and setting, a drop, and ratios to
            the same model with all layers and tokens.  Any key may be missing; what was not timed is left out.
    """
    tasks = list(dict.fromkeys(task for entry in entries if (task := text(entry, "task"))))
    words = (
        "A mark is one setting of one model. Time is that of the same form of the model with all of its layers and "
        "tokens, measured by turns, as 100 %. Vertical bars are 95 % intervals."
    )
    parts = [
        Section(
            task,
            task,
            join(hint(words), bars.legend(list(ROLES.items())), _grid([e for e in entries if text(e, "task") == task])),
        )
        for task in tasks
    ]
    header = join(
        element("p", "bertpress benchmark", class_="eyebrow"),
        element("h1", "Dynamic inference: less for easy texts"),
        element("p", f"Tasks: {', '.join(tasks) or numerals.NOT_MEASURED}.", class_="lead"),
    )
    footer = element("p", "Change is in points of the task's metric on validation, against that model.")
    return document("Dynamic inference", header, parts or [Section("tasks", "Tasks", missing("Tasks"))], footer)


def _grid(entries: Sequence[Any]) -> Markup:
    charts = [
        chart
        for form, where in FORMS.items()
        for what, path in MEASURES.items()
        if (chart := _chart(list(_points(entries, form, path)), f"{where}, {what}")) is not None
    ]
    return element("div", charts, class_="grid two") if charts else missing("Times")


def _points(entries: Sequence[Any], form: str, path: Sequence[str]) -> Iterator[Point]:
    """Every setting that was timed in this form: its share of the time, and its change."""
    for entry in entries:
        for setting, found in mapping(entry, "timing", form).items():
            speedup, drop = number(mapping(found), *path), number(mapping(found), "drop", "value")
            if not speedup or drop is None:
                continue
            name, told = text(entry, "name") or "", "" if setting == ONLY else f", {setting}"
            short = shortened(name, LONGEST_LABEL - len(told)) + told
            yield Point(short, OFF, 1 / speedup, -drop, *change_bounds(found, "drop"), link=name + told)


def _chart(points: Sequence[Point], title: str) -> Markup | None:
    if not points:
        return None
    best = front(points)
    kept = {point.link for point in best}
    chart = scatter(
        [Point("all", "baseline", 1.0, 0.0), *best, *(point for point in points if point.link not in kept)],
        title=title, x_label="time", y_label="points", show_x=numerals.percent, curve=best,
    )  # fmt: skip
    return element("figure", element("figcaption", element("strong", title)), chart)
