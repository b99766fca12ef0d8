"""A factored model computes what its multiplied-out twin computes, whatever is cut from both."""

import pytest
import torch
from factored_models import SHAPES, factored, multiplied
from pydantic import ValidationError
from torch.utils.flop_counter import FlopCounterMode
from uneven_models import albert_like, int8, mixed, mpnet_like

from bertpress.encoder.blueprint import AttentionRanks, AttentionSpec, BottleneckSpec, LayerSpec, NetworkRanks
from bertpress.encoder.factors import Factored, make_linear, matrix, reader, writer
from bertpress.encoder.model import build_model
from bertpress.encoder.quantizers import slots
from bertpress.encoder.subnetworks import Part, cut, reorder, running
from bertpress.encoder.surgery import (
    factorize,
    keep_head_width,
    keep_heads,
    keep_hidden,
    keep_layers,
    keep_neurons,
    share,
)

IDS = torch.randint(5, 60, (3, 9), generator=torch.Generator().manual_seed(1))
MASK = (torch.arange(9) < torch.tensor([[9], [5], [1]])).long()


def logits(model):
    with torch.no_grad():
        return model(IDS, MASK).logits


def same(a, b):
    torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


def bottlenecks(source):
    attention = AttentionSpec(heads=tuple(range(4)), head_size=4, value_size=4)
    neck = BottleneckSpec(size=16, attention_input=source)
    return mixed(layers=(LayerSpec(attention=attention, ffn=(20, 24), bottleneck=neck),) * 2)


MODELS = {
    "bert": lambda: mixed(shapes=SHAPES),
    "albert": albert_like,
    "mpnet": mpnet_like,
    "mobilebert": lambda: bottlenecks("shared"),
    "hidden": lambda: bottlenecks("hidden"),
}


@pytest.mark.parametrize("kind", MODELS)
def test_it_computes_its_products_and_counts_its_weights(kind):
    model = factored(MODELS[kind]())
    shape = model.blueprint
    assert any(isinstance(module, Factored) for module in model.modules())
    same(logits(model), logits(multiplied(model)))
    assert shape.total_parameters == sum(weight.numel() for _, weight in model.unique_weights())
    assert shape.total_parameters < multiplied(model).blueprint.total_parameters
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(IDS[:1], capture=frozenset({"attentions"}))
    assert counter.get_total_flops() == 2 * sum(shape.macs(9).values())
    assert hash(shape.layers[0]) == hash(shape.layers[0].model_copy())
    assert type(shape)(**shape.model_dump(mode="json", exclude_defaults=True)) == shape


CUTS = {
    "heads": lambda model: keep_heads(model, {0: (0, 7, 11), 1: (), 2: (1,)}),
    "neurons": lambda model: keep_neurons(model, {(0, 0): (3, 50, 95), (1, 0): ()}),
    "head width": lambda model: keep_head_width(model, {1: (((0, 3),) * 5, ((1,), (2,), (3,), (0,), (1,)))}),
    "layers": lambda model: keep_layers(model, [0, 2]),
    "hidden": lambda model: keep_hidden(model, [i for i in range(48) if i % 3]),
    "order": lambda model: reorder(model, {0: list(range(12))[::-1]}, {(2, 0): list(range(32))[::-1]}),
    "part": lambda model: cut(model, (Part(0, 5, (7,)), Part(1, 0, (64,)), Part(2, 2, (0,)))),
}


@pytest.mark.parametrize("name", CUTS)
def test_a_cut_takes_from_the_factor_that_has_the_units(name):
    model = factored()
    made, expected = CUTS[name](model), CUTS[name](multiplied(model))
    same(logits(made), logits(expected))
    assert not torch.allclose(logits(expected), logits(model), atol=1e-3) or name == "order"
    assert multiplied(made).blueprint == expected.blueprint
    assert made.blueprint.total_parameters == sum(weight.numel() for _, weight in made.unique_weights())


def test_hidden_dimensions_around_bottlenecks():
    for source in ("shared", "hidden", "inner"):
        model = factored(bottlenecks(source))
        same(logits(keep_hidden(model, range(30))), logits(keep_hidden(multiplied(model), range(30))))


def test_a_relative_bias_follows_the_heads():
    model = factored(mpnet_like())
    same(logits(keep_heads(model, {0: (2, 9)})), logits(keep_heads(multiplied(model), {0: (2, 9)})))


def test_what_is_left_of_an_emptied_unit_has_no_ranks():
    layer = keep_neurons(keep_heads(factored(), {0: ()}), {(0, 0): ()}).blueprint.layers[0]
    assert layer.attention.ranks == AttentionRanks()
    assert layer.ffn_ranks == ()


def test_layers_of_the_same_ranks_share():
    model = factored(mixed(shapes=((4, 32),) * 3), ranks=lambda layer, part: 6)
    shared = share(model, {2: 1}, start="mean")
    twin = multiplied(shared)
    same(logits(shared), logits(twin))
    assert shared.blueprint.total_parameters == sum(weight.numel() for _, weight in shared.unique_weights())
    uneven = factored(mixed(shapes=((4, 32),) * 3), ranks=lambda layer, part: 5 + layer)
    with pytest.raises(ValueError, match=r"attention.query.down.weight must have one shape to be shared"):
        share(uneven, {2: 1})


def test_a_part_runs_in_place():
    model, parts = factored(), (Part(0, 5, (7,)), Part(1, 0, (64,)), Part(2, 1, (0,)))
    with running(model, parts):
        same(logits(model), logits(cut(model, parts)))


def test_shared_layers_get_factors_together():
    model = factored(albert_like())
    assert {layer.attention.ranks.query for layer in model.blueprint.layers} == {
        model.blueprint.layers[0].rank("attention.query")
    }
    assert {layer.ffn_ranks for layer in model.blueprint.layers} == {model.blueprint.layers[0].ffn_ranks}
    with pytest.raises(ValueError, match="layer=1 shares its attention weights with layer 0"):
        factorize(model, {(1, "attention.query"): (torch.ones(16, 2), torch.ones(2, 48))})


def test_whole_and_factored_maps_answer_alike():
    whole, product = make_linear(6, 4), make_linear(6, 4, 3)
    assert (reader(whole), writer(whole)) == (whole, whole)
    assert (reader(product), writer(product)) == (product.down, product.up)
    assert product.down.bias is None
    assert torch.equal(matrix(whole), whole.weight)
    x = torch.randn(2, 6, generator=torch.Generator().manual_seed(0))
    same(product(x), x @ matrix(product).t() + product.up.bias)


def test_factors_may_be_replaced():
    model = factored()
    layer, part = 0, "ffn.0.inner"
    up, down = torch.randn(96, 3), torch.randn(3, 48)
    again = factorize(model, {(layer, part): (up, down)})
    assert again.blueprint.layers[0].rank(part) == 3
    assert torch.equal(again.encoder.layers[0].ffn[0].inner.up.bias, model.encoder.layers[0].ffn[0].inner.up.bias)
    assert torch.equal(matrix(again.encoder.layers[0].ffn[0].inner), up @ down)


def test_what_a_hook_keeps_of_a_factor_is_not_overwritten():
    model, kept = factored(), []
    for linear in (model.encoder.layers[0].attention.output, model.encoder.layers[0].ffn[0].inner):
        linear.up.register_forward_hook(lambda *call: kept.append((call[2], call[2].clone())))
    logits(model)
    assert len(kept) == 2
    assert all(torch.equal(now, then) for now, then in kept)


def test_a_slot_lies_between_the_factors():
    model = factored()
    names = {name for name in slots(model) if name.endswith(("query.slot", "inner.slot"))}
    assert len(names) == 6
    quantized = int8(model)
    state = quantized.state_dict()
    assert all(float(state[f"{name}.quantizer.scale"]) > 0 for name in names)
    same_labels = (logits(quantized).argmax(-1) == logits(model).argmax(-1)).all()
    assert bool(same_labels)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda m: {(0, "attention.wings"): None}, "attention.wings must be one of attention.query, attention.key"),
        (lambda m: {(9, "attention.query"): None}, r"layer=9 must be in \[0, 2\]"),
        (
            lambda m: {(0, "attention.query"): (torch.ones(48, 2), torch.ones(3, 48))},
            r"layer 0: factors \(48, 2\) and \(3, 48\) do not make attention.query, which is \(48, 48\)",
        ),
        (lambda m: {(0, "ffn.0.inner"): (torch.ones(48, 2), torch.ones(2, 48))}, r"do not make ffn.0.inner"),
        (lambda m: {(0, "ffn.0.inner"): (torch.ones(96, 0), torch.ones(0, 48))}, r"do not make ffn.0.inner"),
    ],
)
def test_factors_that_do_not_fit_are_refused(make, message):
    model = factored()
    blank = (torch.ones(2, 2), torch.ones(2, 2))
    with pytest.raises(ValueError, match=message):
        factorize(model, {key: value or blank for key, value in make(model).items()})


def test_integers_come_after_factors():
    with pytest.raises(ValueError, match="quantized activations cannot be factorized: quantize afterwards"):
        factorize(int8(mixed(shapes=SHAPES)), {})


def test_ranks_need_what_they_are_of():
    with pytest.raises(ValidationError, match="ranks must go with heads"):
        AttentionSpec(heads=(), head_size=4, value_size=4, ranks=AttentionRanks(query=2))
    attention = AttentionSpec(heads=(0,), head_size=4, value_size=4)
    with pytest.raises(ValidationError, match="ffn_ranks must have an entry for each of the 2 networks"):
        LayerSpec(attention=attention, ffn=(4, 4), ffn_ranks=(NetworkRanks(inner=1),))


def test_a_model_of_such_a_shape_can_be_built_afresh():
    shape = factored().blueprint
    assert logits(build_model(shape)).shape == (3, 3)
