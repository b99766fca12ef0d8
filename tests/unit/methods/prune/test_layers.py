"""Index sets, bit-equal copies, an identity layer goes first by contribution."""

import pytest
import torch

from bertpress.encoder.blueprint import HeadSpec, uniform
from bertpress.encoder.depth import kept_layers
from bertpress.encoder.model import build_model
from bertpress.encoder.surgery import keep_layers
from bertpress.errors import RecipeError
from bertpress.methods.base import Context
from bertpress.methods.prune.layers import Layers, greedily, layer_similarity, least_contributing
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
        ("groups", 6, [1, 3, 5, 7, 9, 11]),
        ("groups", 4, [0, 2, 3, 5, 6, 8, 9, 11]),
        ("groups", 11, [11]),
    ],
)
def test_index_sets_of_twelve_layers(strategy, drop, kept):
    assert kept_layers(strategy, 12, drop) == kept


@pytest.mark.parametrize("strategy", ["top", "bottom", "symmetric", "uniform", "groups", "alternate_odd"])
def test_dropping_none_keeps_all_and_all_is_refused(strategy):
    assert kept_layers(strategy, 5, 0) == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match=r"drop=5 must be in \[0, 4\]"):
        kept_layers(strategy, 5, 5)


def model_and_context(depth=4, kind="sequence"):
    torch.manual_seed(3)
    model = build_model(uniform(layers=depth, hidden_size=16, heads=2, ffn=24, vocabulary=50, head=HeadSpec(kind=kind)))
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
    assert same_layers(cut, model, [0, 1, 3])


def test_one_goes_at_a_time_and_each_is_the_one_that_is_least_missed():
    """Layers 0 and 3 do the same: each can go, not both; one at a time sees that, a look at each alone does not."""
    missing = {0: 1, 1: 3, 2: 2, 3: 1}

    def change(kept):
        gone = set(range(4)) - set(kept)
        return sum(missing[layer] for layer in gone) + 9 * (gone >= {0, 3})

    assert greedily(4, 1, change) == [1, 2, 3]
    assert greedily(4, 2, change) == [1, 3]
    assert greedily(4, 0, change) == [0, 1, 2, 3]


@pytest.mark.parametrize("kind", ["sequence", "token", "span", "embedding"])
def test_greedy_against_all_models_of_one_layer_less(kind):
    """An identity layer is never missed; behind it, the cut whose answers are nearest of all."""
    model, ctx = model_and_context(kind=kind)
    for i in (0, 1, 3):
        model.encoder.layers[i].ffn[0].outer.weight.data.normal_(std=0.3 + i)
    make_identity(model.encoder.layers[2])
    (batch,) = ctx.batches(1)
    inputs = {key: batch[key] for key in ("input_ids", "attention_mask")}
    real = batch["attention_mask"].bool()

    def distance(kept):
        with torch.no_grad():
            before, after = (each.eval()(**inputs).logits for each in (model, keep_layers(model, kept)))
        if kind == "embedding":
            return (after - before).square().mean().item()
        if kind == "span":  # start and end, over the real tokens of each text
            before, after = (each.masked_fill(~real[..., None], -1e4).mT.flatten(0, 1) for each in (before, after))
        if kind == "token":
            before, after = before[real], after[real]
        p, q = before.log_softmax(-1), after.log_softmax(-1)
        return (p.exp() * (p - q)).sum(-1).mean().item()

    one, two = (Layers(drop=drop, strategy="greedy").attach(model, ctx) for drop in (1, 2))
    assert same_layers(one, model, [0, 1, 3])
    nearest = min(([1, 3], [0, 3], [0, 1]), key=distance)
    assert same_layers(two, model, nearest)
    with pytest.raises(RecipeError, match=r"prune/layers: drop=4 must be in \[0, 3\]"):
        Layers(drop=4, strategy="greedy").attach(model, ctx)


def same_layers(cut, model, kept):
    return len(cut.encoder.layers) == len(kept) and all(
        torch.equal(weight, dict(model.encoder.layers[source].named_parameters())[name])
        for mine, source in zip(cut.encoder.layers, kept, strict=True)
        for name, weight in mine.named_parameters()
    )


def test_greedy_needs_a_task():
    model, ctx = model_and_context(kind="masked_lm")
    with pytest.raises(RecipeError, match="strategy=greedy needs a model with the head of a task"):
        Layers(drop=1, strategy="greedy").attach(model, ctx)


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
