"""Exits in blueprint, counts and surgery."""

import pytest
import torch
from exit_models import shape, texts, tiny

from bertpress.encoder.blueprint import ExitRule, ExitSpec, HeadSpec
from bertpress.encoder.costs import exit_macs
from bertpress.encoder.exit_specs import ExitTable
from bertpress.encoder.surgery import keep_hidden, keep_layers, share

KINDS = ("pooled", "linear", "branch")


def exits_of(model, batch):
    with torch.no_grad():
        return model(**batch)


def counted(model, batch):
    """MACs of one pass by torch's own counter; attention as the two products that it is."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(**batch, capture=frozenset({"attentions"}))
    return counter.get_total_flops() // 2


@pytest.mark.parametrize("kind", KINDS)
def test_weights_and_macs_have_a_closed_form(kind):
    model, one = tiny(kind=kind), {name: each[:1] for name, each in texts().items()}
    counts = model.blueprint.parameters()
    assert sum(counts.values()) == sum(weight.numel() for _, weight in model.unique_weights())
    assert counts["head"] == sum(w.numel() for name, w in model.unique_weights() if "head." in name or ".exit." in name)
    tokens = one["input_ids"].shape[1]
    whole = sum(model.blueprint.macs(tokens).values())
    assert exit_macs(model.blueprint, tokens)[-1] == whole
    if kind == "branch":
        size, hidden, labels = 8, 16, 3
        by_hand = tokens * (size * hidden + 3 * size * size) + 2 * tokens * tokens * size + 2 * size * size
        by_hand += labels * size
        bare = tiny(kind="linear").blueprint
        assert whole - sum(bare.macs(tokens).values()) == 3 * (by_hand - labels * hidden)
    else:  # the counter cannot see into fused attention on a processor
        assert counted(model, one) == whole


@pytest.mark.parametrize("kind", KINDS)
def test_the_exits_of_the_layers_that_stay_stay(kind):
    model, batch = tiny(kind=kind), texts()
    cut = keep_layers(model, [0, 1, 3])
    assert cut.blueprint.exits == (1, 2, 3)
    before, after = exits_of(model, batch).captured["exits"], exits_of(cut, batch).captured["exits"]
    assert all(torch.equal(a, b) for a, b in zip(before[:2], after, strict=True))
    shorter = keep_layers(model, [0, 2])  # the head is behind the last one now
    assert shorter.blueprint.exits == (1, 2)
    assert keep_layers(model, [2]).blueprint.exit is None


def test_bounds_of_another_depth_are_forgotten():
    table = ExitTable(speed=0.5, edges=(), layers=(3,))
    model = tiny(rule=ExitRule(criterion="entropy", tables=(table,)))
    assert keep_layers(model, [0, 1, 2, 3]).blueprint.exit.tables == (table,)
    assert keep_layers(model, [0, 1, 3]).blueprint.exit.tables == ()


SLICES = {
    "pooled": {"dense.weight": (12, 12), "dense.bias": (12,), "classifier.weight": (3, 12)},
    "linear": {"classifier.weight": (3, 12)},
    "branch": {"narrow.weight": (8, 12), "dense.weight": (8, 8)},
}


@pytest.mark.parametrize("kind", KINDS)
def test_hidden_dimensions_of_exits_are_cut_with_the_others(kind):
    model = tiny(kind=kind)
    cut = keep_hidden(model, range(12))
    assert cut.blueprint.total_parameters == sum(weight.numel() for _, weight in cut.unique_weights())
    for name, left in SLICES[kind].items():
        before, after = (each.get_parameter(f"encoder.layers.1.exit.{name}") for each in (model, cut))
        assert torch.equal(after, before[tuple(map(slice, left))])
    assert len(exits_of(cut, texts()).captured["exits"]) == 3


def test_layers_that_share_weights_have_exits_of_their_own():
    model = share(tiny(), {1: 0, 2: 0, 3: 0})
    found = exits_of(model, texts()).captured["exits"]
    assert len(found) == 3
    assert not torch.allclose(found[0], found[1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"exit": None}, "exit must be given where layers have exits, and nowhere else"),
        ({"head": HeadSpec(kind="token")}, "exits answer whole texts"),
        ({"head": HeadSpec(kind="sequence", siamese=True)}, "exits need a state for each token"),
    ],
)
def test_blueprints_that_cannot_be_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        shape().replace(**changes)


def test_the_last_layer_has_the_head():
    layers = shape().layers
    with pytest.raises(ValueError, match=r"layers.3.exit must be null"):
        shape().with_layers((*layers[:-1], layers[0]))
    with pytest.raises(ValueError, match="size=9 must be a multiple of heads=2"):
        ExitSpec(kind="branch", size=9)
