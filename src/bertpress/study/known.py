"""What studies have found before, on this machine or another: runs that need not be done again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bertpress.errors import UserError
from bertpress.measure.statistics import rounded
from bertpress.study.jobs import ENTRY, Job, read, teacher_of


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="allow")


_Points: TypeAlias = Annotated[float, Field(ge=-1e6, le=1e6)]


class _Interval(_Part):
    value: _Points
    low: _Points
    high: _Points


class _Metric(_Interval):
    name: str


class _Teacher(_Part):
    metric: _Metric


class _Artifact(_Part):
    metric: _Metric
    drop: _Interval
    engines: dict[str, dict[str, Any]]


class _Entry(_Part):
    label: str
    model: str
    task: str
    seed: int
    start: str
    recipe: dict[str, Any]
    baseline: _Teacher
    artifact: _Artifact


class _Task(_Part):
    name: str


class _Plan(_Part):
    tasks: tuple[_Task, ...]


class _Cpu(_Part):
    name: str


class _Environment(_Part):
    cpu: _Cpu


class _Study(_Part):
    """What of a ``study.json`` is read here; entries are kept whole."""

    plan: _Plan
    environment: _Environment
    entries: tuple[_Entry, ...]
    profiles: dict[str, list[dict[str, Any]]] = {}
    vocabularies: dict[str, dict[str, Any]] = {}


@dataclass(frozen=True)
class Known:
    """Runs of a plan that other studies have done.

    Attributes:
        entries: by the folder that the run would have here, each with the ``source`` that it was read from.
        profiles: of models, as :func:`bertpress.study.timing.profile_teachers` gives them.
        vocabularies: of tasks, as :func:`bertpress.study.vocabulary.coverage` gives them.
    """

    entries: Mapping[Path, dict[str, Any]] = field(default_factory=dict)
    profiles: Mapping[str, list[dict[str, Any]]] = field(default_factory=dict)
    vocabularies: Mapping[str, dict[str, Any]] = field(default_factory=dict)

    def check_teachers(self, teachers: Mapping[Path, Job]) -> None:
        """See that what was compressed there is what is compressed here: its score and interval must be the same.

        Raises:
            UserError: a teacher scores otherwise; its runs cannot stand in one table.
        """
        for teacher, job in teachers.items():
            if (made := read(teacher, ENTRY)) is None:
                continue
            for place, entry in self.entries.items():
                there, here = entry["baseline"]["metric"], rounded(made["metric"])
                if (entry["model"], entry["task"]) == (job.model.name, job.task.name) and there != here:
                    raise UserError(
                        f"{entry['source']}: {place.name} was compressed from another teacher for {entry['task']}, "
                        f"which scores {there['value']:.2f}, not {here['value']:.2f}; give that teacher, or leave "
                        "--known away"
                    )


def recall(files: Sequence[str | Path], runs: Mapping[Path, Job]) -> Known:
    """Look up runs in the results of other studies.

    A run is known if line, model, task, seed, start, recipe and limits of the data are the same.  What has been done in
    the study's own folder is not looked up; of several files the first counts.

    Args:
        files: ``study.json`` of each.
        runs: of the plan, by folder.

    Raises:
        UserError: a file is not there, or is no such result.
    """
    entries: dict[Path, dict[str, Any]] = {}
    profiles: dict[str, list[dict[str, Any]]] = {}
    vocabularies: dict[str, dict[str, Any]] = {}
    for file in files:
        study = _load(Path(file))
        limits = {task.name: _limits(task.model_dump()) for task in study.plan.tasks}
        found = {_key(entry): entry for entry in map(_Entry.model_dump, study.entries)}
        for place, job in runs.items():
            entry = found.get(_key(job.described()))
            if entry is None or place in entries or (place / ENTRY).is_file():
                continue
            if limits.get(job.task.name) == _limits(job.task.model_dump(mode="json")):
                entries[place] = {**entry, "source": str(file), "device": study.environment.cpu.name}
        profiles = {**study.profiles, **profiles}
        vocabularies = {**study.vocabularies, **vocabularies}
    return Known(entries, profiles, vocabularies)


def needed(teachers: Mapping[Path, Job], runs: Mapping[Path, Job], known: Known) -> dict[Path, Job]:
    """The teachers of the runs that are not known."""
    places = {teacher_of(job) for place, job in runs.items() if place not in known.entries}
    return {place: job for place, job in teachers.items() if place in places}


def _load(path: Path) -> _Study:
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        raise UserError(f"{path}: there is no such study.json, or it cannot be read") from None
    try:
        return _Study.model_validate(raw)
    except ValidationError as fault:
        first = fault.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise UserError(f"{path}: is no study.json; {place or 'the whole'}: {first['msg']}") from None


def _key(run: Mapping[str, Any]) -> str:
    return json.dumps([run[key] for key in ("label", "model", "task", "seed", "start", "recipe")], sort_keys=True)


def _limits(task: Mapping[str, Any]) -> dict[str, Any]:
    """What of a task decides the outcome; where its data lie does not."""
    return {key: value for key, value in task.items() if key != "data"}
