"""A smaller vocabulary: without the tokens that texts never use, or a new one, learnt from them.

Source: Zhao et al. 2019, arXiv:1909.11687, section 3.1: a vocabulary of about 5,000 word pieces for the student, in
which most words are cut as in the large one.  Dropping tokens is the common practice that needs no training.
Departs from it: a new token starts from the mean of the old pieces that spell it, where the paper aligns the two
vocabularies by training the teacher on texts cut by both.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from torch import Tensor

from bertpress.encoder.tables import keep_tokens, plain_table, put_tokens
from bertpress.errors import RecipeError
from bertpress.methods.base import Context, Method, Model, Trait
from bertpress.methods.pieces import (
    content,
    indispensable,
    prefix,
    rebuilt,
    rows_for,
    token_counts,
    trained_pieces,
    vocabulary,
    with_parts,
    with_tokens,
)

NAME = "embed/vocabulary"


def used(counts: Tensor, ids: dict[str, int], minimum: int) -> list[str]:
    """The tokens that occur at least so often.

    Args:
        counts: (largest id + 1,), by id.
        ids: by token.
        minimum: 0 keeps all.
    """
    return [token for token, i in ids.items() if int(counts[i]) >= minimum]


class Vocabulary(Method):
    """Keep the tokens that the training texts use, or learn a small vocabulary of word pieces from them."""

    cite: ClassVar[str] = "Zhao et al., 2019"
    provides: ClassVar[frozenset[Trait]] = frozenset({Trait.VOCABULARY})

    minimum: int = Field(1, ge=0, le=1_000_000, description="Occurrences in the texts that keep a token; 0 keeps all.")
    train: int | None = Field(
        None, ge=16, le=1_000_000, description="Tokens of a new vocabulary of word pieces; null: keep those of the old."
    )

    def attach(self, model: Model, ctx: Context) -> Model:
        """Cut the token table, and have texts read by the new tokenizer from here on."""
        before = model.blueprint.embeddings.vocabulary
        try:
            made = self._kept(model, ctx) if self.train is None else self._learnt(model, ctx, self.train)
        except (ValueError, RecipeError) as fault:
            raise RecipeError(f"{NAME}: {fault}") from None
        spec = made.blueprint.embeddings
        ctx.notes["vocabulary"] = {"before": before, "after": spec.vocabulary}
        ctx.say(f"{NAME}: {spec.vocabulary:,} of {before:,} tokens")
        return made

    def _kept(self, model: Model, ctx: Context) -> Model:
        backend = content(ctx.tokenizer)
        every = vocabulary(backend)
        wanted = used(token_counts(ctx.tokenizer, ctx.texts()), every, self.minimum) + indispensable(backend)
        backend, ids = with_tokens(backend, with_parts(backend, wanted))
        made = keep_tokens(model, ids)
        ctx.tokenizer = rebuilt(ctx.tokenizer, backend)
        return made

    def _learnt(self, model: Model, ctx: Context, count: int) -> Model:
        old = content(ctx.tokenizer)
        backend = trained_pieces(ctx.tokenizer, ctx.texts(), count)
        rows = rows_for(vocabulary(backend), plain_table(model), vocabulary(old), prefix(old))
        tokenizer = rebuilt(ctx.tokenizer, backend)
        made = put_tokens(model, rows, pad_id=tokenizer.pad_token_id)
        ctx.tokenizer = tokenizer
        return made

    @classmethod
    def noop(cls) -> Vocabulary:
        """All tokens."""
        return cls(minimum=0)
