"""The shape of one layer: attention or another mixer of tokens, and the feed-forward networks."""

from typing import Literal

from pydantic import Field, model_validator

from bertpress.encoder.exit_specs import ExitSpec
from bertpress.encoder.mixer_specs import AnyMixer
from bertpress.encoder.pattern_specs import AnyPattern
from bertpress.encoder.rank_specs import AttentionRanks, NetworkRanks
from bertpress.encoder.spec import Activation, Norm, Size, Spec, Width
from bertpress.encoder.token_specs import AnyLeave


class AttentionSpec(Spec):
    """One self-attention sub-unit.

    ``heads`` holds the ids of the heads that are left, as numbered in the model that they came from, in order.
    With no head left the sub-unit still adds its output bias and normalises.
    """

    heads: tuple[int, ...]
    head_size: Size = Field(description="Width of queries and keys in each head.")
    value_size: Size = Field(description="Width of values in each head.")
    scale: float | None = Field(None, gt=0, description="Factor on the scores; None: 1 / sqrt(head_size).")
    ranks: AttentionRanks = AttentionRanks()
    pattern: AnyPattern | None = Field(None, description="Which keys a query looks at; None: all.")

    @model_validator(mode="after")
    def _ordered(self) -> "AttentionSpec":
        if any(a >= b for a, b in zip(self.heads, self.heads[1:], strict=False)) or min(self.heads, default=0) < 0:
            raise ValueError(f"heads={self.heads} must be non-negative and strictly increasing")
        if not self.heads and self.ranks != AttentionRanks():
            raise ValueError("ranks must go with heads")
        return self

    @property
    def query_width(self) -> int:
        """Rows of the query and key matrices."""
        return len(self.heads) * self.head_size

    @property
    def value_width(self) -> int:
        """Rows of the value matrix, columns of the output matrix."""
        return len(self.heads) * self.value_size

    @property
    def tied(self) -> bool:
        """Whether keys are made of the queries, so that there is no key matrix."""
        return self.pattern is not None and self.pattern.kind == "lsh"

    @property
    def projections(self) -> tuple[tuple[str, int], ...]:
        """The matrices before the heads, and the width of a head in each."""
        queries: tuple[tuple[str, int], ...] = (("query", self.head_size), ("key", self.head_size))
        return (*queries[: 1 if self.tied else 2], ("value", self.value_size))


class BottleneckSpec(Spec):
    """MobileBERT: a layer works in ``size`` dimensions between a linear map in and one out.

    ``attention_input`` says what queries and keys / values read: ``shared``: a bottleneck of their own for queries
    and keys, the raw input for values; ``hidden``: the raw input for all; ``inner``: the layer's bottleneck for all.
    """

    size: Size
    attention_input: Literal["shared", "hidden", "inner"] = "shared"


NO_HEADS = AttentionSpec(heads=(), head_size=1, value_size=1)
"""The attention of a layer that mixes its tokens by something else."""


class LayerSpec(Spec):
    """One encoder layer: attention (or another mixer of tokens), then the feed-forward networks.

    ``attention_from`` / ``ffn_from`` name an earlier layer whose weights this sub-unit uses (ALBERT).
    """

    attention: AttentionSpec
    mixer: AnyMixer | None = None
    ffn: tuple[Width, ...] = Field(description="Widths of the stacked feed-forward networks.")
    ffn_ranks: tuple[NetworkRanks, ...] = Field((), description="Of each of them; empty where all matrices are whole.")
    activation: Activation = "gelu"
    norm: Norm = "layer"
    bottleneck: BottleneckSpec | None = None
    separate: bool = Field(False, description="Each token sees those of its own segment alone (DeFormer).")
    attention_from: int | None = Field(None, ge=0)
    ffn_from: int | None = Field(None, ge=0)
    exit: ExitSpec | None = Field(None, description="A head of its own, where a text may leave.")
    leave: AnyLeave | None = Field(None, description="By which rule tokens leave; without heads none does.")
    origin: int | None = Field(None, ge=0, description="Its number in the model that it was cut from.")

    @model_validator(mode="after")
    def _mixes_once(self) -> "LayerSpec":
        if self.mixer is None and not self.ffn:
            raise ValueError("ffn=() must go with a mixer")
        if self.mixer is not None and (self.attention.heads or self.bottleneck):
            raise ValueError(f"mixer={self.mixer.kind} must go without heads and bottleneck")
        if self.ffn_ranks and len(self.ffn_ranks) != len(self.ffn):
            raise ValueError(f"ffn_ranks must have an entry for each of the {len(self.ffn)} networks")
        return self

    @property
    def reads_two(self) -> bool:
        """Whether it reads the output of the layer before the last, too."""
        return self.mixer is not None and self.mixer.kind == "cell"

    @property
    def rule(self) -> AnyLeave | None:
        """By which tokens leave, where there is attention to go by."""
        return self.leave if self.attention.heads else None

    @property
    def network_ranks(self) -> tuple[NetworkRanks, ...]:
        """Ranks of each feed-forward network."""
        return self.ffn_ranks or (NetworkRanks(),) * len(self.ffn)

    def rank(self, part: str) -> int:
        """Of the matrix of a map by its name in the layer, ``attention.query`` or ``ffn.0.inner``; 0: it is whole."""
        unit, *place = part.split(".")
        ranks = self.attention.ranks if unit == "attention" else self.network_ranks[int(place[0])]
        return int(getattr(ranks, place[-1]))

    def reader(self, part: str) -> str:
        """Name of what the input of a map meets: the map, or its first factor."""
        return f"{part}.down" if self.rank(part) else part

    def writer(self, part: str) -> str:
        """Name of what gives the output of a map: the map, or its second factor."""
        return f"{part}.up" if self.rank(part) else part
