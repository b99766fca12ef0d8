"""The command line: one function a command, no logic of its own.  Heavy imports stand inside, so that help is quick."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from bertpress.options import (
    ArtifactPath,
    ClassWeights,
    Data,
    Id2Label,
    Json,
    LabelColumn,
    MaxDrop,
    MaxLength,
    Metric,
    Model,
    MultiLabel,
    Out,
    OwnTask,
    Profile,
    ReportTo,
    Resume,
    RunsOn,
    Seed,
    Set,
    Speed,
    Store,
    Target,
    Task,
    TextColumns,
    Threads,
    TrainLimit,
    Unlabelled,
    ValidationLimit,
)
from bertpress.terminal import Answer, answering, as_json, command_line, meter, run, say

app = typer.Typer(
    name="bertpress",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"max_content_width": 110},
    help="Make a trained BERT-family encoder as small and as fast as its task allows, and measure what came out.",
)

Option = typer.Option


@app.command()
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


@app.command()
@answering
def profile(
    model: Model,
    tokens: Annotated[list[int] | None, Option("--tokens", min=1, help="Input length; repeatable.")] = None,
    batch: Annotated[int, Option("--batch", min=1, help="Rows of the input.")] = 1,
    threads: Threads = None,
    device: Annotated[str, Option("--device", help="cpu or cuda.")] = "cpu",
    rounds: Annotated[int, Option("--rounds", min=1, help="Samples of each latency.")] = 30,
    seed: Seed = 0,
    png: Annotated[Path | None, Option("--png", help="Draw the four panels into this file.")] = None,
    html: Annotated[Path | None, Option("--html", help="Write the page into this file.")] = None,
    json_: Json = False,
) -> Answer:
    """Show where a model's weights, arithmetic, memory and time go."""
    from bertpress import api
    from bertpress.measure.table import breakdown_table

    figures = api.profile(
        model,
        tokens=tokens or (256, 128),
        batch=batch,
        threads=threads,
        device=device,
        rounds=rounds,
        seed=seed,
        command=command_line(),
        progress=meter("timing"),
    )
    files = api.draw_profile(figures, png=png, html=html)
    tables = [breakdown_table(figures, length) for length in figures["lengths"]]
    return Answer(figures, [*tables, *map(str, files)])


@app.command()
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
        **_options(text_columns, label_column, max_length, id2label, multi_label, class_weights),
    )
    return Answer(figures, [_score(figures["metric"]), figures["path"]])


@app.command()
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
        report_to=report_to or (),
        command=command_line(),
        say=say,
        **_options(text_columns, label_column, max_length, id2label, multi_label, class_weights),
    )
    return _outcome(out)


@app.command()
@answering
def evaluate(
    artifact: ArtifactPath,
    task: OwnTask = None,
    data: Data = None,
    split: Annotated[str, Option("--split", help="Of the data.")] = "validation",
    engine: RunsOn = "torch",
    text_columns: TextColumns = None,
    label_column: LabelColumn = None,
    max_length: MaxLength = None,
    metric: Metric = None,
    id2label: Id2Label = None,
    limit: Annotated[int | None, Option("--limit", min=1, help="Score at most so many rows.")] = None,
    speed: Speed = None,
    max_drop: MaxDrop = None,
    seed: Seed = 0,
    threads: Threads = None,
    json_: Json = False,
) -> Answer:
    """Score an artifact from disk."""
    from bertpress import api

    figures = api.evaluate(
        artifact,
        task=task,
        data=data,
        split=split,
        engine=engine,
        metric=metric,
        threads=threads,
        limit=limit,
        seed=seed,
        speed=speed,
        max_drop=max_drop,
        command=command_line(),
        **_options(text_columns, label_column, max_length, id2label, False, None),
    )
    return Answer(figures, [_score(score) for score in figures["metrics"].values()])


@app.command()
@answering
def bench(
    artifacts: Annotated[list[Path], typer.Argument(help="Folders of artifacts, or of their runs.")],
    baseline: Annotated[str, Option("--baseline", help="Model that they are compared with, run in PyTorch.")],
    task: Task,
    data: Data = None,
    engine: RunsOn = "torch",
    text_columns: TextColumns = None,
    max_length: MaxLength = None,
    rounds: Annotated[int, Option("--rounds", min=1, help="Blocks of texts timed with each.")] = 25,
    speed: Speed = None,
    max_drop: MaxDrop = None,
    seed: Seed = 0,
    threads: Threads = None,
    json_: Json = False,
) -> Answer:
    """Time artifacts against a model, interleaved.

    Each candidate runs in a process of its own; the baseline is run by PyTorch in float32.
    """
    from bertpress import api
    from bertpress.report import bench_table

    figures = api.bench(
        artifacts,
        baseline=baseline,
        task=task,
        data=data,
        engine=engine,
        threads=threads,
        rounds=rounds,
        seed=seed,
        speed=speed,
        max_drop=max_drop,
        command=command_line(),
        progress=meter("timing"),
        **_options(text_columns, None, max_length, None, False, None),
    )
    return Answer(figures, [bench_table([figures["baseline"], *figures["artifacts"]])])


@app.command()
@answering
def predict(
    artifact: ArtifactPath,
    engine: RunsOn = "torch",
    batch: Annotated[int, Option("--batch", min=1, help="Texts that are read before the first is answered.")] = 32,
    passages: Annotated[
        Path | None, Option("--passages", help="File of passages that the texts name, encoded once.")
    ] = None,
    states: Annotated[Path | None, Option("--states", help="Folder that keeps them; else FILE.states.")] = None,
    store: Annotated[Store, Option("--store", help="How they are kept.")] = "float32",
    speed: Speed = None,
    max_drop: MaxDrop = None,
    threads: Threads = None,
    json_: Json = False,
) -> Answer:
    """Answer texts on standard input, one JSON object a line.

    Each line is a text.  A line for a task of two texts is a JSON list or object, or the two with a tab between.  With
    passages (one a line, or a table with the columns id and text) the second is the name or the number of a passage.
    """
    from bertpress import api
    from bertpress.inputs import texts_from

    opened = api.load(artifact)
    lines = texts_from(sys.stdin, opened.task)
    answers = api.predict(
        opened,
        lines,
        engine=engine,
        batch_size=batch,
        threads=threads,
        speed=speed,
        max_drop=max_drop,
        passages=passages,
        states=states,
        store=store,
        progress=meter("passages"),
    )
    objects: Iterator[Any] = (one if isinstance(one, dict) else {"words": one} for one in answers)
    if json_:
        return Answer({"artifact": str(opened.path), "engine": engine, "predictions": list(objects)})
    return Answer(shown=map(as_json, objects))


@app.command()
@answering
def export(
    artifact: ArtifactPath,
    to: Annotated[Target, Option("--to", help="What the files are for.")],
    out: Annotated[Path | None, Option("--out", help="Folder; else into the artifact (not transformers).")] = None,
    width: Annotated[float | None, Option("--width", help="Cut out this share of the heads and neurons.")] = None,
    depth: Annotated[float | None, Option("--depth", help="Cut out this share of the layers.")] = None,
    json_: Json = False,
) -> Answer:
    """Write an artifact for OpenVINO, ONNX or plain transformers.

    Plain transformers needs a uniform shape: all layers alike.  A width or a depth makes an artifact of one sub-network
    of a model that has them, such as the recipe dynabert leaves.
    """
    from bertpress import api

    path = api.export(artifact, to=to, out=out, width=width, depth=depth)
    return Answer({"artifact": str(artifact), "to": to, "path": str(path)}, [str(path)])


@app.command()
@answering
def methods(
    name: Annotated[str | None, typer.Argument(help="A method, such as prune/heads.")] = None,
    json_: Json = False,
) -> Answer:
    """List the methods, or show the fields of one."""
    from bertpress import listing

    found = listing.methods(name)
    if name is None:
        return Answer(found, [listing.overview(found)])
    return Answer(found[0], [listing.method_text(found[0])])


@app.command()
@answering
def recipes(
    name: Annotated[str | None, typer.Argument(help="A recipe, such as quick.")] = None, json_: Json = False
) -> Answer:
    """List the recipes, or show one with every default."""
    from bertpress import listing

    found = listing.recipes(name)
    if name is None:
        return Answer(found, [listing.overview(found)])
    return Answer(found[0], [listing.recipe_text(found[0])])


@app.command()
@answering
def study(
    plan: Annotated[Path, typer.Argument(metavar="STUDY", help="YAML file: models, tasks, rows, seeds, limits.")],
    out: Out,
    set_: Annotated[list[str] | None, Option("--set", help="Change the study: PATH=VALUE; repeatable.")] = None,
    resume: Resume = False,
    ray: Annotated[str | None, Option("--ray", help="Address of a Ray cluster that does the runs, or auto.")] = None,
    json_: Json = False,
) -> Answer:
    """Run many recipes on tasks and seeds, and set them beside what papers report."""
    from bertpress import api
    from bertpress.report import study_table

    figures = api.study(plan, out=out, overrides=set_ or (), resume=resume, ray=ray, command=command_line(), say=say)
    return Answer(figures, [study_table(figures), str(out / "study.html")])


@app.command()
@answering
def report(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
    html: Annotated[Path | None, Option("--html", help="The file; else report.html in the folder.")] = None,
    json_: Json = False,
) -> Answer:
    """Write the page of a run again from its results."""
    from bertpress import api

    path = api.report(run, out=html)
    return Answer({"run": str(run), "report": str(path)}, [str(path)])


def _outcome(out: Path, *notes: str) -> Answer:
    """What a run says at its end: the table, and where the rest lies."""
    from bertpress import api
    from bertpress.report import engines_table, table

    figures = api.results(out)
    places = f"artifact  {out / 'model'}\nreport    {out / 'report.html'}"
    return Answer(figures, [table(figures), engines_table(figures), places, *notes])


def _score(score: dict[str, Any]) -> str:
    return f"{score['name']} {score['value']:.2f} (95 % interval {score['low']:.2f} to {score['high']:.2f})"


def _options(
    text_columns: str | None,
    label_column: str | None,
    max_length: int | None,
    id2label: Path | None,
    multi_label: bool,
    class_weights: str | None,
) -> Any:
    """The task's options that were given, in the form of ``TaskOptions``."""
    from bertpress.inputs import labels_from, weights_from

    given: dict[str, Any] = {
        "text_columns": None if text_columns is None else [name.strip() for name in text_columns.split(",")],
        "label_column": label_column,
        "max_length": max_length,
        "id2label": None if id2label is None else labels_from(id2label),
        "multi_label": multi_label or None,
        "class_weights": None if class_weights is None else weights_from(class_weights),
    }
    return {name: value for name, value in given.items() if value is not None}


def _version(wanted: bool) -> None:
    if wanted:
        from bertpress import __version__

        typer.echo(f"bertpress {__version__}")
        raise typer.Exit


@app.callback()
def _app(
    version: Annotated[bool, Option("--version", callback=_version, is_eager=True, help="Show the version.")] = False,
) -> None:
    pass


def main() -> NoReturn:
    """The console script ``bertpress``."""
    sys.exit(run(app, sys.argv[1:] or ["--help"]))
