"""Models whose layers all differ, and other shapes that exporters meet."""

import torch

from bertpress.encoder.blueprint import AttentionSpec, Blueprint, EmbeddingSpec, HeadSpec, LayerSpec, RelativeSpec
from bertpress.encoder.model import build_model
from bertpress.export.parity import probes
from bertpress.methods.base import Context
from bertpress.methods.quantize.fixed_point import FixedPoint
from bertpress.methods.quantize.int8 import Int8
from bertpress.methods.transform import bake

MIXED = ((12, 1536), (5, 700), (1, 64), (0, 0))


def mixed(kind="sequence", hidden=48, head_size=4, shapes=MIXED, **changes):
    """A model whose layers all differ."""
    torch.manual_seed(0)
    layers = tuple(
        LayerSpec(
            attention=AttentionSpec(heads=tuple(range(heads)), head_size=head_size, value_size=head_size), ffn=(ffn,)
        )
        for heads, ffn in shapes
    )
    head = HeadSpec(kind=kind, labels=3, activation="gelu" if kind == "masked_lm" else "tanh")
    embeddings = EmbeddingSpec(vocabulary=60, size=hidden, positions=64)
    fields = {"hidden_size": hidden, "embeddings": embeddings, "layers": layers, "head": head, **changes}
    model = build_model(Blueprint(**fields))
    for weight in model.parameters():
        weight.data += 0.05 * torch.randn_like(weight)
    return model


def mpnet_like(kind="sequence"):
    embeddings = EmbeddingSpec(vocabulary=60, size=48, positions=64, segments=0, first_position=2, pad_id=1)
    relative = RelativeSpec(buckets=32, max_distance=128, heads=12)
    return mixed(kind, shapes=((12, 96), (5, 32)), embeddings=embeddings, relative=relative)


def albert_like():
    model = mixed(shapes=((4, 96),))
    first = model.blueprint.layers[0]
    shared = first.model_copy(update={"attention_from": 0, "ffn_from": 0})
    return mixed(layers=(first, shared, shared))


def context(model):
    batches = probes(model, seed=1)
    return Context(task=None, tokenizer=None, seed=0, calibration=lambda *_: batches)


def int8(model, **options):
    return Int8(**options).finish(model, context(model))


def few_bits(model, activation_bits):
    """Weights of 8 bits; the operands of every product, attention maps and values among them, of fewer."""
    method, ctx = FixedPoint(widths=[8], average_bits=8, activation_bits=activation_bits), context(model)
    model = method.attach(model, ctx)
    bake(model)
    return method.finish(model, ctx)
