"""Embeddings, feed-forward networks and the encoder layer, each built from its part of the blueprint."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bertpress.encoder.attention import SelfAttention
from bertpress.encoder.blueprint import Activation, Blueprint, LayerSpec, NetworkRanks
from bertpress.encoder.elimination import Present, make_rule
from bertpress.encoder.exits import make_exit
from bertpress.encoder.factors import make_linear, reader
from bertpress.encoder.mixers import make_mixer
from bertpress.encoder.overwrite import activate, close
from bertpress.encoder.slots import Bias, Slot, Tape, make_norm


class Projection(nn.Module):
    """A linear map and a norm: MobileBERT's bottlenecks."""

    def __init__(self, inputs: int, outputs: int, norm: nn.Module) -> None:
        super().__init__()
        self.slot = Slot()
        self.dense = nn.Linear(inputs, outputs)
        self.norm = norm

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """(..., inputs) to (..., outputs); the residual is added before the norm."""
        y = self.dense(self.slot(x))
        return self.norm(y if residual is None else y + residual)  # type: ignore[no-any-return]


def code_sums(codes: Tensor, codebooks: Tensor) -> Tensor:
    """What codes stand for: the sum of one vector from each codebook.

    Args:
        codes: (..., codebooks) integers.
        codebooks: (codebooks, entries, size).

    Returns:
        (..., size).
    """
    count, entries, _ = codebooks.shape
    first = torch.arange(count, device=codes.device) * entries  # of each codebook, in all of them
    return F.embedding(codes.long() + first, codebooks.flatten(0, 1)).sum(-2)


class CodeTable(nn.Module):
    """A table whose rows are sums of one vector from each codebook.

    Source: Shu & Nakayama 2018, arXiv:1711.01068, equation 1.
    """

    codes: Tensor

    def __init__(self, rows: int, codebooks: int, entries: int, size: int) -> None:
        super().__init__()
        self.codebooks = nn.Parameter(torch.empty(codebooks, entries, size))
        self.register_buffer("codes", torch.zeros(rows, codebooks, dtype=torch.uint8))

    def initialize(self) -> None:
        """Random codes, and vectors whose sums are as large as rows of other tables."""
        codebooks, entries, _ = self.codebooks.shape
        nn.init.normal_(self.codebooks, std=0.02 / codebooks**0.5)
        self.codes.random_(entries)

    @property
    def weight(self) -> Tensor:
        """All rows, (rows, size)."""
        return code_sums(self.codes, self.codebooks)

    def forward(self, ids: Tensor) -> Tensor:
        """(batch, tokens) ids to (batch, tokens, size)."""
        return code_sums(F.embedding(ids, self.codes), self.codebooks)


class Embeddings(nn.Module):
    """Sum of token, position and segment vectors, normalised; projected to the hidden width where asked."""

    def __init__(self, blueprint: Blueprint) -> None:
        super().__init__()
        spec, hidden = blueprint.embeddings, blueprint.hidden_size
        self.spec, self.dropout, self.projects_decoder = spec, blueprint.dropout, blueprint.projects_decoder
        added = hidden if spec.project == "tokens" else spec.size
        self.word: nn.Embedding | CodeTable = (
            CodeTable(spec.vocabulary, spec.codebooks, spec.entries, spec.size)
            if spec.codebooks
            else nn.Embedding(spec.vocabulary, spec.size)
        )
        self.position = nn.Embedding(spec.positions, added) if spec.positions else None
        self.segment = nn.Embedding(spec.segments, added) if spec.segments else None
        self.norm = make_norm(spec.norm, added, blueprint.norm_epsilon)
        self.projection = nn.Linear(spec.window * spec.size, hidden) if spec.project != "none" else None
        self.projection_slot = Slot() if spec.project != "none" else None

    def forward(self, input_ids: Tensor, segment_ids: Tensor | None) -> Tensor:
        """(batch, tokens) ids to (batch, tokens, hidden)."""
        spec = self.spec
        x = self.word(input_ids)
        if spec.window == 3:
            x = torch.cat([F.pad(x[:, 1:], (0, 0, 0, 1)), x, F.pad(x[:, :-1], (0, 0, 1, 0))], dim=2)
        if spec.project == "tokens":
            x = self._project(x)
        if self.segment is not None:
            ids = torch.zeros_like(input_ids) if segment_ids is None else segment_ids
            x = x + self.segment(ids)
        if self.position is not None:
            x = x + self.position(self._positions(input_ids, segment_ids))
        x = F.dropout(self.norm(x), self.dropout, self.training)
        return self._project(x) if spec.project == "after" else x

    def decoder_table(self) -> Tensor:
        """What a tied decoder multiplies by: the token vectors, through the projection where each passes it alone.

        The projection's bias would add the same to the scores of all tokens, and is left out.
        """
        table = self.word.weight
        return table @ self.projection.weight.t() if self.projects_decoder and self.projection is not None else table

    def _project(self, x: Tensor) -> Tensor:
        assert self.projection is not None
        assert self.projection_slot is not None
        return self.projection(self.projection_slot(x))  # type: ignore[no-any-return]

    def _positions(self, input_ids: Tensor, segment_ids: Tensor | None) -> Tensor:
        running = self._running_positions(input_ids)
        if self.spec.second_positions == "running" or segment_ids is None:
            return running
        second = segment_ids.to(torch.int64)
        return torch.where(second == 1, second.cumsum(1) + (self.spec.first_position - 1), running)

    def _running_positions(self, input_ids: Tensor) -> Tensor:
        if not self.spec.first_position:
            return torch.arange(input_ids.shape[1], device=input_ids.device)
        real = input_ids.ne(self.spec.pad_id).to(torch.int64)
        # pads stay at the padding position, so that padding on either side leaves the others' positions alone
        return (real.cumsum(1) + (self.spec.first_position - 1 - self.spec.pad_id)) * real + self.spec.pad_id


class FeedForward(nn.Module):
    """Two linear maps around an activation, a residual and a norm; with no neuron left, the output bias alone."""

    def __init__(
        self, width: int, size: int, ranks: NetworkRanks, activation: Activation, norm: nn.Module, dropout: float
    ) -> None:
        super().__init__()
        self.width, self.activation, self.dropout = width, activation, dropout
        if width:
            self.input_slot, self.inner_slot = Slot(), Slot()
            self.inner = make_linear(size, width, ranks.inner)
        self.outer = make_linear(width, size, ranks.outer) if width else Bias(size)
        self.norm = norm

    def forward(self, x: Tensor, tape: Tape) -> Tensor:
        """(batch, tokens, size) to the same shape."""
        if self.width:
            y = self.outer(self.neurons(x, tape))
            tape.put_fresh("ffn_outer", y)
        else:
            y = self.outer(x)
        y = F.dropout(y, self.dropout, self.training)
        return self.norm(close(y, x, self.outer))  # type: ignore[no-any-return]

    def neurons(self, x: Tensor, tape: Tape) -> Tensor:
        """Activations of the inner neurons, (batch, tokens, width)."""
        y = self.inner(self.input_slot(x))
        tape.put_fresh("ffn_inner", y)
        return self.inner_slot(activate(self.activation, y, self.inner))  # type: ignore[no-any-return]


class EncoderLayer(nn.Module):
    """Attention or another mixer, then the stacked feed-forward networks.

    A sub-unit whose weights belong to an earlier layer (ALBERT) is absent here; :meth:`forward` is handed its owner.
    """

    def __init__(self, spec: LayerSpec, blueprint: Blueprint) -> None:
        super().__init__()
        self.spec = spec
        hidden, neck = blueprint.hidden_size, spec.bottleneck
        size = neck.size if neck else hidden

        def norm(width: int) -> nn.Module:
            return make_norm(spec.norm, width, blueprint.norm_epsilon)

        if spec.mixer is not None and spec.attention_from is None:
            self.mixer = make_mixer(spec, blueprint)
        elif spec.attention_from is None:
            source = neck.attention_input if neck else "inner"
            self.narrow = Projection(hidden, size, norm(size)) if neck else None
            self.narrow_query = Projection(hidden, size, norm(size)) if source == "shared" else None
            self.attention = SelfAttention(
                spec.attention,
                query_input=hidden if source == "hidden" else size,
                value_input=size if source == "inner" else hidden,
                output=size,
                norm=norm(size),
                dropout=blueprint.dropout,
                attention_dropout=blueprint.attention_dropout,
            )
        if spec.ffn_from is None:
            dropout = 0.0 if neck else blueprint.dropout
            self.ffn = nn.ModuleList(
                FeedForward(width, size, ranks, spec.activation, norm(size), dropout)
                for width, ranks in zip(spec.ffn, spec.network_ranks, strict=True)
            )
            self.widen = Projection(size, hidden, norm(hidden)) if neck else None
        self.exit = make_exit(spec.exit, blueprint)
        self.rule = make_rule(spec.rule)

    def networks(self) -> list[FeedForward]:
        """The stacked feed-forward networks that this layer owns."""
        return [network for network in self.ffn if isinstance(network, FeedForward)]

    def readers(self) -> Iterator[tuple[Slot, list[nn.Linear]]]:
        """The slots whose channels may have factors, each with the linear maps that alone read it.

        Left out are those of a bottleneck; queries and keys, which meet each other; and the context of the heads, whose
        factors the value matrix can take in.
        """
        if self.spec.attention_from is None and self.spec.attention.heads:
            unit = self.attention
            query, value = reader(unit.query), reader(unit.value)
            apart = unit.value_input_slot is not None
            keyed = [query] if unit.spec.tied else [query, reader(unit.key)]
            yield unit.input_slot, keyed if apart else [*keyed, value]
            if unit.value_input_slot is not None:
                yield unit.value_input_slot, [value]
        if self.spec.ffn_from is None:
            for network in self.networks():
                if network.width:
                    yield network.input_slot, [reader(network.inner)]
                    yield network.inner_slot, [reader(network.outer)]

    def maps(self) -> Iterator[tuple[str, nn.Module]]:
        """The linear maps of its attention and its feed-forward networks by their names, if it owns them."""
        if self.spec.attention_from is None and self.spec.attention.heads:
            for name in (*(part for part, _ in self.spec.attention.projections), "output"):
                yield f"attention.{name}", getattr(self.attention, name)
        if self.spec.ffn_from is None:
            for i, network in enumerate(self.networks()):
                for name in ("inner", "outer") if network.width else ():
                    yield f"ffn.{i}.{name}", getattr(network, name)

    def attend(self, hidden: Tensor, mask: Tensor | None, tape: Tape, before: Tensor | None = None) -> Tensor:
        """The attention sub-unit that this layer owns, (batch, tokens, hidden) to (batch, tokens, inner)."""
        if self.spec.mixer is not None:
            return self.mixer(hidden, mask, before)  # type: ignore[no-any-return]
        if self.narrow is None:
            return self.attention(hidden, hidden, hidden, mask, tape)  # type: ignore[no-any-return]
        inner = self.narrow(hidden)
        neck = self.spec.bottleneck
        assert neck is not None
        queries = inner if neck.attention_input == "inner" else hidden
        if self.narrow_query is not None:
            queries = self.narrow_query(hidden)
        values = inner if neck.attention_input == "inner" else hidden
        return self.attention(queries, values, inner, mask, tape)  # type: ignore[no-any-return]

    def transform(self, inner: Tensor, hidden: Tensor, tape: Tape) -> Tensor:
        """The feed-forward sub-unit that this layer owns; ``hidden`` is the layer's input."""
        for network in self.ffn:
            inner = network(inner, tape)
        return inner if self.widen is None else self.widen(inner, hidden)

    def forward(
        self,
        hidden: Tensor,
        mask: Tensor | None,
        tape: Tape,
        before: Tensor | None = None,
        attention_owner: EncoderLayer | None = None,
        ffn_owner: EncoderLayer | None = None,
        present: Present | None = None,
    ) -> Tensor:
        """(batch, tokens, hidden) to the same shape, but for tokens that leave.

        Args:
            hidden: what enters.
            mask: see :meth:`attend`.
            tape: takes what was asked for.
            before: what entered the layer before; None: ``hidden``.
            attention_owner: the layer whose attention this one uses; None: its own.
            ffn_owner: the same of the feed-forward networks.
            present: the tokens; there where some may leave, and then changed.
        """
        seen = tape if self.rule is None else tape.reading(self.rule.reads)
        inner = (attention_owner or self).attend(hidden, mask, seen, before)
        if self.rule is not None and present is not None:
            inner, hidden = self.rule(present, seen.taken[self.rule.reads][-1], [inner, hidden])
        return (ffn_owner or self).transform(inner, hidden, tape)
