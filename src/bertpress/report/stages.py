"""The section on training: each stage with its methods, its cost, and its losses over the steps."""

from collections.abc import Iterator, Sequence
from typing import Any

from bertpress.report import comparison, numerals
from bertpress.report.charts import curves
from bertpress.report.markup import Markup, element, join
from bertpress.report.reading import Results, items, mapping, number, text
from bertpress.report.sections import definitions, missing


def training(results: Results) -> Markup:
    """Each stage: its methods, its cost, and its losses over the steps."""
    stages = items(results, "stages")
    return join([_stage(index, stage) for index, stage in enumerate(stages)]) if stages else missing("Stages")


def _stage(index: int, stage: Results) -> Markup:
    train = mapping(stage, "train")
    facts = [
        ("Methods", ", ".join(_method_names(stage)) or None),
        ("Time", numerals.duration(number(stage, "seconds"))),
        ("Epochs", numerals.exact(number(train, "epochs"))),
        ("Examples", numerals.exact(number(train, "examples"))),
        ("Speed", _speed(train)),
        ("Metric after", comparison.metric(stage) if mapping(stage, "metric") else None),
    ]
    return join(
        element("h3", f"{index + 1}. {text(stage, 'name') or 'stage'}"),
        definitions([(name, shown) for name, shown in facts if shown]),
        _averaging(len(items(train, "log"))),
        element("div", list(_curves(items(train, "log"))), class_="grid small") if train else None,
    )


def _averaging(records: int) -> Markup | None:
    length = curves.span(records)
    return element("p", f"Each point is the mean of {length} records.", class_="hint") if length > 1 else None


def _speed(train: Results) -> str | None:
    rate = number(train, "examples_per_second")
    return None if rate is None else f"{numerals.significant(rate)} examples/s"


def _method_names(stage: Results) -> Iterator[str]:
    for method in items(stage, "methods"):
        yield from mapping(method) or [str(method)]


def _curves(log: Sequence[Any]) -> Iterator[Markup]:
    """The sum of the losses, its terms where there are several, and the learning rate."""
    terms = dict.fromkeys(term for record in log for term in mapping(record, "terms"))
    wanted: list[tuple[str, str, tuple[str, ...]]] = [("Loss", "total", ("loss",))]
    wanted += [(term, "term", ("terms", term)) for term in terms if len(terms) > 1]
    wanted += [("Learning rate", "rate", ("learning_rate",))]
    for name, role, path in wanted:
        kept = [(index, value) for index, record in enumerate(log) if (value := number(record, *path)) is not None]
        if kept:
            steps = [number(log[index], "step") or float(index) for index, _ in kept]
            yield curves.curve(name, steps, [value for _, value in kept], role=role)
