"""Let tokens attend to those alone whose queries point in about the same direction.

Source: Reformer, Kitaev, Kaiser & Levskaya 2020, arXiv:2001.04451, section 2: one matrix for queries and keys, keys of
unit length; hashing by random rotations; sorting by bucket; chunks that look at themselves and the one before; several
rounds merged, pairs that meet in several counted once (appendix A).
Departs from it: for encoders, so nothing is masked by order; without reversible layers and chunked feed-forward
networks; a trained model's key matrices are dropped and its query matrices serve as both, so that it must be trained
again.  Pads sort behind all tokens.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from bertpress.encoder.pattern_specs import LshSpec
from bertpress.errors import RecipeError
from bertpress.methods.base import Context, Model, Need
from bertpress.methods.patterned import Patterned, with_patterns


class Reformer(Patterned):
    """Attend within buckets of a locality-sensitive hash, with one matrix for queries and keys."""

    cite: ClassVar[str] = "Kitaev et al., 2020"
    requires: ClassVar[frozenset[Need]] = frozenset({Need.TRAINING})

    chunk: int = Field(64, ge=1, le=65_536, description="Tokens in a chunk; each sees its own and the one before.")
    buckets: int | None = Field(
        None, ge=1, le=4096, description="Of the hash: even, or 1; null: twice the longest input over the chunk."
    )
    rounds: int = Field(2, ge=1, le=16, description="Independent hashes; more come closer to full attention.")

    def attach(self, model: Model, ctx: Context) -> Model:
        """Drop the key matrices, draw the rotations."""
        place = "attention/reformer"
        buckets = self.buckets or min(4096, max(2, 2 * round(ctx.task.max_length / self.chunk)))
        if buckets > 1 and buckets % 2:
            raise RecipeError(f"{place}: buckets={buckets} must be 1 or even")
        owners = [(i, model.blueprint.layers[i].attention_from) for i in self.chosen(model, place)]
        patterns = {
            i: LshSpec(
                kind="lsh",
                chunk=self.chunk,
                buckets=buckets,
                rounds=self.rounds,
                seed=ctx.seed + (i if owner is None else owner),
            )
            for i, owner in owners
        }
        return with_patterns(model, patterns, place)
