"""Power iteration against matrices of known spectrum and against whole Hessians."""

import pytest
import torch

from bertpress.methods.hessian import hessian_product, random_vector, top_eigenvalue


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def symmetric(spectrum, seed=0):
    size = len(spectrum)
    basis, _ = torch.linalg.qr(torch.randn(size, size, generator=seeded(seed), dtype=torch.float64))
    return (basis @ torch.diag(torch.tensor(spectrum, dtype=torch.float64)) @ basis.T).float()


def quadratic(matrix, weights):
    theta = torch.cat([weight.flatten() for weight in weights])
    return 0.5 * theta @ matrix @ theta


def weights_of(*shapes, seed=5):
    return [torch.randn(*shape, generator=seeded(seed)).requires_grad_() for shape in shapes]


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize(
    ("spectrum", "top"),
    [
        ([3.0, 2.0, 1.0, 0.5, 0.1, 0.0], 3.0),
        ([-3.0, 2.0, 1.0, 0.5, 0.1, 0.0], -3.0),
        ([-50.0, 40.0, -30.0, 20.0, 1.0, 1.0], -50.0),
        ([1e-4, 5e-5, -5e-5, 0.0, 0.0, 0.0], 1e-4),
        ([7.0] * 6, 7.0),
    ],
)
def test_a_quadratic_loss_gives_the_eigenvalue_of_largest_magnitude(spectrum, top, keep):
    weights = weights_of((2, 2), (2,))
    matrix = symmetric(spectrum)
    product = hessian_product([lambda: quadratic(matrix, weights)], weights, keep=keep)
    for seed in range(3):
        found = top_eigenvalue(product, random_vector(weights, seeded(seed)), iterations=200, tolerance=1e-5)
        assert found == pytest.approx(top, rel=1e-3)


def test_a_product_is_the_matrix_times_the_vector_and_losses_add_up():
    weights = weights_of((2, 2), (2,))
    first, second = symmetric([1.0, 2, 3, 4, 5, 6]), symmetric([-1.0, 0, 2, 1, 1, 9], seed=1)
    losses = [lambda: quadratic(first, weights), lambda: 0.5 * quadratic(second, weights)]
    vector = random_vector(weights, seeded(3))
    for keep in (False, True):
        product = hessian_product(losses, weights, keep=keep)
        for _ in range(2):  # kept graphs can be used again
            found = torch.cat([part.flatten() for part in product(vector)])
            flat = torch.cat([part.flatten() for part in vector])
            torch.testing.assert_close(found, (first + 0.5 * second) @ flat)
    assert all(weight.grad is None for weight in weights)


def test_a_loss_that_is_not_quadratic_against_its_whole_hessian():
    weights = weights_of((3, 2), (3,))
    inputs = torch.randn(7, 2, generator=seeded(1))

    def loss(matrix, bias):
        return (inputs @ matrix.T + bias).tanh().pow(2).sum(1).logsumexp(0)

    blocks = torch.autograd.functional.hessian(loss, tuple(weights))
    sizes = [weight.numel() for weight in weights]
    whole = torch.cat(
        [torch.cat([blocks[i][j].reshape(a, b) for j, b in enumerate(sizes)], 1) for i, a in enumerate(sizes)]
    )
    values = torch.linalg.eigvalsh(whole)
    top = values[values.abs().argmax()]
    product = hessian_product([lambda: loss(*weights)], weights)
    found = top_eigenvalue(product, random_vector(weights, seeded()), iterations=500, tolerance=1e-7)
    assert found == pytest.approx(float(top), rel=1e-3)


def test_it_stops_when_the_estimate_rests_and_never_later_than_asked():
    matrix, calls = symmetric([10.0, 1.0, 0.1]), []

    def product(vector):
        calls.append(1)
        return [matrix @ vector[0]]

    start = [torch.ones(3)]
    top_eigenvalue(product, start, iterations=100, tolerance=1e-3)
    assert 2 <= len(calls) <= 6
    calls.clear()
    top_eigenvalue(product, start, iterations=3, tolerance=1e-12)
    assert len(calls) == 3


def test_nothing_curves():
    weights = weights_of((3,))
    start = random_vector(weights, seeded())
    for loss in (lambda: weights[0].sum(), lambda: weights[0].sum() * 0.0, lambda: (weights[0] * 0).square().sum()):
        assert top_eigenvalue(hessian_product([loss], weights), start) == 0.0
    assert top_eigenvalue(lambda vector: vector, [torch.zeros(3)]) == 0.0


def test_weights_that_a_loss_does_not_read_count_as_flat():
    used, unused = weights_of((2,), (4,))
    product = hessian_product([lambda: (2 * used).square().sum()], [used, unused])
    image = product([torch.ones(2), torch.ones(4)])
    assert image[0].tolist() == [8.0, 8.0]
    assert not image[1].any()


def test_random_vectors_follow_their_generator():
    like = [torch.zeros(2, 3), torch.zeros(4)]
    first, second = random_vector(like, seeded(1)), random_vector(like, seeded(1))
    assert [part.shape for part in first] == [(2, 3), (4,)]
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not torch.equal(first[1], random_vector(like, seeded(2))[1])
