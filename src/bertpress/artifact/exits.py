"""What early exits cost and save, setting by setting: a curve, and the setting whose cost is permitted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median_low
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from bertpress import tasks
from bertpress.encoder.blueprint import Blueprint
from bertpress.encoder.costs import exit_macs
from bertpress.encoder.leaving import chosen_exits, speeds
from bertpress.encoder.model import BertpressPreTrainedModel
from bertpress.errors import ArtifactError
from bertpress.tasks import Rows, Task, UserMetric
from bertpress.training.evaluation import Array, collate_for, metric_of, predict_logits

if TYPE_CHECKING:
    from bertpress.engines import Speed


class AllExits(nn.Module):
    """A model whose logits are those of all its exits, the head's last: (batch, exits, labels)."""

    def __init__(self, model: BertpressPreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, **batch: Any) -> Any:
        """``logits`` alone."""
        out = self.model(**batch)
        return {"logits": torch.stack([*out.captured["exits"], out.logits], dim=1)}


def mean_macs(shape: Blueprint, lengths: Sequence[int], chosen: Sequence[int]) -> float:
    """Mean MACs of texts that leave at these exits.

    Args:
        shape: with exits.
        lengths: tokens of each text.
        chosen: position in ``shape.exits`` of each.
    """
    costs = {length: exit_macs(shape, length) for length in set(lengths)}
    return float(np.mean([costs[length][exit] for length, exit in zip(lengths, chosen, strict=True)]))


def calibrated(
    model: BertpressPreTrainedModel,
    task: Task,
    rows: Rows,
    tokenizer: Any,
    drop: float | None = None,
    metric: UserMetric | None = None,
) -> dict[str, Any]:
    """What a manifest says of a model's exits, measured on labelled rows.

    Args:
        model: with exits.
        task: that it answers.
        rows: none that will be reported on.
        tokenizer: of the model.
        drop: points that the usual speed may cost; None: as the model's rule says, which may also name the speed.
        metric: the user's own.

    Returns:
        ``speed``, the usual one, and ``drop``; ``rows`` and ``tokens``, how many and the median of theirs; ``curve``, a
        point for each speed worth one, from 0 up: ``speed``; ``left``, how many texts leave at each exit;
        ``mean_layer``, from 1; ``macs``, their mean; ``saving``, how many times fewer those are than all layers take;
        ``metric``; ``drop``, points that the metric loses against speed 0.
    """
    shape, rule = model.blueprint, model.blueprint.exit
    assert rule is not None
    encoded = tasks.encode(task, rows, tokenizer, training=False)
    answers = predict_logits(AllExits(model), task, encoded, collate_for(tokenizer))
    everything, layers, lengths = np.stack(answers), np.asarray(shape.exits), list(map(int, encoded.lengths))
    sign = 1.0 if tasks.metrics_for(task)[task.metric].higher_is_better or metric is not None else -1.0
    points: list[dict[str, Any]] = []
    for speed in speeds(rule, len(shape.layers)):
        chosen = chosen_exits(rule, speed, shape.exits, everything)
        kept: list[Array] = list(everything[np.arange(len(chosen)), chosen])
        point = {
            "speed": speed,
            "left": np.bincount(chosen, minlength=len(layers)).tolist(),
            "mean_layer": float(layers[chosen].mean()),
            "macs": mean_macs(shape, lengths, chosen.tolist()),
            "metric": metric_of(task, encoded, kept, metric),
        }
        whole = points[0] if points else point
        lost = sign * (whole["metric"] - point["metric"])
        points.append({**point, "saving": whole["macs"] / point["macs"], "drop": lost})
    permitted = rule.drop if drop is None else drop
    own = rule.speed if drop is None and rule.speed is not None else speed_for(points, permitted)
    return {"speed": own, "drop": permitted, "rows": len(rows), "tokens": median_low(lengths), "curve": points}


def speed_for(curve: Sequence[Mapping[str, Any]], drop: float) -> float:
    """The speed of the point that saves most among those that lose at most ``drop`` points."""
    permitted = [point for point in curve if point["drop"] <= drop]
    return float(max(permitted, key=lambda point: (point["saving"], -point["speed"]))["speed"])


def speed_of(exits: Mapping[str, Any] | None, speed: Speed | None, max_drop: float | None, place: Any) -> Speed | None:
    """The speed that is asked for by itself or by what it may cost; None: the artifact's own.

    Args:
        exits: of the manifest.
        speed: 0 to 1, or a mean time.
        max_drop: points, read off the stored curve.
        place: for messages.

    Raises:
        ArtifactError: both are given, or there is no curve.
    """
    if max_drop is None:
        return speed
    if speed is not None:
        raise ArtifactError(f"{place}: give speed={speed} or max_drop={max_drop:g}, not both")
    if not 0 <= max_drop <= 100:
        raise ArtifactError(f"{place}: max_drop={max_drop:g} must be in [0, 100]")
    if not exits:
        raise ArtifactError(f"{place}: has no curve of early exits to read max_drop={max_drop:g} off")
    return speed_for(exits["curve"], max_drop)


def described(shape: Blueprint, left: Sequence[int], speed: float, *, tokens: int) -> dict[str, Any]:
    """What results say of a run at one speed.

    Args:
        shape: with exits.
        left: how many texts left at each of them.
        speed: of the run.
        tokens: length of the text whose MACs are counted.

    Returns:
        ``speed``, ``layers`` of the exits, ``left``, ``mean_layer``, ``macs`` (their mean), ``tokens``.
    """
    share = np.asarray(left) / max(sum(left), 1)
    return {
        "speed": speed,
        "layers": list(shape.exits),
        "left": list(left),
        "mean_layer": float(share @ np.asarray(shape.exits)),
        "macs": float(share @ np.asarray(exit_macs(shape, tokens), dtype=np.float64)),
        "tokens": tokens,
    }
