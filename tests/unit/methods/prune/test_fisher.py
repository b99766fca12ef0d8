"""Masks of the paper's loop, swaps by brute force, factors by another library; what folds is what was masked."""

from itertools import combinations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from factored_models import factored
from tiny_task import BATCH, INPUTS, TASK, context, logits, tiny
from uneven_models import albert_like, mixed

from bertpress.errors import RecipeError
from bertpress.methods.budgets import cut, gates, places
from bertpress.methods.prune.fisher import Fisher, Sums, best, corrections, factors, losses, rearranged, tune
from bertpress.training.importance import task_gradients

CTX = context()
SMALL = {"multiple_of": 4, "tokens": 7}


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_gradients_are_those_of_masks_example_by_example():
    model, step = tiny(loud=True).double(), 1e-6
    found = task_gradients(model, TASK, gates(model), [BATCH])
    assert found[0].shape == (6, 4)
    for key, unit in ((1, 2), ((2, 0), 5)):
        place = places(model)[key]
        weight = model.get_parameter(f"{place.reader}.weight").data
        channels, sides = slice(unit * place.size, (unit + 1) * place.size), []
        whole = weight[:, channels].clone()
        for factor in (1 + step, 1 - step):
            weight[:, channels] = whole * factor
            sides.append(F.cross_entropy(logits(model), BATCH["labels"], reduction="none"))
        weight[:, channels] = whole
        expected = (sides[0] - sides[1]) / (2 * step)
        torch.testing.assert_close(found[key][:, unit].double(), expected, atol=1e-5, rtol=1e-3)


def test_what_is_lost_by_hand():
    fisher = torch.tensor([4.0, 1.0, 2.0, 1.0])
    assert losses(fisher, [0, 1, 2, 4]) == [4.0, 2.0, 1.0, 0.0]
    assert best(fisher, 3) == [0, 1, 2]


def by_the_papers_loop(model, fisher, keep):
    """For each number of heads in all, the neurons that the rest of the budget pays for; the best of these."""
    heads = sorted(((float(x), key, i) for key in fisher if isinstance(key, int) for i, x in enumerate(fisher[key])))
    neurons = sorted(
        ((float(x), key, i) for key in fisher if isinstance(key, tuple) for i, x in enumerate(fisher[key]))
    )

    def macs(count_heads, count_neurons):
        first = model.blueprint.layers[0].attention
        per_head = 7 * 16 * 2 * (first.head_size + first.value_size) + 49 * (first.head_size + first.value_size)
        return count_heads * per_head + count_neurons * 7 * 2 * 16

    budget, found = keep * macs(len(heads), len(neurons)), []
    for h in range(len(heads) + 1):
        n = max((n for n in range(len(neurons) + 1) if macs(h, n) <= budget), default=None)
        if n is not None:
            kept = heads[len(heads) - h :] + neurons[len(neurons) - n :]
            found.append((sum(each[0] for each in kept), {each[1:] for each in kept}))
    return max(found, key=lambda each: each[0])[1]


@pytest.mark.parametrize("keep", [0.85, 0.6, 0.4, 0.15])
def test_where_layers_are_alike_the_masks_are_those_of_the_papers_loop(keep):
    model = tiny(loud=True)
    gradients = task_gradients(model, TASK, gates(model), [BATCH])
    expected = by_the_papers_loop(model, {key: value.square().mean(0) for key, value in gradients.items()}, keep)
    method = Fisher(keep=keep, multiple_of=1, tokens=7, rearrange=False, tune="none")
    kept = {key: [i for other, i in expected if other == key] for key in gradients}
    assert torch.equal(logits(method.attach(model, CTX)), logits(cut(model, kept)))


def layers_macs(blueprint):
    counted = blueprint.macs(7)
    return sum(counted[part] for part in ("attention_in", "attention", "attention_out", "ffn"))


@pytest.mark.parametrize("keep", [0.9, 0.5, 0.3, 0.05])
@pytest.mark.parametrize("make", [lambda: tiny(loud=True), lambda: mixed(shapes=((6, 96), (5, 60), (2, 8))), factored])
def test_the_budget_is_kept_and_no_further_unit_would_fit(make, keep):
    model = make()
    budget = keep * layers_macs(model.blueprint)
    small = Fisher(keep=keep, **SMALL).attach(model, CTX)
    assert layers_macs(small.blueprint) <= budget
    for key, place in places(model).items():
        layer = small.blueprint.layers[key if isinstance(key, int) else key[0]]
        left = len(layer.attention.heads) if isinstance(key, int) else layer.ffn[key[1]]
        more = 1 if isinstance(key, int) else 4
        assert left == place.units or left % more == 0
        if left < place.units:
            kept = {other: range(_left(small, other)) for other in places(model)}
            kept[key] = range(min(place.units, left + more))
            assert layers_macs(cut(model, kept).blueprint) > budget


def _left(small, key):
    if isinstance(key, int):
        return len(small.blueprint.layers[key].attention.heads)
    return small.blueprint.layers[key[0]].ffn[key[1]]


def joint(gradients, kept):
    gone = [i for i in range(gradients.shape[1]) if i not in kept]
    return float(gradients[:, gone].sum(1).square().sum())


@pytest.mark.parametrize("seed", range(6))
def test_swaps_never_cost_and_end_where_no_swap_pays(seed):
    gradients = random(20, 7, seed=seed) @ random(7, 7, seed=seed + 50)  # units that act together
    start = best(gradients.square().mean(0), 4)
    found = rearranged(gradients, start)
    assert len(found) == 4
    assert joint(gradients, found) <= joint(gradients, start) * (1 + 1e-6)
    swaps = [set(found) - {a} | {b} for a in found for b in range(7) if b not in found]
    assert all(joint(gradients, found) <= joint(gradients, swap) * (1 + 1e-4) for swap in swaps)


def test_twins_that_cancel_go_together():
    """Each of the first two units counts most; together they count nothing."""
    one = random(30, 1)
    gradients = torch.cat([one, -one, 0.8 * random(30, 1, seed=1)], 1)
    start = best(gradients.square().mean(0), 1)
    assert start == [0]
    found = rearranged(gradients, start)
    assert found == [2]
    assert joint(gradients, found) == min(joint(gradients, kept) for kept in combinations(range(3), 1)) == 0
    assert rearranged(gradients, []) == []
    assert rearranged(gradients, range(3)) == [0, 1, 2]


@pytest.mark.parametrize("size", [1, 3])
def test_factors_are_those_of_numpys_least_squares(size):
    x, weight, lack = random(50, 12), random(5, 12, seed=1), random(50, 5, seed=2)
    found = factors(x.t() @ x, x.t() @ lack, weight, size, 1e-9)
    columns = [
        (x[:, g : g + size] @ weight[:, g : g + size].t()).flatten().double().numpy() for g in range(0, 12, size)
    ]
    expected = np.linalg.lstsq(np.stack(columns, 1), lack.flatten().double().numpy(), rcond=None)[0]
    np.testing.assert_allclose(found.numpy() - 1, expected, rtol=1e-4, atol=1e-6)
    damped = factors(x.t() @ x, x.t() @ lack, weight, size, 1e9)
    torch.testing.assert_close(damped, torch.ones_like(damped), atol=1e-6, rtol=0)
    assert torch.equal(factors(torch.zeros(12, 12), torch.zeros(12, 5), weight, size, 0.1), torch.ones(12 // size))


def test_corrections_are_those_of_numpys_least_squares():
    x, lack = random(50, 12) + 3, random(50, 5, seed=2) - 1
    weight, bias = corrections(Sums.of(x[:20], lack[:20]).plus(Sums.of(x[20:], lack[20:])), 1e-12)
    design = torch.cat([x, torch.ones(50, 1)], 1).double().numpy()
    expected = np.linalg.lstsq(design, lack.double().numpy(), rcond=None)[0]
    np.testing.assert_allclose(torch.cat([weight.t(), bias[None]]).numpy(), expected, rtol=1e-3, atol=1e-5)
    weight, bias = corrections(Sums.of(x, lack), 1e9)
    torch.testing.assert_close(weight, torch.zeros_like(weight), atol=1e-6, rtol=0)
    torch.testing.assert_close(bias, lack.mean(0).double(), atol=1e-5, rtol=0)
    nothing = corrections(Sums.of(x, torch.zeros(50, 5)), 1e-3)
    assert not any(part.any() for part in nothing)


def errors(model, target):
    """Squared differences of what enters each norm behind units, over real tokens."""
    found = []
    for side in (model, target):
        seen = {}
        hooks = [
            side.get_submodule(place.norm).register_forward_pre_hook(
                lambda _, args, key=key, seen=seen: seen.__setitem__(key, args[0][BATCH["attention_mask"].bool()])
            )
            for key, place in places(side).items()
        ]
        logits(side)
        for hook in hooks:
            hook.remove()
        found.append(seen)
    return {key: float((found[0][key] - found[1][key]).square().sum()) for key in found[0]}


@pytest.mark.parametrize("make", [lambda: tiny(loud=True), factored])
def test_tuning_a_layer_never_increases_its_error(make):
    model = make()
    small = cut(model, {key: range(0, place.units, 2) for key, place in places(model).items()})
    before = errors(small, model)
    weights = {name: weight.clone() for name, weight in small.named_parameters()}
    assert tune(small, model, [INPUTS], 1e-3) == 3
    changed = {name for name, weight in small.named_parameters() if not torch.equal(weight, weights[name])}
    readers = {key: f"{place.reader}.weight" for key, place in places(small).items()}
    assert changed == set(readers.values()) - {readers[0]}  # heads of the first layer get no factors
    key = (0, 0)  # what lies below it has not changed, so its error is that of its own factors
    assert errors(small, model)[key] < before[key]
    # the second layer's, on what the first gives now: undo its factors, one place after the other
    for key in (1, (1, 0)):
        tuned, now = small.get_parameter(readers[key]).data, errors(small, model)[key]
        kept = tuned.clone()
        tuned.copy_(weights[readers[key]])
        assert now <= errors(small, model)[key]
        tuned.copy_(kept)


def test_whole_weights_come_closer_than_factors_do():
    """The first place is fitted to what never changes below it, so more freedom can only help there."""
    model, left = tiny(loud=True), {}
    for whole in (False, True):
        small = cut(model, {key: range(0, place.units, 2) for key, place in places(model).items()})
        assert tune(small, model, [INPUTS], 1e-3, whole=whole) == 3
        left[whole] = errors(small, model)
    assert left[True][0, 0] < left[False][0, 0]
    assert left[True][0] < 0.5 * left[False][0]  # heads of the first layer, which get no factors


def test_whole_weights_need_whole_matrices():
    with pytest.raises(RecipeError, match=r"prune/fisher: tune=weights needs whole matrices, and encoder\.layers\.\d"):
        Fisher(tune="weights", **SMALL).attach(factored(), CTX)


def test_folded_is_masked():
    model = tiny(loud=True)
    small = cut(model, {key: range(0, place.units, 2) for key, place in places(model).items()})
    before = {name: weight.clone() for name, weight in small.named_parameters()}
    tune(small, model, [INPUTS], 1e-3)
    masked = tiny(loud=True)
    for key, place in places(small).items():
        name = f"{place.reader}.weight"
        mask = torch.zeros(places(model)[key].units)
        sides = small.get_parameter(name).detach(), before[name].detach()
        now, then = (weight.unflatten(1, (-1, place.size)) for weight in sides)
        mask[::2] = (now * then).sum((0, 2)) / then.square().sum((0, 2))
        slot, size = gates(masked)[key]
        channels = mask.repeat_interleave(size)
        slot.register_forward_hook(lambda _m, _i, x, channels=channels: x * channels)
    torch.testing.assert_close(logits(small), logits(masked), atol=1e-5, rtol=0)


def test_it_ends_below_a_layer_whose_factors_explode():
    model = tiny(loud=True)
    small = cut(model, {key: range(0, place.units, 2) for key, place in places(model).items()})
    small.encoder.layers[1].ffn[0].outer.weight.data *= 1e-4  # factors of thousands would mend that
    before = {name: weight.clone() for name, weight in small.named_parameters()}
    assert tune(small, model, [INPUTS], 1e-9) == 1
    changed = {name for name, weight in small.named_parameters() if not torch.equal(weight, before[name])}
    assert "encoder.layers.0.ffn.0.outer.weight" in changed
    assert "encoder.layers.1.ffn.0.outer.weight" not in changed
    assert not any(".layers.2." in name for name in changed)


def test_everything_kept_reproduces_the_model_bit_for_bit():
    model = tiny(loud=True)
    assert torch.equal(logits(Fisher.noop().attach(model, CTX)), logits(model))


def test_tuned_is_closer_than_cut_alone_and_better_than_chance():
    model = tiny(loud=True)
    ctx = context()
    found = {
        tuned: float((logits(Fisher(keep=0.5, tune=tuned, **SMALL).attach(model, ctx)) - logits(model)).square().sum())
        for tuned in ("none", "factors", "weights")
    }
    assert found["weights"] < found["factors"] < found["none"]
    assert {len(entry["kept"]) for entry in ctx.notes["heads"]} == {4}
    assert {entry["layer"] for entry in ctx.notes["neurons"]} == {0, 1, 2}


def test_shared_layers_and_impossible_budgets_are_refused():
    words = "prune/fisher: layers that share weights cannot have widths of their own"
    with pytest.raises(RecipeError, match=words):
        Fisher().attach(albert_like(), CTX)
    with pytest.raises(RecipeError, match=r"prune/fisher: keep=0.001 must be at least [\d.]+, what takes no units"):
        Fisher(keep=0.001, budget="latency").attach(tiny(), CTX)
