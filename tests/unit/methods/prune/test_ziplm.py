"""Each removal by brute force, weights by another library's least squares, and predictions that meet the target."""

from itertools import product

import numpy as np
import pytest
import torch
from factored_models import factored, multiplied
from tiny_task import INPUTS, context, logits, tiny
from uneven_models import albert_like, mixed

from bertpress.encoder.factors import matrix
from bertpress.encoder.observers import observing
from bertpress.errors import RecipeError
from bertpress.methods.budgets import Sizes, multiply_accumulates, places, sizes
from bertpress.methods.low_rank import damped
from bertpress.methods.moments import input_moments
from bertpress.methods.prune.ziplm import Ladder, Stitched, Ziplm, removal_order, search

OPTIONS = {"multiple_of": 4, "tokens": 7, "trials": 4}


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def correlated(count, width, seed=0):
    return random(count, width, seed=seed) @ (torch.eye(width) + random(width, width, seed=seed + 1) / width**0.5)


def least(weight, x, kept):
    """The outputs' nearest by the inputs in ``kept``, by numpy."""
    x, weight = x.double().numpy(), weight.double().numpy()
    found = np.linalg.lstsq(x[:, kept], x @ weight.T, rcond=None)[0]
    return found.T, float(np.square(x @ weight.T - x[:, kept] @ found).sum())


def channels(groups, size):
    return [group * size + i for group in groups for i in range(size)]


@pytest.mark.parametrize("size", [1, 2, 4])
def test_each_removal_is_the_cheapest_by_brute_force(size):
    x, weight = correlated(60, 12), random(5, 12, seed=3)
    order = removal_order(weight, x.t() @ x, size)
    left = list(range(12 // size))
    assert sorted(order) == left
    for group in order[:-1]:
        costs = {out: least(weight, x, channels([each for each in left if each != out], size))[1] for out in left}
        assert group == min(costs, key=costs.get)
        left.remove(group)


@pytest.mark.parametrize("size", [1, 3])
def test_weights_and_errors_are_those_of_numpys_least_squares(size):
    x, weight = correlated(80, 12), random(5, 12, seed=3)
    hessian = x.t().double() @ x.double()
    order = removal_order(weight, hessian, size)[::-1]
    ladder = Ladder.of(weight, hessian, order, size)
    whole = float((x @ weight.t()).square().sum())
    errors = ladder.errors()
    assert errors[0] == pytest.approx(1)
    assert errors[-1] == pytest.approx(0, abs=1e-9)
    for count in range(1, 12 // size + 1):
        kept = channels(ladder.kept(count), size)
        expected, error = least(weight, x, kept)
        found = ladder.weight(count)
        np.testing.assert_allclose(found[:, kept].numpy(), expected, rtol=1e-5, atol=1e-7)
        assert not found[:, [i for i in range(12) if i not in kept]].any()
        assert float(errors[count]) == pytest.approx(error / whole, rel=1e-5, abs=1e-9)


def test_steps_by_the_papers_update_end_at_the_same_weight():
    x, weight, size = correlated(80, 8).double(), random(5, 8, seed=3).double(), 2
    hessian = x.t() @ x
    order = removal_order(weight, hessian, size)
    left, inverse = weight.clone(), hessian.inverse()
    for group in order[:3]:
        q = slice(group * size, (group + 1) * size)
        block = inverse[q, q].inverse()
        left = left - left[:, q] @ block @ inverse[q]
        inverse = inverse - inverse[:, q] @ block @ inverse[q]
    torch.testing.assert_close(Ladder.of(weight, hessian, order[::-1], size).weight(1), left, atol=1e-9, rtol=0)


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("damping", [1e-6, 0.1])
def test_it_is_never_worse_than_plain_slicing(size, damping):
    x, weight = correlated(30, 12), random(5, 12, seed=3)
    hessian = damped(x.t() @ x, damping)
    ladder = Ladder.of(weight, hessian, removal_order(weight, hessian, size)[::-1], size)
    for count in range(12 // size):
        sliced = torch.zeros_like(weight)
        kept = channels(ladder.kept(count), size)
        sliced[:, kept] = weight[:, kept]
        error, plain = ((x @ (weight - each).t()).square().sum() for each in (ladder.weight(count).float(), sliced))
        assert error <= plain * (1 + 1e-5)


@pytest.mark.parametrize("size", [1, 3])
def test_with_orthogonal_inputs_it_goes_by_magnitude(size):
    weight = random(5, 12)
    norms = weight.square().sum(0).unflatten(0, (-1, size)).sum(1)
    assert removal_order(weight, 7.0 * torch.eye(12), size) == norms.argsort().tolist()
    ladder = Ladder.of(weight, 7.0 * torch.eye(12), norms.argsort(descending=True).tolist(), size)
    kept = channels(ladder.kept(2), size)
    torch.testing.assert_close(ladder.weight(2)[:, kept].float(), weight[:, kept])


def tables(seed):
    draw = torch.Generator().manual_seed(seed)
    counts = {0: [0, 1, 2], (0, 0): [0, 8, 16, 20], 1: [0, 1]}
    costs, losses = {}, {}
    for key, row in counts.items():
        costs[key] = [0.0, *torch.rand(len(row) - 1, generator=draw).cumsum(0).tolist()]
        losses[key] = [*torch.rand(len(row) - 1, generator=draw).cumsum(0).flip(0).tolist(), 0.0]
    return Sizes(counts, costs, 0.4), losses


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("keep", [0.3, 0.55, 0.8])
def test_the_first_choice_is_the_best_by_brute_force_and_all_meet_the_target(seed, keep):
    choice, losses = tables(seed)
    target = keep * choice.whole
    everything = [dict(zip(losses, at, strict=True)) for at in product(*(range(len(row)) for row in losses.values()))]
    fits = [chosen for chosen in everything if choice.cost(chosen) <= target]

    def lost(chosen):
        return sum(losses[key][at] for key, at in chosen.items())

    def distance(chosen):
        return float(hash(tuple(chosen.values())) % 97)

    seen = search(choice, keep, losses, distance, 30, torch.Generator().manual_seed(seed))
    if seen[0].chosen != min(fits, key=lost):  # costs are rounded up to a ten thousandth of the budget
        assert lost(seen[0].chosen) <= min(
            lost(chosen) for chosen in fits if choice.cost(chosen) <= target - 3e-4 * target
        )
    assert all(choice.cost(each.chosen) <= target * (1 + 1e-9) for each in seen)
    assert all(each.distance == distance(each.chosen) for each in seen)
    again = search(choice, keep, losses, distance, 10, torch.Generator().manual_seed(seed))
    assert again == seen[: len(again)]  # so more trials are never worse


def test_the_search_finds_the_layer_that_errors_do_not_show():
    """Both places have the same errors; the answers need the second."""
    choice = Sizes({0: [0, 1], 1: [0, 1]}, {0: [0.0, 1.0], 1: [0.0, 1.0]}, 0.0)
    losses = {0: [1.0, 0.0], 1: [0.999, 0.0]}
    seen = search(choice, 0.5, losses, lambda chosen: float(not chosen[1]), 20, torch.Generator().manual_seed(0))
    assert seen[0].chosen == {0: 1, 1: 0}
    assert min(seen, key=lambda each: each.distance).chosen == {0: 0, 1: 1}


def ladders_of(model, damping=0.01):
    found = places(model)
    moments = input_moments(model, [place.reader for place in found.values()], [INPUTS])
    return {key: Ziplm(damping=damping)._ladder(model, place, moments[place.reader]) for key, place in found.items()}


@pytest.mark.parametrize("make", [lambda: tiny(loud=True), factored])
def test_cut_is_stitched_and_errors_are_those_of_the_model(make):
    model = make()
    choice = sizes(model.blueprint, multiply_accumulates(model.blueprint, 7), 4)
    found = ladders_of(model, 1e-4)
    stitched = Stitched(model, {key: ladder for key, (ladder, _) in found.items()}, choice)
    half = {key: len(counts) // 2 for key, counts in choice.counts.items()}
    small = stitched.cut(half)
    torch.testing.assert_close(logits(small), logits(stitched.model), atol=1e-5, rtol=0)
    assert sum(x.numel() for x in small.parameters()) < sum(x.numel() for x in model.parameters())
    # the first place reads what it read before, so its error is what was said, with the damping's part
    key = next(iter(half))
    name, inputs = places(model)[key].reader.removesuffix(".down"), []
    with torch.no_grad(), observing(model, {name: inputs.append}):
        model(**INPUTS)
    hessian = damped(inputs[0].t() @ inputs[0], 1e-4)
    weights = [matrix(side.get_submodule(name)).detach().double() for side in (model, stitched.model)]
    lost, whole = (torch.einsum("oi,ij,oj->", each, hessian, each) for each in (weights[0] - weights[1], weights[0]))
    assert float(lost / whole) == pytest.approx(float(found[key][1][choice.counts[key][half[key]]]), rel=1e-3)


def test_a_factored_map_loses_what_its_product_would():
    model = factored()
    whole = multiplied(model)
    for key, (ladder, errors) in ladders_of(model).items():
        other, same = ladders_of(whole)[key]
        assert ladder.order == other.order
        torch.testing.assert_close(errors, same, atol=1e-4, rtol=1e-3)


def test_the_budget_is_met_in_multiply_accumulates():
    model, ctx = mixed(shapes=((6, 96), (5, 60), (2, 8))), context()
    for keep in (0.8, 0.4, 0.1):
        small = Ziplm(keep=keep, budget="macs", **OPTIONS).attach(model, ctx)
        counted = [sum(each.blueprint.macs(7)[part] for part in ("attention_in", "attention", "attention_out", "ffn"))
                   for each in (model, small)]  # fmt: skip
        assert counted[1] <= keep * counted[0]
        assert counted[1] == pytest.approx(ctx.notes["ziplm"]["predicted_macs"])
        assert counted[0] == ctx.notes["ziplm"]["whole_macs"]


def test_the_predicted_latency_meets_the_target():
    ctx = context()
    small = Ziplm(keep=0.6, **OPTIONS).attach(tiny(loud=True), ctx)
    told = ctx.notes["ziplm"]
    assert told["predicted_ms"] <= 0.6 * told["whole_ms"]
    assert len(told["distances"]) >= 1
    assert ctx.notes["latencies"]
    assert logits(small).isfinite().all()


def test_it_is_nearer_than_slicing_the_same_units():
    model = tiny(loud=True)
    choice = sizes(model.blueprint, multiply_accumulates(model.blueprint, 7), 4)
    found = {key: ladder for key, (ladder, _) in ladders_of(model).items()}
    half = {key: len(counts) // 2 for key, counts in choice.counts.items()}
    solved = logits(Stitched(model, found, choice).cut(half))
    sliced = tiny(loud=True)
    for key, place in places(sliced).items():
        kept = channels(found[key].kept(choice.counts[key][half[key]]), place.size)
        weight = sliced.get_parameter(f"{place.reader}.weight").data
        weight[:, [i for i in range(weight.shape[1]) if i not in kept]] = 0
    apart = [(each - logits(model)).square().sum() for each in (solved, logits(sliced))]
    assert apart[0] < apart[1]


def test_everything_kept_reproduces_the_model_bit_for_bit():
    model = tiny(loud=True)
    assert torch.equal(logits(Ziplm.noop().attach(model, context())), logits(model))


def test_shared_layers_are_refused():
    with pytest.raises(RecipeError, match="prune/ziplm: layers that share weights cannot have widths of their own"):
        Ziplm().attach(albert_like(), context())
