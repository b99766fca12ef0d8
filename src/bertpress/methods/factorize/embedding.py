"""The token table as a product of a narrower table and a projection.

Source: ALBERT, Lan et al. 2020, arXiv:1909.11942, section 3.1 (factorized embedding parameterization), here after the
fact: the best product of a trained table (Eckart & Young 1936).
Departs from it: positions and segments keep the hidden width and are added after the projection; ALBERT, which learns
its tables from scratch, adds them before.  The projection has a bias, which starts from 0.  Errors are weighed by
how often tokens occur in the training texts, as in the weighted low-rank approximations of Srebro & Jaakkola 2003 with
one weight a row, where the optimum is in closed form; ``weighted: false`` leaves that out.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from bertpress.encoder.tables import factorize_tokens, plain_table
from bertpress.errors import RecipeError
from bertpress.methods.base import Context, Method, Model
from bertpress.methods.low_rank import truncated_svd
from bertpress.methods.pieces import token_counts
from bertpress.methods.selection import Size, count_of

NAME = "factorize/embedding"


def factors(table: Tensor, rank: int, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The product of that rank with the least squared error, each row's weighed.

    Args:
        table: (rows, columns).
        rank: 1 to the smaller of both.
        weights: (rows,), above 0; None: all 1.

    Returns:
        (rows, rank), and (rank, columns) with orthonormal rows: for those, each row's projection on them is the
        nearest whatever its weight.

    Raises:
        ValueError: the rank is out of bounds.
    """
    scaled = table if weights is None else table * weights.to(table).sqrt()[:, None]
    right = truncated_svd(scaled, rank)[1]
    return table @ right.t(), right


class Embedding(Method):
    """Replace the token table by the best product of a narrower one and a projection to the hidden width."""

    cite: ClassVar[str] = "Lan et al., 2020"

    size: Size = Field(0.25, description="Width of the narrower table: a number, or a share of the hidden width.")
    weighted: bool = Field(True, description="Weigh the error of a token by one plus its count in the train texts.")

    def attach(self, model: Model, ctx: Context) -> Model:
        """Factorize, once; where the stage trains, both factors learn on."""
        try:
            table = plain_table(model)
            size = count_of(self.size, table.shape[1], "size")
            left, right = factors(table, size, self._weights(table, ctx))
            made = factorize_tokens(model, left, right)
        except ValueError as fault:
            raise RecipeError(f"{NAME}: {fault}") from None
        missed = float((table - left @ right).square().sum() / table.square().sum())
        ctx.notes["factorized"] = {"size": size, "error": missed}
        ctx.say(f"{NAME}: {size} of {table.shape[1]} dimensions leave {missed:.1%} of the squares")
        return made

    def _weights(self, table: Tensor, ctx: Context) -> Tensor | None:
        if not self.weighted:
            return None
        weights, counts = torch.ones(len(table)), token_counts(ctx.tokenizer, ctx.texts())
        weights[: len(counts)] += counts[: len(table)]
        return weights
