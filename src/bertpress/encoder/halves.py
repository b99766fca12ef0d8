"""A model whose lower layers keep the two segments apart, as the two functions that it is made of.

The lower half reads one segment alone, so that what it says of a passage can be kept; the upper half reads the states
of both, in their order.  Together they answer as the whole model does.
"""

from __future__ import annotations

from itertools import islice
from typing import ClassVar

from torch import Tensor, nn

from bertpress.encoder.attention_masks import masks_of
from bertpress.encoder.blueprint import Blueprint
from bertpress.encoder.model import BertpressPreTrainedModel
from bertpress.encoder.passing import through
from bertpress.encoder.slots import Tape


def uncacheable(blueprint: Blueprint) -> str | None:
    """Why nothing of a passage can be kept for other questions; None where it can."""
    if not blueprint.separate:
        return "no layer keeps the two texts apart; attention/deformer makes models that do"
    if not blueprint.cacheable:
        return "the second text's positions depend on the first; attention/deformer with positions: restart ends that"
    return None


class Lower(nn.Module):
    """Embeddings and separate layers, on rows of one segment each."""

    inputs: ClassVar[tuple[str, ...]] = ("input_ids", "attention_mask", "token_type_ids")
    outputs: ClassVar[tuple[str, ...]] = ("states",)

    def __init__(self, model: BertpressPreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> Tensor:
        """(batch, tokens) each to states (batch, tokens, hidden); all tokens of a row are of one segment."""
        encoder = self.model.encoder
        hidden = encoder.embeddings(input_ids, token_type_ids)
        layers = islice(encoder.plan(encoder), self.model.blueprint.separate)
        return through(layers, encoder.layers, None, hidden, masks_of(attention_mask, hidden.dtype), Tape())[0]


class Upper(nn.Module):
    """The other layers and the head, on the joined states of both segments."""

    inputs: ClassVar[tuple[str, ...]] = ("states", "attention_mask")
    outputs: ClassVar[tuple[str, ...]] = ("logits",)

    def __init__(self, model: BertpressPreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, states: Tensor, attention_mask: Tensor) -> Tensor:
        """States (batch, tokens, hidden) and mask (batch, tokens) to what the head says."""
        encoder, head = self.model.encoder, self.model.head
        layers = islice(encoder.plan(encoder), self.model.blueprint.separate, None)
        hidden, left = through(layers, encoder.layers, None, states, masks_of(attention_mask, states.dtype), Tape())
        return hidden if head is None else head(hidden, left)
