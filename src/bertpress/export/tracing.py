"""What both exporters trace: a copy of the model with plain inputs, one output, and its integers in the graph."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from bertpress.encoder.halves import Lower, Upper
from bertpress.encoder.model import BertpressPreTrainedModel
from bertpress.encoder.pattern_specs import LshSpec
from bertpress.encoder.quantizers import WeightQuantizer
from bertpress.encoder.surgery import rebuild
from bertpress.encoder.transforms import put

METADATA = "metadata.json"


class Exportable(nn.Module):
    """A model with positional tensors in and one tensor out, its stored integers as fake quantizers.

    Attributes:
        inputs: names of the inputs, int64 (batch, tokens) each.
        output: name of the output: ``logits``; without a head ``last_hidden_state`` or ``pooler_output``.
    """

    def __init__(self, model: BertpressPreTrainedModel) -> None:
        super().__init__()
        state = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
        self.model = rebuild(model, model.blueprint, state).cpu()
        for name, stored in model.storage.items():
            if (grid := stored.grid()) is not None and grid.runs_as_integers:
                put(self.model, name, WeightQuantizer(grid))
        self.inputs = input_names(model)
        head = model.blueprint.head
        self.output = "logits" if head and (head.kind != "sequence" or head.labels) else "pooler_output"
        if head is None:
            self.output = "last_hidden_state"
        self.eval()

    def forward(self, *inputs: Tensor) -> Tensor:
        """Tensors in the order of ``inputs``."""
        return self.model(**dict(zip(self.inputs, inputs, strict=True)))[self.output]  # type: ignore[no-any-return]


Part: TypeAlias = Exportable | Lower | Upper


def parts(model: BertpressPreTrainedModel) -> dict[str, Part]:
    """What is exported, by name: the whole model, and the halves of one whose passages can be kept."""
    whole = Exportable(model)
    if not model.blueprint.cacheable:
        return {"model": whole}
    return {"model": whole, "lower": Lower(whole.model).eval(), "upper": Upper(whole.model).eval()}


def example(part: Part, batch: int = 2, tokens: int = 7) -> tuple[Tensor, ...]:
    """Inputs to trace with; sizes differ from each other and from 1, so that none becomes a constant.

    Where attention sorts tokens into chunks there are several, for the same reason.
    """
    shape = part.model.blueprint
    patterns = [layer.attention.pattern for layer in shape.layers]
    chunks = [2 * pattern.chunk + 3 for pattern in patterns if isinstance(pattern, LshSpec)]
    table = shape.embeddings
    longest = table.positions - table.first_position if table.positions else max([tokens, *chunks])
    tokens = max(tokens, min(longest, max(chunks, default=0)))
    ids = torch.full((batch, tokens), min(5, table.vocabulary - 1))
    mask = torch.ones_like(ids)
    mask[-1, -1] = 0
    inputs = {
        "input_ids": ids,
        "attention_mask": mask,
        "token_type_ids": torch.zeros_like(ids),
        "states": torch.ones(batch, tokens, shape.hidden_size),
    }
    return tuple(inputs[name] for name in part.inputs)


def input_names(model: BertpressPreTrainedModel) -> tuple[str, ...]:
    """``token_type_ids`` only where it matters which segment a token is in."""
    names = ("input_ids", "attention_mask")
    return (*names, "token_type_ids") if model.blueprint.reads_segments else names


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
    """Write ``metadata.json``: inputs, output, labels, and what the caller adds (task, max_length); returns it."""
    exported = {
        "inputs": list(input_names(model)),
        "labels": [model.config.id2label[i] for i in sorted(model.config.id2label)] if model.config.id2label else None,
        "positions": model.blueprint.embeddings.positions,
        "pad_id": model.blueprint.embeddings.pad_id,
    }
    exported |= dict(metadata or {})
    (folder / METADATA).write_text(json.dumps(exported, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return exported
