"""Commands that choose for the user."""

from typing import Annotated, Literal

import typer

from bertpress.cli.shared import task_options
from bertpress.options import (
    Data,
    Engine,
    Json,
    LabelColumn,
    MaxLength,
    Metric,
    Model,
    Out,
    Resume,
    Seed,
    Task,
    TextColumns,
    Threads,
)
from bertpress.terminal import Answer, answering, command_line, say

Option = typer.Option


Target = Literal["latency", "size", "memory"]
MaxLoss = Annotated[float, Option("--max-drop", min=0, help="Points that may be lost.")]


@answering
def advise(
    model: Annotated[str, typer.Argument(help="Hub name, folder or shape of the model.")] = "shape:bert-base",
    need: Annotated[Target, Option("--need", help="What is short.")] = "latency",
    max_drop: MaxLoss = 1.0,
    at_most: Annotated[str | None, Option("--at-most", help="A limit, such as 50MB or 5ms.")] = None,
    task: Annotated[str | None, Option("--task", help="A task or a kind; else text classification.")] = None,
    data: Data = None,
    device: Annotated[str, Option("--device", help="What will run it: cpu, cuda or auto.")] = "auto",
    text_columns: TextColumns = None,
    label_column: LabelColumn = None,
    max_length: MaxLength = None,
    json_: Json = False,
) -> Answer:
    """Recommend recipes for this machine, a task and a need."""
    from bertpress import api
    from bertpress.report import advice_lines

    figures = api.advise(
        model,
        need=need,
        max_drop=max_drop,
        at_most=at_most,
        task=task,
        data=data,
        device=device,
        command=command_line(),
        **task_options(text_columns, label_column, max_length, None, False, None),
    )
    return Answer(figures, advice_lines(figures))


@answering
def search(
    model: Model,
    task: Task,
    out: Out,
    max_drop: MaxLoss = 1.0,
    target: Annotated[Literal["latency", "size", "memory"], Option("--target", help="What is made small.")] = "latency",
    budget: Annotated[str, Option("--budget", help="Time that it may take, such as 30m.")] = "30m",
    confidence: Annotated[
        float, Option("--confidence", min=0.5, max=0.99, help="Probability that the winner keeps the limit.")
    ] = 0.8,
    engine: Annotated[Engine | None, Option("--engine", help="What will run it; else OpenVINO where it is.")] = None,
    tokens: Annotated[
        int | None,
        Option("--tokens", min=1, help="Length of the texts that will be served; else the train split's median."),
    ] = None,
    students: Annotated[
        int | None, Option("--students", min=0, help="At most so many trainings, whatever time is left.")
    ] = None,
    ray: Annotated[str | None, Option("--ray", help="Address of a Ray cluster that makes students, or auto.")] = None,
    data: Data = None,
    text_columns: TextColumns = None,
    label_column: LabelColumn = None,
    max_length: MaxLength = None,
    metric: Metric = None,
    seed: Seed = 0,
    resume: Resume = False,
    threads: Threads = None,
    json_: Json = False,
) -> Answer:
    """Find the cheapest artifact that loses little enough, in a given time."""
    from bertpress import api
    from bertpress.report import search_table

    figures = api.search(
        model,
        task=task,
        out=out,
        max_drop=max_drop,
        target=target,
        budget=budget,
        confidence=confidence,
        engine=engine,
        tokens=tokens,
        students=students,
        ray=ray,
        data=data,
        metric=metric,
        seed=seed,
        resume=resume,
        threads=threads,
        command=command_line(),
        say=say,
        **task_options(text_columns, label_column, max_length, None, False, None),
    )
    return Answer(figures, [search_table(figures), f"artifact  {out / 'model'}\nreport    {out / 'search.html'}"])
