"""WaLDORf: as many states as tokens, a sixteenth of the attention; any mix of layers."""

import pytest
import torch
from student_teachers import context, teacher

from bertpress.errors import RecipeError
from bertpress.methods.student.hybrid import Hybrid


@torch.no_grad()
@pytest.mark.parametrize("shorten", [1, 3, 4])
def test_every_token_gets_its_scores(shorten):
    model = Hybrid(shorten=shorten, layers=("attention", "convolution")).attach(teacher("span"), context("span"))
    for tokens in range(1, 14):
        out = model(torch.full((2, tokens), 9), capture=frozenset({"hidden_states"}))
        assert out.start_logits.shape == (2, tokens)
        assert {hidden.shape[1] for hidden in out.hidden_states} == {-(-tokens // shorten)}


def test_attention_costs_a_sixteenth():
    short, long = (Hybrid(shorten=count).attach(teacher("span"), context("span")).blueprint for count in (4, 1))
    assert long.macs(256)["attention"] == 16 * short.macs(256)["attention"]
    assert long.macs(256)["mixer"] == 0


def test_layers_are_what_was_asked_for():
    kinds = ("convolution", "attention", "lstm", "attention")
    shape = Hybrid(layers=kinds, hidden_size=24, heads=3, ffn=40).attach(teacher(), context()).blueprint
    assert tuple(layer.mixer.kind if layer.mixer else "attention" for layer in shape.layers) == kinds
    assert [len(layer.attention.heads) for layer in shape.layers] == [0, 3, 0, 3]
    assert {layer.ffn for layer in shape.layers} == {(40,)}
    assert Hybrid().attach(teacher(), context()).blueprint.layers[0].ffn == (128,)


@torch.no_grad()
def test_without_a_layer_it_is_a_bag_of_words():
    model = Hybrid(layers=(), shorten=1, hidden_size=24, dense=40).attach(teacher(), context())
    assert model.blueprint.embeddings.positions == 0
    ids = torch.tensor([[9, 5, 7, 6, 8]])
    torch.testing.assert_close(model(ids).logits, model(ids[:, [2, 0, 4, 1, 3]]).logits)
    assert not torch.allclose(model(ids).logits, model(ids + 1).logits)
    width, head = model.blueprint.embeddings.size, model.blueprint.macs(5)
    assert head["attention"] == head["ffn"] == head["mixer"] == 0
    assert sum(head.values()) == 5 * width * 24 + 24 * 40 + 40 * 2


@torch.no_grad()
def test_the_skip_tells_tokens_of_a_group_apart():
    model = Hybrid().attach(teacher("token"), context("token"))
    for weight in (model.encoder.shortening.up.weight, model.encoder.shortening.up.bias):
        weight.zero_()  # what comes back from the layers is nothing: what entered is left
    ids = torch.tensor([[5, 6, 7, 8, 9, 10]])
    expected = model.encoder.shortening.norm(model.encoder.embeddings(ids, None))
    torch.testing.assert_close(model(ids).last_hidden_state, expected, atol=1e-6, rtol=0)


def test_impossible_shapes_are_refused():
    with pytest.raises(RecipeError, match="student/hybrid: hidden_size=30 must be a multiple of heads=4"):
        Hybrid(hidden_size=30).attach(teacher(), context())
    with pytest.raises(RecipeError, match="student/hybrid: kernel=2 must be odd"):
        Hybrid(kernel=2).attach(teacher(), context())
    with pytest.raises(RecipeError, match="student/hybrid: .*hidden_size=31 must be even"):
        Hybrid(hidden_size=31, layers=("lstm",)).attach(teacher(), context())
