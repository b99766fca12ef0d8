"""What commands of several groups share."""

from pathlib import Path
from typing import Any

from bertpress.errors import UserError


def score_line(score: dict[str, Any]) -> str:
    """A metric with its interval."""
    return f"{score['name']} {score['value']:.2f} (95 % interval {score['low']:.2f} to {score['high']:.2f})"


def whole_numbers(option: str, given: str | None) -> tuple[int, ...]:
    """Numbers with commas between.

    Raises:
        UserError: something else is there.
    """
    try:
        return tuple(int(number) for number in given.split(",")) if given else ()
    except ValueError:
        raise UserError(f"{option}={given} must be whole numbers with commas between") from None


def task_options(
    text_columns: str | None,
    label_column: str | None,
    max_length: int | None,
    id2label: Path | None,
    multi_label: bool,
    class_weights: str | None,
) -> Any:
    """The task's options that were given, in the form of ``TaskOptions``."""
    from bertpress.inputs import labels_from, weights_from

    given: dict[str, Any] = {
        "text_columns": None if text_columns is None else [name.strip() for name in text_columns.split(",")],
        "label_column": label_column,
        "max_length": max_length,
        "id2label": None if id2label is None else labels_from(id2label),
        "multi_label": multi_label or None,
        "class_weights": None if class_weights is None else weights_from(class_weights),
    }
    return {name: value for name, value in given.items() if value is not None}
