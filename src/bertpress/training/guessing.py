"""Masked language modelling beside a model: words are scored where one is to be guessed, and nowhere else."""

from __future__ import annotations

from copy import copy
from typing import Any

import torch
from torch import Tensor, nn

from bertpress.encoder.blueprint import HeadSpec
from bertpress.encoder.heads import make_head
from bertpress.encoder.model import BertpressPreTrainedModel
from bertpress.tasks.masking import IGNORED


class Guesses(nn.Module):
    """A masked-LM head that answers in place of a model's own.

    Logits of a whole vocabulary at every token would take more memory than the model; at the positions to guess they
    take 15 % of it.
    """

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    def forward(self, output: Any, batch: dict[str, Tensor]) -> Tensor:
        """(guesses, vocabulary) scores.

        Args:
            output: of the model, with ``last_hidden_state`` (batch, tokens, hidden).
            batch: ``labels`` (batch, tokens) tell the positions to guess.
        """
        return self.head(output.last_hidden_state[batch["labels"] != IGNORED], None)  # type: ignore[no-any-return]


def guesses_for(model: BertpressPreTrainedModel, source: BertpressPreTrainedModel | None, seed: int) -> Guesses:
    """A head for a model, tied to its token table: that of ``source`` where it fits, else a fresh one.

    Args:
        model: any encoder of ours; its own head stays as it is.
        source: a masked language model.
        seed: of fresh weights.
    """
    shape = model.blueprint
    fits = source is not None and _widths(source) == _widths(model)
    own = source.blueprint.head if source is not None and fits else None
    spec = own or HeadSpec(kind="masked_lm", activation="gelu")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = make_head(shape.replace(head=spec), model.encoder.embeddings.decoder_table)
        assert head is not None
        head.apply(model._init_weights)
    if source is not None and fits:
        assert source.head is not None
        head.load_state_dict(source.head.state_dict())
    return Guesses(head)


def _widths(model: BertpressPreTrainedModel) -> tuple[int, int, int]:
    shape = model.blueprint
    return shape.hidden_size, shape.embeddings.size, shape.embeddings.vocabulary


def split(model: BertpressPreTrainedModel) -> tuple[BertpressPreTrainedModel, Guesses]:
    """A masked language model in two that share its weights: an encoder that scores nothing by itself, and the head."""
    head, alone = model.head, copy(model)
    assert head is not None
    alone._modules = {**model._modules, "head": None}
    return alone, Guesses(head)
