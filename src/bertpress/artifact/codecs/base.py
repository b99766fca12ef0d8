"""What a codec is: one step between a weight in memory and its bytes on disk.

A weight is stored by a chain of codecs.  Each turns a tensor into named *parts*; the part called ``values`` is what
the next codec of the chain packs further (integers, then a bitmap of the non-zeros, then four bits each), all other
parts go to the file.  ``layout`` says dtype and shape of every part without touching data, so the size of a file is
known before it is written, and a header is checked before anything is allocated.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from math import prod
from typing import Annotated, Any, ClassVar, NamedTuple

import torch
from pydantic import BaseModel, BeforeValidator, ConfigDict, SerializeAsAny
from torch import Tensor

from bertpress.encoder.grids import Grid

VALUES = "values"  # the part that the next codec of a chain packs


class TensorSpec(NamedTuple):
    """Dtype and shape of a tensor that need not exist."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        """Number of elements; 1 for a scalar."""
        return prod(self.shape)

    @property
    def bytes(self) -> int:
        """Size in memory."""
        return self.elements * self.dtype.itemsize

    def __str__(self) -> str:
        return f"{str(self.dtype).removeprefix('torch.')}{list(self.shape)}"


def spec_of(tensor: Tensor) -> TensorSpec:
    """The spec of a tensor that exists."""
    return TensorSpec(tensor.dtype, tuple(tensor.shape))


class Codec(BaseModel, ABC):
    """One way to pack a tensor: parameters only, no tensors.

    A subclass has a field ``kind: Literal["name"] = "name"``, by which files refer to it, and is known as soon as its
    class exists.  What a codec needs beyond the tensor (scales, codebooks) is handed in as *fixed* parts, named by
    :meth:`fixed`, and comes back from the file under the same names.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    kinds: ClassVar[dict[str, type["Codec"]]] = {}
    elementwise: ClassVar[bool] = False  # True: each value by itself, so that a bitmap may have taken the zeros out

    kind: str

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        """Enter the class under its kind."""
        kind = cls.model_fields["kind"].default
        known = Codec.kinds.get(kind)
        if known is not None and known.__qualname__ != cls.__qualname__:
            raise TypeError(f"codec kind {kind!r} of {cls.__name__} is taken by {known.__name__}")
        Codec.kinds[kind] = cls

    def fixed(self) -> tuple[str, ...]:
        """Names of the parts that the plan brings along."""
        return ()

    @abstractmethod
    def layout(self, given: TensorSpec, counts: Mapping[str, int]) -> dict[str, TensorSpec]:
        """Spec of every part, ``values`` included, for a tensor of spec ``given``.

        Args:
            given: what would be encoded.
            counts: sizes that depend on the data, as :meth:`counts` returns them; those that are absent are 0.

        Raises:
            ValueError: the codec cannot pack such a tensor.
        """

    @abstractmethod
    def encode(self, tensor: Tensor, fixed: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """All parts as they are stored; ``values`` is what a following codec packs."""

    @abstractmethod
    def decode(self, parts: Mapping[str, Tensor], given: TensorSpec) -> Tensor:
        """The tensor of spec ``given`` whose :meth:`encode` gave ``parts``, bit for bit."""

    def counts(self, parts: Mapping[str, Tensor]) -> dict[str, int]:
        """Sizes that no spec tells, by name: non-zeros, outliers.  Kept in the plan."""
        return {}

    def foretell(self, tensor: Tensor, fixed: Mapping[str, Tensor]) -> tuple[dict[str, int], Tensor]:
        """What :meth:`counts` will be once ``tensor`` is encoded, and the values that then go on to the next codec.

        Values go on as they are, not as codes: what counts is how many, which are 0, and which are in a codebook.
        """
        return {}, tensor

    def grid(self, parts: Mapping[str, Tensor]) -> Grid | None:
        """The integer grid on which decoded values lie, for codecs that have one; needs the fixed parts alone."""
        return None


def _known(value: Any) -> Any:
    """A codec from its fields as the file holds them."""
    if not isinstance(value, Mapping):
        return value
    kind = value.get("kind")
    if not isinstance(kind, str) or kind not in Codec.kinds:
        raise ValueError(f"codec kind {kind!r} is unknown (known: {', '.join(sorted(Codec.kinds))})")
    return Codec.kinds[kind].model_validate(value)


AnyCodec = Annotated[SerializeAsAny[Codec], BeforeValidator(_known)]
"""A pydantic field that holds any codec, told apart by ``kind``."""
