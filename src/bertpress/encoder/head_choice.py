"""Which head an imported model gets: the checkpoint's own, or a fresh one by the family's conventions."""

from __future__ import annotations

from typing import Any

from bertpress.encoder.blueprint import Blueprint, HeadKind, HeadSpec
from bertpress.encoder.checkpoint import Checkpoint
from bertpress.encoder.families.base import Family

KINDS: dict[str, HeadKind] = {
    "ForSequenceClassification": "sequence",
    "ForTokenClassification": "token",
    "ForQuestionAnswering": "span",
    "ForMaskedLM": "masked_lm",
    "ForPreTraining": "masked_lm",
}
"""Head kinds by the end of a transformers class name."""

RELEVANT: dict[HeadKind, tuple[str, ...]] = {
    "sequence": ("labels", "pooling", "dense", "activation"),
    "token": ("labels",),
    "span": (),
    "masked_lm": ("activation", "free_decoder"),
    "embedding": ("pooling", "normalize"),
}
"""The fields of a HeadSpec that mean something for each kind."""


def is_bare(head: HeadSpec | None) -> bool:
    """Whether a model answers nothing: no head, or BERT's pooler alone."""
    return head is None or (head.kind == "sequence" and not head.labels)


def own_head(family: Family, config: Any, architecture: str | None, checkpoint: Checkpoint | None) -> HeadSpec | None:
    """The head that a checkpoint has, by its class name if such weights are there; else its pooler, if any."""
    suffix = (architecture or "").removeprefix(family.classes)
    kind = KINDS.get(suffix)
    if checkpoint is not None and (kind is None or not checkpoint.holds(family.heads[kind])):
        guesses = () if architecture else family.heads.items()
        kind = next((k for k, modules in guesses if checkpoint.holds_all(modules)), None)
    if kind is not None:
        return conventional_head(family, config, kind, config.num_labels)
    if not family.pooler:
        return None
    if not family.has_dense(config) or checkpoint is None or checkpoint.holds_all(family.pooler):
        return conventional_head(family, config, "sequence", 0)
    return None


def conventional_head(family: Family, config: Any, kind: HeadKind, labels: int) -> HeadSpec:
    """The head that transformers would build for this config."""
    return family.head(kind, labels, family.activation(config), dense=family.has_dense(config))


def choose_head(
    family: Family, blueprint: Blueprint, own: HeadSpec | None, wanted: HeadSpec | None, *, dense: bool = True
) -> tuple[HeadSpec | None, bool]:
    """The head to build, and whether it is the checkpoint's own."""
    if wanted is None:
        return own, True
    given = wanted.model_fields_set
    explicit = {name: getattr(wanted, name) for name in RELEVANT[wanted.kind] if name in given}
    if own is not None and own.kind == wanted.kind:
        same = all(getattr(own, name) == value for name, value in explicit.items())
        if same or own.kind == "embedding":  # the checkpoint was trained with its own pooling
            return own, True
    activation = blueprint.layers[0].activation if blueprint.layers else "gelu"
    convention = family.head(wanted.kind, wanted.labels, activation, dense=dense)
    return HeadSpec(**{**convention.model_dump(), **explicit}), False
