"""Early exits as data: the small heads behind layers, and the rule by which a text leaves at one of them."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from bertpress.encoder.spec import Spec

SEGMENT = "exit-{}"
"""Name of the part of a model in front of an exit, from 0, and of its files without their ending."""
Speed = Annotated[float, Field(ge=0, le=1)]
Criterion = Literal["entropy", "uncertainty", "patience"]


class ExitSpec(Spec):
    """The head behind a layer.

    ``pooled``: a head like the model's own, its dense layer included (DeeBERT).  ``linear``: a classifier on the pooled
    states (PABEE).  ``branch``: states narrowed to ``size``, self-attention there, a dense layer and a classifier on
    the first token (FastBERT).
    """

    kind: Literal["pooled", "linear", "branch"] = "pooled"
    size: int = Field(128, ge=1, le=2**20, description="Width of a branch.")
    heads: int = Field(2, ge=1, le=1024, description="Attention heads of a branch.")

    @model_validator(mode="after")
    def _divides(self) -> "ExitSpec":
        if self.size % self.heads:
            raise ValueError(f"size={self.size} must be a multiple of heads={self.heads}")
        return self


class ExitTable(Spec):
    """By which layer texts have left, read off how unsure the first exit is; fitted at one speed (EdgeBERT).

    An uncertainty below ``edges[i]``, and not below an earlier one, means ``layers[i]``; above all of them, the last.
    """

    speed: Speed
    edges: tuple[float, ...]
    layers: tuple[int, ...]

    @model_validator(mode="after")
    def _rises(self) -> "ExitTable":
        if len(self.layers) != len(self.edges) + 1:
            raise ValueError(f"layers must be one more than the {len(self.edges)} edges, not {len(self.layers)}")
        for name, values in (("edges", self.edges), ("layers", self.layers)):
            if list(values) != sorted(values):
                raise ValueError(f"{name} must not fall")
        return self


class ExitRule(Spec):
    """When a text leaves: :mod:`bertpress.encoder.leaving` says how.  Speed 0 is the whole model for every criterion.

    ``entropy``: the exit's entropy is below ``speed * ln(classes)``.  ``uncertainty``: it is at most that.
    ``patience``: as many exits in a row agree with the one before as ``(1 - speed) * layers``, rounded.
    """

    criterion: Criterion
    tolerance: float = Field(0.5, gt=0, description="Patience: scores of a regression that differ by less agree.")
    tables: tuple[ExitTable, ...] = Field((), description="Entropy: bounds on the layer, each for its speed.")
    speed: Speed | None = Field(None, description="The usual one; None: chosen by what it may cost.")
    drop: float = Field(0.5, ge=0, le=100, description="Points that the speed may cost where it is chosen.")
