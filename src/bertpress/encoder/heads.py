"""Heads: from the last hidden states to logits, span scores, token scores or a sentence vector."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bertpress.encoder.blueprint import Blueprint, HeadSpec
from bertpress.encoder.layers import make_norm
from bertpress.encoder.overwrite import ACTIVATIONS
from bertpress.encoder.slots import Slot


def pool(hidden: Tensor, mask: Tensor | None, how: str) -> Tensor:
    """(batch, tokens, hidden) to (batch, hidden); pads count neither in the mean nor in the maximum."""
    if how == "cls":
        return hidden[:, 0]
    if mask is None:
        return hidden.mean(1) if how == "mean" else hidden.amax(1)
    kept = mask.unsqueeze(-1).to(hidden.dtype)
    if how == "mean":
        return (hidden * kept).sum(1) / kept.sum(1).clamp(min=1e-9)
    return hidden.masked_fill(kept == 0, torch.finfo(hidden.dtype).min).amax(1)


class SequenceHead(nn.Module):
    """Pool, an optional dense layer (the pooler of BERT), a classifier; with no label, the pooler alone."""

    def __init__(self, spec: HeadSpec, blueprint: Blueprint) -> None:
        super().__init__()
        self.spec, self.dropout = spec, blueprint.dropout
        hidden = blueprint.hidden_size
        self.dense_slot = Slot() if spec.dense else None
        self.dense = nn.Linear(hidden, hidden) if spec.dense else None
        self.slot = Slot() if spec.labels else None
        self.classifier = nn.Linear(hidden, spec.labels) if spec.labels else None

    def forward(self, hidden: Tensor, mask: Tensor | None) -> Tensor:
        """(batch, tokens, hidden) to (batch, labels)."""
        x = pool(hidden, mask, self.spec.pooling)
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

    ``table`` hands out the token table at each call, so that a transform on it reaches the decoder too.
    """

    def __init__(self, spec: HeadSpec, blueprint: Blueprint, table: Callable[[], Tensor]) -> None:
        super().__init__()
        size, hidden = blueprint.embeddings.size, blueprint.hidden_size
        width = hidden if spec.free_decoder else size
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
