"""A study as its author writes it: which recipes, on which models and tasks, how often, within which limits."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from bertpress import artifact, tasks
from bertpress.encoder.sources import find
from bertpress.engines import available
from bertpress.errors import EngineError, RecipeError, UserError
from bertpress.inputs import folder_of, model_of, recipe_of
from bertpress.methods.fields import suggest, validated
from bertpress.overrides import override_all
from bertpress.places import is_dir
from bertpress.recipe import Recipe, read_mapping
from bertpress.study import published
from bertpress.training import TrainSettings

Engine = Literal["torch", "onnxruntime", "openvino"]
NAME = r"^\w[\w.-]*$"  # also of a folder, which must lie below the study's


class Part(BaseModel):
    """A section of a study: frozen, and nothing unknown in it."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Limits(Part):
    """What one run may take before it is ended and counted as failed."""

    minutes: float = Field(240.0, gt=0, le=100_000, description="Wall time of a run.")
    memory_gib: float | None = Field(
        None, gt=0, le=100_000, description="Resident memory of a run and its children; null: whatever there is."
    )


class Timing(Part):
    """How artifacts are timed once all runs have ended."""

    engines: tuple[Engine, ...] = Field(
        ("openvino",),
        min_length=1,
        description="What artifacts are exported to, scored and timed on; the first counts.",
    )
    rounds: int = Field(25, ge=1, le=10_000, description="Blocks of texts timed with each artifact.")
    together: int = Field(
        6, ge=1, le=1000, description="Artifacts that are timed by turns with the teacher, each in its own process."
    )
    reference: str | None = Field(
        None,
        description="Artifact of a large fine-tuned model, as BERT-base is one: everything is timed against it too, "
        "in float32 on PyTorch, on tasks of its kind.",
    )

    def check(self, place: str) -> None:
        """Look for what timing needs.

        Raises:
            EngineError: an engine is not installed.
            ArtifactError: the reference is none.
        """
        for engine in self.engines:
            if engine not in available():
                raise EngineError(f"{place}.engines: {engine} is not installed")
        if self.reference is not None:
            artifact.load(self.reference, verify=False)


class ModelEntry(Part):
    """A model that is compressed."""

    name: str = Field(pattern=NAME, description="What the study calls it.")
    path: str = Field(min_length=1, description="Hub name or folder.")
    teachers: dict[str, str] = Field(
        default_factory=dict, description="Fine-tuned models by task; the others are trained, once a task."
    )


class TaskEntry(Part):
    """A task that everything is scored on."""

    name: str = Field(pattern=NAME, description="What the study calls it.")
    task: str | None = Field(None, description="Its kind or well-known name, where that is not its name.")
    data: str | None = Field(None, description="Folder of its splits; else the study's.")
    train_limit: int | None = Field(None, ge=1, description="At most so many training rows.")
    validation_limit: int | None = Field(None, ge=1, description="At most so many validation rows.")
    options: dict[str, Any] = Field(
        default_factory=dict, description="Changes to the task: text_columns, label_column, max_length, ..."
    )

    def resolve(self) -> tasks.Task:
        """The task itself.

        Raises:
            DataError: an unknown name, or an option that does not fit.
        """
        return tasks.resolve(self.task or self.name, **self.options)


class RowEntry(Part):
    """A line of the table: a recipe, and what differs from it."""

    label: str = Field(min_length=1, max_length=80, description="What the study calls it; the recipe's name if absent.")
    recipe: str | dict[str, Any] = Field(description="A shipped recipe, a file, or a recipe written out.")
    profile: str | None = Field(None, description="Of the recipe; else the study's.")
    set: dict[str, Any] = Field(default_factory=dict, description="Changes by path, as --set of compress takes them.")
    start: Literal["teacher", "pretrained"] = Field(
        "teacher", description="What is compressed: the fine-tuned model, or the one that it was made from."
    )
    models: tuple[str, ...] | None = Field(None, description="Where it is run; null: with all models.")
    tasks: tuple[str, ...] | None = Field(None, description="Likewise: on all tasks.")
    published: str | None = Field(
        None, description="Row of the survey's Table 1 to stand beside it; null: by the recipe, empty: none."
    )

    def resolve(self) -> Recipe:
        """The recipe; the study exports by itself.

        Raises:
            RecipeError: something in it is unknown or out of bounds.
        """
        changes = [f"{path}={json.dumps(value)}" for path, value in self.set.items()]
        return recipe_of(self.recipe, profile=self.profile, overrides=[*changes, "export=[]"])

    def row_of_table_1(self) -> str | None:
        """Name of the published row."""
        if self.published is not None:
            return self.published or None
        return next((row.method for row in published.ROWS if row.recipe == self.recipe), None)


class Plan(Part):
    """A whole study."""

    name: str = Field(pattern=NAME)
    summary: str = ""
    models: tuple[ModelEntry, ...] = Field(min_length=1)
    tasks: tuple[TaskEntry, ...] = Field(min_length=1)
    rows: tuple[RowEntry, ...] = Field(min_length=1)
    averaged: tuple[str, ...] | None = Field(
        None,
        min_length=1,
        description="Tasks that the table's sizes, speeds and drops are means over, so that rows compare; null: all "
        "that a row has run on, as for a row that has run on none of these.",
    )
    seeds: tuple[int, ...] = Field((0,), min_length=1, description="Each run once with each.")
    data: str | None = Field(None, description="Folder of the tasks; null: the hub is asked.")
    unlabelled: str | None = Field(None, description="Texts without labels, for the recipes that read some.")
    teacher: TrainSettings = Field(TrainSettings(), description="How teachers are trained.")
    threads: int | None = Field(None, ge=1, description="Of training and of timing; null: all cores.")
    limits: Limits = Limits()
    timing: Timing = Timing()

    @classmethod
    def of(cls, given: str | Path | dict[str, Any] | Plan, overrides: Sequence[str] = ()) -> Plan:
        """The plan in a file or in plain data, or the plan itself.

        Raises:
            UserError: as :meth:`load` does.
        """
        if isinstance(given, Plan):
            return given
        if isinstance(given, dict):
            return cls.parse(deepcopy(given), overrides=overrides)
        return cls.load(given, overrides)

    @classmethod
    def load(cls, path: str | Path, overrides: Sequence[str] = ()) -> Plan:
        """Read a study's YAML file.

        Args:
            path: of the file.
            overrides: ``path=value`` with dots, such as ``limits.minutes=5``.

        Raises:
            UserError: one line that names the place, the value and the bound.
        """
        place = Path(path)
        try:
            text = place.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            raise UserError(f"{path}: there is no such study, or it is no text in UTF-8") from None
        return cls.parse(read_mapping(text, place.name, "models, tasks and rows"), place.name, overrides)

    @classmethod
    def parse(cls, raw: dict[str, Any], place: str = "study", overrides: Sequence[str] = ()) -> Plan:
        """A study from plain data, as YAML gives it; see :meth:`load`."""
        override_all(raw, overrides, "limits.minutes=5")
        profile = raw.pop("profile", None)
        parts: dict[str, Any] = {
            "models": [_model(item) for item in _list(raw, "models", place)],
            "tasks": [{"name": item} if isinstance(item, str) else item for item in _list(raw, "tasks", place)],
            "rows": [_row(item, profile) for item in _list(raw, "rows", place)],
        }
        for key, kind in (("models", ModelEntry), ("tasks", TaskEntry), ("rows", RowEntry)):
            numbered = enumerate(parts[key], start=1)
            parts[key] = tuple(validated(kind, item, f"{place} {key[:-1]} {number}") for number, item in numbered)
        for key, section in (("limits", Limits), ("timing", Timing), ("teacher", TrainSettings)):
            parts[key] = validated(section, raw.get(key) or {}, f"{place}, {key}")
        plan = validated(cls, {**raw, **parts}, place)
        plan._check_names(place)
        return plan

    def _check_names(self, place: str) -> None:
        """Refuse names that occur twice, and references to what there is not."""
        models, known = [m.name for m in self.models], [t.name for t in self.tasks]
        labels = [row.label for row in self.rows]
        named: tuple[tuple[str, Sequence[Any]], ...] = (
            ("models", models), ("tasks", known), ("rows", labels), ("rows", [slug(label) for label in labels]),
            ("seeds", self.seeds),
        )  # fmt: skip
        for key, names in named:
            twice = next((name for name in names if list(names).count(name) > 1), None)
            if twice is not None:
                raise RecipeError(f"{place}, {key}: {twice!r} is there twice")
        if (lowest := min(self.seeds)) < 0:
            raise RecipeError(f"{place}, seeds: {lowest} must be in [0, inf)")
        _known(self.averaged or (), known, f"{place}, averaged")
        for row in self.rows:
            _known(row.models or (), models, f'{place} row "{row.label}", models')
            _known(row.tasks or (), known, f'{place} row "{row.label}", tasks')
            if row.published:
                _known([row.published], published.NAMES, f'{place} row "{row.label}", published')
        for model in self.models:
            _known(model.teachers, known, f"{place} model {model.name}, teachers")

    def check(self) -> None:
        """Look for everything that the runs will need, before the first one starts.

        Raises:
            UserError: a recipe, a model, a teacher, a folder or an engine that is not there or not usable.
        """
        self.timing.check(f"study {self.name}, timing")
        for task in self.tasks:
            task.resolve()
        for row in self.rows:
            try:
                row.resolve().check()
            except UserError as fault:
                raise type(fault)(f'study {self.name} row "{row.label}": {fault}') from None
        for model in self.models:
            for folder in (model.path, *model.teachers.values()):
                find(model_of(folder))
        folders = [self.data, *(task.data for task in self.tasks)]
        for name in filter(None, folders):
            if not is_dir(folder_of(name) or Path()):
                raise UserError(f"study {self.name}, data: {name} is no folder")

    def runs(self) -> Iterator[tuple[ModelEntry, TaskEntry, RowEntry, int]]:
        """What is run: a whole table with the first seed, then with the next."""
        for seed in self.seeds:
            for model in self.models:
                for task in self.tasks:
                    for row in self.rows:
                        if model.name in (row.models or (model.name,)) and task.name in (row.tasks or (task.name,)):
                            yield model, task, row, seed


def slug(label: str) -> str:
    """A label as the name of a folder.

    >>> slug("GOBO, 3 bits (50 %)")
    'gobo-3-bits-50'
    """
    return "-".join("".join(c if c.isalnum() or c == "." else " " for c in label.lower()).split())


def _list(raw: dict[str, Any], key: str, place: str) -> list[Any]:
    found = raw.get(key)
    if not isinstance(found, list) or not found:
        raise RecipeError(f"{place}: {key} must be a list of at least one")
    return found


def _model(item: Any) -> Any:
    return {"name": item.rstrip("/").rpartition("/")[2], "path": item} if isinstance(item, str) else item


def _row(item: Any, profile: str | None) -> Any:
    row = {"recipe": item} if isinstance(item, str) else item
    if not isinstance(row, dict):
        return row
    recipe = row.get("recipe")
    name = recipe.get("name") if isinstance(recipe, dict) else Path(str(recipe)).stem
    defaults = {"label": name, **({} if isinstance(recipe, dict) else {"profile": profile})}
    return {**defaults, **row}


def _known(names: Iterable[str], known: Sequence[str], place: str) -> None:
    for name in names:
        if name not in known:
            raise RecipeError(f'{place}: unknown "{name}"; {suggest(name, known)}')
