"""Exact shares, the largest stay, nested masks, equal shares or one threshold, zeros that stay zero."""

import pytest
import torch
from short_training import context, tiny, train

from bertpress.methods.masks import mask_of
from bertpress.methods.prune.magnitude import Magnitude


def sizes(model, names):
    return torch.cat([model.get_parameter(name).detach().abs().flatten() for name in names])


@pytest.mark.parametrize("keep", [0.9, 0.37, 0.05])
def test_once_the_largest_of_each_matrix_stay(keep):
    model, method = tiny(2), Magnitude(keep=keep)
    made = method.finish(model, context())
    for name in method.weights(model):
        before, after = model.get_parameter(name).detach(), made.get_parameter(name).detach()
        count = round(keep * before.numel())
        assert int((after != 0).sum()) == count
        order = before.abs().flatten().argsort(descending=True)[:count]
        expected = torch.zeros(before.numel())
        expected[order] = before.flatten()[order]
        assert torch.equal(after.flatten(), expected)
    untouched = {name for name, weight in model.unique_weights() if torch.equal(weight, made.get_parameter(name))}
    assert untouched == {name for name, _ in model.unique_weights()} - {*method.weights(model)}


def test_shares_are_exact_whatever_the_ties():
    model, method = tiny(), Magnitude(keep=0.3)
    for name in method.weights(model):
        model.get_parameter(name).data.sign_()
    made = method.finish(model, context())
    for name in method.weights(model):
        assert int((made.get_parameter(name) != 0).sum()) == round(0.3 * model.get_parameter(name).numel())


def test_one_threshold_for_all_and_a_floor():
    model = tiny()
    names = Magnitude().weights(model)
    model.get_parameter(names[0]).data.mul_(1e-3)
    made = Magnitude(keep=0.5, scope="global", floor=0.0).finish(model, context())
    kept = torch.cat([(made.get_parameter(name) != 0).flatten() for name in names])
    before = sizes(model, names)
    assert int(kept.sum()) == round(0.5 * len(before))
    assert float(before[kept].min()) > float(before[~kept].max())
    assert not made.get_parameter(names[0]).any()
    floored = Magnitude(keep=0.5, scope="global", floor=0.1).finish(model, context())
    assert int((floored.get_parameter(names[0]) != 0).sum()) == round(0.1 * 256)
    assert sum(int((floored.get_parameter(name) != 0).sum()) for name in names) == round(0.5 * len(before))


def test_more_pruning_keeps_a_part_of_what_less_keeps():
    model, method = tiny(), Magnitude()
    method.attach(model, context())
    before = {name: torch.ones_like(mask_of(model, name).kept) for name in method.weights(model)}
    for keep in (0.8, 0.5, 0.21):
        method.prune(model, keep)
        for name, kept in before.items():
            now = mask_of(model, name).kept
            assert int(now.sum()) == round(keep * now.numel())
            assert not (now & ~kept).any()
            before[name] = now.clone()


def test_while_training_masked_weights_are_zero_and_the_last_masks_stay():
    method = Magnitude(keep=0.25, begin=0.2, end=0.6, every=2, tables=["word"])
    model, history = tiny(), []

    def look(step, model):
        masks = {name: mask_of(model, name).kept.clone() for name in method.weights(model)}
        history.append(masks)
        for name, kept in masks.items():
            owner, _, attribute = name.rpartition(".")
            assert not getattr(model.get_submodule(owner), attribute)[~kept].any()

    start = {name: weight.detach().clone() for name, weight in model.unique_weights()}
    made = train(model, method, context(), 20, look)
    shares = [float(masks["head.dense.weight"].float().mean()) for masks in history]
    assert shares[:4] == [1.0] * 4
    assert shares[4:13] == sorted(shares[4:13], reverse=True)
    assert shares[12:] == [0.25] * 8
    for name in method.weights(made):
        assert all(torch.equal(masks[name], history[12][name]) for masks in history[12:])
        weight = made.get_parameter(name)
        assert torch.equal(weight != 0, history[-1][name])
        assert not torch.equal(weight[weight != 0], start[name][weight != 0]), "the others are trained"


def test_what_an_earlier_stage_pruned_stays_gone():
    model = tiny()
    once = Magnitude(keep=0.4).finish(model, context())
    zero = once.get_parameter("head.dense.weight") == 0
    made = train(once, Magnitude(keep=0.8, begin=0.0, end=0.0), context(), 5)
    assert torch.equal(made.get_parameter("head.dense.weight") == 0, zero)


def test_training_that_kept_dense_weights_is_pruned_in_the_end():
    made = train(tiny(), Magnitude(keep=0.5, begin=1.0, end=1.0), context(), 2)
    assert int((made.get_parameter("head.dense.weight") != 0).sum()) == 128


def test_keeping_all_reproduces_the_model():
    model = tiny()
    made = Magnitude.noop().finish(model, context())
    assert all(torch.equal(weight, made.get_parameter(name)) for name, weight in model.unique_weights())
