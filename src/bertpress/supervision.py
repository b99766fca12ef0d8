"""Whom a stage learns from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

from bertpress.encoder.imports import Loaded, load_pretrained, tokenizer_beside
from bertpress.encoder.model import BertpressPreTrainedModel
from bertpress.encoder.relabel import order_labels
from bertpress.encoder.tokenizers import cuts_alike, same_ids
from bertpress.errors import RecipeError
from bertpress.methods.base import Context
from bertpress.recipe import Stage
from bertpress.tasks import Encoded, Task, encode, resolve, whole_number
from bertpress.training import Objective

WHOLE_TEXTS = ("sequence", "embedding")
"""Kinds of heads that answer for a whole text, whatever its tokens."""
MaskedLM = Callable[[], BertpressPreTrainedModel | None]


class Reading(NamedTuple):
    """A model, and the tokenizer that it reads with."""

    model: BertpressPreTrainedModel | None
    tokenizer: Any


def teacher_of(stage: Stage, task: Task, of_the_run: Mapping[str, Reading], masked_lm: MaskedLM) -> Reading:
    """The model that a stage learns from; one in a folder reads with the tokenizer beside it.

    Args:
        stage: says which.
        task: of the run.
        of_the_run: ``original``, the run's teacher; ``previous``, what the stage before left; ``pretrained``, the model
            as it was handed in.
        masked_lm: loads the last one with its masked-LM head.

    Raises:
        ModelError: there is no such model.
        RecipeError: it has no trained head for what it has to answer.
    """
    known = of_the_run.get(stage.teacher)
    reads = known.tokenizer if known else tokenizer_beside(stage.teacher) or of_the_run["pretrained"].tokenizer
    if "teacher" in stage.guessers:
        return Reading(guessing_teacher(stage, masked_lm), reads)
    if known is not None:
        return Reading(clone(known.model), reads) if stage.teacher == "previous" and known.model else known
    loaded = load_pretrained(stage.teacher, task.head())
    if stage.data == "task":
        return Reading(answering(loaded, task, f"stage {stage.name}, teacher {stage.teacher}"), reads)
    return Reading(loaded.model, reads)


def answering(loaded: Loaded, task: Task, place: str) -> BertpressPreTrainedModel:
    """A model that teaches the task, its labels in the order of the task's; numbers and ``LABEL_0`` name no label.

    Raises:
        RecipeError: it has no trained head for the task, or one for other labels.
    """
    if not loaded.fine_tuned:
        raise RecipeError(f"{place}: has no trained head for the task {task.name}")
    order = label_order(loaded.id2label, task, place)
    return loaded.model if order is None else order_labels(loaded.model, order)


def label_order(names: Mapping[int, str] | None, task: Task, place: str) -> list[int] | None:
    """Where a teacher has each of the task's labels; None where it has them in the same order, or names none.

    Args:
        names: of the teacher's labels by id.
        task: with its labels known.
        place: how messages begin.

    Raises:
        RecipeError: it names other labels.
    """
    if not names or not task.labels or all(whole_number(name) is not None for name in task.labels):
        return None
    told = [names[i] for i in sorted(names)]
    theirs, ours = ([name.casefold() for name in labels] for labels in (told, task.labels))
    if theirs == ours or all(whole_number(name) is not None for name in theirs):
        return None
    if sorted(theirs) != sorted(ours):
        wanted = ", ".join(task.labels)
        raise RecipeError(f"{place}: its labels {', '.join(told)} must be the task's {wanted}, in any order")
    return [theirs.index(name) for name in ours]


def guessing_teacher(stage: Stage, masked_lm: MaskedLM) -> BertpressPreTrainedModel:
    """The teacher of a stage that learns its guesses of masked words.

    Raises:
        ModelError: there is no such model.
        RecipeError: it has no trained masked-LM head.
    """
    place = f"stage {stage.name}, teacher={stage.teacher}"
    if stage.teacher in ("original", "previous"):
        raise RecipeError(f"{place}: answers the task, not masked words; say teacher: pretrained, or leave logits out")
    model = masked_lm() if stage.teacher == "pretrained" else masked_lm_of(stage.teacher)
    if model is None:
        wanted = "leave its logits out (distill/logits: alpha=0, or distill/mlm), or give a model that has one"
        raise RecipeError(f"{place}: the model has no masked-LM head; {wanted}")
    return model


def masked_lm_of(model: str | Path) -> BertpressPreTrainedModel | None:
    """A model with its masked-LM head; None where the checkpoint has none.

    Raises:
        ModelError: there is no such model.
    """
    loaded = load_pretrained(model, resolve("masked-lm").head())
    return loaded.model if loaded.fine_tuned else None


def clone(model: BertpressPreTrainedModel) -> BertpressPreTrainedModel:
    """A copy that can be trained while the original stays as it is."""
    new: BertpressPreTrainedModel = type(model)(deepcopy(model.config))
    new.load_state_dict(model.state_dict())
    new.storage = dict(model.storage)
    new.eval()
    return new


def comparable(tokenizer: Any, other: Any, task: Task) -> bool:
    """Whether what two models say of a token can be compared: a masked LM says a piece by its number."""
    if task.kind == "masked-lm":
        return same_ids(tokenizer, other)
    return cuts_alike(tokenizer, other, pairs=task.reads_pairs)


def read_by_both(data: Encoded, terms: Iterable[Objective], ctx: Context, place: str) -> None:
    """Have each example carry what its teacher reads, where that has other ids than the student, and see that it can.

    Args:
        data: examples as the student reads them.
        terms: of the loss.
        ctx: has both tokenizers.
        place: how messages begin.

    Raises:
        RecipeError: a term compares tokens, and theirs are not the same pieces; or the teacher takes fewer of them.
    """
    terms, other = [term for term in terms if term.needs_teacher], ctx.teacher_tokenizer
    if not terms or other is None:
        return
    read = data
    if not same_ids(ctx.tokenizer, other):
        read = data.teacher = _read_apart(data, terms, ctx, place)
    most, longest = ctx.teacher.blueprint.longest_input if ctx.teacher is not None else None, max(read.lengths)
    if most is not None and longest > most:
        raise RecipeError(f"{place}: its teacher takes {most} tokens, and a text has {longest}; say max_length={most}")


def _read_apart(data: Encoded, terms: Iterable[Objective], ctx: Context, place: str) -> Encoded:
    """The examples as a teacher with ids of its own reads them."""
    other = ctx.teacher_tokenizer
    teacher = encode(data.task, data.rows, other, training=True)
    alike = comparable(ctx.tokenizer, other, data.task) and teacher.lengths == data.lengths
    for term in terms:
        if not alike and (term.captures or data.task.head().kind not in WHOLE_TEXTS):
            raise RecipeError(f"{place}: {term.name} compares tokens with a teacher that reads others; leave it out")
    return teacher
