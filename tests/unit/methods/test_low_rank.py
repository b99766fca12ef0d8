"""Eckart and Young: the error is what the dropped singular values say, and no other product comes nearer."""

import pytest
import torch

from bertpress.methods.low_rank import truncated_svd


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
