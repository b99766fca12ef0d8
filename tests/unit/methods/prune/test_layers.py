"""Index sets, bit-equal copies, an identity layer goes first by contribution."""

import pytest
import torch

from bertpress.encoder.blueprint import HeadSpec, uniform
from bertpress.encoder.depth import kept_layers
from bertpress.encoder.model import build_model
from bertpress.errors import RecipeError
from bertpress.methods.base import Context
from bertpress.methods.prune.layers import Layers, layer_similarity, least_contributing
from bertpress.tasks import resolve

TASK = resolve("sst2")


@pytest.mark.parametrize(
    ("strategy", "drop", "kept"),
    [
        ("top", 4, [0, 1, 2, 3, 4, 5, 6, 7]),
        ("top", 6, [0, 1, 2, 3, 4, 5]),
        ("bottom", 4, [4, 5, 6, 7, 8, 9, 10, 11]),
        ("bottom", 6, [6, 7, 8, 9, 10, 11]),
        ("alternate_odd", 4, [0, 1, 2, 3, 5, 7, 9, 11]),
        ("alternate_odd", 6, [1, 3, 5, 7, 9, 11]),
        ("alternate_even", 4, [0, 1, 2, 3, 4, 6, 8, 10]),
        ("alternate_even", 6, [0, 2, 4, 6, 8, 10]),
        ("symmetric", 4, [0, 1, 2, 3, 8, 9, 10, 11]),
        ("symmetric", 6, [0, 1, 2, 9, 10, 11]),
        ("uniform", 6, [0, 2, 4, 7, 9, 11]),
        ("uniform", 11, [0]),
    ],
)
def test_index_sets_of_twelve_layers(strategy, drop, kept):
    assert kept_layers(strategy, 12, drop) == kept


@pytest.mark.parametrize("strategy", ["top", "bottom", "symmetric", "uniform", "alternate_odd"])
def test_dropping_none_keeps_all_and_all_is_refused(strategy):
    assert kept_layers(strategy, 5, 0) == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match=r"drop=5 must be in \[0, 4\]"):
        kept_layers(strategy, 5, 5)


def model_and_context(depth=4):
    torch.manual_seed(3)
    model = build_model(
        uniform(layers=depth, hidden_size=16, heads=2, ffn=24, vocabulary=50, head=HeadSpec(kind="sequence"))
    )
    batch = {
        "input_ids": torch.randint(5, 50, (6, 7)),
        "attention_mask": (torch.arange(7) < torch.tensor([[7], [5], [3], [7], [1], [6]])).long(),
        "labels": torch.tensor([0, 1, 1, 0, 1, 0]),
    }
    return model, Context(task=TASK, tokenizer=None, seed=0, calibration=lambda *_: [batch])


def make_identity(layer):
    """Residual branches that add nothing: post-norm then leaves normalised vectors as they are."""
    layer.attention.output.weight.data.zero_()
    layer.ffn[0].outer.weight.data.zero_()


def test_an_identity_layer_is_the_first_to_go_by_contribution():
    model, ctx = model_and_context()
    make_identity(model.encoder.layers[2])
    for i in (0, 1, 3):  # make the others do something
        model.encoder.layers[i].ffn[0].outer.weight.data.normal_(std=2)
    cut = Layers(drop=1, strategy="contribution").attach(model, ctx)
    assert len(cut.encoder.layers) == 3
    for mine, source in zip(cut.encoder.layers, (0, 1, 3), strict=True):
        for name, weight in mine.named_parameters():
            assert torch.equal(weight, dict(model.encoder.layers[source].named_parameters())[name])


def test_similarity_ignores_pads():
    model, ctx = model_and_context()
    (batch,) = ctx.batches(1)
    inputs = {key: batch[key] for key in ("input_ids", "attention_mask")}
    hidden = model(**inputs, capture=frozenset({"hidden_states"})).captured["hidden_states"]
    noisy = tuple(torch.where(batch["attention_mask"].bool()[..., None], h, torch.randn_like(h)) for h in hidden)
    a, b = (layer_similarity(states, batch["attention_mask"]) for states in (hidden, noisy))
    torch.testing.assert_close(a, b)


def test_threshold_and_number():
    similarity = torch.tensor([0.5, 0.96, 0.9, 0.99])
    assert least_contributing(similarity, drop=None, threshold=0.95) == [1, 3]
    assert least_contributing(similarity, drop=1, threshold=0.95) == [3]


def test_a_share_is_rounded_and_too_many_are_refused_by_name():
    model, ctx = model_and_context()
    assert len(Layers(drop=0.5).attach(model, ctx).encoder.layers) == 2
    with pytest.raises(RecipeError, match=r"prune/layers: drop=4 must be in \[0, 3\]"):
        Layers(drop=4).attach(model, ctx)
