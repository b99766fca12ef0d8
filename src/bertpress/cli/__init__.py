"""The command line: one function a command, no logic of its own.  Heavy imports stand inside, so that help is quick."""

import sys
from typing import Annotated, NoReturn

import typer

from bertpress.cli.compressing import compress, demo, train
from bertpress.cli.listing import methods, recipes
from bertpress.cli.measuring import bench, evaluate, profile
from bertpress.cli.searching import advise, search
from bertpress.cli.studying import report, study
from bertpress.cli.using import export, predict
from bertpress.terminal import run

app = typer.Typer(
    name="bertpress",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"max_content_width": 110},
    help="Make a trained BERT-family encoder as small and as fast as its task allows, and measure what came out.",
)

for _command in (  # in the order in which help shows them
    demo, profile, train, compress, evaluate, bench, predict, export, methods, recipes, advise, study, search, report,
):  # fmt: skip
    app.command()(_command)


def _version(wanted: bool) -> None:
    if wanted:
        from bertpress import __version__

        typer.echo(f"bertpress {__version__}")
        raise typer.Exit


@app.callback()
def _app(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


def main() -> NoReturn:
    """The console script ``bertpress``."""
    sys.exit(run(app, sys.argv[1:] or ["--help"]))
