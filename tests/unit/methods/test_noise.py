"""Some weights are quantized in training, all or none in evaluation, and the trained weight is never written to."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from bertpress.artifact.codecs import spec_of
from bertpress.encoder.grids import affine_grid, fitted_grid, quantize, symmetric_grid
from bertpress.encoder.transforms import put, transforms
from bertpress.methods.kmeans import kmeans
from bertpress.methods.noise import BlockNoise, CentroidNoise, IntNoise, Refresh, noised, pick, within
from bertpress.methods.product import product_code


def weight_of(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def rows(bits=4):
    return partial(symmetric_grid, bits=bits, block=(1, 0))


def code(weight, dim=4, count=8):
    return product_code(weight, dim, count, torch.Generator().manual_seed(0))


@pytest.mark.parametrize("p", [0.0, 0.05, 0.1, 0.5, 0.93, 1.0])
def test_the_share_that_is_picked(p):
    torch.manual_seed(0)
    picked = pick(400_001, p, torch.device("cpu"))
    assert picked.shape == (400_001,)
    assert float(picked.float().mean()) == pytest.approx(p, abs=4 * (p * (1 - p) / 400_001) ** 0.5 + 2**-16)
    assert p not in (0, 1) or bool((picked == bool(p)).all())


def test_picks_are_independent_and_repeat_with_the_seed():
    torch.manual_seed(1)
    first = pick(400_000, 0.3, torch.device("cpu"))
    for lag in (1, 2, 3, 4, 8):  # four picks share a word
        assert float((first[lag:] & first[:-lag]).float().mean()) == pytest.approx(0.09, abs=0.002)
    torch.manual_seed(1)
    assert torch.equal(first, pick(400_000, 0.3, torch.device("cpu")))
    assert not torch.equal(first, pick(400_000, 0.3, torch.device("cpu")))


def test_gradients_are_plain_where_not_picked_and_straight_through_inside_the_range_where_picked():
    weight = torch.tensor([0.4, -7.0, 5.0, 0.6], requires_grad=True)
    picked = torch.tensor([True, False, True, False])
    grid = symmetric_grid(torch.tensor([3.0]), 3, (0,))  # steps of 1, from -3 to 3
    out = noised(weight, quantize(weight, grid), picked, within(weight, grid))
    assert out.tolist() == pytest.approx([0.0, -7.0, 3.0, 0.6])
    out.backward(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    assert weight.grad.tolist() == [1, 2, 0, 4]  # 5 and -7 lie outside of the range
    assert within(torch.tensor([3.4, -3.0]), grid) is None


@pytest.mark.parametrize(
    "grid_of",
    [
        rows(),
        partial(affine_grid, bits=8, block=(0, 0)),
        partial(affine_grid, bits=2, block=(1, 0)),
        partial(fitted_grid, bits=3, block=(1, 0)),
    ],
)
def test_integers_none_some_all(grid_of):
    weight = weight_of(6, 40).requires_grad_()
    before = weight.detach().clone()
    none, some, whole = (IntNoise(weight, p, grid_of).train() for p in (0.0, 0.5, 1.0))
    assert torch.equal(none(weight), weight)
    rounded = whole(weight)
    assert torch.equal(rounded, whole.eval()(weight))  # training with p = 1 is evaluation
    torch.testing.assert_close(rounded, quantize(weight, grid_of(weight)))
    mixed = some(weight)
    assert torch.equal(mixed, torch.where(mixed == rounded, rounded, weight))
    assert 0.3 < float((mixed == weight).float().mean()) < 0.7
    assert torch.equal(some.eval()(weight), rounded)
    assert torch.equal(weight, before)


def test_a_frozen_range_clips_what_outgrew_it_until_it_is_refreshed():
    weight = weight_of(3, 8)
    noise = IntNoise(weight, 1.0, rows()).train()
    grown = (2 * weight).requires_grad_()
    clipped = noise(grown)
    assert torch.equal(clipped.detach().abs().amax(1), weight.abs().amax(1))
    clipped.sum().backward()
    assert set(grown.grad.unique().tolist()) == {0.0, 1.0}
    noise.stale = True
    torch.testing.assert_close(noise(grown).detach(), quantize(grown, symmetric_grid(grown, 4, (1, 0))))
    assert not noise.stale
    assert torch.equal(noise.scale, symmetric_grid(grown, 4, (1, 0)).scale)


def test_the_baked_weight_is_stored_bit_for_bit():
    for grid_of in (rows(3), partial(affine_grid, bits=8, block=(1, 0)), partial(affine_grid, bits=5, block=(0, 0))):
        noise, weight = IntNoise(weight_of(7, 16), 0.5, grid_of).eval(), weight_of(7, 16, seed=1)
        made = noise(weight)
        stored = noise.stored(made, None)
        assert torch.equal(stored.decode(stored.encode(made), spec_of(made)), made)


def test_the_proxy_drops_whole_subvectors_in_training_alone():
    weight = weight_of(50, 40).requires_grad_()
    noise = BlockNoise(8, 0.2).train()
    out = noise(weight)
    blocks = (out == 0).reshape(-1, 8)
    assert bool((blocks.all(1) == blocks.any(1)).all())
    assert float(blocks.float().mean()) == pytest.approx(0.2, abs=0.08)
    assert torch.equal(out[out != 0], weight[out != 0])  # nothing is scaled up
    out.sum().backward()
    assert bool((weight.grad == 1).all())
    assert noise.eval()(weight) is weight
    assert torch.equal(BlockNoise(8, 0.0).train()(weight), weight)


def test_centroids_take_the_place_of_whole_subvectors_in_training_alone():
    weight = weight_of(10, 16).requires_grad_()
    noise, found = CentroidNoise(weight, 4, 1.0, code).train(), code(weight.detach())
    assert torch.equal(noise(weight), found.weight)
    assert noise.eval()(weight) is weight
    some = CentroidNoise(weight, 4, 0.5, code).train()(weight).reshape(-1, 4)
    changed = some != weight.reshape(-1, 4)
    assert 0 < int(changed.all(1).sum()) < 40
    assert torch.equal(changed.all(1), changed.any(1))


def test_zeros_below_stay_zeros_under_every_noise():
    weight = weight_of(12, 16) * (weight_of(12, 16, seed=1) > 0)
    for noise in (IntNoise(weight, 0.5, rows(2)), BlockNoise(4, 0.5), CentroidNoise(weight, 4, 0.5, code)):
        assert bool((noise.train()(weight)[weight == 0] == 0).all())


def test_codes_are_kept_until_they_are_refreshed():
    weight = weight_of(10, 16)
    noise = CentroidNoise(weight, 4, 1.0, code).train()
    assert torch.equal(noise(weight + 1), noise(weight))
    noise.stale = True
    moved = code(weight + 1)
    assert torch.equal(noise(weight + 1), moved.weight)
    assert torch.equal(noise.codes, moved.codes)


@pytest.mark.parametrize("make", [lambda w: IntNoise(w, 0.5, rows()), lambda w: CentroidNoise(w, 4, 0.5, code)])
def test_a_resumed_run_repeats_an_undisturbed_one(make):
    def run(layer, start, stop):
        for step in range(start, stop):
            torch.manual_seed(step)  # as the training loop does
            Refresh(3).on_step_begin(None, SimpleNamespace(global_step=step), None, model=layer)
            original = layer.parametrizations.weight.original
            layer(torch.ones(1, 8)).square().sum().backward()
            with torch.no_grad():
                original -= 0.1 * original.grad
            original.grad = None

    def fresh():
        layer = nn.Linear(8, 6)
        nn.init.normal_(layer.weight, generator=torch.Generator().manual_seed(0))
        nn.init.zeros_(layer.bias)
        put(layer, "weight", make(layer.weight))
        return layer.train()

    whole, first, second = fresh(), fresh(), fresh()
    run(whole, 0, 8)
    run(first, 0, 5)
    second.load_state_dict(first.state_dict())
    run(second, 5, 8)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name


def test_only_every_nth_step_is_stale():
    layer = nn.Linear(4, 4)
    put(layer, "weight", BlockNoise(2, 0.5))
    (noise,) = transforms(layer, "weight")
    marked = []
    for step in range(7):
        noise.stale = False
        Refresh(3).on_step_begin(None, SimpleNamespace(global_step=step), None, model=layer)
        marked.append(noise.stale)
    assert marked == [False, False, False, True, False, False, True]


def test_all_zero_and_single_weights():
    for weight in (torch.zeros(2, 4), torch.full((1, 1), -0.3)):
        for p in (0.0, 1.0):
            torch.testing.assert_close(IntNoise(weight, p, rows(8)).train()(weight), weight)
    assert kmeans(torch.zeros(4, 2), 2, torch.Generator()).codes.shape == (4,)
