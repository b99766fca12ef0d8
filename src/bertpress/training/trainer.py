"""Train a model on a task, with objectives, callbacks and a teacher: the one entrance to this package."""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback

from bertpress.encoder.slots import Tape
from bertpress.errors import Interrupted, RecipeError, UserError
from bertpress.tasks import Collate, Encoded, Task, UserMetric
from bertpress.training import distributed, rng
from bertpress.training.checkpoint import Checkpoints
from bertpress.training.evaluation import collate_for
from bertpress.training.lesson import Lesson
from bertpress.training.loop import ObjectiveTrainer
from bertpress.training.objectives import Objective, TaskLoss, captures, teacher_reads
from bertpress.training.passes import Pass, as_it_is
from bertpress.training.progress import Meter, ProgressDisplay, Style
from bertpress.training.settings import TrainSettings
from bertpress.training.teacher import Teacher


@dataclass(frozen=True)
class TrainResult:
    """What a training run gives.

    Attributes:
        model: the model that was handed in, trained, in eval mode.
        log: points of the training curve, and validation metrics, by step.
        seconds: time of the steps, over all processes that an interrupted run took.
        examples_per_second: pace over these.
        steps: updates.
        examples: examples read, repeats included.
        best_step: the update whose weights were kept where ``select: best``; None: the last.
        metric: the best value of the task's metric on the validation data; None: not evaluated.
    """

    model: nn.Module
    log: list[dict[str, Any]]
    seconds: float
    examples_per_second: float
    steps: int
    examples: int
    best_step: int | None
    metric: float | None


def train(
    model: nn.Module,
    *,
    task: Task,
    data: Encoded,
    tokenizer: Any,
    settings: TrainSettings,
    folder: Path,
    objectives: Sequence[Objective] | None = None,
    callbacks: Sequence[TrainerCallback] = (),
    seed: int = 0,
    teacher: Teacher | None = None,
    state: nn.ModuleDict | None = None,
    validation: Encoded | None = None,
    metric: UserMetric | None = None,
    resume: bool = True,
    report: Callable[[str], None] | None = None,
    progress: Style = "auto",
    label: str = "training",
    collate: Collate | None = None,
    passes: Sequence[Pass] = (),
    answer: nn.Module | None = None,
    others: Sequence[Lesson] = (),
) -> TrainResult:
    """Train ``model`` in place.

    A run that was killed goes on from its last checkpoint in ``folder`` and ends with the same bits as an
    undisturbed one; a finished one returns at once.  The random generators are afterwards as they were before.

    Args:
        model: from :func:`bertpress.encoder.build_model` or an import.
        task: with its labels known.
        data: encoded train rows; unlabelled ones do where no objective reads labels.
        tokenizer: decides the padding.
        settings: how long, how fast.
        folder: this run's own; checkpoints, ``done.pt``.
        objectives: terms of the loss; None: the task's own loss.
        callbacks: schedules of methods.  With ``state_dict()`` and ``load_state_dict(state)`` they are checkpointed.
        seed: decides every random number.
        teacher: for objectives that need one.
        state: modules that train beside the model; an ``optimization`` attribute gives theirs.
        validation: for ``select: best`` and the log; best cut from train.
        metric: the user's own, instead of the task's primary one; higher is better.
        resume: False forgets an earlier run in ``folder``.
        report: told in one line what happens (resumed, teacher cached).
        progress: how it is shown on stderr.
        label: name of the run beside the progress bar.
        collate: padding other than the tokenizer's.
        passes: forward passes of a step, whose gradients add up; empty: one, of the model as it is.
        answer: gives the logits, from the model's output and the batch, in place of the model's own; a part of
            ``state`` where it is to be trained.
        others: what the model learns beside the task, each batch from one of them.

    Raises:
        RecipeError: an objective needs a teacher and there is none; loss or gradient are no longer finite.
        UserError: ``folder`` holds another run.
        MachineError: no space left on the disk.
        Interrupted: Ctrl-C, after a checkpoint.
    """
    terms: Sequence[Objective] = objectives if objectives is not None else [TaskLoss()]
    extra = state if state is not None else nn.ModuleDict()
    say = report or (lambda line: None)
    lessons = [Lesson(task, data, terms, teacher, passes or (Pass(),)), *others]
    for lesson in lessons:
        _check_terms(lesson, model)
    _check(settings, validation, data, folder)
    checkpoints = Checkpoints(folder)
    with rng.preserved(), _threads_put_back():
        distributed.by_first(lambda: checkpoints.begin(resume=resume))
        shown = ProgressDisplay(label, progress)
        trainer = ObjectiveTrainer(
            model,
            lessons=lessons,
            collate=collate or collate_for(tokenizer),
            tokenizer=tokenizer,
            callbacks=[*callbacks, shown],
            settings=settings,
            checkpoints=checkpoints,
            seed=seed,
            state=extra,
            validation=validation,
            metric=metric,
            answer=answer,
        )
        distributed.share_weights([model, extra])
        trainer.methods = list(callbacks)
        trainer.identity = identity(trainer)
        done = checkpoints.done()
        if done is None:
            try:
                _run(trainer, say, progress)
            except KeyboardInterrupt as error:
                raise Interrupted(f"{folder}: stopped; run again to go on") from error
            finally:
                shown.meter.stop()
        else:
            _same_run(folder, done["run"], trainer.identity)
            model.load_state_dict(done["model"])
            extra.load_state_dict(done["extra"])
            trainer.record.load_state_dict(done["record"], trainer.args.device)
            trainer.selection.best, trainer.selection.step = done["selection"]
            trainer.state.global_step = done["step"]
            say(f"{folder}: was finished before")
    return _result(trainer)


def _run(trainer: ObjectiveTrainer, say: Callable[[str], None], progress: Style) -> None:
    checkpoints = trainer.checkpoints
    found = checkpoints.latest()
    if found is not None:
        _same_run(checkpoints.folder, found["run"], trainer.identity)
        torch.set_num_threads(found["threads"])  # sums are split among threads: another number, other last bits
        say(f"{checkpoints.folder}: going on after step {found['step']} of {found['total']}")
    trainer.resume_content = found
    for source in range(len(trainer.lessons)):
        _prepare_teacher(trainer, source, say, progress)
    trainer.train()
    if trainer.is_world_process_zero():
        checkpoints.save_done({
            "run": trainer.identity, "step": trainer.state.global_step, "model": trainer.model.state_dict(),
            "extra": trainer.extra.state_dict(), "record": trainer.record.state_dict(trainer.seconds()),
            "selection": [trainer.selection.best, trainer.selection.step],
        })  # fmt: skip
    trainer.record.seconds_before = trainer.seconds()
    distributed.barrier()


def _prepare_teacher(trainer: ObjectiveTrainer, source: int, say: Callable[[str], None], progress: Style) -> None:
    lesson, settings = trainer.lessons[source], trainer.settings
    if (teacher := lesson.follows) is None:
        return
    teacher.place(trainer.args.device, settings.precision)
    changes = any(each.teacher is not as_it_is for each in lesson.passes)
    reads = teacher_reads(lesson.all_objectives)
    if changes or settings.max_seconds is not None or (reads and settings.cache_teacher == "logits"):
        teacher.cache = None  # a cache of every row could take more than the time there is
        return
    meter, begun = Meter("teacher", progress), time.monotonic()

    def show(done: int, total: int) -> None:
        if not meter.total:
            meter.start(total, done)
        meter.show(done)

    try:
        rows = trainer.plan.used_rows(source)
        if teacher.prepare(lesson.data, rows, trainer.collate, show, reads=reads, say=say):
            say(f"teacher's {', '.join(['logits', *sorted(reads)])} cached ({time.monotonic() - begun:.1f} s)")
    finally:
        meter.stop()


def _result(trainer: ObjectiveTrainer) -> TrainResult:
    trainer.model.eval()
    record, selection = trainer.record, trainer.selection
    return TrainResult(
        model=trainer.model,
        log=record.log,
        seconds=record.seconds_before,
        examples_per_second=record.examples / max(record.seconds_before, 1e-9),
        steps=trainer.state.global_step,
        examples=record.examples,
        best_step=selection.step if trainer.settings.select == "best" else None,
        metric=selection.best,
    )


def _forms_maps(model: nn.Module) -> bool:
    blueprint = getattr(model, "blueprint", None)
    return blueprint is None or bool(blueprint.maps)


def _shrinks(model: nn.Module) -> bool:
    blueprint = getattr(model, "blueprint", None)
    return blueprint is not None and bool(blueprint.shrinks)


def _check_terms(lesson: Lesson, model: nn.Module) -> None:
    teachers = [] if lesson.teacher is None else [lesson.teacher.model]
    for _, terms in lesson.terms:
        names = [term.name for term in terms]
        if len(set(names)) < len(names):
            raise RecipeError(f"objectives {', '.join(names)}: names must be distinct")
        for term in terms:
            if term.needs_teacher and lesson.teacher is None:
                raise RecipeError(f"objective {term.name} needs a teacher, and there is none")
            sides = [model, *teachers] if term.needs_teacher else [model]
            if term.captures & Tape.MAPS and not all(_forms_maps(side) for side in sides):
                raise RecipeError(f"objective {term.name} reads attention maps, which LSH and Linformer never form")
            if any(Tape.TOKEN_AXES[name] for name in term.captures) and any(map(_shrinks, sides)):
                raise RecipeError(f"objective {term.name} compares tokens, some of which leave on the model's way")


def _check(settings: TrainSettings, validation: Any, data: Any, folder: Path) -> None:
    if settings.select == "best" and validation is None:
        raise RecipeError("train.select=best needs validation data")
    if not len(data):
        raise RecipeError(f"{folder}: there is nothing to train on")


def identity(trainer: ObjectiveTrainer) -> dict[str, Any]:
    """What a checkpoint must agree on with the run that goes on from it."""
    lessons = trainer.lessons
    terms = [(each, term) for lesson in lessons for each, shared in lesson.terms for term in shared]
    teachers = [lesson.follows for lesson in lessons if lesson.follows is not None]
    return {
        "seed": trainer.seed,
        "settings": trainer.settings.decisive(),
        "task": trainer.task.name,
        "examples": sum(len(lesson.data) for lesson in lessons),
        "tokens": int(sum(sum(lesson.data.lengths) for lesson in lessons)),
        "objectives": [each.term(term.name) for each, term in terms],
        "captures": sorted(captures([term for _, term in terms], teacher=False)),
        "processes": distributed.world_size(),
        "precision": str(trainer.dtype),
        "teacher": " ".join(teacher.digest for teacher in teachers) or None,
    }


def _same_run(folder: Path, there: dict[str, Any], here: dict[str, Any]) -> None:
    for key in sorted({*there, *here}):
        old, new = there.get(key), here.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            _same_run(folder, old, new)
        elif old != new:
            raise UserError(f"{folder}: holds another training run, with {key}={old} instead of {new}; remove it")


@contextlib.contextmanager
def _threads_put_back() -> Iterator[None]:
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)
