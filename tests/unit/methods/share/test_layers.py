"""One layer is stored, its gradient is the sum over its uses, equal copies compute the same, arithmetic stays."""

import pytest
import torch
from short_training import batch, context, tiny

from bertpress.encoder.surgery import keep_heads, keep_layers, keep_neurons, rebuild
from bertpress.errors import RecipeError
from bertpress.methods.share.layers import Layers, group_owners
from bertpress.recipe import Recipe

DEPTH = 4
PARTS = {"all": ("attention.", "ffn."), "attention": ("attention.",), "ffn": ("ffn.",)}


def shaken():
    """A model whose layers, norms and biases all differ."""
    model = tiny(DEPTH)
    generator = torch.Generator().manual_seed(2)
    for weight in model.parameters():
        weight.data += 0.1 * torch.randn(weight.shape, generator=generator)
    return model


def shared(model=None, **fields):
    return Layers(**fields).attach(model or shaken(), context())


def copies_of(model):
    """The same function with weights of its own for each layer, which begin equal."""
    state = dict(model.state_dict())
    layers = []
    for i, spec in enumerate(model.blueprint.layers):
        for part, owner in (("attention.", spec.attention_from), ("ffn.", spec.ffn_from)):
            for name in [name for name in state if owner is not None and f"layers.{owner}.{part}" in name]:
                state[name.replace(f"layers.{owner}.", f"layers.{i}.")] = state[name].clone()
        layers.append(spec.model_copy(update={"attention_from": None, "ffn_from": None}))
    return rebuild(model, model.blueprint.with_layers(tuple(layers)), state)


def loss_of(model):
    inputs = batch()
    return model(inputs["input_ids"], inputs["attention_mask"], labels=inputs["labels"]).loss


def test_groups_are_neighbours_and_as_even_as_can_be():
    assert group_owners(6, 1) == dict.fromkeys(range(1, 6), 0)
    assert group_owners(6, 2) == {1: 0, 2: 0, 4: 3, 5: 3}
    assert group_owners(12, 4) == {1: 0, 2: 0, 4: 3, 5: 3, 7: 6, 8: 6, 10: 9, 11: 9}
    assert group_owners(5, 2) == {1: 0, 2: 0, 4: 3}
    assert group_owners(5, 5) == {}


@pytest.mark.parametrize("unit", PARTS)
@pytest.mark.parametrize("groups", [1, 2])
def test_each_group_stores_one(unit, groups):
    """By hand: 4 matrices of 16 x 16, 2 of 24 x 16, their biases, two norms of 16."""
    sizes = {"attention": 4 * (16 * 16 + 16) + 2 * 16, "ffn": 2 * 24 * 16 + 24 + 16 + 2 * 16}
    sizes["all"] = sum(sizes.values())
    model = shared(unit=unit, groups=groups)
    saved = tiny(DEPTH).blueprint.total_parameters - model.blueprint.total_parameters
    assert saved == (DEPTH - groups) * sizes[unit]
    assert sum(weight.numel() for weight in model.state_dict().values()) == model.blueprint.total_parameters


@pytest.mark.parametrize("unit", PARTS)
@pytest.mark.parametrize("groups", [1, 2])
def test_the_gradient_is_the_sum_over_the_uses_and_copies_compute_the_same(unit, groups):
    model = shared(unit=unit, groups=groups)
    copies = copies_of(model)
    losses = loss_of(model), loss_of(copies)
    assert torch.equal(*losses)
    for loss in losses:
        loss.backward()
    apart = {name: weight.grad for name, weight in copies.named_parameters()}
    owners = {i: group_owners(DEPTH, groups).get(i, i) for i in range(DEPTH)}
    for name, weight in model.named_parameters():
        expected = apart[name]
        if ".layers." in name and any(f".{part}" in name for part in PARTS[unit]):
            owner = int(name.split(".")[2])
            users = [i for i, of in owners.items() if of == owner]
            assert len(users) == DEPTH // groups
            expected = sum(apart[name.replace(f".layers.{owner}.", f".layers.{i}.")] for i in users)
        torch.testing.assert_close(weight.grad, expected, atol=1e-6, rtol=1e-5)


def test_as_much_is_computed_as_before():
    assert shared().blueprint.macs(32) == tiny(DEPTH).blueprint.macs(32)


@pytest.mark.parametrize(
    ("start", "weights"), [("first", (1, 0, 0)), (1, (1, 0, 0)), (3, (0, 0, 1)), ("mean", (1, 1, 1))]
)
def test_where_the_shared_weights_begin(start, weights):
    model = keep_layers(shaken(), [0, 1, 2])
    weights = torch.tensor(weights) / sum(weights)
    state = shared(model, start=start).state_dict()
    name = "encoder.layers.{}.ffn.0.norm.weight"
    theirs = torch.stack([model.state_dict()[name.format(i)] for i in range(3)])
    torch.testing.assert_close(state[name.format(0)], weights @ theirs)


def test_as_many_groups_as_layers_share_nothing():
    model = shaken()
    assert shared(model, groups=1.0).blueprint == model.blueprint
    assert shared(model, groups=DEPTH).blueprint == model.blueprint
    assert shared(model, groups=0.5).blueprint == shared(model, groups=2).blueprint


@pytest.mark.parametrize(
    ("fields", "model", "message"),
    [
        ({"groups": 5}, shaken, "share/layers: groups=5 must be at most the teacher's 4"),
        ({"groups": 2, "start": 3}, shaken, "share/layers: layers [0, 1]: start=2 must be in [0, 1]"),
        ({}, shared, "share/layers: layers [1, 2, 3]: share their attention weights already"),
        ({"unit": "ffn"}, lambda: keep_neurons(shaken(), {(1, 0): range(8)}), "share/layers: layers [0, 1, 2, 3]: "
         "ffn.0.inner.weight must have one shape to be shared"),
    ],
)  # fmt: skip
def test_what_cannot_share_is_told(fields, model, message):
    with pytest.raises(RecipeError) as refused:
        shared(model(), **fields)
    assert str(refused.value) == message


def test_other_heads_of_equal_number_are_refused():
    with pytest.raises(RecipeError, match=r"share/layers: .* must have the shape of layer 0, whose weights it uses"):
        shared(keep_heads(shaken(), {0: (0,), 1: (1,), 2: (0,), 3: (0,)}), unit="attention")


def test_what_needs_layers_of_their_own_cannot_follow():
    stages = [{"name": "share", "use": ["share/layers"]}, {"name": "replace", "use": ["prune/theseus"], "train": {}}]
    words = "prune/theseus: cannot follow share/layers, which leaves layers that share weights"
    with pytest.raises(RecipeError, match=words):
        Recipe.parse({"name": "test", "stages": stages}).check()
