"""Load one split of a task: from a local folder laid out as ``<data>/<split>.jsonl.gz``, or from the hub."""

import json
from pathlib import Path
from typing import Any

from bertpress.errors import DataError
from bertpress.places import exists, is_dir
from bertpress.tasks.files import SUFFIXES, read
from bertpress.tasks.hub import load_from_hub
from bertpress.tasks.labels import whole_number
from bertpress.tasks.rows import Rows
from bertpress.tasks.task import Task, label_names

VALIDATION = ("validation", "validation_matched", "dev", "valid", "val", "test")
"""Where ``validation`` is looked for, in this order."""


def splits(folder: Path) -> dict[str, list[Path]]:
    """Data files of a folder by split name."""
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        suffix = next((s for s in sorted(SUFFIXES, key=len, reverse=True) if path.name.endswith(s)), None)
        if suffix and path.is_file():
            found.setdefault(path.name.removesuffix(suffix), []).append(path)
    return found


def find(task: Task, split: str, data: Path) -> Path:
    """The file of a split: in ``data`` itself, or in the folder of the task's name inside it.

    Raises:
        DataError: no such folder or file (listing what is there), or several files for one split.
    """
    if not is_dir(data):
        what = "is a file, not a folder that holds train.* and validation.*" if exists(data) else "does not exist"
        raise DataError(f"--data {data} {what}")
    folder = _folder(task, split, data)
    files = splits(folder)
    if not files:
        raise DataError(f"--data {folder}: no data files (needed: {split} with one of {', '.join(SUFFIXES)})")
    names = VALIDATION if split == "validation" else (split,)
    name = next((n for n in names if n in files), None)
    if name is None:
        raise DataError(f"--data {folder}: no split '{split}' (available: {', '.join(files)})")
    if len(files[name]) > 1:
        raise DataError(f"--data {folder}: several files for split '{name}': {', '.join(p.name for p in files[name])}")
    return files[name][0]


def has(task: Task, split: str, data: Path) -> bool:
    """Whether :func:`find` has files to choose from."""
    return data.is_dir() and split in splits(_folder(task, split, data))


def _folder(task: Task, split: str, data: Path) -> Path:
    inner = data / (task.folder or task.name)
    return inner if inner.is_dir() and not {"train", split} & splits(data).keys() else data


def _names_from_file(task: Task, folder: Path) -> tuple[str, ...] | None:
    """Label names from ``labels.json`` in the data folder, or in the folder above for this task.

    It holds names in id order (a list, or ids to names), alone, by column, or by task and column.
    """
    for path, own in ((folder / "labels.json", True), (folder.parent / "labels.json", False)):
        if not path.is_file():
            continue
        try:
            found: Any = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DataError(f"{path}: not a JSON file in UTF-8 ({error})") from None
        key = task.folder or task.name
        if isinstance(found, dict) and (key in found or folder.name in found):
            found = found.get(key, found.get(folder.name))
        elif not own:
            continue
        if isinstance(found, dict) and task.label_column in found:
            found = found[task.label_column]
        if isinstance(found, list) and found and all(isinstance(name, str) for name in found):
            return label_names(found)
        if (
            isinstance(found, dict)
            and found
            and all(whole_number(str(k)) is not None and isinstance(v, str) for k, v in found.items())
        ):
            return label_names(found)
        if own and not (isinstance(found, dict) and all(isinstance(v, (list, dict)) for v in found.values())):
            raise DataError(f"{path}: needs a list of names, or one for column '{task.label_column}'")
    return None


def load(
    task: Task,
    split: str = "train",
    data: Path | str | None = None,
    limit: int | None = None,
    *,
    labelled: bool = True,
) -> Rows:
    """One split of a task.

    Args:
        task: says which columns are needed.
        split: ``train``, ``validation`` (or else validation_matched, dev, valid, val, test), or any other.
        data: the task's folder, or the one above it; None asks the hub.
        limit: at most so many rows, chosen at random but always the same.
        labelled: whether the label column must be there.

    Raises:
        DataError: folder, split, column or content is missing or broken.
    """
    if data is None:
        rows = load_from_hub(task, split)
    else:
        path = find(task, split, Path(data).expanduser())
        rows = read(path, split)
        names = _names_from_file(task, path.parent) if task.label_column and not task.is_regression else None
        if names and task.label_column:
            rows = Rows(**{**vars(rows), "names": {task.label_column: names}})
    for column in task.text_columns:
        rows.column(column)
    if labelled and task.label_column is not None:
        rows.column(task.label_column)
    return rows.limit(limit)
