"""Commands that measure a model or an artifact."""

from pathlib import Path
from typing import Annotated

import typer

from bertpress.cli.shared import score_line, task_options, whole_numbers
from bertpress.options import (
    ArtifactPath,
    Data,
    Id2Label,
    Json,
    LabelColumn,
    Lengths,
    MaxDrop,
    MaxLength,
    Metric,
    Model,
    OwnTask,
    RunsOn,
    Seed,
    Speed,
    Task,
    TextColumns,
    Threads,
)
from bertpress.terminal import Answer, answering, command_line, meter

Option = typer.Option


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
        **task_options(text_columns, label_column, max_length, id2label, False, None),
    )
    return Answer(figures, [score_line(score) for score in figures["metrics"].values()])


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
    lengths: Lengths = None,
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
        lengths=whole_numbers("--lengths", lengths),
        command=command_line(),
        progress=meter("timing"),
        **task_options(text_columns, None, max_length, None, False, None),
    )
    return Answer(figures, [bench_table([figures["baseline"], *figures["artifacts"]])])
