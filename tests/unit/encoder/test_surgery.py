"""Surgery against masking: a cut model computes what the whole one computes with the cut parts zeroed."""

from __future__ import annotations

import pytest
import torch

from bertpress.encoder.blueprint import BottleneckSpec, HeadSpec, RelativeSpec, uniform
from bertpress.encoder.layers import FeedForward
from bertpress.encoder.model import build_model
from bertpress.encoder.surgery import keep_heads, keep_hidden, keep_layers, keep_neurons, share

IDS = torch.randint(5, 90, (3, 11), generator=torch.Generator().manual_seed(1))
MASK = (torch.arange(11) < torch.tensor([[11], [7], [1]])).long()


def tiny(layers=3, *, labels=4, kind="sequence", **changes):
    torch.manual_seed(0)
    blueprint = uniform(
        layers=layers, hidden_size=24, heads=4, ffn=20, vocabulary=90, head=HeadSpec(kind=kind, labels=labels)
    )
    model = build_model(blueprint.replace(**changes))
    for _, weight in model.unique_weights():
        weight.data += 0.1 * torch.randn_like(weight)  # biases and norms away from their neutral values
    return model


def logits(model):
    with torch.no_grad():
        return model(IDS, MASK).logits


def same(a, b, tolerance=1e-5):
    torch.testing.assert_close(a, b, atol=tolerance, rtol=0)


@pytest.mark.parametrize("kept", [(0, 2), (3,), (), (0, 1, 2, 3)])
def test_keep_heads_equals_zeroed_heads(kept):
    model = tiny()
    cut = keep_heads(model, {1: kept})
    removed = set(range(4)) - set(kept)
    before = model.blueprint.total_parameters
    expected = before - len(removed) * (4 * 24 * 6 + 3 * 6)
    assert cut.blueprint.total_parameters == expected == sum(w.numel() for _, w in cut.unique_weights())
    masked = tiny()
    for head in removed:
        masked.encoder.layers[1].attention.output.weight.data[:, head * 6 : head * 6 + 6] = 0
    same(logits(cut), logits(masked))
    same(logits(model), logits(tiny()))  # the model handed in stays as it was


def test_relative_bias_follows_head_ids():
    model = tiny(relative=RelativeSpec(heads=4))
    masked = tiny(relative=RelativeSpec(heads=4))
    masked.encoder.layers[0].attention.output.weight.data[:, :12] = 0
    same(logits(keep_heads(model, {0: (2, 3)})), logits(masked))


def test_heads_can_be_cut_twice():
    once = keep_heads(tiny(), {0: (1, 3)})
    same(logits(keep_heads(once, {0: (3,)})), logits(keep_heads(tiny(), {0: (3,)})))


@pytest.mark.parametrize("kept", [(0, 5, 19), (), tuple(range(20))])
def test_keep_neurons_equals_zeroed_neurons(kept):
    model, masked = tiny(), tiny()
    removed = sorted(set(range(20)) - set(kept))
    masked.encoder.layers[2].ffn[0].outer.weight.data[:, removed] = 0
    cut = keep_neurons(model, {(2, 0): kept})
    assert cut.blueprint.layers[2].ffn == (len(kept),)
    same(logits(cut), logits(masked))


def test_keep_layers_copies_them_bit_for_bit():
    model = tiny(4)
    cut = keep_layers(model, [0, 3])
    assert [layer.origin for layer in cut.blueprint.layers] == [0, 3]
    assert [layer.origin for layer in keep_layers(cut, [1]).blueprint.layers] == [3]
    state = model.state_dict()
    for name, tensor in cut.state_dict().items():
        assert torch.equal(tensor, state[name.replace("layers.1.", "layers.3.")])


@pytest.mark.parametrize("unit", ["all", "attention", "ffn"])
def test_shared_layers_store_once_and_compute_like_copies(unit):
    model = tiny()
    shared = share(model, {1: 0, 2: 0}, unit=unit)
    assert sum(w.numel() for _, w in shared.unique_weights()) == shared.blueprint.total_parameters
    copies = tiny()
    for layer in copies.encoder.layers[1:]:
        if unit != "ffn":
            layer.attention.load_state_dict(copies.encoder.layers[0].attention.state_dict())
        if unit != "attention":
            layer.ffn.load_state_dict(copies.encoder.layers[0].ffn.state_dict())
    same(logits(shared), logits(copies))
    first = share(model, {1: 0}, unit=unit)
    same(logits(keep_layers(first, [1, 2])), logits(keep_layers(copies_of(unit), [1, 2])))


def copies_of(unit):
    model = tiny()
    owner, heir = model.encoder.layers[0], model.encoder.layers[1]
    if unit != "ffn":
        heir.attention.load_state_dict(owner.attention.state_dict())
    if unit != "attention":
        heir.ffn.load_state_dict(owner.ffn.state_dict())
    return model


def test_share_mean_is_the_mean():
    model = tiny(2)
    shared = share(model, {1: 0}, unit="ffn", start="mean")
    a, b = (layer.ffn[0].inner.weight for layer in model.encoder.layers)
    assert torch.equal(shared.encoder.layers[0].ffn[0].inner.weight, torch.stack([a, b]).mean(0))


@pytest.mark.parametrize("kind", ["sequence", "token", "span", "masked_lm", "embedding"])
def test_keep_hidden_equals_a_masked_norm(kind):
    """With dead dimensions zeroed wherever they are written, and norms over the live ones, the outputs agree."""
    model, kept = tiny(kind=kind), [i for i in range(24) if i % 3]
    cut = keep_hidden(model, kept)
    assert cut.blueprint.hidden_size == 16
    assert sum(w.numel() for _, w in cut.unique_weights()) == cut.blueprint.total_parameters
    gate = torch.zeros(24)
    gate[kept] = 1

    class LiveNorm(torch.nn.Module):
        def __init__(self, norm):
            super().__init__()
            self.norm = norm

        def forward(self, x):
            live = x[..., kept]
            y = torch.zeros_like(x)
            y[..., kept] = torch.nn.functional.layer_norm(live, (len(kept),), eps=self.norm.eps)
            return (y * self.norm.weight + self.norm.bias) * gate

    for module in list(model.modules()):
        if isinstance(module, torch.nn.LayerNorm):
            continue
        for name, child in list(module.named_children()):
            if isinstance(child, torch.nn.LayerNorm):
                setattr(module, name, LiveNorm(child))
    if kind == "sequence":
        model.head.dense.weight.data *= gate[:, None]
        model.head.dense.bias.data *= gate
    with torch.no_grad():
        full = model(IDS, MASK).logits
    same(logits(cut), full[..., kept] if kind == "embedding" else full)


def test_hidden_cut_through_a_bottleneck():
    model = tiny()
    neck = BottleneckSpec(size=24)
    layers = tuple(layer.model_copy(update={"bottleneck": neck}) for layer in model.blueprint.layers)
    torch.manual_seed(0)
    whole = build_model(tiny().blueprint.replace(layers=layers))
    cut = keep_hidden(whole, range(10))
    assert sum(w.numel() for _, w in cut.unique_weights()) == cut.blueprint.total_parameters
    assert logits(cut).shape == logits(whole).shape


@pytest.mark.parametrize(
    ("cut", "message"),
    [
        (lambda m: keep_heads(m, {0: (9,)}), r"layer 0: heads=\[9\] must be among \(0, 1, 2, 3\)"),
        (lambda m: keep_heads(m, {7: (0,)}), r"layer=7 must be in \[0, 2\]"),
        (lambda m: keep_neurons(m, {(0, 1): (0,)}), r"network=1 must be in \[0, 0\]"),
        (lambda m: keep_neurons(m, {(0, 0): (20,)}), r"neurons must be in \[0, 19\]"),
        (lambda m: keep_layers(m, []), "at least one"),
        (lambda m: keep_layers(m, [2, 1]), "must be increasing"),
        (lambda m: keep_hidden(m, [24]), r"must be in \[0, 23\]"),
        (lambda m: share(m, {0: 1}), "must be an earlier layer"),
    ],
)
def test_impossible_cuts_are_named(cut, message):
    with pytest.raises(ValueError, match=message):
        cut(tiny())


def test_cut_model_saves_and_reloads(tmp_path):
    model = keep_neurons(keep_heads(tiny(), {0: (), 1: (2,)}), {(0, 0): (), (2, 0): (1, 2, 3)})
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    assert again.blueprint == model.blueprint
    assert torch.equal(logits(again), logits(model))
    assert isinstance(again.encoder.layers[0].ffn[0], FeedForward)
