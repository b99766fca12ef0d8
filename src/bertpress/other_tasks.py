"""The tasks that a student learns beside the run's own: their rows, their teachers, and heads that are not kept."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial, reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn

from bertpress import tasks
from bertpress.encoder.blueprint import HeadSpec
from bertpress.encoder.heads import make_head
from bertpress.encoder.imports import load_pretrained, tokenizer_of
from bertpress.encoder.model import BertpressPreTrainedModel
from bertpress.encoder.sources import find
from bertpress.encoder.tokenizers import same_ids
from bertpress.errors import DataError, RecipeError
from bertpress.methods.base import Context
from bertpress.recipe import Stage
from bertpress.supervision import answering, read_by_both
from bertpress.tasks import Encoded, Rows, Task
from bertpress.training import Lesson, Objective, Pass, Teacher, under_head
from bertpress.training.objectives import Penalty

if TYPE_CHECKING:
    from bertpress.runner import Request


class Asked(NamedTuple):
    """What a stage says of another task: its name, and the folder of its teacher."""

    task: str
    teacher: str


@dataclass(frozen=True)
class Other:
    """Another task.

    Attributes:
        task: with its labels in the order of the teacher's.
        rows: of its train split.
        teacher: the model that answers it.
    """

    task: Task
    rows: Rows
    teacher: BertpressPreTrainedModel


def asked(stages: Iterable[Stage]) -> dict[Asked, Stage]:
    """The other tasks of all stages, each with the first stage that names it."""
    found: dict[Asked, Stage] = {}
    for stage in stages:
        for name, teacher in stage.tasks.items():
            found.setdefault(Asked(name, teacher), stage)
    return found


def load_others(request: Request, own: Task, tokenizer: Any) -> dict[Asked, Other]:
    """Rows and teachers of the other tasks of all stages.

    Args:
        request: names recipe and data.
        own: the run's task.
        tokenizer: of the run's model.

    Raises:
        DataError: there are no rows under ``--data``, or they are not usable.
        ModelError: there is no such teacher.
        RecipeError: the task is the run's own, or the teacher has no trained head for it or another vocabulary.
    """
    found = {}
    for each, stage in asked(request.recipe.stages).items():
        place = f"{request.recipe.name} stage {stage.name}, tasks.{each.task}={each.teacher}"
        if each.task == own.name:
            raise RecipeError(f"{place}: is the run's own task, whose teacher is the one of the stage")
        task = tasks.resolve(each.task)
        rows = tasks.load(task, "train", _folder(request.data, task, place), request.train_limit)
        task = tasks.with_labels(task, rows, find(each.teacher).config.get("id2label"))
        loaded = load_pretrained(each.teacher, task.head())
        teacher = answering(loaded, task, place)
        if not same_ids(tokenizer_of(loaded), tokenizer):
            raise RecipeError(f"{place}: its vocabulary differs from the one of {request.model}")
        found[each] = Other(task, rows, teacher)
    return found


def _folder(data: Path | None, task: Task, place: str) -> Path | None:
    """The task's own folder in ``--data`` or, where that is the one of the run's task, beside it; None: the hub."""
    if data is None:
        return None
    name, root = task.folder or task.name, data.expanduser().absolute()
    folder = next((each / name for each in (root, root.parent) if (each / name).is_dir()), None)
    if folder is None:
        raise DataError(f"{place}: --data {data} has no folder {name}, in it or beside it")
    return folder


def lessons(
    stage: Stage,
    others: Mapping[Asked, Other],
    model: BertpressPreTrainedModel,
    ctx: Context,
    *,
    shared: Sequence[Objective],
    cache: Path,
) -> list[Lesson]:
    """What the other tasks of a stage teach, under fresh heads that live in ``ctx.state``.

    The loss is made by the methods that make the one of the run's own task, for the other task and its teacher; of it
    remain the terms on logits, as the tape has another teacher's.

    Args:
        stage: with its methods.
        others: from :func:`load_others`.
        model: the student.
        ctx: of the stage.
        shared: terms of the run's own task; penalties hold whatever is learnt.
        cache: folder for the teachers' answers.

    Raises:
        RecipeError: no term is left.
    """
    found, heads = [], nn.ModuleDict()
    for number, each in enumerate(asked([stage])):
        other, spec = others[each], others[each].teacher.blueprint.head
        assert spec is not None
        head = heads[each.task] = _fresh_head(model, spec, ctx.seed + number)
        data, terms = _learnt(stage, other, ctx)
        terms += [term for term in shared if isinstance(term, Penalty)]
        turn = Pass(each.task, partial(under_head, head=head, spec=spec))
        found.append(Lesson(other.task, data, terms, Teacher(other.teacher, cache=cache), (turn,)))
    if found:
        ctx.state["other_heads"] = heads
    return found


def _learnt(stage: Stage, other: Other, ctx: Context) -> tuple[Encoded, list[Objective]]:
    """The examples of another task, and the terms on logits that the stage's methods make for it."""
    folder = None if ctx.folder is None else ctx.folder / other.task.name
    there = replace(ctx, task=other.task, teacher=other.teacher, folder=folder)
    methods = [method for _, method in stage.methods]
    rows = reduce(lambda rows, method: method.training_rows(rows, there), methods, other.rows)
    data = there.train = tasks.encode(other.task, rows, ctx.tokenizer, training=True)
    made = [term for method in methods if method.supervises for term in method.objectives(there)]
    terms = [term for term in made if not term.captures]
    read_by_both(data, terms, there, f"stage {stage.name}, tasks.{other.task.name}")
    if not terms:
        raise RecipeError(f"stage {stage.name}, tasks: need a loss on logits, such as the one of distill/logits")
    return data, terms


def _fresh_head(model: BertpressPreTrainedModel, spec: HeadSpec, seed: int) -> nn.Module:
    """A head of the teacher's kind on the student's width, drawn by the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = make_head(model.blueprint.replace(head=spec), model.encoder.embeddings.decoder_table)
        assert head is not None
        return head.apply(model._init_weights)
