"""What one process of a study does, as a file that lies in the folder of the job: a teacher, or a run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from bertpress.artifact.folder import write_file
from bertpress.inputs import folder_of
from bertpress.runfolder import RunFolder
from bertpress.study.plan import Engine, ModelEntry, Plan, RowEntry, TaskEntry, slug

JOB, ENTRY, FAILURE, TIMING, LOG = "job.json", "entry.json", "failure.json", "timing.json", "log.txt"
RUN = "run"


class Job(BaseModel):
    """Everything that a process needs; what decides the outcome must be the same for a finished job to count.

    Attributes:
        kind: what is made.
        model: that is compressed, or becomes the teacher.
        task: that it learns.
        teacher: folder of the task's teacher; for a teacher's own job the one that was given, or None to train it.
        row: the line of the table; None for a teacher.
        recipe: of the line, resolved; settings of the training for a teacher.
        seed: of everything random.
        engines: to export to and score on.
        data: folder of the task.
        unlabelled: file or folder of text.
        threads: of everything.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["teacher", "run"]
    model: ModelEntry
    task: TaskEntry
    teacher: str | None
    row: RowEntry | None = None
    recipe: dict[str, Any] = Field(default_factory=dict)
    seed: int = 0
    engines: tuple[Engine, ...]
    data: str | None
    unlabelled: str | None = None
    threads: int | None = None

    @property
    def name(self) -> str:
        """For messages."""
        if self.row is None:
            return f"teacher of {self.model.name} for {self.task.name}"
        return f"{self.row.label}, {self.model.name}, {self.task.name}, seed {self.seed}"

    def described(self) -> dict[str, Any]:
        """A run as its entry begins, wherever it was done."""
        assert self.row is not None
        return {
            "label": self.row.label, "model": self.model.name, "task": self.task.name, "seed": self.seed,
            "start": self.row.start, "recipe": self.recipe,
        }  # fmt: skip

    def identity(self) -> dict[str, Any]:
        """What decides the outcome."""
        unimportant: dict[str, Any] = {"model": {"teachers"}, "row": {"published", "models", "tasks"}, "threads": True}
        if self.kind == "run":
            unimportant["teacher"] = True  # the one in the study's own folder, which may have been moved
        return self.model_dump(mode="json", exclude=unimportant)

    @property
    def data_folder(self) -> Path | None:
        """Where the task's splits lie; None: on the hub."""
        return folder_of(self.data)


def teacher_place(out: Path, model: str, task: str) -> Path:
    """Folder of a teacher's job."""
    return out / "teachers" / model / task


def _absolute(path: str | None) -> str | None:
    """A local path that means the same in every process; names on the hub stay as they are."""
    folder = folder_of(path)
    return str(folder.absolute()) if folder is not None and folder.exists() else path


def teacher_of(run: Job) -> Path:
    """Folder of the job that makes the teacher of a run."""
    assert run.teacher is not None
    return Path(run.teacher).parents[1]


def model_in(place: Path) -> Path:
    """The artifact that a job leaves."""
    return place / RUN / "model"


def tidy(place: Path) -> None:
    """Remove what only the run itself needed: teacher, stages, caches."""
    for path in (place / RUN).iterdir():
        if path.is_dir() and path != model_in(place):
            shutil.rmtree(path)


def _located(plan: Plan) -> Iterator[tuple[ModelEntry, TaskEntry, str | None, RowEntry, int]]:
    """The runs of a plan with the data of each, all paths absolute."""
    for model, task, row, seed in plan.runs():
        located = model.model_copy(update={"path": _absolute(model.path)})
        yield located, task, _absolute(task.data or plan.data), row, seed


def teacher_jobs(plan: Plan, out: Path) -> dict[Path, Job]:
    """A job for each model and task that a run needs, by its folder."""
    found = {}
    for model, task, data, _, _ in _located(plan):
        found[teacher_place(out, model.name, task.name)] = Job(
            kind="teacher", model=model, task=task, teacher=_absolute(model.teachers.get(task.name)),
            recipe=plan.teacher.model_dump(mode="json"), engines=plan.timing.engines, data=data,
            threads=plan.threads,
        )  # fmt: skip
    return found


def run_jobs(plan: Plan, out: Path) -> dict[Path, Job]:
    """A job for each run, by its folder, in the order of :meth:`Plan.runs`."""
    found = {}
    for model, task, data, row, seed in _located(plan):
        found[out / "runs" / model.name / task.name / f"{slug(row.label)}-{seed}"] = Job(
            kind="run", model=model, task=task, row=row,
            teacher=str(model_in(teacher_place(out, model.name, task.name))),
            recipe=row.resolve().to_dict(), seed=seed, engines=plan.timing.engines, data=data,
            unlabelled=_absolute(plan.unlabelled), threads=plan.threads,
        )  # fmt: skip
    return found


def prepare(place: Path, job: Job) -> None:
    """Put a job into its folder, or see that the one that lies there is the same.

    Raises:
        UserError: the folder holds another one.
    """
    RunFolder.open(place, job.identity(), resume=True)
    write_file(place / JOB, job.model_dump_json(indent=1) + "\n")


def read(place: Path, name: str) -> dict[str, Any] | None:
    """A file of a job's folder; None where there is none yet."""
    path = place / name
    if not path.is_file():
        return None
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found
