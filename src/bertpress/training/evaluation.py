"""Logits of a model in memory over a whole data set, and its value of the task's metric."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from bertpress import tasks
from bertpress.tasks import BucketSampler, Collate, Encoded, Rows, Task, UserMetric
from bertpress.training import rng
from bertpress.training.precision import Precision, autocast, in_float32, resolve_dtype
from bertpress.training.teacher import model_inputs

Array = npt.NDArray[Any]


def collate_for(tokenizer: Any, teacher: Any = None) -> Collate:
    """Padding as the tokenizer's model expects it, and as the teacher's does."""
    pads = [getattr(each, "pad_token_id", None) or 0 for each in (tokenizer, teacher)]
    return Collate(pads[0], teacher_pad_id=pads[1])


def batches(data: Encoded, collate: Collate, batch_size: int) -> Iterator[tuple[list[int], dict[str, Tensor]]]:
    """Every feature once, in batches of similar length, longest first; with the features' places in ``data``."""
    for rows in BucketSampler(data.lengths, batch_size, shuffle=False, group=data.group):
        yield rows, collate([data[row] for row in rows])


def predict_logits(
    model: nn.Module,
    task: Task,
    data: Encoded,
    collate: Collate,
    *,
    batch_size: int = 64,
    precision: Precision = "float32",
) -> list[Array]:
    """One array a feature, in order, as :func:`bertpress.tasks.predictions` wants them.

    The model is in eval mode meanwhile; no random number is drawn, and the generators are as before.
    """
    device = next(model.parameters()).device
    dtype = resolve_dtype(precision, device)
    kept: list[Array] = [np.zeros(0)] * len(data)
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with rng.preserved(), torch.no_grad():
            for rows, batch in batches(data, collate, batch_size):
                with autocast(dtype, device):
                    inputs = {name: value.to(device) for name, value in model_inputs(batch).items()}
                    output = in_float32(model(**inputs))
                for row, logits in zip(rows, tasks.keep(task, batch, output["logits"]), strict=True):
                    kept[row] = logits
    finally:
        for module in training:
            module.training = True
    return kept


def metric_value(
    model: nn.Module,
    task: Task,
    data: Encoded,
    collate: Collate,
    *,
    precision: Precision,
    metric: UserMetric | None = None,
) -> float:
    """The task's primary metric on ``data``, or the user's own."""
    return metric_of(task, data, predict_logits(model, task, data, collate, precision=precision), metric)


def metric_of(task: Task, data: Encoded, logits: Iterable[Array], metric: UserMetric | None = None) -> float:
    """The task's primary metric of the logits of ``data``, one array a feature; or the user's own."""
    predictions, references = tasks.predictions(task, data, logits), tasks.references(task, data.rows)
    if metric is not None:
        return float(metric(predictions, references))
    known = tasks.metrics_for(task)[task.metric]
    return float(known.value(known.statistics(predictions, references).sum(0)))


def in_memory_predictions(model: nn.Module, task: Task, rows: Rows, tokenizer: Any) -> list[Any]:
    """Predictions of a model in memory, in float32."""
    encoded = tasks.encode(task, rows, tokenizer, training=False)
    return tasks.predictions(task, encoded, predict_logits(model, task, encoded, collate_for(tokenizer)))
