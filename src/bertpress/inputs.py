"""From what a caller may hand in (names, folders, data sets, functions) to what the floors below take."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, TypedDict

from pydantic import ValidationError

from bertpress import tasks
from bertpress.artifact import Artifact
from bertpress.artifact import load as load_artifact
from bertpress.errors import ArtifactError, DataError, RecipeError
from bertpress.methods.fields import explain
from bertpress.places import is_dir, is_file
from bertpress.recipe import Recipe
from bertpress.tasks import Rows, Task, UserMetric, from_records, resolve
from bertpress.tasks.task import label_names
from bertpress.training import TrainSettings


class TaskOptions(TypedDict, total=False):
    """Changes to a named task; see :func:`bertpress.tasks.resolve`."""

    text_columns: str | Sequence[str]
    label_column: str
    max_length: int
    id2label: dict[int, str] | Sequence[str]
    multi_label: bool
    class_weights: Literal["balanced"] | Sequence[float]


def recipe_of(
    recipe: str | Path | dict[str, Any] | Recipe,
    *,
    profile: str | None = None,
    overrides: Sequence[str] = (),
    report_to: Sequence[str] = (),
) -> Recipe:
    """The recipe of a name, a file or plain data; every stage that trains reports to these trackers.

    Raises:
        RecipeError: something in it is unknown or out of bounds.
    """
    if isinstance(recipe, Recipe):
        if profile is not None or overrides:
            raise RecipeError("a Recipe object is resolved already: name it to choose a profile or to override")
        chosen = recipe
    elif isinstance(recipe, dict):
        chosen = Recipe.parse(json.loads(json.dumps(recipe)), profile=profile, overrides=overrides)
    else:
        chosen = Recipe.load(recipe, profile=profile, overrides=overrides)
    if not report_to:
        return chosen
    trackers = {"report_to": tuple(report_to)}
    stages = tuple(
        stage.model_copy(update={"train": stage.train.model_copy(update=trackers)}) if stage.train else stage
        for stage in chosen.stages
    )
    fine_tune = chosen.fine_tune.model_copy(update=trackers)
    return chosen.model_copy(update={"stages": stages, "fine_tune": fine_tune})


def task_of(task: str | Task, metric: str | UserMetric | None, options: TaskOptions) -> tuple[Task, UserMetric | None]:
    """The task with the caller's changes, and the metric where it is a function.

    Raises:
        DataError: an unknown name, or a value that does not fit.
    """
    name = metric if isinstance(metric, str) else None
    own = None if isinstance(metric, str) else metric
    if isinstance(task, str):
        return resolve(task, metric=name, **options), own
    changes: dict[str, Any] = dict(options)
    if "id2label" in changes:
        changes["labels"] = label_names(changes.pop("id2label"))
    if name is not None:
        changes["metric"] = name
    try:
        return (task.replace(**changes) if changes else task), own
    except ValidationError as fault:
        raise DataError(f"task {task.name}: {explain(fault, Task)}") from None


def task_for(
    made: Artifact, task: str | Task | None, metric: str | UserMetric | None, options: TaskOptions
) -> tuple[Task, UserMetric | None]:
    """The task that an artifact is scored on: its own, or another one with the artifact's labels and lengths.

    Raises:
        DataError: neither the artifact nor the caller names one, or the two are of different kinds.
    """
    trained = made.task
    if task is None and trained is None:
        raise DataError(f"{made.path}: the artifact has no task; name one")
    if task is None or (trained is not None and task == trained.name):
        assert trained is not None
        return task_of(trained, metric, options)
    named, own = task_of(task, metric, options)
    if trained is None or not isinstance(task, str):
        return named, own
    if named.kind != trained.kind:
        raise DataError(f"task {named.name}: is {named.kind}, but {made.path} is for {trained.kind}")
    kept = {name: getattr(trained, name) for name in OF_THE_MODEL if name not in options}
    if "id2label" in options:
        del kept["labels"]
    return named.replace(**kept), own


OF_THE_MODEL = ("labels", "max_length", "windows", "stride")
"""Fields of a task that a trained model has fixed."""


def rows_of(given: Any, split: str) -> Rows | None:
    """Rows of a ``datasets.Dataset``, a list of mappings or a mapping of columns; None stays None."""
    if given is None or isinstance(given, Rows):
        return given
    return from_records(given, split=split)


def texts_of(given: Any) -> Path | Rows | None:
    """A file or folder of unlabelled text, or texts in memory; None stays None."""
    if given is None or isinstance(given, Rows):
        return given
    if isinstance(given, str | Path):
        return folder_of(given)
    return tasks.texts_of(("text",), Rows({"text": list(given)}))


def passages_of(given: Any) -> dict[str, str]:
    """Passages by name: of a file, its lines by their numbers or its texts by the column ``id``; a mapping stays one.

    Raises:
        DataError: the file cannot be read, a text is none, or two have the same name.
    """
    if not isinstance(given, str | Path):
        return dict(given)
    rows = tasks.read_texts(Path(given).expanduser(), "--passages")
    texts = rows.column("text")
    names = [str(name) for name in rows.columns.get("id", range(1, len(rows) + 1))]
    found: dict[str, str] = {}
    for i, (name, text) in enumerate(zip(names, texts, strict=True)):
        if not isinstance(text, str) or name in found:
            raise DataError(
                f"--passages {rows.place(i)}: {name!r} " + ("is there twice" if name in found else "has no text")
            )
        found[name] = text
    return found


def folder_of(path: str | Path | None) -> Path | None:
    """A path with ``~`` expanded; None stays None."""
    return None if path is None else Path(path).expanduser()


def model_of(path: str | Path) -> str | Path:
    """The model in a run's folder where such a folder is given, else what was given."""
    folder = Path(path).expanduser()
    if not is_file(folder / "config.json") and is_file(folder / "model" / "config.json"):
        return folder / "model"
    return path


def opened(artifact: str | Path | Artifact, *, verify: bool = True) -> Artifact:
    """The artifact in a folder, or in the run of that folder.

    Raises:
        ArtifactError: there is none, or a file is missing or was changed.
    """
    if isinstance(artifact, Artifact):
        return artifact
    folder = Path(model_of(artifact)).expanduser()
    if not is_dir(folder):
        raise ArtifactError(f"{folder}: no such folder")
    return load_artifact(folder, verify=verify)


def labels_from(path: Path) -> dict[int, str] | list[str]:
    """The names of labels in a JSON file: a list, or a mapping of ids.

    Raises:
        DataError: the file cannot be read, or holds something else.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as fault:
        raise DataError(f"--id2label {path}: not a JSON file in UTF-8 ({fault})") from None
    if not isinstance(found, dict | list) or not found:
        raise DataError(f"--id2label {path}: must hold a list of names, or ids with their names")
    return found


def weights_from(text: str) -> Literal["balanced"] | list[float]:
    """Class weights as the command line takes them.

    Raises:
        DataError: neither ``balanced`` nor numbers.
    """
    if text == "balanced":
        return "balanced"
    try:
        return [float(word) for word in text.split(",")]
    except ValueError:
        raise DataError(f"--class-weights {text}: must be balanced, or numbers with commas between") from None


def settings_of(overrides: Sequence[str], report_to: Sequence[str]) -> TrainSettings:
    """Settings of fine-tuning with ``FIELD=VALUE`` changes.

    Raises:
        RecipeError: an unknown field, or a value out of bounds.
    """
    stage = {"name": "fine-tuning", "train": {}}
    paths = [f"stages.0.train.{item}" for item in overrides]
    recipe = Recipe.parse({"name": "train", "stages": [stage]}, place="--set", overrides=paths)
    settings = recipe_of(recipe, report_to=report_to).stages[0].train
    assert settings is not None
    return settings


def texts_from(lines: Iterable[str], task: Task | None) -> Iterator[Any]:
    """What to predict from lines of text: a text each; for two texts a JSON list or object, or a tab between."""
    pairs = task is not None and len(task.text_columns) == 2
    for number, line in enumerate(lines, 1):
        text = line.rstrip("\r\n")
        text = text.removeprefix("\ufeff") if number == 1 else text  # a byte order mark
        yield _pair(text, number) if pairs else text


def _pair(text: str, number: int) -> Any:
    """Two texts from a line."""
    parts = text.split("\t")
    if text[:1] in ("[", "{"):
        try:
            return json.loads(text)
        except ValueError as fault:
            if len(parts) != 2:
                raise DataError(f"standard input line {number}: broken JSON ({fault})") from None
    return parts if len(parts) > 1 else text
