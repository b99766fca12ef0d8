"""Ranks of the matrices of a layer: which are products of two thinner ones (:mod:`bertpress.encoder.factors`)."""

from typing import Annotated

from pydantic import Field

from bertpress.encoder.spec import Spec

Rank = Annotated[int, Field(ge=0, le=2**20, description="0: the matrix is whole.")]


class AttentionRanks(Spec):
    """Of the matrices of an attention."""

    query: Rank = 0
    key: Rank = 0
    value: Rank = 0
    output: Rank = 0


class NetworkRanks(Spec):
    """Of the two matrices of a feed-forward network."""

    inner: Rank = 0
    outer: Rank = 0
