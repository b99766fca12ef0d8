"""Text without labels: from files of its own, or from the texts of labelled rows."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from bertpress.errors import DataError
from bertpress.places import is_dir
from bertpress.tasks.files import SUFFIXES, lines, read
from bertpress.tasks.known import KNOWN
from bertpress.tasks.loading import splits
from bertpress.tasks.rows import Rows
from bertpress.tasks.task import Task

TEXT = "text"
PLAIN = (".txt", ".txt.gz")


def texts_of(columns: Sequence[str], *parts: Rows) -> Rows:
    """The distinct texts of these columns in one column, in their order; words to tag are joined by spaces.

    Raises:
        DataError: there is no text.
    """
    found = dict.fromkeys(_texts(value for rows in parts for name in columns for value in rows.columns.get(name, ())))
    if not found:
        raise DataError(f"{', '.join(rows.source for rows in parts)}: no texts in the columns {', '.join(columns)}")
    return Rows({TEXT: list(found)}, "unlabelled", parts[0].source)


def _texts(values: Iterable[Any]) -> Iterable[str]:
    for value in values:
        text = " ".join(map(str, value)) if isinstance(value, list | tuple) else value
        if isinstance(text, str) and text.strip():
            yield text


def load_texts(path: Path) -> Rows:
    """The texts of a file, or of all files of a folder: one a line, or the column ``text`` of a table.

    Raises:
        DataError: there is no such file, it cannot be read, or it holds no text.
    """
    suffixes = (*PLAIN, *SUFFIXES)
    paths = sorted(each for each in path.iterdir() if each.name.endswith(suffixes)) if is_dir(path) else [path]
    if not paths:
        raise DataError(f"--unlabelled {path}: no text files (needed: {', '.join(suffixes)})")
    return texts_of((TEXT,), *map(read_texts, paths))


def read_texts(path: Path, option: str = "--unlabelled") -> Rows:
    """The column ``text`` of a table, with what stands beside it, or the lines of a file of plain text.

    Raises:
        DataError: naming the option.
    """
    if path.name.endswith(SUFFIXES):
        rows = read(path, "unlabelled")
        rows.column(TEXT)
        return rows
    try:
        return Rows({TEXT: [line.rstrip("\r\n") for _, line in lines(path)]}, "unlabelled", str(path))
    except OSError as fault:
        raise DataError(f"{option} {path}: cannot be read ({fault.strerror or fault})") from None


def train_texts(task: Task, rows: Rows, data: Path | None) -> Rows:
    """The texts of the train split, and of those of the other tasks in the same folder.

    Args:
        task: of the run.
        rows: its train split.
        data: the folder that was searched for it; None: there are no others.
    """
    parts = [texts_of(task.text_columns, rows)]
    for folder in sorted(data.iterdir()) if data is not None and data.is_dir() else ():
        train = splits(folder).get("train", []) if folder.is_dir() else []
        if folder.name == (task.folder or task.name) or len(train) != 1:
            continue
        other = read(train[0], "train")
        known = (each.text_columns for each in KNOWN.values() if (each.folder or each.name) == folder.name)
        columns = next(known, task.text_columns)
        if set(columns) & other.columns.keys():
            parts.append(texts_of(columns, other))
    return texts_of((TEXT,), *parts)
