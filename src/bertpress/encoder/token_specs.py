"""Layers that let tokens go, as data: which of them leave, and how many (:mod:`bertpress.encoder.elimination`).

How many depends on the text alone, and on nothing that it is batched with.  PyTorch is imported where something is
counted: engines read these specifications without it.
"""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from bertpress.encoder.spec import Spec

if TYPE_CHECKING:
    from bertpress.encoder.blueprint import Blueprint

Count = Annotated[int, Field(ge=1, le=2**16)]
Share = Annotated[float, Field(gt=0, le=1)]


def at_most(a: Any, b: Any) -> Any:
    """The smaller of two numbers, or of each of two tensors of them."""
    import torch

    whole = not (isinstance(a, torch.Tensor) or isinstance(b, torch.Tensor))
    return min(a, b) if whole else torch.minimum(torch.as_tensor(a), torch.as_tensor(b))


def at_least(a: Any, b: Any) -> Any:
    """The larger of two numbers, or of each of two tensors of them."""
    return -at_most(-a, -b)


def share_of(share: float, length: Any) -> Any:
    """``share`` of a number of tokens, rounded up.

    Args:
        share: in (0, 1], taken to a fraction with a denominator of at most 1000.
        length: a whole number; or a float tensor of such, since engines round the quotients of integer tensors.
    """
    import torch

    part = Fraction(share).limit_denominator(1000)
    if isinstance(length, torch.Tensor):
        return torch.floor((length * part.numerator + (part.denominator - 0.5)) / part.denominator)
    return (length * part.numerator + (part.denominator - 1)) // part.denominator


class Leave(Spec):
    """A rule by which tokens leave between a layer's attention and its feed-forward network; the first never does.

    Attributes:
        reads: what the rule reads of the layer's attention, by its name on the tape.
    """

    reads: ClassVar[str] = "attentions"

    def left(self, length: Any, there: Any) -> Any:
        """How many tokens of a text are left, at most.

        Args:
            length: tokens of the text; numbers, or a float tensor of them.
            there: those that have not left below.
        """
        return there


class TopSpec(Leave):
    """The tokens that get most attention stay: so many of them, or a share of the text's."""

    kind: Literal["top"]
    keep: Count | Share

    def left(self, length: Any, there: Any) -> Any:
        """See :class:`Leave`."""
        return at_most(self.keep, length) if isinstance(self.keep, int) else share_of(self.keep, length)


class ThresholdSpec(Leave):
    """Tokens stay whose mean attention is at least a threshold: how many depends on the text."""

    kind: Literal["threshold"]
    threshold: float = Field(ge=0, le=1)


class MergeSpec(Leave):
    """Tokens are averaged with the most similar ones: so many pairs, or until a share of the text's tokens is left."""

    reads: ClassVar[str] = "keys"
    kind: Literal["merge"]
    pairs: Count | None = None
    keep: Share | None = None

    @model_validator(mode="after")
    def _one(self) -> MergeSpec:
        if (self.pairs is None) == (self.keep is None):
            raise ValueError("must have either pairs or keep")
        return self

    def left(self, length: Any, there: Any) -> Any:
        """See :class:`Leave`; at least half, since every second token is one that others are averaged with."""
        import torch

        half = torch.floor(there / 2 + 1) if isinstance(there, torch.Tensor) else there // 2 + 1
        wanted = there - self.pairs if self.keep is None else at_most(share_of(self.keep, length), there)
        return at_most(at_least(wanted, half), there)


AnyLeave = Annotated[TopSpec | ThresholdSpec | MergeSpec, Field(discriminator="kind")]


def token_obstacle(blueprint: Blueprint) -> str | None:
    """Why no token may leave before the last layer; None where tokens can."""
    if blueprint.head is not None and (
        blueprint.head.kind not in ("sequence", "embedding") or blueprint.head.pooling == "ends"
    ):
        return f"a head of kind {blueprint.head.kind} reads every token, also those that left"
    if blueprint.shortening is not None or (blueprint.head is not None and blueprint.head.siamese):
        return "the layers must read the text as it comes, neither shortened nor in halves"
    return "a text leaves at exits that pool over all tokens" if blueprint.exit is not None else None


def check_tokens(blueprint: Blueprint) -> None:
    """Refuse shapes in which tokens cannot leave as the layers say.

    Raises:
        ValueError: naming the layer.
    """
    rules = {i: layer.leave for i, layer in enumerate(blueprint.layers) if layer.leave is not None}
    if not rules:
        return
    first = min(rules)
    if (reason := token_obstacle(blueprint)) is not None:
        raise ValueError(f"layers.{first}.leave must not be given: {reason}")
    if first < blueprint.separate:
        raise ValueError(f"layers.{first}.leave must not be given where the segments are apart")
    if len({(rule.kind, type(getattr(rule, "keep", None))) for rule in rules.values()}) > 1:
        raise ValueError(f"layers.{first}.leave must be of one kind, and count alike, in all layers")
    kept = [rule.keep for rule in rules.values() if not isinstance(rule, ThresholdSpec) and rule.keep is not None]
    if any(a < b for a, b in pairwise(kept)):
        raise ValueError(f"layers.{first}.leave.keep must not rise from layer to layer, as {kept} does")
    for i, layer in enumerate(blueprint.layers):
        pattern = layer.attention.pattern
        if i >= first and (layer.mixer is not None or not (pattern is None or pattern.kind == "top_k")):
            raise ValueError(f"layers.{i} must have plain attention: tokens have left before it")
