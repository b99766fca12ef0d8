"""Shapes of attention in which not every token looks at every other (:mod:`bertpress.encoder.patterns`).

Each counts its multiply-accumulates in closed form: what is computed, padding of blocks and chunks included.
"""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from bertpress.encoder.spec import Spec

LARGEST_BLOCK, SMALLEST_BLOCK = 64, 16


class PatternSpec(Spec):
    """Which keys a query looks at.

    Attributes:
        maps: there is an attention map of tokens by tokens, so that losses on maps can ask for it.
        biased: a relative bias can be added to the scores.
    """

    maps: ClassVar[bool] = True
    biased: ClassVar[bool] = False

    def parameters(self, heads: int) -> int:
        """Weights of a layer's own beside those of its heads."""
        return 0

    def macs(self, tokens: int, queries: int, values: int) -> int:
        """For one layer and input; ``queries`` and ``values`` are the widths of all heads together."""
        return tokens * tokens * (queries + values)

    @property
    def per_head(self) -> tuple[str, ...]:
        """Names of its tensors whose first axis runs over the heads."""
        return ()


class Banded(PatternSpec):
    """Queries in blocks look at the keys of neighbouring blocks.

    Attributes:
        first: the first token looks at all, and is looked at by all.
    """

    first: ClassVar[bool] = False

    def reaches(self) -> int | None:
        """The largest distance of a key that is looked at; None: no bound is known."""
        raise NotImplementedError

    @property
    def block(self) -> int:
        """Queries that share their keys."""
        return min(LARGEST_BLOCK, max(SMALLEST_BLOCK, self.reaches() or 0))

    @property
    def neighbours(self) -> int:
        """Blocks of keys on either side of a block of queries."""
        return -(-(self.reaches() or 0) // self.block)

    @property
    def width(self) -> int:
        """Keys that a query meets in its band."""
        return (2 * self.neighbours + 1) * self.block

    def narrow(self, tokens: int) -> bool:
        """Whether the band saves anything over all pairs of tokens."""
        return self.reaches() is not None and self.width < tokens


class LocalSpec(Banded):
    """Tokens look at those up to ``window`` positions away and at the first; the first looks at all."""

    first: ClassVar[bool] = True
    kind: Literal["local"]
    window: int = Field(ge=0, le=2**16, description="Largest distance.")

    def reaches(self) -> int:
        """The window."""
        return self.window

    def macs(self, tokens: int, queries: int, values: int) -> int:
        """A band, a column for the first token, a row for it."""
        if not self.narrow(tokens):
            return super().macs(tokens, queries, values)
        return (_whole(tokens, self.block) * (self.width + 1) + tokens) * (queries + values)


class SpanSpec(Banded):
    """Each head looks as far as its span, a stored number, and beyond it less and less (adaptive spans)."""

    kind: Literal["span"]
    ramp: int = Field(32, ge=1, le=2**16, description="Positions over which a head's weight falls from 1 to 0.")
    band: int | None = Field(None, ge=0, description="Distance that no head looks beyond; None: all are computed.")

    def reaches(self) -> int | None:
        """The band."""
        return self.band

    def macs(self, tokens: int, queries: int, values: int) -> int:
        """A band as wide as the widest head's."""
        if not self.narrow(tokens):
            return super().macs(tokens, queries, values)
        return _whole(tokens, self.block) * self.width * (queries + values)

    @property
    def per_head(self) -> tuple[str, ...]:
        """The spans."""
        return ("span",)


class TopKSpec(PatternSpec):
    """Each query keeps the ``k`` keys of largest score, and those that tie with the last of them."""

    biased: ClassVar[bool] = True
    kind: Literal["top_k"]
    k: int = Field(ge=1, le=2**16, description="Keys that a query keeps.")


Sharing = Literal["none", "heads", "keys_values", "layers"]


class LinformerSpec(PatternSpec):
    """Keys and values are compressed along the tokens to ``size`` of each."""

    maps: ClassVar[bool] = False
    kind: Literal["linformer"]
    size: int = Field(ge=1, le=2**16, description="Keys and values that are left.")
    length: int = Field(ge=1, le=2**16, description="Longest input.")
    sharing: Sharing = "heads"

    def matrices(self, heads: int) -> tuple[int, int]:
        """Matrices for keys, and for values (0: the same), that whoever owns them stores."""
        count = heads if self.sharing == "none" else 1
        return count, count if self.sharing in ("none", "heads") else 0

    def parameters(self, heads: int) -> int:
        """As many as size x length for each matrix; none where the encoder owns it for all layers."""
        return 0 if self.sharing == "layers" else sum(self.matrices(heads)) * self.size * self.length

    def macs(self, tokens: int, queries: int, values: int) -> int:
        """Compressing keys and values, then scores and averages over what is left."""
        return 2 * tokens * self.size * (queries + values)

    @property
    def per_head(self) -> tuple[str, ...]:
        """The matrices, where each head has its own."""
        return ("compression.key", "compression.value") if self.sharing == "none" else ()


class LshSpec(PatternSpec):
    """Keys are the queries; those that hash alike are sorted together and meet within chunks (Reformer)."""

    maps: ClassVar[bool] = False
    kind: Literal["lsh"]
    chunk: int = Field(ge=1, le=2**16, description="Queries that share their keys: their own chunk and the one before.")
    buckets: int = Field(ge=1, le=2**12, description="Values of the hash: 1, or an even number.")
    rounds: int = Field(1, ge=1, le=16, description="Independent hashes.")
    seed: int = Field(0, ge=0, le=2**63 - 1, description="Of the random rotations.")

    @model_validator(mode="after")
    def _paired(self) -> "LshSpec":
        if self.buckets > 1 and self.buckets % 2:
            raise ValueError(f"buckets={self.buckets} must be 1 or even: rotations come with their opposites")
        return self

    def macs(self, tokens: int, queries: int, values: int) -> int:
        """Each round: the rotations of all queries, then two chunks of keys a query."""
        pairs = self.rounds * _whole(tokens, self.chunk) * 2 * self.chunk
        return pairs * (queries + values) + tokens * self.rounds * (self.buckets // 2) * queries


AnyPattern = Annotated[LocalSpec | SpanSpec | TopKSpec | LinformerSpec | LshSpec, Field(discriminator="kind")]


def _whole(tokens: int, block: int) -> int:
    """The next multiple of ``block``."""
    return -(-tokens // block) * block
