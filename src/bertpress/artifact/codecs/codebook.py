"""Values from a dictionary, by their number, and a list of the values that are in none: outliers."""

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from bertpress.artifact.codecs.base import VALUES, Codec, TensorSpec
from bertpress.artifact.codecs.bits import Bits
from bertpress.artifact.codecs.stored import Stored


def lookup(table: Tensor, codes: Tensor) -> Tensor:
    """``table[codes]``, the shape of ``codes``.

    Args:
        table: (entries,).
        codes: uint8.

    Raises:
        ValueError: a code lies outside of the table.
    """
    if len(table) < 256 and codes.numel() and (top := int(codes.max())) >= len(table):
        raise ValueError(f"code {top} must be below {len(table)}")
    return table.index_select(0, codes.flatten().to(torch.int32)).reshape(codes.shape)


class Codebook(Codec):
    """Fixed part: ``codebook`` (float32, 2^bits finite values, in any order).

    Codes are uint8.  A value that the codebook does not hold is an outlier: its place goes to ``positions``, ascending
    in the flattened tensor, it itself to ``outliers``, and its code is 0.
    """

    elementwise: ClassVar[bool] = True
    kind: Literal["codebook"] = "codebook"
    bits: int = Field(ge=1, le=8, description="Of a code.")

    def fixed(self) -> tuple[str, ...]:
        """``codebook``."""
        return ("codebook",)

    def layout(self, given: TensorSpec, counts: Mapping[str, int]) -> dict[str, TensorSpec]:
        """A byte a value, four an entry, eight an outlier."""
        if given.dtype != torch.float32 or given.elements > 2**31:
            raise ValueError(f"codebook: packs at most 2^31 float32, got {given}")
        if (outliers := counts.get("outliers", 0)) > given.elements:
            raise ValueError(f"codebook: {outliers} outliers must be at most {given.elements}")
        return {
            VALUES: TensorSpec(torch.uint8, given.shape),
            "codebook": TensorSpec(torch.float32, (2**self.bits,)),
            "positions": TensorSpec(torch.int32, (outliers,)),
            "outliers": TensorSpec(torch.float32, (outliers,)),
        }

    def encode(self, tensor: Tensor, fixed: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The number of every value that the codebook holds."""
        codebook, flat = fixed["codebook"], tensor.flatten()
        if not codebook.numel() or not bool(codebook.isfinite().all()):
            raise ValueError("codebook: values must be finite")
        entries, order = codebook.sort(stable=True)
        found, missing = _nearest_above(flat, entries)
        codes = order.to(torch.uint8).index_select(0, found).masked_fill_(missing, 0)
        return {
            VALUES: codes.reshape(tensor.shape),
            "codebook": codebook,
            "positions": missing.nonzero().flatten().to(torch.int32),
            "outliers": flat[missing],
        }

    def decode(self, parts: Mapping[str, Tensor], given: TensorSpec) -> Tensor:
        """Look every code up, then write the outliers over it."""
        try:
            values = lookup(parts["codebook"], parts[VALUES])
        except ValueError as error:
            raise ValueError(f"codebook: {error}") from None
        positions = parts["positions"].to(torch.int64)
        if not _ascending(positions, values.numel()):
            raise ValueError(f"codebook: positions must ascend within 0..{values.numel() - 1}")
        values.view(-1)[positions] = parts["outliers"]
        return values

    def counts(self, parts: Mapping[str, Tensor]) -> dict[str, int]:
        """Number of outliers."""
        return {"outliers": len(parts["positions"])}

    def foretell(self, tensor: Tensor, fixed: Mapping[str, Tensor]) -> tuple[dict[str, int], Tensor]:
        """How many values the codebook does not hold."""
        _, missing = _nearest_above(tensor.flatten(), fixed["codebook"].sort().values)
        return {"outliers": int(missing.sum())}, tensor


def _nearest_above(values: Tensor, entries: Tensor) -> tuple[Tensor, Tensor]:
    """Of each value the place of the first entry that is not less, int32, and whether that is another value, bool."""
    found = torch.bucketize(values, entries, out_int32=True).clamp_(max=len(entries) - 1)
    return found, entries.index_select(0, found) != values


def _ascending(positions: Tensor, end: int) -> bool:
    """Whether ``positions`` rise strictly from at least 0 to below ``end``."""
    if not positions.numel():
        return True
    return int(positions[0]) >= 0 and int(positions[-1]) < end and bool((positions.diff() > 0).all())


def by_number(codebook: Tensor) -> Stored:
    """How a weight is stored whose values, but for outliers, are in a codebook.

    Args:
        codebook: (2^bits,), float32.
    """
    bits = (len(codebook) - 1).bit_length()
    codec = Codebook(bits=bits)
    return Stored((codec,) if bits == 8 else (codec, Bits(bits=bits)), {"codebook": codebook.cpu()})
