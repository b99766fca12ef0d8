"""Transforms stack, bake once, and say how the result is stored."""

import pytest
import torch
from torch import nn

from bertpress.artifact.codecs import on_grid, spec_of
from bertpress.encoder.blueprint import uniform
from bertpress.encoder.grids import fake_quantize, symmetric_grid
from bertpress.encoder.model import build_model
from bertpress.encoder.transforms import put, transformed, transforms
from bertpress.methods.transform import WeightTransform, bake

NAME = "encoder.layers.0.attention.query.weight"


class Mask(nn.Module):
    def forward(self, weight):
        return weight * (weight.abs() > 0.01)


class Rounded(WeightTransform):
    def forward(self, weight):
        return fake_quantize(weight, symmetric_grid(weight, 4, (1, 0)))

    def stored(self, weight, before):
        assert before is None
        return on_grid(symmetric_grid(weight, 4, (1, 0)))


@pytest.fixture
def model():
    torch.manual_seed(0)
    return build_model(uniform(layers=1, hidden_size=16, heads=2, ffn=24, vocabulary=30))


def test_they_stack_train_and_bake(model):
    before = model.get_parameter(NAME).detach().clone()
    for transform in (Mask(), Rounded()):
        put(model, NAME, transform)
    assert list(transformed(model)) == [NAME]
    assert [type(item) for item in transforms(model, NAME)] == [Mask, Rounded]
    ids = torch.tensor([[1, 2, 3]])
    expected = model(ids).last_hidden_state
    expected.square().sum().backward()
    trained = model.encoder.layers[0].attention.query.parametrizations.weight.original
    assert torch.equal(trained, before)
    assert trained.grad is not None
    assert not trained.grad[before.abs() <= 0.01].any()
    bake(model)
    assert not list(transformed(model))
    assert torch.equal(model(ids).last_hidden_state, expected)
    weight = model.get_parameter(NAME).detach()
    assert (weight[before.abs() <= 0.01] == 0).all()  # zeros stay zero after quantization
    assert weight.unique(dim=None).numel() < before.unique().numel()
    stored = model.storage[NAME]
    assert torch.equal(stored.decode(stored.encode(weight), spec_of(weight)), weight)


def test_an_unknown_weight_is_refused(model):
    with pytest.raises(ValueError, match=r"query\.gone: no such weight"):
        put(model, NAME.replace("weight", "gone"), Mask())
