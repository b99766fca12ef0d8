"""Which weights a method works on, by name."""

from __future__ import annotations

from torch import nn

from bertpress.errors import RecipeError
from bertpress.methods.base import Model

CLASSIFIERS = ("head.classifier.weight", ".exit.classifier.weight")
TABLES = ("word", "position", "segment")


def matrices(model: Model, *, classifier: bool = False, head: bool = True) -> list[str]:
    """Names of the weights of linear layers, in the order of the model.

    Args:
        model: any of our models, transforms on its weights included.
        classifier: the last linear layer too, and those of early exits.
        head: those of the head, such as BERT's pooler, too, and of early exits.
    """
    return [
        name
        for name, weight in model.unique_weights()
        if weight.ndim == 2
        and weight.numel()
        and isinstance(model.get_submodule(name.rpartition(".")[0]), nn.Linear)
        and (classifier or not name.endswith(CLASSIFIERS))
        and (head or not (name.startswith("head.") or ".exit." in name))
    ]


def some(names: list[str]) -> list[str]:
    """The same names.

    Raises:
        RecipeError: there is none, so that nothing can be pruned.
    """
    if not names:
        raise RecipeError("the model has no matrix left that could be pruned")
    return names


def tables(model: Model) -> dict[str, str]:
    """Names of the weights of the embedding tables, by the name of the table; those that the model lacks are absent."""
    held = {name for name, _ in model.unique_weights()}
    names = {table: f"encoder.embeddings.{table}.weight" for table in TABLES}
    return {table: name for table, name in names.items() if name in held}
