"""Subvectors of a row by the number of a centroid: product quantization, a byte for several weights.

Source: Jégou, Douze & Schmid 2011, "Product quantization for nearest neighbor search", with one set of centroids for
all subvectors, as Stock et al. 2020 (arXiv:1907.05686, section 3.1) use it for weights.  Departs from it: a weight with
zeros of a pruning mask may keep them apart, a bit a weight.
"""

from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from bertpress.artifact.codecs.base import VALUES, Codec, TensorSpec
from bertpress.artifact.codecs.bits import pack_bits, unpack_bits
from bertpress.artifact.codecs.stored import Stored

_CHUNK = 4096  # subvectors whose distances to all centroids fit into a processor's cache


def nearest(points: Tensor, centroids: Tensor, weights: Tensor | None = None) -> Tensor:
    """The centroid of least ``sum(w * (x - c)^2)`` for each point, up to float32 rounding of the distances.

    Args:
        points: (n, d), float32.
        centroids: (k, d), float32; 1 <= k <= 256.
        weights: (n, d), at least 0; None: all 1.

    Returns:
        uint8 (n,).
    """
    # the least distance has the largest w x c - w c^2 / 2
    halves = centroids.square() / -2
    offset = halves.sum(1) if weights is None else halves.new_zeros(len(centroids))
    right = (centroids if weights is None else torch.cat([centroids, halves], 1)).t().contiguous()
    codes = torch.empty(len(points), dtype=torch.uint8, device=points.device)
    for start in range(0, len(points), _CHUNK):
        left = points[start : start + _CHUNK]
        if weights is not None:
            part = weights[start : start + _CHUNK]
            left = torch.cat([left * part, part], 1)
        codes[start : start + _CHUNK] = torch.addmm(offset, left, right).max(1).indices
    return codes


def lookup(centroids: Tensor, codes: Tensor, shape: tuple[int, ...], kept: Tensor | None = None) -> Tensor:
    """The weight that codes stand for.

    Args:
        centroids: (k, d), float32.
        codes: uint8, one for each subvector of ``shape``, in order.
        shape: of the weight.
        kept: bool, ``shape``; the others are 0.

    Raises:
        ValueError: a code lies outside of the table.
    """
    if len(centroids) < 256 and codes.numel() and (top := int(codes.max())) >= len(centroids):
        raise ValueError(f"product: code {top} must be below {len(centroids)}")
    weight = F.embedding(codes.flatten().to(torch.int32), centroids).reshape(shape)
    return weight if kept is None else weight.masked_fill_(~kept, 0.0)


class Product(Codec):
    """Fixed parts: ``centroids`` (float32 or int8) and, for int8, ``centroid_scale`` (float32, one number).

    Codes are uint8, one for each ``dim`` consecutive values along the last dimension.  With ``masked``, the part
    ``mask`` has a bit for each value, 0 where the value is 0 whatever its centroid says.
    """

    kind: Literal["product"] = "product"
    dim: int = Field(ge=1, le=1024, description="Consecutive values of a row in a subvector.")
    entries: int = Field(ge=1, le=256, description="Centroids.")
    centroid_bits: Literal[8, 32] = Field(32, description="32: float32; 8: integers times one scale.")
    masked: bool = Field(False, description="Zeros are kept apart.")

    def fixed(self) -> tuple[str, ...]:
        """``centroids``, and ``centroid_scale`` where they are integers."""
        return ("centroids",) if self.centroid_bits == 32 else ("centroids", "centroid_scale")

    def layout(self, given: TensorSpec, counts: Mapping[str, int]) -> dict[str, TensorSpec]:
        """A byte a subvector, and the table."""
        if given.dtype != torch.float32 or not given.shape or given.shape[-1] % self.dim:
            raise ValueError(f"product: packs float32 with rows of a multiple of {self.dim}, got {given}")
        table = torch.float32 if self.centroid_bits == 32 else torch.int8
        parts = {
            VALUES: TensorSpec(torch.uint8, (*given.shape[:-1], given.shape[-1] // self.dim)),
            "centroids": TensorSpec(table, (self.entries, self.dim)),
        }
        if self.centroid_bits == 8:
            parts["centroid_scale"] = TensorSpec(torch.float32, ())
        if self.masked:
            parts["mask"] = TensorSpec(torch.uint8, (-(-given.elements // 8),))
        return parts

    def encode(self, tensor: Tensor, fixed: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The number of each subvector's centroid.

        Raises:
            ValueError: a subvector is none of the centroids.
        """
        centroids = self._floats(fixed)
        if not bool(centroids.isfinite().all()):
            raise ValueError("product: centroids must be finite")
        points = tensor.reshape(-1, self.dim)
        kept = points != 0 if self.masked else None
        codes = exact(points, centroids, kept).reshape(*tensor.shape[:-1], tensor.shape[-1] // self.dim)
        parts = {VALUES: codes, **fixed}
        return parts if kept is None else {**parts, "mask": pack_bits(kept.to(torch.uint8), 1)}

    def decode(self, parts: Mapping[str, Tensor], given: TensorSpec) -> Tensor:
        """Look every code up, then put the zeros in."""
        kept = None
        if self.masked:
            kept = unpack_bits(parts["mask"], 1, given.elements).reshape(given.shape).to(torch.bool)
        return lookup(self._floats(parts), parts[VALUES], given.shape, kept)

    def _floats(self, parts: Mapping[str, Tensor]) -> Tensor:
        centroids = parts["centroids"]
        return centroids if self.centroid_bits == 32 else centroids.to(torch.float32) * parts["centroid_scale"]


def exact(points: Tensor, centroids: Tensor, kept: Tensor | None) -> Tensor:
    """Codes that give the points back bit for bit, uint8 (n,).

    Args:
        points: (n, d), float32.
        centroids: (k, d), float32.
        kept: (n, d), bool: where points and centroids must agree; None: everywhere.

    Raises:
        ValueError: a point is none of the centroids.
    """
    codes = nearest(points, centroids, None if kept is None else kept.to(points.dtype))
    found = lookup(centroids, codes, tuple(points.shape), kept)
    # of centroids that nearly coincide the wrong one may be nearer by rounding
    missed = (found != points).any(1).nonzero().flatten()
    for rows in missed.split(256):
        same = centroids[None] == points[rows, None]
        same = (same if kept is None else same | ~kept[rows, None]).all(2)
        if not bool(same.any(1).all()):
            raise ValueError("product: a subvector of the weight is none of the centroids")
        codes[rows] = same.to(torch.uint8).argmax(1).to(torch.uint8)
    return codes


def by_centroids(centroids: Tensor, scale: Tensor | None = None, *, masked: bool = False) -> Stored:
    """How a weight is stored whose subvectors are centroids.

    Args:
        centroids: (k, d), float32, or int8 with a scale.
        scale: float32 (), what an int8 step is worth.
        masked: zeros of the weight are kept apart.
    """
    entries, dim = centroids.shape
    parts = {"centroids": centroids.cpu()} | ({} if scale is None else {"centroid_scale": scale.cpu()})
    return Stored((Product(dim=dim, entries=entries, centroid_bits=32 if scale is None else 8, masked=masked),), parts)
