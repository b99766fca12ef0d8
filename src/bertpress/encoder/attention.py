"""Self-attention whose heads, widths and score scale are the layer's own."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bertpress.encoder.blueprint import AttentionSpec, RelativeSpec
from bertpress.encoder.factors import make_linear
from bertpress.encoder.lsh import unit_keys
from bertpress.encoder.overwrite import close
from bertpress.encoder.patterns import Read, make_pattern
from bertpress.encoder.slots import Bias, Slot, Tape


class SelfAttention(nn.Module):
    """Queries, keys and values of the heads that are left; the output map, its residual and norm close the unit.

    Fused scaled-dot-product attention runs unless the tape asks for scores or maps, which that kernel never forms, or
    the maps are quantized.  Where the blueprint names a pattern, that decides which keys a query looks at.
    """

    def __init__(
        self,
        spec: AttentionSpec,
        *,
        query_input: int,
        value_input: int,
        output: int,
        norm: nn.Module,
        dropout: float,
        attention_dropout: float,
    ) -> None:
        super().__init__()
        self.spec = spec
        self.scale = spec.scale or 1 / math.sqrt(spec.head_size)
        self.dropout, self.attention_dropout = dropout, attention_dropout
        if spec.heads:
            self.input_slot, self.value_input_slot = Slot(), Slot() if query_input != value_input else None
            self.query = make_linear(query_input, spec.query_width, spec.ranks.query)
            if not spec.tied:
                self.key, self.key_slot = make_linear(query_input, spec.query_width, spec.ranks.key), Slot()
            self.value = make_linear(value_input, spec.value_width, spec.ranks.value)
            self.query_slot, self.value_slot = Slot(), Slot()
            self.map_slot, self.context_slot = Slot(), Slot()
            self.pattern = make_pattern(spec)
        self.output = make_linear(spec.value_width, output, spec.ranks.output) if spec.heads else Bias(output)
        self.norm = norm

    def forward(
        self, queries_from: Tensor, values_from: Tensor, residual: Tensor, mask: Tensor | None, tape: Tape
    ) -> Tensor:
        """Attend and close the unit.

        Args:
            queries_from: (batch, tokens, query_input), read by queries and keys.
            values_from: (batch, tokens, value_input), read by values.
            residual: (batch, tokens, output), added before the norm.
            mask: additive, broadcastable to (batch, heads, tokens, tokens); None where nothing is masked.
            tape: takes what a loss or a method asked for.

        Returns:
            (batch, tokens, output).
        """
        if self.spec.heads:
            out = self.output(self.context(queries_from, values_from, mask, tape))
            tape.put_fresh("attention_outputs", out)
        else:
            out = self.output(residual)
        out = F.dropout(out, self.dropout, self.training)
        return self.norm(close(out, residual, self.output))  # type: ignore[no-any-return]

    def context(self, queries_from: Tensor, values_from: Tensor, mask: Tensor | None, tape: Tape) -> Tensor:
        """What the heads gather, side by side: (batch, tokens, value_width)."""
        query, key, value = self.project(queries_from, values_from)
        return self.mix(query, key, value, mask, tape)

    def project(self, queries_from: Tensor, values_from: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys, values, each (batch, heads, tokens, width)."""
        shared = queries_from is values_from
        queries_from = self.input_slot(queries_from)
        if self.value_input_slot is not None:
            values_from = self.value_input_slot(values_from)
        elif shared:
            values_from = queries_from
        heads = len(self.spec.heads)
        query = self.query_slot(self.query(queries_from)).unflatten(-1, (heads, self.spec.head_size))
        if self.spec.tied:
            key = unit_keys(query)
        else:
            key = self.key_slot(self.key(queries_from)).unflatten(-1, (heads, self.spec.head_size))
        value = self.value_slot(self.value(values_from)).unflatten(-1, (heads, self.spec.value_size))
        return query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)

    def mix(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, tape: Tape) -> Tensor:
        """Average the values by the attention maps: (batch, tokens, value_width)."""
        tape.put("queries", query)
        tape.put("keys", key)
        tape.put("values", value)
        dropout = self.attention_dropout if self.training else 0.0
        pattern, mapped = self.pattern, tape.wants(*tape.MAPS) or self.map_slot.quantizer is not None
        if mapped and (self.spec.pattern is None or self.spec.pattern.maps):
            scores = query @ key.transpose(-1, -2) * self.scale
            scores = scores if mask is None else scores + mask
            maps = (scores if pattern is None else pattern.limited(scores)).softmax(-1)
            tape.put("scores", scores)
            tape.put("attentions", maps)
            context = F.dropout(self.map_slot(maps), dropout, self.training) @ value
        elif pattern is None:
            context = F.scaled_dot_product_attention(query, key, value, mask, dropout, scale=self.scale)
        else:
            context = pattern(Read(query, key, value, mask, self.scale, dropout, self.map_slot))
        tape.put("contexts", context)
        return self.context_slot(context.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class RelativeBias(nn.Embedding):
    """T5-style bucketed relative positions, as in MPNet: nearby distances exact, far ones in logarithmic buckets."""

    def __init__(self, spec: RelativeSpec) -> None:
        super().__init__(spec.buckets, spec.heads)
        self.spec = spec

    def forward(self, tokens: Tensor) -> Tensor:
        """Bias (rows, heads, n, n) for the positions ``tokens``, (rows, n)."""
        distance = tokens[:, :, None] - tokens[:, None, :]  # query minus key
        half = self.spec.buckets // 2
        exact = half // 2
        far = distance.abs()
        spread = torch.log(far.float().clamp(min=1) / exact) / math.log(self.spec.max_distance / exact)
        large = (exact + (spread * (half - exact)).to(torch.long)).clamp(max=half - 1)
        bucket = torch.where(far < exact, far, large) + (distance < 0).to(torch.long) * half
        return super().forward(bucket).permute(0, 3, 1, 2)
