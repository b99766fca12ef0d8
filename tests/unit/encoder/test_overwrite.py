"""Results that take in what follows: the same numbers, and nothing overwritten that somebody may still read."""

import pytest
import torch
from torch import nn

from bertpress.encoder.blueprint import HeadSpec, uniform
from bertpress.encoder.model import build_model
from bertpress.encoder.overwrite import ACTIVATIONS, IN_PLACE, activate, close


def made(seed=0):
    torch.manual_seed(seed)
    return build_model(uniform(layers=2, hidden_size=16, heads=2, ffn=32, vocabulary=40, head=HeadSpec(kind="span")))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_both_forms_of_an_activation_agree_bit_for_bit(name):
    x = torch.linspace(-4, 4, 97)
    assert torch.equal(IN_PLACE[name](x.clone()), ACTIVATIONS[name](x))


def test_memory_is_used_again_in_inference_alone():
    linear, x = nn.Linear(4, 4), torch.randn(2, 3, 4)
    with torch.no_grad():
        y = linear(x)
        assert close(y, x, linear).data_ptr() == y.data_ptr()
        assert activate("gelu", y, linear).data_ptr() == y.data_ptr()
    y = linear(x)
    assert close(y, x, linear).data_ptr() != y.data_ptr()
    assert activate("gelu", y, linear).data_ptr() != y.data_ptr()


def test_a_bias_that_broadcasts_and_another_dtype_are_left_alone():
    linear, x, bias = nn.Linear(4, 4), torch.randn(2, 3, 4), torch.ones(4)
    with torch.no_grad():
        assert torch.equal(close(bias, x, linear), x + 1)
        assert torch.equal(bias, torch.ones(4))
        half = torch.ones(2, 3, 4, dtype=torch.bfloat16)
        assert close(half, x, linear).dtype == torch.float32


def test_inference_gives_the_numbers_of_training_mode_bit_for_bit():
    model, ids = made(), torch.randint(5, 40, (3, 7))
    with torch.no_grad():
        inferred = model(ids).logits
    assert torch.equal(inferred, model(ids).logits.detach())


def test_what_a_hook_keeps_stays_as_it_was():
    model, ids = made(), torch.randint(5, 40, (3, 7))
    kept, copies = [], []

    def keep(_module, _inputs, output):
        kept.append(output)
        copies.append(output.clone())

    for layer in model.encoder.layers:
        for module in (layer.attention.output, layer.ffn[0].inner, layer.ffn[0].outer):
            module.register_forward_hook(keep)
    with torch.no_grad():
        model(ids)
    assert len(kept) == 6
    assert all(torch.equal(a, b) for a, b in zip(kept, copies, strict=True))
