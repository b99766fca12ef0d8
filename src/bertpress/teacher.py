"""The uncompressed model that a run starts from and is measured against: loaded, or fine-tuned first."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertpress import artifact
from bertpress.artifact import Artifact
from bertpress.encoder.imports import Loaded, load_pretrained, tokenizer_of
from bertpress.encoder.model import BertpressPreTrainedModel
from bertpress.errors import ModelError
from bertpress.runfolder import RunFolder
from bertpress.stages import Data, encoded_splits, fit
from bertpress.supervision import answering
from bertpress.tasks import Task
from bertpress.training import distributed

if TYPE_CHECKING:
    from bertpress.runner import Request

Say = Callable[[str], None]


def trained_model(model: str | Path, task: Task) -> Loaded:
    """The model with a head for the task.

    Raises:
        ModelError: it has no weights, only a shape.
    """
    loaded = load_pretrained(model, task.head(), **labels_of(task))
    if loaded.random:
        raise ModelError(f"{model}: has no weights; a shape alone can be profiled, not compressed")
    return loaded


def labels_of(task: Task) -> dict[str, Any]:
    """Label names as a model's config keeps them."""
    if task.labels is None:
        return {}
    return {
        "id2label": dict(enumerate(task.labels)),
        "label2id": {name: i for i, name in enumerate(task.labels)},
    }


def make_teacher(request: Request, folder: RunFolder, data: Data, source: Loaded, tokenizer: Any, say: Say) -> Artifact:
    """The uncompressed model that everything is measured against, as an artifact of its own.

    A model that is fine-tuned already is its own teacher; another is fine-tuned first, as the recipe says.  A teacher
    that is given reads with its own tokenizer.
    """
    place = folder / "teacher"
    if distributed.there(place):
        return artifact.load(place)
    if request.teacher is not None:
        loaded = trained_model(request.teacher, data.task)
        model: BertpressPreTrainedModel = answering(loaded, data.task, f"--teacher {request.teacher}")
        tokenizer = tokenizer_of(loaded)
    else:
        model = source.model
        if not source.fine_tuned:
            model = _fine_tuned(request, folder, data, source, tokenizer, say)
    made = distributed.by_first(
        lambda: artifact.save(model, tokenizer, data.task, place, seed=request.seed, command=request.command)
    )
    return made or artifact.load(place)


def _fine_tuned(
    request: Request, folder: RunFolder, data: Data, source: Loaded, tokenizer: Any, say: Say
) -> BertpressPreTrainedModel:
    say(f"{request.model} is not fine-tuned for {data.task.name}: making a teacher of it first")
    model = trained_model(request.model, data.task).model
    settings = request.recipe.fine_tune
    fit(
        model,
        data.task,
        encoded_splits(data, settings, tokenizer, seed=request.seed, say=say),
        tokenizer,
        settings,
        folder / "fine-tuning",
        seed=request.seed,
        say=say,
        label="fine-tuning",
        metric=request.metric,
    )
    return model
