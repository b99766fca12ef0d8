"""Commands that train: a teacher, or a compressed model."""

from pathlib import Path
from typing import Annotated

import typer

from bertpress.cli.shared import score_line, task_options
from bertpress.options import (
    Cache,
    ClassWeights,
    Data,
    Id2Label,
    Json,
    LabelColumn,
    MaxLength,
    Metric,
    Model,
    MultiLabel,
    Out,
    Profile,
    ReportTo,
    Resume,
    Seed,
    Set,
    Task,
    TextColumns,
    Threads,
    TrainLimit,
    Unlabelled,
    ValidationLimit,
)
from bertpress.terminal import Answer, answering, command_line, say

Option = typer.Option


@answering
def demo(
    out: Out = Path("runs/demo"),
    profile: Profile = None,
    set_: Set = None,
    seed: Seed = 0,
    resume: Resume = False,
    threads: Threads = None,
    json_: Json = False,
) -> Answer:
    """Compress a real model on a real data set; needs no hub."""
    from bertpress import api

    api.demo(
        out,
        profile=profile,
        overrides=set_ or (),
        seed=seed,
        resume=resume,
        threads=threads,
        command=command_line(),
        say=say,
    )
    note = (
        "The same with any model of the hub and your own data:\n"
        "  bertpress compress NAME --recipe quick --task text-classification --data DIR --out runs/mine"
    )
    return _outcome(out, note)


@answering
def train(
    model: Model,
    task: Task,
    out: Out,
    data: Data = None,
    set_: Annotated[list[str] | None, Option("--set", help="Change a setting: FIELD=VALUE; repeatable.")] = None,
    text_columns: TextColumns = None,
    label_column: LabelColumn = None,
    max_length: MaxLength = None,
    metric: Metric = None,
    id2label: Id2Label = None,
    multi_label: MultiLabel = False,
    class_weights: ClassWeights = None,
    report_to: ReportTo = None,
    train_limit: TrainLimit = None,
    validation_limit: ValidationLimit = None,
    seed: Seed = 0,
    resume: Resume = False,
    json_: Json = False,
) -> Answer:
    """Fine-tune a model on a task, which makes a teacher."""
    from bertpress import api
    from bertpress.inputs import settings_of

    figures = api.train(
        model,
        task=task,
        out=out,
        data=data,
        settings=settings_of(set_ or (), report_to or ()),
        metric=metric,
        seed=seed,
        resume=resume,
        train_limit=train_limit,
        validation_limit=validation_limit,
        command=command_line(),
        say=say,
        **task_options(text_columns, label_column, max_length, id2label, multi_label, class_weights),
    )
    return Answer(figures, [score_line(figures["metric"]), figures["path"]])


@answering
def compress(
    model: Model,
    task: Task,
    out: Out,
    recipe: Annotated[str, Option("--recipe", help="A shipped recipe, or a YAML file.")] = "quick",
    profile: Profile = None,
    data: Data = None,
    teacher: Annotated[str | None, Option("--teacher", help="A fine-tuned model; else the model itself.")] = None,
    set_: Set = None,
    text_columns: TextColumns = None,
    label_column: LabelColumn = None,
    max_length: MaxLength = None,
    metric: Metric = None,
    id2label: Id2Label = None,
    multi_label: MultiLabel = False,
    class_weights: ClassWeights = None,
    report_to: ReportTo = None,
    train_limit: TrainLimit = None,
    validation_limit: ValidationLimit = None,
    unlabelled: Unlabelled = None,
    cache: Cache = None,
    seed: Seed = 0,
    resume: Resume = False,
    threads: Threads = None,
    json_: Json = False,
) -> Answer:
    """Compress a model with a recipe, and measure what came out."""
    from bertpress import api

    api.compress(
        model,
        task=task,
        recipe=recipe,
        data=data,
        out=out,
        teacher=teacher,
        metric=metric,
        profile=profile,
        overrides=set_ or (),
        seed=seed,
        resume=resume,
        threads=threads,
        train_limit=train_limit,
        validation_limit=validation_limit,
        unlabelled=unlabelled,
        cache=cache,
        report_to=report_to or (),
        command=command_line(),
        say=say,
        **task_options(text_columns, label_column, max_length, id2label, multi_label, class_weights),
    )
    return _outcome(out)


def _outcome(out: Path, *notes: str) -> Answer:
    """What a run says at its end: the table, and where the rest lies."""
    from bertpress import api
    from bertpress.report import engines_table, table

    figures = api.results(out)
    places = f"artifact  {out / 'model'}\nreport    {out / 'report.html'}"
    return Answer(figures, [table(figures), engines_table(figures), places, *notes])
