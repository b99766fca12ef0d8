"""Sub-networks: in place they compute what surgery leaves, cost what that costs, and give gradients to their part."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from uneven_models import albert_like, int8, mixed, mpnet_like

from bertpress.encoder.subnetworks import (
    Part,
    count_at,
    cut,
    layers_at,
    obstacle,
    reorder,
    running,
    subnetwork,
)
from bertpress.encoder.surgery import keep_heads, keep_layers, keep_neurons
from bertpress.encoder.transforms import put

IDS = torch.randint(5, 60, (3, 9), generator=torch.Generator().manual_seed(1))
MASK = (torch.arange(9) < torch.tensor([[9], [5], [1]])).long()
ODD = (Part(0, 5, (7,)), Part(1, 0, (64,)), Part(2, 3, (0,)))


def bert():
    return mixed(shapes=((12, 96), (12, 64), (12, 32)))


def logits(model):
    with torch.no_grad():
        return model(IDS, MASK).logits


def shuffled(model, seed=0):
    draw = torch.Generator().manual_seed(seed)
    layers = list(enumerate(model.blueprint.layers))
    heads = {i: torch.randperm(len(layer.attention.heads), generator=draw).tolist() for i, layer in layers}
    return heads, {(i, 0): torch.randperm(layer.ffn[0], generator=draw).tolist() for i, layer in layers}


def test_layers_that_stay():
    assert layers_at(0.5, 12) == [0, 2, 4, 6, 8, 10]
    assert layers_at(0.75, 12) == [0, 1, 2, 4, 5, 6, 8, 9, 10]
    assert layers_at(0.5, 6) == [0, 2, 4]
    assert layers_at(1.0, 7) == list(range(7))
    assert layers_at(0.01, 3) == [0]
    for layers in range(1, 26):
        for percent in range(1, 101):
            kept = layers_at(percent / 100, layers)
            assert kept == sorted(set(kept))
            assert kept[-1] < layers


def test_shares_are_rounded_and_leave_at_least_one():
    assert [count_at(share, 12) for share in (0.25, 0.5, 0.75, 1.0)] == [3, 6, 9, 12]
    assert (count_at(0.01, 12), count_at(0.5, 0)) == (1, 0)
    assert subnetwork(bert().blueprint, width=0.25, depth=0.5) == (Part(0, 3, (24,)), Part(2, 3, (8,)))


@pytest.mark.parametrize("make", [bert, mpnet_like])
@pytest.mark.parametrize(("width", "depth"), [(0.25, 1.0), (0.5, 0.5), (1.0, 0.5), (1.0, 1.0)])
def test_in_place_is_what_surgery_leaves(make, width, depth):
    model = make()
    parts = subnetwork(model.blueprint, width=width, depth=depth)
    slow = keep_layers(model, [part.layer for part in parts])
    slow = keep_heads(slow, {i: range(part.heads) for i, part in enumerate(parts)})
    slow = keep_neurons(slow, {(i, 0): range(part.ffn[0]) for i, part in enumerate(parts)})
    whole = logits(model)
    with running(model, parts):
        inside = logits(model)
    torch.testing.assert_close(inside, logits(slow), atol=1e-5, rtol=0)
    alone = cut(model, parts)
    assert alone.blueprint == slow.blueprint
    assert all(torch.equal(a, b) for a, b in zip(alone.parameters(), slow.parameters(), strict=True))
    assert torch.equal(logits(model), whole)  # outside of the block the model is what it was
    if width == depth == 1:
        assert torch.equal(inside, whole)


def test_sub_units_without_heads_or_neurons_keep_bias_and_norm():
    model = bert()
    with running(model, ODD):
        inside = logits(model)
    torch.testing.assert_close(inside, logits(cut(model, ODD)), atol=1e-5, rtol=0)


def test_in_place_costs_what_the_cut_model_costs():
    model = bert()

    def flops(model):
        with FlopCounterMode(display=False) as counter:
            model(IDS, MASK)
        return counter.get_total_flops()

    with running(model, ODD):
        inside = flops(model)
    assert inside == flops(cut(model, ODD)) < 0.5 * flops(model)


def test_gradients_are_those_of_the_cut_model_and_reach_nothing_else():
    model, parts = bert(), (Part(0, 3, (24,)), Part(2, 12, (8,)))
    alone = cut(model, parts)
    with running(model, parts):
        model(IDS, MASK).logits.square().sum().backward()
    alone(IDS, MASK).logits.square().sum().backward()
    mine, theirs = dict(model.named_parameters()), dict(alone.named_parameters())
    for new, part in enumerate(parts):
        for name, weight in alone.encoder.layers[new].named_parameters():
            whole = mine[f"encoder.layers.{part.layer}.{name}"].grad
            block = tuple(map(slice, weight.shape))
            torch.testing.assert_close(whole[block], theirs[f"encoder.layers.{new}.{name}"].grad)
            rest = whole.clone()
            rest[block] = 0
            assert not rest.any()
    assert all(weight.grad is None for name, weight in mine.items() if ".layers.1." in name)


def test_dropout_follows_the_model_and_transforms_are_seen():
    model, parts = bert(), subnetwork(bert().blueprint, width=0.5)

    class Double(torch.nn.Module):
        def forward(self, weight):
            return 2 * weight

    with running(model, parts):
        plain = logits(model)
        put(model, "encoder.layers.0.ffn.0.inner.weight", Double())
        doubled = logits(model)
        model.train()
        assert not torch.equal(logits(model), logits(model))
        model.eval()
        assert torch.equal(logits(model), doubled)
    assert not torch.allclose(plain, doubled)
    torch.nn.utils.parametrize.remove_parametrizations(model.encoder.layers[0].ffn[0].inner, "weight")
    torch.testing.assert_close(logits(cut(model, parts)), doubled)


def test_blocks_end_with_errors_too():
    model = bert()
    whole = logits(model)
    with pytest.raises(KeyError), running(model, ODD):
        raise KeyError
    assert torch.equal(logits(model), whole)


@pytest.mark.parametrize("make", [bert, mpnet_like, mixed])
def test_reordering_changes_no_output(make):
    model = make()
    heads, neurons = shuffled(model)
    after = reorder(model, heads, neurons)
    torch.testing.assert_close(logits(after), logits(model), atol=1e-5, rtol=0)
    for i, layer in enumerate(after.encoder.layers):
        if heads[i]:
            size = layer.spec.attention.head_size
            first = model.encoder.layers[i].attention.query.bias[heads[i][0] * size :][:size]
            assert torch.equal(layer.attention.query.bias[:size], first)
        assert list(layer.spec.attention.heads) == sorted(layer.spec.attention.heads)


def test_the_relative_bias_follows_its_heads():
    """What is left of a reordered model is what is left of the original when the same heads are kept there."""
    model = mpnet_like()
    heads, neurons = shuffled(model, seed=3)
    after = reorder(model, heads, neurons)
    assert after.blueprint.relative.heads == 12 + 5
    assert after.blueprint.total_parameters == sum(weight.numel() for _, weight in after.unique_weights())
    kept = {i: [model.blueprint.layers[i].attention.heads[j] for j in order[:2]] for i, order in heads.items()}
    expected = keep_heads(model, kept)
    found = cut(after, tuple(Part(i, 2, layer.ffn) for i, layer in enumerate(after.blueprint.layers)))
    torch.testing.assert_close(logits(found), logits(expected), atol=1e-5, rtol=0)
    again = reorder(after, *shuffled(after, seed=4))
    torch.testing.assert_close(logits(again), logits(model), atol=1e-5, rtol=0)


def test_orders_must_be_permutations():
    with pytest.raises(ValueError, match="heads of layer 1: the order must name each of 12 once"):
        reorder(bert(), {1: [0, 0, *range(2, 12)]}, {})
    with pytest.raises(ValueError, match="neurons of layer 0: the order must name each of 96 once"):
        reorder(bert(), {}, {(0, 0): [0]})


def test_what_cannot_be_narrowed_says_why():
    assert obstacle(bert().blueprint) is None
    assert obstacle(albert_like().blueprint) == "layers that share weights cannot have widths of their own"
    assert obstacle(int8(bert()).blueprint) == "activations that are quantized cannot be narrowed"
    with pytest.raises(ValueError, match="share weights"), running(albert_like(), ()):
        pass
