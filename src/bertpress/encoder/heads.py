"""Heads: from the last hidden states to logits, span scores, token scores or a sentence vector."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bertpress.encoder.blueprint import Blueprint, HeadSpec
from bertpress.encoder.mixers import last_tokens
from bertpress.encoder.overwrite import ACTIVATIONS
from bertpress.encoder.slots import Slot, make_norm


def pool(hidden: Tensor, mask: Tensor | None, how: str) -> Tensor:
    """(batch, tokens, hidden) to (batch, hidden); pads count neither in the mean nor in the maximum.

    ``ends`` takes what each direction of an LSTM read last: the first half of the last token's state, the second half
    of the first one's.
    """
    if how == "cls":
        return hidden[:, 0]
    if how == "ends":
        ahead, back = hidden.chunk(2, dim=-1)
        if mask is None:
            return torch.cat([ahead[:, -1], back[:, 0]], dim=-1)
        last = last_tokens(mask).unsqueeze(-1).expand(-1, -1, ahead.shape[-1])
        return torch.cat([ahead.gather(1, last)[:, 0], back[:, 0]], dim=-1)
    if mask is None:
        return hidden.mean(1) if how == "mean" else hidden.amax(1)
    kept = mask.unsqueeze(-1).to(hidden.dtype)
    if how == "mean":
        return (hidden * kept).sum(1) / kept.sum(1).clamp(min=1e-9)
    return hidden.masked_fill(kept == 0, torch.finfo(hidden.dtype).min).amax(1)


def apart(input_ids: Tensor, mask: Tensor | None, segment_ids: Tensor | None, pad_id: int) -> tuple[Tensor, Tensor]:
    """The two segments of each row in rows of their own, as long as before: all first ones, then all second ones.

    Args:
        input_ids: (batch, tokens).
        mask: (batch, tokens), 1 for tokens; None: all are.
        segment_ids: (batch, tokens), 0 for the first segment and 1 for the second; None: all 0.
        pad_id: fills up; a segment without tokens is one pad.

    Returns:
        Ids and their mask, (2 * batch, tokens) each.
    """
    mask = torch.ones_like(input_ids) if mask is None else mask
    segments = torch.zeros_like(input_ids) if segment_ids is None else segment_ids
    places = torch.arange(input_ids.shape[1], device=input_ids.device)
    second = (segments * mask).sum(1, keepdim=True)
    first = mask.sum(1, keepdim=True) - second
    moved = input_ids.gather(1, (places + first).clamp(max=input_ids.shape[1] - 1))
    ids, lengths = torch.cat([input_ids, moved]), torch.cat([first, second])
    ids = ids.masked_fill(places >= lengths, pad_id)
    return ids, (places < lengths.clamp(min=1)).to(mask.dtype)


class SequenceHead(nn.Module):
    """Pool, an optional dense layer (the pooler of BERT), a classifier; with no label, the pooler alone.

    A siamese one gets two texts for each row, first all of the one side, and compares what it pooled: both, their
    product and the size of their difference side by side (Tang et al. 2019, arXiv:1903.12136, section 3.1).
    """

    def __init__(self, spec: HeadSpec, blueprint: Blueprint) -> None:
        super().__init__()
        self.spec, self.dropout = spec, blueprint.dropout
        pooled = blueprint.hidden_size * (4 if spec.siamese else 1)
        width = (spec.dense_size or blueprint.hidden_size) if spec.dense else pooled
        self.dense_slot = Slot() if spec.dense else None
        self.dense = nn.Linear(pooled, width) if spec.dense else None
        self.slot = Slot() if spec.labels else None
        self.classifier = nn.Linear(width, spec.labels) if spec.labels else None

    def forward(self, hidden: Tensor, mask: Tensor | None) -> Tensor:
        """(batch, tokens, hidden) to (batch, labels); (2 * batch, ...) where siamese."""
        x = pool(hidden, mask, self.spec.pooling)
        if self.spec.siamese:
            a, b = x.unflatten(0, (2, -1)).unbind()
            x = torch.cat([a, b, a * b, (a - b).abs()], dim=-1)
        if self.dense is not None and self.dense_slot is not None:
            x = ACTIVATIONS[self.spec.activation](self.dense(self.dense_slot(x)))
        if self.classifier is None or self.slot is None:
            return x
        return self.classifier(self.slot(F.dropout(x, self.dropout, self.training)))  # type: ignore[no-any-return]


class TokenHead(nn.Module):
    """A classifier on each token: (batch, tokens, labels); two labels, start and end, for spans."""

    def __init__(self, spec: HeadSpec, blueprint: Blueprint) -> None:
        super().__init__()
        self.dropout = blueprint.dropout if spec.kind == "token" else 0.0
        self.slot = Slot()
        self.classifier = nn.Linear(blueprint.hidden_size, 2 if spec.kind == "span" else spec.labels)

    def forward(self, hidden: Tensor, mask: Tensor | None) -> Tensor:
        """(batch, tokens, hidden) to (batch, tokens, labels)."""
        return self.classifier(self.slot(F.dropout(hidden, self.dropout, self.training)))  # type: ignore[no-any-return]


class EmbeddingHead(nn.Module):
    """A sentence vector: pool, and scale to unit length."""

    def __init__(self, spec: HeadSpec) -> None:
        super().__init__()
        self.spec = spec

    def forward(self, hidden: Tensor, mask: Tensor | None) -> Tensor:
        """(batch, tokens, hidden) to (batch, hidden)."""
        x = pool(hidden, mask, self.spec.pooling)
        return F.normalize(x, dim=-1) if self.spec.normalize else x


class MaskedLMHead(nn.Module):
    """Dense, activation, norm, then the transposed token table: the decoder owns no weight but its bias.

    ``table`` hands out the token table at each call, so that a transform on it reaches the decoder too.  It has the
    hidden width where the tokens are projected one by one.
    """

    def __init__(self, spec: HeadSpec, blueprint: Blueprint, table: Callable[[], Tensor]) -> None:
        super().__init__()
        size, hidden = blueprint.embeddings.size, blueprint.hidden_size
        width = hidden if spec.free_decoder or blueprint.projects_decoder else size
        self.activation, self.table = spec.activation, table
        self.slot = Slot()
        self.dense = nn.Linear(hidden, width)
        self.norm = make_norm("layer", width, blueprint.norm_epsilon)
        self.bias = nn.Parameter(torch.zeros(blueprint.embeddings.vocabulary))
        free = (hidden - size, blueprint.embeddings.vocabulary)
        self.decoder = nn.Parameter(torch.empty(free).normal_(std=0.02)) if spec.free_decoder else None

    def forward(self, hidden: Tensor, mask: Tensor | None) -> Tensor:
        """(batch, tokens, hidden) to (batch, tokens, vocabulary)."""
        x = self.norm(ACTIVATIONS[self.activation](self.dense(self.slot(hidden))))
        table = self.table()
        if self.decoder is not None:
            table = torch.cat([table.t(), self.decoder]).t()
        return F.linear(x, table, self.bias)


def make_head(blueprint: Blueprint, table: Callable[[], Tensor]) -> nn.Module | None:
    """The module of ``blueprint.head``."""
    spec = blueprint.head
    if spec is None:
        return None
    if spec.kind == "masked_lm":
        return MaskedLMHead(spec, blueprint, table)
    if spec.kind == "embedding":
        return EmbeddingHead(spec)
    return SequenceHead(spec, blueprint) if spec.kind == "sequence" else TokenHead(spec, blueprint)


def span_loss(scores: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy of (batch, tokens) scores; targets outside of the text do not count."""
    outside = scores.shape[1]
    return F.cross_entropy(scores, target.clamp(0, outside), ignore_index=outside)


def label_loss(logits: Tensor, labels: Tensor, *, multi_label: bool) -> Tensor:
    """Cross-entropy for class ids (-100 does not count); for floats squared error, or binary cross-entropy."""
    if not labels.is_floating_point():
        return F.cross_entropy(logits.flatten(0, -2), labels.flatten())
    if multi_label:
        return F.binary_cross_entropy_with_logits(logits, labels)
    return F.mse_loss(logits.squeeze(-1), labels)
