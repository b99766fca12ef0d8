"""The model equals one whose scores outside of the window are masked; layers are chosen; refusals."""

import pytest
import torch
from patterned_models import BATCH, full, logits
from short_training import context
from tiny_patterns import masked_by_hand

from bertpress.encoder.blueprint import NO_HEADS, ConvolutionSpec, LayerSpec, RelativeSpec
from bertpress.encoder.model import build_model
from bertpress.encoder.surgery import share
from bertpress.errors import RecipeError
from bertpress.methods.attention.local import Local
from bertpress.methods.attention.top_k import TopK

CTX = context()


@pytest.mark.parametrize("window", [0, 3, 20])
def test_within_the_window_as_dense_attention_with_a_mask(window):
    near = (torch.arange(70)[:, None] - torch.arange(70)).abs() <= window
    near[0] = near[:, 0] = True
    model = Local(window=window).attach(full(), CTX)
    torch.testing.assert_close(logits(model), masked_by_hand(full(), BATCH, near), atol=1e-5, rtol=0)


def test_a_token_beyond_the_window_changes_nothing():
    model = Local(window=2).attach(full(), CTX)
    one, other = BATCH["input_ids"][:1], BATCH["input_ids"][:1].clone()
    other[0, 40] = (other[0, 40] + 1) % 45 + 5
    with torch.no_grad():
        states = [model(ids, capture=frozenset({"hidden_states"})).captured["hidden_states"][1] for ids in (one, other)]
    changed = (states[0] != states[1]).any(-1)[0].nonzero().flatten().tolist()
    assert changed == [0, 38, 39, 40, 41, 42]  # the first sees all; after one layer, two either side


def test_only_chosen_layers_get_the_window():
    model = Local(window=2, layers=(1,)).attach(full(), CTX)
    assert [layer.attention.pattern is None for layer in model.blueprint.layers] == [True, False]


def test_layers_that_share_weights_get_it_together():
    shared = share(full(), {1: 0})
    assert len({layer.attention for layer in Local().attach(shared, CTX).blueprint.layers}) == 1
    with pytest.raises(RecipeError, match=r"attention/local: layers.1.attention must have the shape of layer 0"):
        Local(layers=(0,)).attach(shared, CTX)


def test_what_cannot_be_is_told_in_a_line():
    with pytest.raises(RecipeError, match=r"attention/local: layers=\[5\] must be among .* heads, \[0, 1\]"):
        Local(layers=(0, 5)).attach(full(), CTX)
    with pytest.raises(RecipeError, match="attention/local: layer 0 has the pattern top_k already"):
        Local().attach(TopK().attach(full(), CTX), CTX)
    convolution = LayerSpec(attention=NO_HEADS, mixer=ConvolutionSpec(kind="convolution"), ffn=())
    with pytest.raises(RecipeError, match="attention/local: the model has no layers with attention"):
        Local().attach(build_model(full().blueprint.with_layers((convolution,))), CTX)
    biased = build_model(full().blueprint.replace(relative=RelativeSpec(heads=4)))
    with pytest.raises(RecipeError, match="attention/local: layers.0.attention.pattern=local cannot take the relative"):
        Local().attach(biased, CTX)
    assert TopK().attach(biased, CTX).blueprint.relative
