"""Cuts of the token table: fewer tokens, codes in place of vectors, two factors.

Every function returns a new model; the one handed in stays as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from bertpress.encoder.model import BertpressPreTrainedModel
from bertpress.encoder.surgery import rebuild

TABLE = "encoder.embeddings.word."
WEIGHT = TABLE + "weight"
_HEAD = "head."


def keep_tokens(model: BertpressPreTrainedModel, ids: Sequence[int]) -> BertpressPreTrainedModel:
    """Keep these tokens, in this order; a tied decoder loses the scores of the others.

    Args:
        model: any of our models; the ids of its new tokens are the places in ``ids``.
        ids: distinct, the padding among them.

    Raises:
        ValueError: an id is not there, or twice, or the padding is missing.
    """
    pad, count = model.blueprint.embeddings.pad_id, model.blueprint.embeddings.vocabulary
    if len(set(ids)) < len(ids) or not all(0 <= i < count for i in ids):
        raise ValueError(f"tokens must be distinct and in [0, {count - 1}]")
    if pad not in ids:
        raise ValueError(f"the padding, token {pad}, must stay")
    index, state = torch.tensor(ids, device=model.device), dict(model.state_dict())
    for name in (WEIGHT, TABLE + "codes", *_of_decoder(model)):
        if name in state:
            state[name] = state[name].index_select(state[name].ndim - 1 if name.endswith("decoder") else 0, index)
    return _with_table(model, state, vocabulary=len(ids), pad_id=list(ids).index(pad))


def put_tokens(model: BertpressPreTrainedModel, rows: Tensor, pad_id: int) -> BertpressPreTrainedModel:
    """Another token table of the same width; what a tied decoder adds to each score starts from 0.

    Args:
        model: with a plain token table.
        rows: (vocabulary, size).
        pad_id: of the padding among them.

    Raises:
        ValueError: the model's table is no plain one of this width.
    """
    table, state = plain_table(model), dict(model.state_dict())
    if rows.shape[1] != table.shape[1]:
        raise ValueError(f"{tuple(rows.shape)} must be as wide as the table, {table.shape[1]}")
    if f"{_HEAD}decoder" in state:
        raise ValueError("the masked-LM decoder has weights of its own for each token")
    state[WEIGHT] = rows.to(table)
    for name in _of_decoder(model):
        state[name] = state[name].new_zeros(len(rows))
    return _with_table(model, state, vocabulary=len(rows), pad_id=pad_id)


def code_tokens(model: BertpressPreTrainedModel, codes: Tensor, codebooks: Tensor) -> BertpressPreTrainedModel:
    """The token table as sums of vectors, one from each codebook.

    Args:
        model: with a plain token table.
        codes: uint8 (vocabulary, codebooks).
        codebooks: (codebooks, entries, size).

    Raises:
        ValueError: the model's table is no plain one, or has another shape.
    """
    table, state = plain_table(model), dict(model.state_dict())
    if (len(codes), codebooks.shape[2]) != table.shape:
        raise ValueError(f"codes of {len(codes)} x {codebooks.shape[2]} must have the table's {tuple(table.shape)}")
    del state[WEIGHT]
    state |= {TABLE + "codes": codes.to(table.device), TABLE + "codebooks": codebooks.to(table)}
    return _with_table(model, state, codebooks=len(codebooks), entries=codebooks.shape[1])


def factorize_tokens(model: BertpressPreTrainedModel, left: Tensor, right: Tensor) -> BertpressPreTrainedModel:
    """The token table as a product: a narrower table, and a projection to the hidden width that starts without bias.

    Args:
        model: with a plain token table of the hidden width.
        left: (vocabulary, rank).
        right: (rank, hidden).

    Raises:
        ValueError: the model's table is no plain one, or is projected already.
    """
    table, state = plain_table(model), dict(model.state_dict())
    if model.blueprint.embeddings.project != "none":
        raise ValueError("the token table is projected already")
    state[WEIGHT] = left.to(table)
    state["encoder.embeddings.projection.weight"] = right.t().to(table)
    state["encoder.embeddings.projection.bias"] = table.new_zeros(right.shape[1])
    return _with_table(model, state, size=left.shape[1], project="tokens")


def plain_table(model: BertpressPreTrainedModel) -> Tensor:
    """The token table of a model, (vocabulary, size).

    Raises:
        ValueError: its vectors are sums of codebooks.
    """
    if model.blueprint.embeddings.codebooks:
        raise ValueError("the token table has codes in place of vectors already")
    return model.get_parameter(WEIGHT).detach()


def _of_decoder(model: BertpressPreTrainedModel) -> list[str]:
    """Names of the head's weights that run over the vocabulary."""
    head = model.blueprint.head
    if head is None or head.kind != "masked_lm":
        return []
    return [f"{_HEAD}bias"] + [f"{_HEAD}decoder"] * head.free_decoder


def _with_table(model: BertpressPreTrainedModel, state: dict[str, Tensor], **fields: Any) -> BertpressPreTrainedModel:
    shape = model.blueprint
    spec = type(shape.embeddings)(**shape.embeddings.model_dump() | fields)
    return rebuild(model, shape.replace(embeddings=spec), {name: each.detach() for name, each in state.items()})
