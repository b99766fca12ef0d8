"""Commands over many runs, and the page of one."""

from pathlib import Path
from typing import Annotated

import typer

from bertpress.options import Json, Out, Resume
from bertpress.terminal import Answer, answering, command_line, say

Option = typer.Option


@answering
def study(
    plan: Annotated[Path, typer.Argument(metavar="STUDY", help="YAML file: models, tasks, rows, seeds, limits.")],
    out: Out,
    set_: Annotated[list[str] | None, Option("--set", help="Change the study: PATH=VALUE; repeatable.")] = None,
    resume: Resume = False,
    ray: Annotated[str | None, Option("--ray", help="Address of a Ray cluster that does the runs, or auto.")] = None,
    known: Annotated[
        list[Path] | None,
        Option("--known", help="study.json whose runs are taken over where they are the same; repeatable."),
    ] = None,
    json_: Json = False,
) -> Answer:
    """Run many recipes on tasks and seeds, and set them beside what papers report."""
    from bertpress import api
    from bertpress.report import study_table

    figures = api.study(
        plan, out=out, overrides=set_ or (), resume=resume, ray=ray, known=known or (), command=command_line(), say=say
    )
    return Answer(figures, [study_table(figures), str(out / "study.html")])


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
