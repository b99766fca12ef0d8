"""Does an exported file answer as the model in memory does?  Shown on padded batches of unequal length."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bertpress.encoder.model import BertpressPreTrainedModel
from bertpress.engines import load_engine
from bertpress.engines.base import INPUTS, Array
from bertpress.errors import BertpressError

FLOAT_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Parity:
    """How far an engine's answers are from those of the model in memory.

    Attributes:
        engine: that ran the file.
        logit_difference: the largest, over all real tokens.
        label_agreement: share of equal labels in percent, 100 where there is nothing to choose; spans: both ends.
        compared: labels that were compared.
    """

    engine: str
    logit_difference: float
    label_agreement: float
    compared: int


def parity(
    model: BertpressPreTrainedModel,
    folder: Path,
    engine: str,
    batches: Sequence[Mapping[str, Tensor]] | None = None,
    threads: int | None = None,
) -> Parity:
    """Compare ``model`` with the file that ``engine`` loads from ``folder``.

    Args:
        model: in memory; of an int8 artifact this is the simulation.
        folder: of the artifact.
        engine: ``openvino`` or ``onnxruntime``.
        batches: padded batches; None makes random ones (:func:`probes`).
        threads: of the engine.
    """
    loaded = load_engine(engine, folder, threads, speed=0)
    return _compared(model, engine, loaded.logits, probes(model) if batches is None else batches)


def repeatability(model: BertpressPreTrainedModel, batches: Sequence[Mapping[str, Tensor]]) -> Parity:
    """Compare ``model`` with itself where the first norm's scales are larger by a millionth.

    Integers that lie next to a boundary then round to the other side, and from layer to layer more of them do, as
    between any two engines: what agrees here is the most that an engine can be expected to agree.
    """
    norm = model.get_parameter("encoder.embeddings.norm.weight")
    before = norm.detach().clone()

    def nudged(batch: Mapping[str, Tensor]) -> Array:
        norm.data.mul_(1 + 1e-6)
        try:
            return _in_memory(model, batch)[0]
        finally:
            norm.data.copy_(before)

    return _compared(model, "torch", nudged, batches)


def _compared(
    model: BertpressPreTrainedModel,
    engine: str,
    answer: Callable[[Mapping[str, Tensor]], Array],
    batches: Sequence[Mapping[str, Tensor]],
) -> Parity:
    """How far ``answer`` gives other logits and labels than the model in memory."""
    worst, equal, compared = 0.0, 0, 0
    for batch in batches:
        expected, real = _in_memory(model, batch)
        found = answer(batch)
        if found.shape != expected.shape:
            raise BertpressError(f"{engine}: gives {found.shape} where the model gives {expected.shape}")
        if real is not None and found.ndim == 3:
            expected, found = np.where(real[..., None], expected, -np.inf), np.where(real[..., None], found, -np.inf)
        with np.errstate(invalid="ignore"):
            worst = max(worst, float(np.nan_to_num(np.abs(found - expected)).max(initial=0.0)))
        same = labels(model, found) == labels(model, expected)
        counted = real if real is not None and _by_token(model) else np.ones_like(same)
        equal += int((same & counted).sum())
        compared += int(counted.sum())
    return Parity(engine, worst, 100 * equal / compared if compared else 100.0, compared)


def check(model: BertpressPreTrainedModel, folder: Path, engine: str, tolerance: float = FLOAT_TOLERANCE) -> Parity:
    """Run :func:`parity` on random batches; a float model must agree.

    Integers round at the same boundaries but after sums in another order, so of them only figures are reported.

    Raises:
        BertpressError: a float export differs by more than ``tolerance``.
    """
    found = parity(model, folder, engine)
    if model.blueprint.activation_bits is None and not found.logit_difference <= tolerance:
        raise BertpressError(
            f"{folder}: {engine} differs from the model by {found.logit_difference:.2g}, must be at most {tolerance:g}"
        )
    return found


def labels(model: BertpressPreTrainedModel, logits: Array) -> Array:
    """What is chosen: a class (batch,), a tag (batch, tokens), the two ends of a span (batch, 2).

    Empty where nothing is: a regression, an embedding.
    """
    head = model.blueprint.head
    if head is None or head.kind == "embedding" or (head.kind == "sequence" and head.labels < 2):
        return np.empty(0, dtype=np.int64)
    if head.kind == "span":
        return np.asarray(logits.argmax(1))
    if model.config.problem_type == "multi_label_classification":
        return np.asarray(logits > 0)
    return np.asarray(logits.argmax(-1))


def _by_token(model: BertpressPreTrainedModel) -> bool:
    head = model.blueprint.head
    return head is not None and head.kind in ("token", "masked_lm")


def probes(model: BertpressPreTrainedModel, seed: int = 0) -> list[dict[str, Tensor]]:
    """Random padded batches: sizes 1 to 5, lengths from one token up, pads of unequal number, two segments."""
    spec, longest = model.blueprint.embeddings, min(61, model.blueprint.longest_input or 61)
    random = torch.Generator().manual_seed(seed)
    batches = []
    for rows, tokens in ((1, 1), (1, min(17, longest)), (3, min(32, longest)), (5, longest)):
        ids = torch.randint(0, spec.vocabulary, (rows, tokens), generator=random)
        ids[ids == spec.pad_id] = (spec.pad_id + 1) % spec.vocabulary
        lengths = torch.randint(1, tokens + 1, (rows, 1), generator=random)
        lengths[0] = tokens
        mask = (torch.arange(tokens) < lengths).long()
        second = ((torch.arange(tokens) >= lengths // 2) & (mask == 1)).long()
        batches.append(
            {
                "input_ids": torch.where(mask == 1, ids, spec.pad_id),
                "attention_mask": mask,
                "token_type_ids": second if model.blueprint.reads_segments else torch.zeros_like(mask),
            }
        )
    return batches


def _in_memory(model: BertpressPreTrainedModel, batch: Mapping[str, Tensor]) -> tuple[Array, Array | None]:
    """Logits of the model, and which tokens are real."""
    training = model.training
    model.eval()
    device = next(model.parameters()).device
    with torch.inference_mode():
        out = model(**{name: torch.as_tensor(batch[name]).to(device) for name in INPUTS if name in batch})
    model.train(training)
    logits = next(x for x in (out.logits, out.pooler_output, out.last_hidden_state) if x is not None)
    mask = batch.get("attention_mask")
    return logits.float().cpu().numpy(), None if mask is None else np.asarray(mask).astype(bool)
