"""Half a step, exact zero, idempotent, few values, constants, more bits less error."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bertpress.encoder.grids import (
    Grid,
    affine_grid,
    affine_range,
    block_of,
    blocks,
    by_block,
    fake_quantize,
    fitted_grid,
    from_integers,
    quantize,
    spread,
    straight_through,
    symmetric_grid,
    to_integers,
)

SEEDS, BITS = st.integers(0, 2**31), st.integers(2, 8)
BLOCKS = st.sampled_from([(0, 0), (1, 0), (0, 1), (1, 3), (2, 0), (2, 4), (1, 1), (9, 9)])


def noise(seed, size=1.0):
    return torch.randn(5, 7, generator=torch.Generator().manual_seed(seed)) * size


@given(SEEDS, BITS, BLOCKS, st.floats(1e-3, 1e3))
@settings(deadline=None, max_examples=80)
def test_symmetric_half_a_step_exact_zero_idempotent_few_values(seed, bits, block, size):
    x = noise(seed, size)
    x[2, 3] = 0
    grid = symmetric_grid(x, bits, block)
    y, step = quantize(x, grid), spread(grid.scale, block, x.shape)
    assert ((x - y).abs() <= step * 0.5001).all()
    assert y[2, 3] == 0
    assert torch.equal(quantize(y, grid), y)
    assert torch.equal(quantize(-x, grid), -y)
    q = to_integers(x, grid)
    # the largest value of each block takes the last step: by_block is checked by it
    assert (by_block(q.abs(), block, torch.amax) == grid.high).logical_or(grid.scale == 1).all()


@given(SEEDS, BITS, BLOCKS, st.floats(-3, 3))
@settings(deadline=None, max_examples=80)
def test_affine_half_a_step_exact_zero(seed, bits, block, shift):
    x = noise(seed) + shift
    x[0, 0] = 0
    grid = affine_grid(x, bits, block)
    y, step = quantize(x, grid), spread(grid.scale, block, x.shape)
    assert ((grid.zero_point >= 0) & (grid.zero_point <= 2**bits - 1)).all()
    # the zero-point is rounded, so at the two ends up to a whole step may be cut
    assert ((x - y).abs() <= step * 1.001).all()
    assert y[0, 0] == 0
    assert torch.equal(quantize(y, grid), y)
    assert to_integers(x, grid).unique().numel() <= 2**bits * grid.scale.numel()


@given(SEEDS, BITS, st.sampled_from([(0, 0), (1, 0), (0, 1)]), st.booleans())
@settings(deadline=None, max_examples=80)
def test_torch_does_the_same_bits(seed, bits, block, symmetric):
    x = noise(seed)
    grid = (symmetric_grid if symmetric else affine_grid)(x, bits, block)
    scale, zero = grid.scale.flatten(), grid.zero_point.flatten()
    axis = grid.axis
    if axis is None:
        expected = torch.fake_quantize_per_tensor_affine(x, scale[0], zero[0], grid.low, grid.high)
    else:
        expected = torch.fake_quantize_per_channel_affine(x, scale, zero, axis, grid.low, grid.high)
    # torch multiplies by 1 / s: a value right between two steps may fall to the other side
    differs = (expected != quantize(x, grid)).nonzero()
    assert len(differs) <= 1
    assert torch.equal(quantize(expected, grid), expected)


def test_grids_by_hand():
    x = torch.tensor([[1.27, -0.3], [0.0, -2.54]])
    assert symmetric_grid(x, 8, (1, 0)).scale.flatten().tolist() == pytest.approx([0.01, 0.02])
    assert symmetric_grid(x, 2, (0, 0)).scale.item() == pytest.approx(2.54)
    grid = affine_grid(torch.tensor([[-1.0, 1.55], [2.0, 5.1], [-5.1, -2.0]]), 8, (1, 0))
    assert grid.scale.flatten().tolist() == pytest.approx([0.01, 0.02, 0.02])
    assert grid.zero_point.flatten().tolist() == [100, 0, 255]
    assert affine_range(-1.0, 1.55) == (pytest.approx(0.01), 100)
    assert affine_range(2.0, 5.1) == (pytest.approx(5.1 / 255), 0)
    assert affine_range(-5.1, -2.0) == (pytest.approx(5.1 / 255), 255)
    assert affine_range(0.0, 0.0) == (1.0, 0)
    with pytest.raises(ValueError, match=r"range \[-inf, 0.0\] must be finite"):
        affine_range(float("-inf"), 0.0)


@pytest.mark.parametrize("make", [symmetric_grid, affine_grid, fitted_grid])
@pytest.mark.parametrize("value", [0.0, 1.5, -2.5, 1e-44])
def test_constants_and_single_values_survive(make, value):
    for shape in ((3, 4), (1, 1)):
        x = torch.full(shape, value)
        y = quantize(x, make(x, 4, (1, 0)))
        assert torch.allclose(y, x, atol=abs(value) * 0.07 + 1e-40)


def test_more_bits_less_error_and_finer_blocks_less_error():
    x = torch.randn(48, 64, generator=torch.Generator().manual_seed(0))
    for make in (symmetric_grid, affine_grid, fitted_grid):
        errors = [(x - quantize(x, make(x, bits, (1, 0)))).square().mean() for bits in range(2, 9)]
        assert errors == sorted(errors, reverse=True)
    for make in (symmetric_grid, affine_grid):
        whole, row, group = (spread(make(x, 4, block).scale, block, x.shape) for block in ((0, 0), (1, 0), (1, 16)))
        assert (whole >= row).all()
        assert (row >= group).all()


@given(SEEDS, BITS, BLOCKS)
@settings(deadline=None, max_examples=40)
def test_a_fitted_range_is_never_worse_than_the_full_one(seed, bits, block):
    x = noise(seed) ** 3
    full, fitted = symmetric_grid(x, bits, block), fitted_grid(x, bits, block)
    errors = [by_block((quantize(x, grid) - x).square(), block, torch.sum) for grid in (full, fitted)]
    assert (errors[1] <= errors[0] * (1 + 1e-6)).all()
    assert (fitted.scale <= full.scale).all()


def test_blocks_by_their_names():
    assert block_of((6, 8), "tensor") == (0, 0)
    assert block_of((6, 8), "channel") == (1, 0)
    assert block_of((6, 8), "group", 4) == (1, 4)
    assert block_of((6, 8), "group", 128) == (1, 0)
    assert blocks((6, 7), (0, 3)) == (1, 3)
    with pytest.raises(ValueError, match=r"block=\(1,\) must have a size"):
        blocks((6, 7), (1,))


def test_what_engines_have_kernels_for():
    def grid(block, shape):
        return Grid(torch.ones(shape), torch.zeros(shape, dtype=torch.int32), block, -7, 7)

    assert [grid(b, s).runs_as_integers for b, s in (((0, 0), (1, 1)), ((1, 0), (4, 1)), ((1, 2), (4, 2)))] == [
        True,
        True,
        False,
    ]
    with pytest.raises(ValueError, match="do not lie along one dimension"):
        _ = grid((2, 0), (2, 1)).axis


def test_gradient_is_one_inside_the_range_and_zero_outside():
    x = torch.tensor([[0.2, 0.34, -0.9]], requires_grad=True)
    grid = Grid(torch.tensor([[0.1]]), torch.tensor([[0]], dtype=torch.int32), (0, 0), -3, 3)
    y = fake_quantize(x, grid)
    assert torch.equal(y, quantize(x, grid))
    (y * torch.tensor([1.0, 2.0, 3.0])).sum().backward()
    assert x.grad.tolist() == [[1.0, 2.0, 0.0]]


@given(SEEDS, BITS, BLOCKS, st.booleans(), st.floats(0.3, 1))
@settings(deadline=None, max_examples=60)
def test_training_computes_the_same_bits(seed, bits, block, symmetric, share):
    x = noise(seed)
    grid = (symmetric_grid if symmetric else affine_grid)(x, bits, block)
    tight = Grid(grid.scale * share, grid.zero_point, grid.block, grid.low, grid.high)
    for each in (grid, tight):
        assert torch.equal(fake_quantize(x.requires_grad_(), each), quantize(x, each))


def test_straight_through_keeps_every_bit():
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    value = torch.tensor([1e-30, 3.0])
    y = straight_through(x, value)
    assert torch.equal(y, value)
    y.sum().backward()
    assert x.grad.tolist() == [1.0, 1.0]
    assert value.grad is None


def test_integers_back_and_forth_exactly():
    q = torch.arange(-127, 128).reshape(5, 51)
    grid = Grid(torch.rand(5, 1) + 0.1, torch.zeros(5, 1, dtype=torch.int32), (1, 0), -127, 127)
    assert torch.equal(to_integers(from_integers(q, grid), grid), q)
