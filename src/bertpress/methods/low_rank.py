"""The best approximation of a matrix by two thin ones."""

from __future__ import annotations

import torch
from torch import Tensor


def truncated_svd(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The factors ``U S`` and ``Vᵀ`` of the largest singular values; no product of that rank comes nearer.

    Source: Eckart & Young 1936: the squared error is the sum of the squared singular values that are left out.
    Signs, which the decomposition leaves open, are such that the largest entry of each row of ``Vᵀ`` is positive.

    Args:
        matrix: (rows, columns).
        rank: 1 to the smaller of both.

    Returns:
        (rows, rank) and (rank, columns), of the matrix's dtype.

    Raises:
        ValueError: the rank is out of bounds.
    """
    if not 1 <= rank <= min(matrix.shape):
        raise ValueError(f"rank={rank} must be in [1, {min(matrix.shape)}] for a matrix of {tuple(matrix.shape)}")
    left, values, right = torch.linalg.svd(matrix.double(), full_matrices=False)
    left, right = left[:, :rank] * values[:rank], right[:rank]
    signs = right.gather(1, right.abs().argmax(1, keepdim=True)).sign()
    return (left * signs.t()).to(matrix.dtype), (right * signs).to(matrix.dtype)
