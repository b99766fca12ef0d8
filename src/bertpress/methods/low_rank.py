"""The best approximation of a matrix by two thin ones, and how many ranks are worth it."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

Shape = tuple[int, int]


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


def damped(moment: Tensor, damping: float) -> Tensor:
    """``M + λI``, float64; ``λ = damping * mean(diagonal(M))``.

    Args:
        moment: M (inputs, inputs), sum of ``x xᵀ`` over inputs; of zeros, it counts as the identity.
        damping: > 0; how much directions count in which no input lies.

    Raises:
        ValueError: a number of the moment is not finite.
    """
    moment = moment.double()
    shift = damping * float(moment.diagonal().mean()) or 1.0
    if not shift < float("inf"):
        raise ValueError("an activation is not finite: the model cannot be calibrated")
    return moment + shift * torch.eye(len(moment), dtype=moment.dtype, device=moment.device)


def input_root(moment: Tensor, damping: float) -> Tensor:
    """L, lower triangular, with ``L Lᵀ`` the :func:`damped` moment."""
    root: Tensor = torch.linalg.cholesky(damped(moment, damping))
    return root


def energies(matrix: Tensor, root: Tensor | None = None) -> Tensor:
    """Squared singular values of ``W L``, the largest first, float64: the error of a rank is the sum of the others."""
    values: Tensor = torch.linalg.svdvals(_weighted(matrix, root))
    return values.square()


def nearest_product(matrix: Tensor, rank: int, root: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Factors ``up`` and ``down`` of that rank with the least ``||(W - up down) L||_F``.

    With ``L Lᵀ`` the second moment of the inputs that is the squared error of what the matrix gives on them.  The
    minimum is the truncated decomposition of ``W L``, times the inverse of L.  Columns of ``up`` and rows of ``down``
    have equal norms; without L that is ``U sqrt(S)`` and ``sqrt(S) Vᵀ``.

    Args:
        matrix: W (outputs, inputs).
        rank: 1 to the smaller of both.
        root: L (inputs, inputs), lower triangular; None: the identity.

    Returns:
        (outputs, rank) and (rank, inputs), of the matrix's dtype, computed in float64.
    """
    up, down = truncated_svd(_weighted(matrix, root), rank)
    if root is not None:
        down = torch.linalg.solve_triangular(root, down, upper=False, left=False)
    norms = up.norm(dim=0), down.norm(dim=1)
    scale = torch.where(norms[0] > 0, norms[1] / norms[0].clamp(min=torch.finfo(up.dtype).tiny), 1.0).sqrt()
    return (up * scale).to(matrix.dtype), (down / scale[:, None]).to(matrix.dtype)


def _weighted(matrix: Tensor, root: Tensor | None) -> Tensor:
    return matrix.double() if root is None else matrix.double() @ root


def largest_rank(shape: Shape) -> int:
    """The largest r at which two factors have fewer numbers than a matrix: ``r (m + n) < m n``; 0: there is none."""
    return max(0, (shape[0] * shape[1] - 1) // sum(shape))


def rank_by_energy(energy: Tensor, share: float) -> int:
    """The fewest ranks that keep a share of the sum of :func:`energies`, at least one."""
    kept = energy.cumsum(0)
    return min(len(energy), int((kept < share * kept[-1]).sum()) + 1)


def size_at(shape: Shape, rank: int) -> int:
    """Numbers in two factors of that rank; rank 0: in the whole matrix."""
    return rank * sum(shape) if rank else shape[0] * shape[1]


def ranks_by_budget(
    energy: Sequence[Tensor], shapes: Sequence[Shape], budget: int, now: Sequence[int] | None = None
) -> list[int]:
    """Ranks with which several matrices together have at most ``budget`` numbers, and lose little.

    Greedy: again and again the step is taken that loses the smallest share of its matrix's energy for each number that
    it saves.  The first step of a whole matrix may be a large one, as factors of a high rank save nothing.  No other
    choice of the size that is reached loses less in sum, but for the last step, which ends at the budget.

    Args:
        energy: of each matrix, as :func:`energies` gives it.
        shapes: of each, (outputs, inputs).
        budget: numbers.
        now: the ranks that they have; 0 for whole ones; None: all are whole.

    Returns:
        A rank for each matrix, 0 for those that stay whole.

    Raises:
        ValueError: not even rank 1 everywhere meets the budget.
    """
    ranks = list(now or [0] * len(shapes))
    total = sum(size_at(shape, rank) for shape, rank in zip(shapes, ranks, strict=True))
    losses = [1 - each.cumsum(0) / each.sum().clamp(min=torch.finfo(each.dtype).tiny) for each in energy]
    queue = [step for i, rank in enumerate(ranks) for step in _step(i, losses[i], shapes[i], rank)]
    heapq.heapify(queue)
    while total > budget:
        if not queue:
            raise ValueError(f"{budget:,} numbers are too few: rank 1 everywhere takes {total:,}")
        _, i, rank = heapq.heappop(queue)
        before = size_at(shapes[i], ranks[i])
        fits = (before - (total - budget)) // sum(shapes[i])  # the largest rank that ends at the budget
        ranks[i] = max(rank, min(fits, largest_rank(shapes[i])))
        total -= before - size_at(shapes[i], ranks[i])
        for step in _step(i, losses[i], shapes[i], ranks[i]):
            heapq.heappush(queue, step)
    return ranks


def _step(i: int, losses: Tensor, shape: Shape, rank: int) -> Iterator[tuple[float, int, int]]:
    """The next step of matrix i, if it has one: the loss for each number saved, i, and the rank behind the step."""
    most = min(rank - 1, len(losses)) if rank else largest_rank(shape)
    if most >= 1:
        lost = losses[:most] - (losses[min(rank, len(losses)) - 1] if rank else 0.0)
        saved = size_at(shape, rank) - sum(shape) * torch.arange(1, most + 1, dtype=losses.dtype)
        rates = lost / saved
        best = int(rates.argmin())
        yield float(rates[best]), i, best + 1
