"""Models with factored matrices, and the same models with the products multiplied out."""

import torch
from uneven_models import mixed

from bertpress.encoder.blueprint import AttentionRanks
from bertpress.encoder.factors import Factored, matrix
from bertpress.encoder.surgery import factorize, rebuild

SHAPES = ((12, 96), (5, 64), (2, 32))


def factored(model=None, ranks=lambda layer, part: 5 + layer + 2 * len(part) % 3, seed=0):
    """The model with random factors in every matrix of its layers, away from those of any decomposition."""
    model = mixed(shapes=SHAPES) if model is None else model
    draw = torch.Generator().manual_seed(seed)
    factors = {}
    for i, layer in enumerate(model.encoder.layers):
        for part, linear in layer.maps():
            (outputs, inputs), rank = matrix(linear).shape, ranks(i, part)
            up = torch.randn(outputs, rank, generator=draw) / rank**0.5
            factors[i, part] = up, torch.randn(rank, inputs, generator=draw) / inputs**0.5
    return factorize(model, factors)


def multiplied(model):
    """The model with whole matrices that computes the same."""
    state = dict(model.state_dict())
    for name, module in model.named_modules():
        if isinstance(module, Factored):
            state = {key: value for key, value in state.items() if not key.startswith(f"{name}.")}
            state |= {f"{name}.weight": matrix(module).detach(), f"{name}.bias": module.up.bias.detach()}
    layers = tuple(
        layer.model_copy(
            update={"ffn_ranks": (), "attention": layer.attention.model_copy(update={"ranks": AttentionRanks()})}
        )
        for layer in model.blueprint.layers
    )
    return rebuild(model, model.blueprint.replace(layers=layers), state)
