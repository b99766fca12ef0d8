"""Commands that list what there is."""

from typing import Annotated

import typer

from bertpress.options import Json
from bertpress.terminal import Answer, answering


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
