"""The stretches of a model between its exits, which run one after the other and hand on what is left of a batch."""

from __future__ import annotations

from torch import Tensor, nn

from bertpress.encoder.attention_masks import masks_of
from bertpress.encoder.blueprint import Blueprint
from bertpress.encoder.exit_specs import SEGMENT
from bertpress.encoder.halves import Lower, Upper
from bertpress.encoder.model import BertpressPreTrainedModel
from bertpress.encoder.passing import through
from bertpress.encoder.slots import Tape


class Segment(nn.Module):
    """The layers between two exits, and the second of the exits; the first segment embeds, the last ends in the head.

    Args:
        model: whose modules it computes with.
        start: its first layer, from 0.
        end: the layer behind its last one.
    """

    def __init__(self, model: BertpressPreTrainedModel, start: int, end: int) -> None:
        super().__init__()
        encoder, layers = model.encoder, model.blueprint.layers
        self.inputs = ("states", "attention_mask") if start else input_names(model.blueprint)
        self.embeddings = None if start else encoder.embeddings
        self.relative = encoder.relative
        self.layers = encoder.layers[start:end]
        self.head = model.head if end == len(layers) else None
        self.outputs: tuple[str, ...] = ("logits", "next_states") if self.head is None else ("logits",)
        shared = {i for each in layers[start:end] for i in (each.attention_from, each.ffn_from) if i is not None}
        self.owners = nn.ModuleDict({str(i): encoder.layers[i] for i in shared})

    def forward(self, x: Tensor, attention_mask: Tensor, segment_ids: Tensor | None = None) -> tuple[Tensor, ...]:
        """Run.

        Args:
            x: hidden states (batch, tokens, hidden) that the segment before gave; of the first, ids (batch, tokens).
            attention_mask: (batch, tokens), 1 for tokens and 0 for pads.
            segment_ids: (batch, tokens), for the first alone.

        Returns:
            Logits (batch, labels), and, unless it is the last, hidden states for the next one.
        """
        hidden = x if self.embeddings is None else self.embeddings(x, segment_ids)
        tape, masks = Tape(frozenset({"exits"})), masks_of(attention_mask, hidden.dtype)
        owners = {int(i): layer for i, layer in self.owners.items()}
        hidden, _ = through(self.layers, owners, self.relative, hidden, masks, tape)  # type: ignore[arg-type]
        return (*tape.captured()["exits"], hidden) if self.head is None else (self.head(hidden, attention_mask),)


def input_names(blueprint: Blueprint) -> tuple[str, ...]:
    """What a model is called with; ``token_type_ids`` only where it matters which segment a token is in."""
    names = ("input_ids", "attention_mask")
    return (*names, "token_type_ids") if blueprint.reads_segments else names


def parts(model: BertpressPreTrainedModel) -> dict[str, Lower | Upper | Segment]:
    """What can be run of a model by itself, by name: segments between exits in order; halves that keep passages."""
    found: dict[str, Lower | Upper | Segment] = {}
    if model.blueprint.exit is not None:
        exits = model.blueprint.exits
        for number, (start, end) in enumerate(zip((0, *exits), exits, strict=False)):
            found[SEGMENT.format(number)] = Segment(model, start, end)
    if model.blueprint.cacheable:
        found |= {"lower": Lower(model), "upper": Upper(model)}
    return found
