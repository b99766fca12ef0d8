"""Largest singular values against a full decomposition."""

import pytest
import torch

from bertpress.methods.spectral import SpectralNorm


def weight(seed=0):
    return torch.randn(12, 20, generator=torch.Generator().manual_seed(seed))


def norm_of(start, seed=0):
    return SpectralNorm(weight(), torch.Generator().manual_seed(seed), start=start)


def largest(matrix):
    return float(torch.linalg.matrix_norm(matrix.detach(), 2))


@pytest.mark.parametrize("start", [True, False])
def test_the_largest_singular_value_stays_while_the_weight_moves(start):
    norm, moving = norm_of(start).train(), weight()
    target = largest(weight()) if start else 1.0
    assert largest(norm(moving)) == pytest.approx(target, rel=1e-2)
    if start:
        torch.testing.assert_close(norm(moving), moving, rtol=1e-3, atol=1e-3)
    for step in range(100):
        moving = moving + 0.02 * weight(1) if step < 60 else moving
        norm(moving)
    assert largest(norm(moving)) <= target * (1 + 1e-2)
    assert largest(norm(moving)) == pytest.approx(target, rel=1e-2)
    assert largest(moving) > 1.2 * largest(weight())


def test_the_vector_moves_in_training_alone_and_is_kept():
    norm, other = norm_of(True), weight(2)
    before = norm.u.clone()
    norm.eval()(other)
    assert torch.equal(norm.u, before)
    norm.train()(other)
    assert not torch.equal(norm.u, before)
    again = norm_of(True, seed=5)
    again.load_state_dict(norm.state_dict())
    assert torch.equal(again.eval()(other), norm.eval()(other))


def test_gradients_are_those_of_the_quotient():
    matrix = weight().double().requires_grad_()
    norm = norm_of(False).double().train()
    for _ in range(300):
        norm(matrix)
    direction = weight(3).double()
    (norm(matrix) * direction).sum().backward()
    found = matrix.grad.clone()
    matrix.grad = None
    (matrix / torch.linalg.matrix_norm(matrix, 2) * direction).sum().backward()
    torch.testing.assert_close(found, matrix.grad, atol=1e-5, rtol=1e-4)
    assert torch.isfinite(norm(torch.zeros_like(matrix))).all()
