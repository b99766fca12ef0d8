"""One stage of a recipe: attach, train, bake, finish; finished ones are read from disk when a run goes on."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial, reduce
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from bertpress import artifact, tasks
from bertpress.attaching import attached, named
from bertpress.data import Data as Data
from bertpress.encoder.model import BertpressPreTrainedModel
from bertpress.errors import RecipeError
from bertpress.methods.base import Context
from bertpress.methods.masks import hold_blocks, hold_zeros
from bertpress.methods.transform import bake
from bertpress.other_tasks import Asked, Other, lessons
from bertpress.recipe import Stage
from bertpress.runfolder import RunFolder
from bertpress.supervision import Reading, read_by_both, teacher_of
from bertpress.supervision import clone as clone
from bertpress.tasks import BucketSampler, Encoded, Rows, Task
from bertpress.training import Objective, TaskLoss, Teacher, TrainResult, TrainSettings, collate_for, train
from bertpress.training.distributed import by_first, there
from bertpress.training.evaluation import in_memory_predictions as in_memory_predictions
from bertpress.training.evaluation import metric_value
from bertpress.training.guessing import guesses_for, split

CALIBRATION_BATCH = 32


@dataclass
class Run:
    """What all stages of a run share.

    Attributes:
        folder: of the run.
        data: task and rows.
        tokenizer: of the model as it was handed in.
        seed: of everything random.
        say: shows one line of progress.
        teacher: the uncompressed, fine-tuned model.
        metric: the user's own.
        unlabelled: text without labels; None: that of the train split.
        masked_lm: loads the model as it was handed in with its masked-LM head; None where it has none.
        others: rows and teachers of what stages learn beside the task.
        cache: folder of the teacher's answers; None: one in the run's folder.
        teacher_tokenizer: the teacher's; None: that of the model as it was handed in.
        current: the tokenizer of the model that the last stage left.
    """

    folder: RunFolder
    data: Data
    tokenizer: Any
    seed: int
    say: Callable[[str], None]
    teacher: BertpressPreTrainedModel | None = None
    metric: tasks.UserMetric | None = None
    unlabelled: Rows | None = None
    masked_lm: Callable[[], BertpressPreTrainedModel | None] = lambda: None
    others: Mapping[Asked, Other] = field(default_factory=dict)
    cache: Path | None = None
    teacher_tokenizer: Any = None
    current: Any = field(init=False)

    def __post_init__(self) -> None:
        self.current = self.tokenizer
        self.teacher_tokenizer = self.teacher_tokenizer or self.tokenizer

    def texts(self) -> Rows:
        """The distinct texts of the train split, whether their labels may be read or not."""
        parts = [rows for rows in (self.data.train, self.data.rest) if rows is not None]
        return tasks.texts_of(self.data.task.text_columns, *parts)

    def reading(self, stage: Stage) -> Data:
        """What a stage trains on."""
        if stage.data == "task":
            return self.data
        rows = self.unlabelled or self.texts()
        if stage.train is not None:  # a corpus can be larger than what is read of it
            rows = rows.limit(stage.train.max_examples, self.seed)
        kind = "masked-lm" if stage.guessers else "text-classification"
        return Data(tasks.resolve(kind, max_length=self.data.task.max_length), rows, rows)


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
    named = {"original": Reading(run.teacher, run.teacher_tokenizer), "previous": Reading(previous, run.current)}
    named["pretrained"] = Reading(pretrained, run.tokenizer)
    teacher, reads = teacher_of(stage, run.data.task, named, run.masked_lm)
    run.current = run.tokenizer if stage.start == "pretrained" else run.current
    report: dict[str, Any] = {"name": stage.name, "methods": [name for name, _ in stage.methods], "rounds": []}
    for turn in range(stage.repeat):
        name = f"stages/{number:02d}-{stage.name}" + (f"/round-{turn + 1:02d}" if stage.repeat > 1 else "")
        place = run.folder / name
        if not there(place / "model"):
            run.say(f"stage {stage.name}" + (f", round {turn + 1} of {stage.repeat}" if stage.repeat > 1 else ""))
            ctx = context_for(run, seed=run.seed + 1000 * number + turn, round=turn, folder=place)
            ctx.teacher, ctx.pretrained, ctx.unlabelled = teacher, pretrained, stage.data == "unlabelled"
            ctx.teacher_tokenizer = reads
            changed, figures = _round(run, stage, ctx, model, place)
            run.folder.write(f"{name}/stage.json", figures)
            by_first(partial(artifact.save, changed, ctx.tokenizer, run.data.task, place / "model", seed=run.seed))
        made = artifact.load(place / "model")
        changed = made.model
        figures = run.folder.once(f"{name}/stage.json", dict)
        if stage.until is not None and figures.get("drop", 0.0) > stage.until.drop:
            run.say(f"round {turn + 1} loses {figures['drop']:.2f} points: the one before stays")
            break
        model = changed
        if "vocabulary" in figures:
            run.current = made.tokenizer
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
    model = attached(stage, model, ctx)
    if stage.train is not None:
        hold_zeros(model, before)
        result = _train(run, stage, stage.train, model, ctx, place)
        figures["train"] = {"epochs": stage.train.epochs, **vars_of(result)}
    bake(model)
    for name, method in sorted(stage.methods, key=lambda each: not each[1].settles):
        with named(stage, name):
            model = method.finish(model, ctx)
    hold_blocks(model, before)
    if stage.until is not None:
        figures["drop"] = _drop_on_held_out(run, model, ctx.tokenizer)
    if ctx.tokenizer is not run.current:
        figures["vocabulary"] = len(ctx.tokenizer)
    if ctx.notes:
        figures["notes"] = ctx.notes
    return model, {**figures, "seconds": time.monotonic() - began}


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
    data = run.reading(stage)

    def rows_for(rows: Rows) -> Rows:
        if not any(method.follows_teacher() for method in methods):
            return rows  # nobody would answer for rows without a label
        rows = rows if data.rest is None else rows.followed_by(data.rest)
        return reduce(lambda found, method: method.training_rows(found, ctx), methods, rows)

    encoded = encoded_splits(data, settings, ctx.tokenizer, seed=ctx.seed, say=run.say, rows_for=rows_for)
    ctx.train = encoded.train
    objectives: list[Objective] = [term for method in methods for term in method.objectives(ctx)]
    if stage.by_labels:
        objectives.insert(0, TaskLoss())
    if not objectives:
        raise RecipeError(f"stage {stage.name}: has no loss; give it a method that brings one, or task_loss=true")
    teacher, answer, teachers_answer = ctx.teacher, None, None
    cache = run.cache or run.folder / "cache"
    if stage.guessers:
        answer = ctx.state["guesses"] = guesses_for(model, run.masked_lm(), ctx.seed)
    if teacher is not None and "teacher" in stage.guessers:
        teacher, teachers_answer = split(teacher)
    read_by_both(encoded.train, objectives, ctx, f"stage {stage.name}")
    return fit(
        model,
        data.task,
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
        teacher=None if teacher is None else Teacher(teacher, cache=cache, answer=teachers_answer),
        state=ctx.state,
        metric=run.metric,
        answer=answer,
        collate=collate_for(ctx.tokenizer, ctx.teacher_tokenizer),
        others=lessons(stage, run.others, model, ctx, shared=objectives, cache=cache),
    )


class Splits(NamedTuple):
    """Encoded training examples, and those that weights are chosen on where ``select: best``."""

    train: Encoded
    validation: Encoded | None


def encoded_splits(
    data: Data,
    settings: TrainSettings,
    tokenizer: Any,
    *,
    seed: int,
    say: Callable[[str], None],
    rows_for: Callable[[Rows], Rows] = lambda rows: rows,
) -> Splits:
    """The train split; ``select: best`` chooses on rows cut from it, never on validation.

    ``rows_for`` gives, for what is left of the split, the rows that are trained on.
    """
    rows, held_out = data.selection(seed) if settings.select == "best" else (data.train, None)
    encoded = tasks.encode(data.task, rows_for(rows), tokenizer, training=True)
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
    own = {"task": run.data.task, "tokenizer": run.current, "teacher": run.teacher, "masked_lm": run.masked_lm}
    ctx = Context(seed=seed, round=round, folder=folder, say=run.say, **own)

    def calibration(examples: int, by_length: bool) -> Sequence[dict[str, Tensor]]:
        rows = run.data.train.limit(examples, run.seed)
        encoded = tasks.encode(run.data.task, rows, ctx.tokenizer, training=True)
        collate, step, order = collate_for(ctx.tokenizer), CALIBRATION_BATCH, list(range(len(encoded)))
        if by_length:
            order = list(chain.from_iterable(BucketSampler(encoded.lengths, 1, shuffle=False, group=encoded.group)))
        return [collate([encoded[i] for i in order[at : at + step]]) for at in range(0, len(order), step)]

    def metric(model: BertpressPreTrainedModel, examples: int) -> float:
        rows = run.data.selection(run.seed)[1].limit(examples, run.seed)
        encoded = tasks.encode(run.data.task, rows, ctx.tokenizer, training=False)
        pads = collate_for(ctx.tokenizer)
        return metric_value(model, run.data.task, encoded, pads, precision="float32", metric=run.metric)

    def texts() -> Sequence[str]:
        more = [] if run.unlabelled is None else [run.unlabelled]
        return tasks.texts_of((tasks.TEXT,), run.texts(), *more).column(tasks.TEXT)

    ctx.calibration, ctx.metric, ctx.texts = calibration, metric, texts
    return ctx


def _drop_on_held_out(run: Run, model: BertpressPreTrainedModel, tokenizer: Any) -> float:
    """Points lost against the teacher on rows cut from train."""
    rows = run.data.selection(run.seed)[1]
    assert run.teacher is not None
    task, truth = run.data.task, tasks.references(run.data.task, rows)
    sides = ((run.teacher, run.teacher_tokenizer), (model, tokenizer))
    expected, found = (in_memory_predictions(each, task, rows, reads) for each, reads in sides)
    return tasks.drop(task, expected, found, truth, metric=run.metric).value
