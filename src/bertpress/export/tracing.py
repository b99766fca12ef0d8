"""What both exporters trace: a copy of the model with plain inputs, one output, and its integers in the graph."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bertpress.encoder.blueprint import Blueprint
from bertpress.encoder.model import BertpressPreTrainedModel
from bertpress.encoder.pattern_specs import LshSpec
from bertpress.encoder.quantizers import WeightQuantizer
from bertpress.encoder.segments import input_names, parts
from bertpress.encoder.surgery import rebuild
from bertpress.encoder.transforms import put
from bertpress.engines.base import METADATA, STATES


class Exportable(nn.Module):
    """A model with positional tensors in and tensors out.

    Attributes:
        shape: of the model.
        inputs: names of the inputs, int64 (batch, tokens) each; ``states`` are float32 (batch, tokens, hidden).
        outputs: names of the outputs: ``logits``; without a head ``last_hidden_state`` or ``pooler_output``.
    """

    def __init__(self, model: nn.Module, shape: Blueprint, inputs: tuple[str, ...], outputs: tuple[str, ...]) -> None:
        super().__init__()
        self.model, self.shape, self.inputs, self.outputs = model, shape, inputs, outputs
        self.eval()

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Tensors in the order of ``inputs``."""
        return self.model(**dict(zip(self.inputs, inputs, strict=True)))[self.outputs[0]]  # type: ignore[no-any-return]

    def example(self, batch: int = 2, tokens: int = 7) -> tuple[Tensor, ...]:
        """Inputs to trace with; sizes differ from each other and from 1, so that none becomes a constant.

        Where attention sorts tokens into chunks there are several, for the same reason.
        """
        patterns, table = [layer.attention.pattern for layer in self.shape.layers], self.shape.embeddings
        chunks = [2 * pattern.chunk + 3 for pattern in patterns if isinstance(pattern, LshSpec)]
        longest = self.shape.longest_input or max([tokens, *chunks])
        tokens = max(tokens, min(longest, max(chunks, default=0)))
        ids = torch.full((batch, tokens), min(5, table.vocabulary - 1))
        mask = torch.ones_like(ids)
        mask[-1, -1] = 0
        states = torch.ones(batch, tokens, self.shape.hidden_size)
        known = {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids), STATES: states}
        return tuple(known[name] for name in self.inputs)


class ExportablePart(Exportable):
    """A part of a model."""

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Tensors in the order of ``inputs``."""
        return self.model(*inputs)  # type: ignore[no-any-return]


def exportables(model: BertpressPreTrainedModel) -> dict[str, Exportable]:
    """What is written of a model, by the name of the file: all of it, and its parts.

    All compute with the weights of one copy, on the CPU, the stored integers as fake quantizers.
    """
    state = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    copy, shape = rebuild(model, model.blueprint, state).cpu(), model.blueprint
    for name, stored in model.storage.items():
        if (grid := stored.grid()) is not None and grid.runs_as_integers:
            put(copy, name, WeightQuantizer(grid))
    head = shape.head
    output = "logits" if head and (head.kind != "sequence" or head.labels) else "pooler_output"
    if head is None:
        output = "last_hidden_state"
    found: dict[str, Exportable] = {"model": Exportable(copy, shape, input_names(shape), (output,))}
    return found | {name: ExportablePart(part, shape, part.inputs, part.outputs) for name, part in parts(copy).items()}


@contextmanager
def quiet() -> Iterator[None]:
    """Tracers warn of each other's deprecations, of packages nobody asked for, of constants that are on purpose."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def write_metadata(model: BertpressPreTrainedModel, folder: Path, metadata: Mapping[str, Any] | None) -> dict[str, Any]:
    """Write ``metadata.json``: inputs, labels, tokens at most (0: any), pad, and more.

    Args:
        model: that is exported.
        folder: of the files.
        metadata: that the caller adds.

    Returns:
        What was written.
    """
    exported = {
        "inputs": list(input_names(model.blueprint)),
        "labels": [model.config.id2label[i] for i in sorted(model.config.id2label)] if model.config.id2label else None,
        "positions": model.blueprint.longest_input or 0,
        "pad_id": model.blueprint.embeddings.pad_id,
    }
    exported |= dict(metadata or {})
    (folder / METADATA).write_text(json.dumps(exported, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return exported
