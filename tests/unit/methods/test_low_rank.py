"""Eckart and Young: the error is what the dropped singular values say, and no other product comes nearer; ranks."""

import itertools

import pytest
import torch

from bertpress.methods.low_rank import (
    energies,
    input_root,
    largest_rank,
    nearest_product,
    rank_by_energy,
    ranks_by_budget,
    size_at,
    truncated_svd,
)


@pytest.mark.parametrize("shape", [(40, 12), (12, 40)])
@pytest.mark.parametrize("rank", [1, 5, 12])
def test_the_error_is_the_sum_of_the_dropped_squares(shape, rank):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    left, right = truncated_svd(matrix, rank)
    assert (left.shape, right.shape) == ((shape[0], rank), (rank, shape[1]))
    values = torch.linalg.svdvals(matrix.double())
    error = (matrix - left @ right).double().square().sum()
    torch.testing.assert_close(error, values[rank:].square().sum(), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(right @ right.t(), torch.eye(rank), atol=1e-5, rtol=0)


def test_no_other_product_of_the_rank_comes_nearer():
    random = torch.Generator().manual_seed(1)
    matrix = torch.randn(30, 10, generator=random)
    left, right = truncated_svd(matrix, 4)
    best = (matrix - left @ right).square().sum()
    for _ in range(50):
        basis = torch.linalg.qr(right.t() + 0.1 * torch.randn(10, 4, generator=random))[0]
        assert (matrix - matrix @ basis @ basis.t()).square().sum() > best


def test_signs_do_not_depend_on_the_decomposition():
    matrix = torch.randn(20, 6, generator=torch.Generator().manual_seed(2))
    left, right = truncated_svd(matrix, 3)
    assert (right.gather(1, right.abs().argmax(1, keepdim=True)) > 0).all()
    turned = truncated_svd(-matrix, 3)
    torch.testing.assert_close(turned[1], right, atol=1e-5, rtol=0)
    torch.testing.assert_close(turned[0], -left, atol=1e-5, rtol=0)


@pytest.mark.parametrize("rank", [0, 7])
def test_ranks_out_of_bounds_are_refused(rank):
    with pytest.raises(ValueError, match=rf"rank={rank} must be in \[1, 6\] for a matrix of \(20, 6\)"):
        truncated_svd(torch.ones(20, 6), rank)


def product(shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_the_factors_share_the_singular_values_evenly():
    matrix = product((9, 14))
    up, down = nearest_product(matrix, 5)
    u, s, v = torch.linalg.svd(matrix.double(), full_matrices=False)
    torch.testing.assert_close((up @ down).double(), (u[:, :5] * s[:5]) @ v[:5], atol=1e-5, rtol=0)
    torch.testing.assert_close(up.norm(dim=0).double(), s[:5].sqrt(), atol=1e-5, rtol=0)
    torch.testing.assert_close(down.norm(dim=1).double(), s[:5].sqrt(), atol=1e-5, rtol=0)
    assert up.dtype == down.dtype == torch.float32


@pytest.mark.parametrize("rank", [1, 3, 8])
def test_weighted_by_inputs_the_error_is_that_of_what_the_matrix_gives(rank):
    """Over samples X the error of the outputs is the sum of the dropped energies, and no other product has less."""
    matrix, samples = product((10, 8)), product((40, 8), seed=2) * torch.arange(1.0, 9.0)
    root = input_root(samples.t() @ samples, damping=1e-9)
    up, down = (factor.double() for factor in nearest_product(matrix.double(), rank, root))

    def error(up, down):
        return float(((matrix.double() - up @ down) @ samples.double().t()).square().sum())

    best, scale = error(up, down), float((matrix.double() @ samples.double().t()).square().sum())
    assert best == pytest.approx(float(energies(matrix, root)[rank:].sum()), rel=1e-5, abs=1e-6 * scale)
    torch.testing.assert_close(up.norm(dim=0), down.norm(dim=1))
    plain = error(*(factor.double() for factor in nearest_product(matrix, rank)))
    assert best <= plain + 1e-6 * scale
    assert rank == 8 or best < 0.99 * plain
    draw = torch.Generator().manual_seed(3)
    for _ in range(100):
        other = [
            factor + 0.05 * torch.randn(factor.shape, generator=draw, dtype=torch.float64) for factor in (up, down)
        ]
        assert error(*other) > best
    # the best product is where the gradient vanishes: alternating least squares from it stays there
    moment = (samples.t() @ samples).double()
    again = matrix.double() @ moment @ down.t() @ torch.linalg.inv(down @ moment @ down.t())
    torch.testing.assert_close(again @ down, up @ down, atol=1e-4, rtol=0)


def test_a_root_is_that_of_the_damped_moment():
    samples = product((5, 12)).double()  # fewer samples than dimensions
    moment = samples.t() @ samples
    root = input_root(moment.float(), damping=0.1)
    expected = moment + 0.1 * moment.diagonal().mean() * torch.eye(12)
    torch.testing.assert_close(root @ root.t(), expected, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(input_root(torch.zeros(3, 3), 0.1), torch.eye(3, dtype=torch.float64))
    with pytest.raises(ValueError, match="an activation is not finite"):
        input_root(torch.full((3, 3), float("inf")), 0.1)


def test_a_matrix_of_lower_rank_is_found_again_and_zeros_stay_finite():
    matrix = product((8, 3)) @ product((3, 9), seed=1)
    for rank in (3, 5):
        up, down = nearest_product(matrix, rank)
        torch.testing.assert_close(up @ down, matrix, atol=1e-5, rtol=0)
    up, down = nearest_product(torch.zeros(6, 4), 2)
    assert not (up @ down).any()
    assert bool(up.isfinite().all() & down.isfinite().all())


@pytest.mark.parametrize(("shape", "expected"), [((768, 768), 383), ((3072, 768), 614), ((1, 50), 0), ((2, 2), 0)])
def test_factors_must_be_smaller_than_the_matrix(shape, expected):
    assert largest_rank(shape) == expected
    assert size_at(shape, 0) == shape[0] * shape[1]
    assert size_at(shape, expected + 1) >= size_at(shape, 0)
    assert not expected or size_at(shape, expected) < size_at(shape, 0)


def test_ranks_by_energy():
    energy = torch.tensor([6.0, 3.0, 1.0, 0.0], dtype=torch.float64)
    assert [rank_by_energy(energy, share) for share in (0.1, 0.6, 0.61, 0.9, 0.91, 1.0)] == [1, 1, 2, 2, 3, 3]
    assert rank_by_energy(torch.zeros(4), 0.5) == 1


def losses(matrices, ranks):
    """Sum over matrices of the share of the energy that is lost, by brute force."""
    lost = 0.0
    for matrix, rank in zip(matrices, ranks, strict=True):
        kept = truncated_svd(matrix.double(), rank) if rank else None
        lost += 0.0 if kept is None else float((matrix - kept[0] @ kept[1]).square().sum() / matrix.square().sum())
    return lost


def test_a_budget_is_spent_as_exhaustive_search_would():
    """For every price of a number, what is best of all choices is what its size as a budget gives."""
    shapes = [(6, 9), (10, 6), (7, 7)]
    values = [[1, 1, 1, 1, 1, 1], [1, 1, 0.2, 0.1, 0.1, 0.1], [1, 0.6, 0.4, 0.3, 0.2, 0.1]]  # flat, two, falling
    matrices = []
    for i, (m, n) in enumerate(shapes):
        u, _, v = torch.linalg.svd(product((m, n), seed=i).double(), full_matrices=False)
        matrices.append((u[:, :6] * torch.tensor(values[i], dtype=torch.float64)) @ v[:6])
    energy = [energies(matrix) for matrix in matrices]
    options = [[0, *range(1, largest_rank(shape) + 1)] for shape in shapes]
    table = [(sum(map(size_at, shapes, ranks)), losses(matrices, ranks)) for ranks in itertools.product(*options)]
    whole, least = sum(m * n for m, n in shapes), sum(map(sum, shapes))
    best = {min(table, key=lambda each: each[1] + price * each[0]) for price in torch.logspace(-6, 0, 300).tolist()}
    assert len(best) > 5
    for size, lost in best:
        ranks = ranks_by_budget(energy, shapes, size)
        assert sum(map(size_at, shapes, ranks)) == size
        assert losses(matrices, ranks) == pytest.approx(lost, abs=1e-9)
    for budget in range(least, whole + 1):  # in between it is at most one step away from the next of these
        ranks = ranks_by_budget(energy, shapes, budget)
        assert sum(map(size_at, shapes, ranks)) <= budget
        assert losses(matrices, ranks) <= min(lost for size, lost in best if size <= budget) + 1e-9
    assert ranks_by_budget(energy, shapes, whole) == [0, 0, 0]
    assert ranks_by_budget(energy, shapes, least) == [1, 1, 1]
    with pytest.raises(ValueError, match=f"{least - 1} numbers are too few: rank 1 everywhere takes {least}"):
        ranks_by_budget(energy, shapes, least - 1)


def test_a_budget_goes_on_from_ranks_that_are_there():
    shapes = [(8, 8), (8, 8)]
    energy = [energies(product((8, 3)) @ product((3, 8), seed=1)), energies(product((8, 8), seed=2))]
    assert ranks_by_budget(energy, shapes, 112, [3, 0]) == [3, 0]
    assert ranks_by_budget(energy, shapes, 100, [3, 0]) == [3, 3]
    assert ranks_by_budget(energy, shapes, 90, [3, 0]) == [3, 2]
    steps = [ranks_by_budget(energy, shapes, budget, [3, 0]) for budget in range(112, 31, -1)]
    sizes = [sum(map(size_at, shapes, ranks)) for ranks in steps]
    assert sizes == sorted(sizes, reverse=True)  # less budget never keeps more
    assert ranks_by_budget([torch.zeros(8)], [(8, 8)], 40) == [2]
