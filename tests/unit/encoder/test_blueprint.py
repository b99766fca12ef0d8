"""Closed forms against real modules, against torch's counter, and against BERT-base's published size."""

import pytest
import torch
from pydantic import ValidationError
from torch.utils.flop_counter import FlopCounterMode

from bertpress.encoder.blueprint import (
    AttentionSpec,
    Blueprint,
    BottleneckSpec,
    EmbeddingSpec,
    HeadSpec,
    LayerSpec,
    RelativeSpec,
    uniform,
)
from bertpress.encoder.model import build_model


def odd(head, **changes):
    """Layers that all differ: head counts, widths, two stacked networks, a shared layer, an empty one."""
    attention = AttentionSpec(heads=(0, 2, 5), head_size=4, value_size=6, scale=0.3)
    whole = AttentionSpec(heads=tuple(range(6)), head_size=4, value_size=4)
    layers = (
        LayerSpec(attention=whole, ffn=(30,)),
        LayerSpec(attention=attention, ffn=(7, 9), activation="relu"),
        LayerSpec(attention=attention, ffn=(7, 9), activation="relu", attention_from=1, ffn_from=1),
        LayerSpec(attention=AttentionSpec(heads=(), head_size=4, value_size=4), ffn=(0,)),
    )
    embeddings = EmbeddingSpec(vocabulary=50, size=24, positions=32)
    return Blueprint(**{"hidden_size": 24, "embeddings": embeddings, "layers": layers, "head": head, **changes})


SHAPES = [
    odd(HeadSpec(kind="sequence", labels=3)),
    odd(HeadSpec(kind="sequence", labels=3, dense=False)),
    odd(HeadSpec(kind="token", labels=5)),
    odd(HeadSpec(kind="span")),
    odd(HeadSpec(kind="masked_lm")),
    odd(HeadSpec(kind="embedding")),
    odd(None, relative=RelativeSpec(heads=6)),
    odd(
        HeadSpec(kind="masked_lm"),
        embeddings=EmbeddingSpec(vocabulary=50, size=10, positions=32, segments=0, project="after"),
    ),
    uniform(layers=2, hidden_size=24, heads=4, ffn=8, vocabulary=50, head=HeadSpec(kind="masked_lm")).replace(
        embeddings=EmbeddingSpec(vocabulary=50, size=10, positions=32, window=3, project="tokens", norm="affine"),
        head=HeadSpec(kind="masked_lm", free_decoder=True),
        layers=tuple(
            LayerSpec(
                attention=AttentionSpec(heads=(0, 1), head_size=6, value_size=6),
                ffn=(20, 20),
                norm="affine",
                bottleneck=BottleneckSpec(size=12, attention_input=source),
            )
            for source in ("shared", "hidden", "inner")
        ),
    ),
]


@pytest.mark.parametrize("blueprint", SHAPES)
def test_parameters_and_macs(blueprint):
    model = build_model(blueprint)
    assert sum(weight.numel() for _, weight in model.unique_weights()) == blueprint.total_parameters
    ids = torch.randint(0, 50, (1, 9))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(ids, capture=frozenset({"attentions"}))  # the counter does not see the fused attention kernel
    assert counter.get_total_flops() == 2 * sum(blueprint.macs(9).values())


def test_bert_base():
    shape = uniform(layers=12, hidden_size=768, heads=12, ffn=3072, head=HeadSpec(kind="sequence", labels=0))
    assert shape.total_parameters == 109_482_240
    assert shape.parameters()["embeddings"] == 23_837_184
    assert shape.parameters()["head"] == 590_592
    per_layer = 4 * 768 * 768 + 2 * 768 * 3072
    assert sum(shape.macs(128).values()) == 12 * (128 * per_layer + 2 * 128 * 128 * 768) + 768 * 768


def test_json_round_trip():
    for shape in SHAPES:
        assert Blueprint(**shape.model_dump(mode="json", exclude_defaults=True)) == shape


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_size": 20}, "embeddings.size=24 must be hidden_size=20"),
        ({"hidden_size": 0}, "greater than or equal to 1"),
        ({"relative": RelativeSpec(heads=4)}, "must be below relative.heads=4"),
        ({"wings": 2}, "Extra inputs"),
        ({"dropout": 1.0}, "less than 1"),
    ],
)
def test_bad_shapes_are_refused(change, message):
    with pytest.raises(ValidationError, match=message):
        odd(None).replace(**change)


def test_sharing_must_name_an_earlier_owner_of_the_same_shape():
    layer = uniform(layers=1, hidden_size=8, heads=2, ffn=8).layers[0]
    base = uniform(layers=3, hidden_size=8, heads=2, ffn=8)
    later = layer.model_copy(update={"ffn_from": 2})
    with pytest.raises(ValidationError, match=r"layers.1.ffn_from=2 must be an earlier layer"):
        base.with_layers((layer, later, layer))
    other = layer.model_copy(update={"ffn": (4,), "ffn_from": 0})
    with pytest.raises(ValidationError, match=r"layers.1.ffn must have the shape of layer 0"):
        base.with_layers((layer, other, layer))


@pytest.mark.parametrize("heads", [(1, 0), (0, 0), (-1, 2)])
def test_head_ids_increase(heads):
    with pytest.raises(ValidationError, match="non-negative and strictly increasing"):
        AttentionSpec(heads=heads, head_size=2, value_size=2)
