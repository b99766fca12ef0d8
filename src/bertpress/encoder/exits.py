"""The heads behind layers, and the stretches of layers between them that engines run one after the other."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bertpress.encoder.attention import SelfAttention
from bertpress.encoder.blueprint import AttentionSpec, Blueprint, ExitSpec
from bertpress.encoder.heads import SequenceHead
from bertpress.encoder.slots import Slot, Tape


class Branch(nn.Module):
    """FastBERT's student classifier: narrow states, self-attention among them, a dense layer on the first token."""

    def __init__(self, spec: ExitSpec, blueprint: Blueprint) -> None:
        super().__init__()
        assert blueprint.head is not None
        size, width = spec.size, spec.size // spec.heads
        heads = AttentionSpec(heads=tuple(range(spec.heads)), head_size=width, value_size=width)
        self.narrow_slot, self.dense_slot, self.slot = Slot(), Slot(), Slot()
        self.narrow = nn.Linear(blueprint.hidden_size, size)
        self.attention = SelfAttention(
            heads,
            query_input=size,
            value_input=size,
            output=size,
            norm=nn.Identity(),
            dropout=0.0,
            attention_dropout=blueprint.attention_dropout,
        )
        self.dense = nn.Linear(size, size)
        self.classifier = nn.Linear(size, blueprint.head.labels)
        self.dropout = blueprint.dropout

    def forward(self, hidden: Tensor, mask: Tensor | None, additive: Tensor | None) -> Tensor:
        """(batch, tokens, hidden) to (batch, labels); only the first token's context is read."""
        x = torch.tanh(self.narrow(self.narrow_slot(hidden)))
        first = self.attention.output(self.attention.context(x, x, additive, Tape())[:, 0])
        x = torch.tanh(self.dense(self.dense_slot(first)))
        return self.classifier(self.slot(F.dropout(x, self.dropout, self.training)))  # type: ignore[no-any-return]


class Pooled(SequenceHead):
    """A head like the model's own, with or without its dense layer."""

    def __init__(self, spec: ExitSpec, blueprint: Blueprint) -> None:
        assert blueprint.head is not None
        dense = spec.kind == "pooled" and blueprint.head.dense
        super().__init__(blueprint.head.model_copy(update={"dense": dense}), blueprint)

    def forward(self, hidden: Tensor, mask: Tensor | None, additive: Tensor | None = None) -> Tensor:
        """(batch, tokens, hidden) to (batch, labels)."""
        return super().forward(hidden, mask)


def make_exit(spec: ExitSpec | None, blueprint: Blueprint) -> nn.Module | None:
    """The module of a layer's exit; its inputs are hidden states, mask (batch, tokens) and additive mask."""
    if spec is None:
        return None
    return Branch(spec, blueprint) if spec.kind == "branch" else Pooled(spec, blueprint)
