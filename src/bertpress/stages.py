"""One stage of a recipe: attach, train, bake, finish; finished ones are read from disk when a run goes on."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from bertpress import artifact, tasks
from bertpress.encoder.imports import load_pretrained
from bertpress.encoder.model import BertpressPreTrainedModel
from bertpress.errors import RecipeError
from bertpress.methods.base import Context
from bertpress.methods.masks import hold_blocks, hold_zeros
from bertpress.methods.transform import bake
from bertpress.recipe import Stage
from bertpress.runfolder import RunFolder
from bertpress.tasks import Encoded, Rows, Task
from bertpress.training import Objective, TaskLoss, Teacher, TrainResult, TrainSettings, collate_for, train
from bertpress.training.evaluation import metric_value, predict_logits

HELD_OUT = 0.1
CALIBRATION_BATCH = 32


@dataclass(frozen=True)
class Data:
    """The task with its labels, and the rows of both splits."""

    task: Task
    train: Rows
    validation: Rows

    def selection(self, seed: int) -> tuple[Rows, Rows]:
        """Training rows and rows cut from them, on which weights and rounds are chosen; questions keep together."""
        group = self.task.text_columns[-1] if self.task.kind == "question-answering" else None
        return tasks.holdout(self.train, HELD_OUT, seed, group=group)


@dataclass(frozen=True)
class Run:
    """What all stages of a run share."""

    folder: RunFolder
    data: Data
    tokenizer: Any
    seed: int
    say: Callable[[str], None]
    teacher: BertpressPreTrainedModel | None = None
    metric: tasks.UserMetric | None = None


def run_stage(
    run: Run,
    stage: Stage,
    number: int,
    previous: BertpressPreTrainedModel,
    pretrained: BertpressPreTrainedModel,
) -> tuple[BertpressPreTrainedModel, dict[str, Any]]:
    """All rounds of a stage.

    Args:
        run: what the stages share.
        stage: of the recipe.
        number: of the stage, from 1.
        previous: the model that the stage before left.
        pretrained: the model as it was handed in.

    Returns:
        The model after the stage, and its report: methods, seconds, training curve.
    """
    model = pretrained if stage.start == "pretrained" else previous
    teacher = _teacher_of(run, stage, previous)
    report: dict[str, Any] = {
        "name": stage.name,
        "methods": [name for name, _ in stage.methods],
        "rounds": [],
    }
    for turn in range(stage.repeat):
        name = f"stages/{number:02d}-{stage.name}" + (f"/round-{turn + 1:02d}" if stage.repeat > 1 else "")
        place = run.folder / name
        if not (place / "model").is_dir():
            run.say(f"stage {stage.name}" + (f", round {turn + 1} of {stage.repeat}" if stage.repeat > 1 else ""))
            ctx = context_for(run, seed=run.seed + 1000 * number + turn, round=turn, folder=place)
            ctx.teacher, ctx.pretrained = teacher, pretrained
            changed, figures = _round(run, stage, ctx, model, place)
            run.folder.write(f"{name}/stage.json", figures)
            artifact.save(changed, run.tokenizer, run.data.task, place / "model", seed=run.seed)
        changed = artifact.load(place / "model").model
        figures = run.folder.once(f"{name}/stage.json", dict)
        if stage.until is not None and figures.get("drop", 0.0) > stage.until.drop:
            run.say(f"round {turn + 1} loses {figures['drop']:.2f} points: the one before stays")
            break
        model = changed
        report["rounds"].append(figures)
    rounds = report["rounds"]
    return model, {**report, **(rounds[-1] if rounds else {}), "seconds": sum(turn["seconds"] for turn in rounds)}


def _round(
    run: Run, stage: Stage, ctx: Context, model: BertpressPreTrainedModel, place: Path
) -> tuple[BertpressPreTrainedModel, dict[str, Any]]:
    began = time.monotonic()
    figures: dict[str, Any] = {"metric": None}
    model = clone(model)
    before = dict(model.storage)
    if stage.train is not None:
        ctx.stored, model.storage = before, {}  # weights that are trained leave the grids that they were on
    for _, method in stage.methods:
        model = method.attach(model, ctx)
    if stage.train is not None:
        hold_zeros(model, before)
        result = _train(run, stage, stage.train, model, ctx, place)
        figures["train"] = {"epochs": stage.train.epochs, **vars_of(result)}
    bake(model)
    for _, method in stage.methods:
        model = method.finish(model, ctx)
    hold_blocks(model, before)
    if stage.until is not None:
        figures["drop"] = _drop_on_held_out(run, model)
    if ctx.notes:
        figures["notes"] = ctx.notes
    return model, {**figures, "seconds": time.monotonic() - began}


def _teacher_of(run: Run, stage: Stage, previous: BertpressPreTrainedModel) -> BertpressPreTrainedModel | None:
    """The model that a stage learns from: the run's teacher, what the stage before left, or the model in a folder.

    Raises:
        ModelError: there is no such model.
        RecipeError: it has no trained head for the task, or other labels.
    """
    if stage.teacher == "original":
        return run.teacher
    if stage.teacher == "previous":
        return clone(previous)
    loaded = load_pretrained(stage.teacher, run.data.task.head())
    if not loaded.fine_tuned:
        raise RecipeError(
            f"stage {stage.name}, teacher {stage.teacher}: has no trained head for the task {run.data.task.name}"
        )
    return loaded.model


def vars_of(result: TrainResult) -> dict[str, Any]:
    """What results.json keeps of a training run."""
    return {name: getattr(result, name) for name in ("examples", "examples_per_second", "steps", "seconds", "log")}


def _train(
    run: Run,
    stage: Stage,
    settings: TrainSettings,
    model: BertpressPreTrainedModel,
    ctx: Context,
    place: Path,
) -> TrainResult:
    methods = [method for _, method in stage.methods]
    encoded = encoded_splits(run.data, settings, ctx.tokenizer, seed=ctx.seed, say=run.say)
    ctx.train = encoded.train
    objectives: list[Objective] = [term for method in methods for term in method.objectives(ctx)]
    if not any(method.supervises for method in methods):
        objectives.insert(0, TaskLoss())
    return fit(
        model,
        run.data.task,
        encoded,
        ctx.tokenizer,
        settings,
        place / "training",
        seed=ctx.seed,
        say=run.say,
        label=stage.name,
        objectives=objectives,
        callbacks=[callback for method in methods for callback in method.callbacks(ctx)],
        passes=[each for method in methods for each in method.passes(ctx)],
        teacher=Teacher(ctx.teacher, cache=run.folder / "cache") if ctx.teacher is not None else None,
        state=ctx.state,
        metric=run.metric,
    )


class Splits(NamedTuple):
    """Encoded training examples, and those that weights are chosen on where ``select: best``."""

    train: Encoded
    validation: Encoded | None


def encoded_splits(
    data: Data, settings: TrainSettings, tokenizer: Any, *, seed: int, say: Callable[[str], None]
) -> Splits:
    """The train split; ``select: best`` chooses on rows cut from it, never on validation."""
    rows, held_out = data.selection(seed) if settings.select == "best" else (data.train, None)
    encoded = tasks.encode(data.task, rows, tokenizer, training=True)
    if encoded.note:
        say(encoded.note)
    validation = None if held_out is None else tasks.encode(data.task, held_out, tokenizer, training=False)
    return Splits(encoded, validation)


def fit(
    model: BertpressPreTrainedModel,
    task: Task,
    data: Splits,
    tokenizer: Any,
    settings: TrainSettings,
    folder: Path,
    *,
    seed: int,
    say: Callable[[str], None],
    label: str,
    **more: Any,
) -> TrainResult:
    """Train on the encoded splits."""
    return train(
        model,
        task=task,
        data=data.train,
        tokenizer=tokenizer,
        settings=settings,
        folder=folder,
        seed=seed,
        validation=data.validation,
        report=say,
        label=label,
        **more,
    )


def context_for(run: Run, *, seed: int, round: int = 0, folder: Path | None = None) -> Context:
    """The context of a stage; calibration text and rows to score on come from train, by the run's seed."""
    ctx = Context(
        task=run.data.task,
        tokenizer=run.tokenizer,
        seed=seed,
        teacher=run.teacher,
        round=round,
        folder=folder,
        say=run.say,
    )

    def calibration(examples: int) -> Sequence[dict[str, Tensor]]:
        rows = run.data.train.limit(examples, run.seed)
        encoded = tasks.encode(run.data.task, rows, ctx.tokenizer, training=True)
        collate, step = collate_for(ctx.tokenizer), CALIBRATION_BATCH
        return [
            collate([encoded[i] for i in range(at, min(at + step, len(encoded)))])
            for at in range(0, len(encoded), step)
        ]

    def metric(model: BertpressPreTrainedModel, examples: int) -> float:
        rows = run.data.selection(run.seed)[1].limit(examples, run.seed)
        encoded = tasks.encode(run.data.task, rows, ctx.tokenizer, training=False)
        pads = collate_for(ctx.tokenizer)
        return metric_value(model, run.data.task, encoded, pads, precision="float32", metric=run.metric)

    ctx.calibration, ctx.metric = calibration, metric
    return ctx


def clone(model: BertpressPreTrainedModel) -> BertpressPreTrainedModel:
    """A copy that can be trained while the original stays as it is."""
    new: BertpressPreTrainedModel = type(model)(deepcopy(model.config))
    new.load_state_dict(model.state_dict())
    new.storage = dict(model.storage)
    new.eval()
    return new


def _drop_on_held_out(run: Run, model: BertpressPreTrainedModel) -> float:
    """Points lost against the teacher on rows cut from train."""
    _, rows = run.data.selection(run.seed)
    assert run.teacher is not None
    task, truth = run.data.task, tasks.references(run.data.task, rows)
    expected, found = (in_memory_predictions(m, task, rows, run.tokenizer) for m in (run.teacher, model))
    return tasks.drop(task, expected, found, truth, metric=run.metric).value


def in_memory_predictions(model: BertpressPreTrainedModel, task: Task, rows: Rows, tokenizer: Any) -> list[Any]:
    """Predictions of a model in memory, in float32."""
    encoded = tasks.encode(task, rows, tokenizer, training=False)
    return tasks.predictions(task, encoded, predict_logits(model, task, encoded, collate_for(tokenizer)))
