"""The straight line: load, check, stages, artifact, export, measure, report.  Read it from top to bottom."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from bertpress import __version__, artifact, tasks
from bertpress.artifact import Artifact, Parent
from bertpress.data import Data, load_data, load_unlabelled
from bertpress.encoder.imports import Loaded, tokenizer_of
from bertpress.encoder.model import BertpressPreTrainedModel
from bertpress.measure.environment import environment
from bertpress.needs import check_learnt, check_needs, check_readings, check_runtimes, hardware_note
from bertpress.other_tasks import load_others
from bertpress.outcome import by_width_and_depth, measure
from bertpress.recipe import Recipe
from bertpress.repeated import take_over
from bertpress.report import run_page
from bertpress.runfolder import RunFolder
from bertpress.stages import Run, run_stage
from bertpress.supervision import guessing_teacher, masked_lm_of
from bertpress.tasks import Rows, Task
from bertpress.teacher import make_teacher, trained_model
from bertpress.training import TrainSettings, distributed
from bertpress.training.teacher import weights_digest

Say = Callable[[str], None]


@dataclass(frozen=True)
class Request:
    """One compression, as the command line or the API asks for it.

    Attributes:
        model: hub name or folder.
        recipe: resolved.
        task: as :func:`bertpress.tasks.resolve` gives it.
        out: the run's folder.
        data: folder of the task's splits; None asks the hub.
        teacher: another model to learn from; None: the model itself, fine-tuned first where it is not yet.
        seed: decides everything random.
        resume: go on with the run in ``out``.
        threads: of every engine that is timed; None: all cores.
        command: what repeats this run.
        train: rows instead of ``data``.
        validation: rows instead of ``data``.
        metric: the user's own, a function of predictions and references; higher is better.
        train_limit: at most so many training rows.
        validation_limit: at most so many validation rows.
        held_out: rows that no stage reads, to choose the speed of early exits on; None: a split ``selection`` under
            ``data``, or some of the training rows.
        unlabelled: text without labels, in a file, a folder, or rows; None: that of the train splits under ``data``.
        cache: folder of the teacher's answers, which runs may share; None: one of the run's own.
        known: folder of another run of the same request but for the recipe; stages that both begin with are taken over.
    """

    model: str | Path
    recipe: Recipe
    task: Task
    out: Path
    data: Path | None = None
    teacher: str | Path | None = None
    seed: int = 0
    resume: bool = False
    threads: int | None = None
    command: str = ""
    train: Rows | None = None
    validation: Rows | None = None
    metric: tasks.UserMetric | None = None
    train_limit: int | None = None
    validation_limit: int | None = None
    held_out: Rows | None = None
    unlabelled: Path | Rows | None = None
    cache: Path | None = None
    known: Path | None = None

    def identity(self) -> dict[str, Any]:
        """What must be the same for a run to go on."""
        return {
            "model": str(self.model),
            "recipe": self.recipe.to_dict(),
            "task": self.task.model_dump(mode="json"),
            "teacher": None if self.teacher is None else str(self.teacher),
            "seed": self.seed,
            "train_limit": self.train_limit,
            "validation_limit": self.validation_limit,
            "unlabelled": str(self.unlabelled) if isinstance(self.unlabelled, Path) else None,
        }


def run(request: Request, say: Say = lambda line: None) -> dict[str, Any]:
    """Compress, measure and report; everything is in ``request.out`` afterwards.

    Returns:
        The content of ``results.json``.

    Raises:
        UserError: the input is wrong; the message is one line.
        Interrupted: Ctrl-C; the same request with ``resume`` goes on.
    """
    with pressing(request, say) as made:
        return distributed.by_first(lambda: _told(request, made, say)) or made.folder.read("results.json")


def _told(request: Request, made: Pressed, say: Say) -> dict[str, Any]:
    """Measure what was made, and write down all of it."""
    results = {
        "bertpress": __version__,
        "command": request.command,
        "seed": request.seed,
        "recipe": request.recipe.to_dict(),
        "task": made.data.task.model_dump(mode="json"),
        "environment": environment(threads=request.threads, seed=request.seed),
        **measure(request, made.folder, made.data, made.baseline, made.artifact, say),
        "stages": made.stages,
    }
    if found := by_width_and_depth(request, made.folder, made.data, say):
        results["subnetworks"] = found
    if (note := hardware_note(request.recipe)) is not None:
        results["note"] = note
    made.artifact.record({key: results[key] for key in ("baseline", "artifact", "environment")})
    made.folder.write("results.json", results)
    made.folder.write("report.html", run_page(results))
    return results


class Pressed(NamedTuple):
    """What compressing leaves, before anything is measured.

    Attributes:
        folder: of the run.
        data: task and rows.
        baseline: the uncompressed model as an artifact.
        artifact: the compressed one, exported as the recipe says.
        stages: a report for each.
    """

    folder: RunFolder
    data: Data
    baseline: Artifact
    artifact: Artifact
    stages: list[dict[str, Any]]


@contextmanager
def pressing(request: Request, say: Say = lambda line: None) -> Iterator[Pressed]:
    """Compress, and measure nothing; until the block ends, the run's folder is this process's alone.

    Raises:
        UserError: the input is wrong; the message is one line.
        Interrupted: Ctrl-C; the same request with ``resume`` goes on.
    """
    recipe = request.recipe
    distributed.join()
    say = say if distributed.first() else _silent
    recipe.check()
    check_runtimes(recipe)
    if (note := hardware_note(recipe)) is not None:
        say(note)
    data = load_data(request)
    check_needs(recipe, data)

    def masked_lm() -> BertpressPreTrainedModel | None:
        return masked_lm_of(request.model)

    for stage in recipe.stages:
        if "teacher" in stage.guessers:
            guessing_teacher(stage, masked_lm)
    texts = load_unlabelled(request, data)
    source = trained_model(request.model, data.task)
    check_learnt(recipe, data.task, trained=source.fine_tuned, given=request.teacher is not None)
    tokenizer = tokenizer_of(source)
    check_readings(recipe, data.task, tokenizer, request.teacher)
    others = load_others(request, data.task, tokenizer)

    rows = {"train": data.train, "rest": data.rest, "validation": data.validation, "unlabelled": texts}
    folder = RunFolder.open(request.out, identity_of(request, source, rows), resume=request.resume)
    with folder.held():
        folder.write("recipe.yaml", recipe.to_yaml())
        folder.write("environment.json", environment(threads=request.threads, seed=request.seed))

        baseline = make_teacher(request, folder, data, source, tokenizer, say)
        shared = Run(
            folder, data, tokenizer, request.seed, say, baseline.model, request.metric, texts, masked_lm, others,
            request.cache, baseline.tokenizer,
        )  # fmt: skip
        if request.known is not None:
            distributed.by_first(partial(take_over, folder, request.known, say))
        model = source.model if request.teacher is not None else baseline.model
        reports = []
        for number, stage in enumerate(recipe.stages, start=1):
            model, report = run_stage(shared, stage, number, model, source.model)
            reports.append(report)

        parent = artifact.parent_of(str(request.model), baseline.path, source.revision)
        pressed = save_artifact(request, folder, data, model, shared.current, parent)
        distributed.by_first(lambda: complete(request, data, pressed, say))
        yield Pressed(folder, data, baseline, pressed, reports)


def identity_of(request: Request, source: Loaded, rows: Mapping[str, Rows | None]) -> dict[str, Any]:
    """What must be the same for a run to go on: the request, the model's weights, and the rows that it reads."""
    return {
        **request.identity(),
        "revision": source.revision,
        "weights": weights_digest(source.model)[:16],
        "rows": {split: None if each is None else each.digest for split, each in rows.items()},
    }


def press(request: Request, say: Say = lambda line: None) -> Pressed:
    """Compress, and measure nothing; see :func:`pressing`."""
    with pressing(request, say) as made:
        return made


def complete(request: Request, data: Data, made: Artifact, say: Say) -> None:
    """What an artifact has beside its weights: the curve of its early exits, and its files for other runtimes."""
    if made.blueprint.exit is not None and made.manifest.exits is None:
        assert data.held_out is not None
        say(f"measuring what early exits cost, on {len(data.held_out)} rows that no stage has read")
        made.calibrate_exits(data.held_out, metric=request.metric)
    for runtime in request.recipe.export:
        if runtime not in made.exports:
            say(f"exporting to {runtime}")
            made.export(runtime)


def save_artifact(
    request: Request,
    folder: RunFolder,
    data: Data,
    model: BertpressPreTrainedModel,
    tokenizer: Any,
    parent: Parent | None = None,
) -> Artifact:
    """The model in the form that its user will load."""
    place = folder / "model"
    if distributed.there(place):
        return artifact.load(place)
    about: dict[str, Any] = {
        "recipe": request.recipe.to_dict(),
        "seed": request.seed,
        "command": request.command,
        "parent": parent,
    }
    made = distributed.by_first(lambda: artifact.save(model, tokenizer, data.task, place, **about))
    return made or artifact.load(place)


def _silent(line: str) -> None:
    """Of several processes one speaks."""


def fine_tune(
    model: str | Path,
    task: Task,
    out: Path,
    *,
    data: Path | None = None,
    settings: TrainSettings | None = None,
    seed: int = 0,
    resume: bool = False,
    command: str = "",
    train: Rows | None = None,
    validation: Rows | None = None,
    metric: tasks.UserMetric | None = None,
    train_limit: int | None = None,
    validation_limit: int | None = None,
    say: Say = lambda line: None,
) -> dict[str, Any]:
    """Fine-tune a model on a task: makes a teacher.

    Returns:
        ``path`` of the artifact, ``metric`` and ``metrics`` on validation, ``train``, ``environment``, ``seed``,
        ``command``.
    """
    distributed.join()
    say = say if distributed.first() else _silent
    stage = {"name": "fine-tuning", "train": (settings or TrainSettings()).model_dump(mode="json")}
    recipe = Recipe.parse({"name": "fine-tune", "stages": [stage], "export": []})
    request = Request(
        model, recipe, task, out, data, seed=seed, resume=resume, command=command, train=train, validation=validation,
        metric=metric, train_limit=train_limit, validation_limit=validation_limit,
    )  # fmt: skip
    rows = load_data(request)
    source = trained_model(model, rows.task)
    tokenizer = tokenizer_of(source)
    identity = identity_of(request, source, {"train": rows.train, "validation": rows.validation})
    folder = RunFolder.open(out, identity, resume=resume)
    with folder.held():
        shared = Run(folder, rows, tokenizer, seed, say)
        trained, report = run_stage(shared, recipe.stages[0], 1, source.model, source.model)
        made = save_artifact(request, folder, rows, trained, tokenizer)
        scored = distributed.by_first(lambda: _scored(request, folder, rows, made, report))
        return scored or folder.read("results.json")


def _scored(request: Request, folder: RunFolder, data: Data, made: Artifact, report: dict[str, Any]) -> dict[str, Any]:
    """Score what was fine-tuned, and write it down."""
    scores = made.evaluate(data.validation, metric=request.metric)
    results = {
        "path": str(made.path),
        "metric": next(iter(scores.values())).model_dump(mode="json"),
        "metrics": {name: score.model_dump(mode="json") for name, score in scores.items()},
        "train": report.get("train"),
        "environment": environment(seed=request.seed),
        "seed": request.seed,
        "command": request.command,
    }
    made.record({"artifact": {"metric": results["metric"]}, "environment": results["environment"]})
    folder.write("results.json", results)
    return results
