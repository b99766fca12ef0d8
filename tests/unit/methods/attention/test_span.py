"""Spans are trained apart and clamped, the penalty is their mean; what is left is a band that computes the same."""

import math

import pytest
import torch
from short_training import batch, context, tiny, train

from bertpress.encoder.pattern_specs import SpanSpec
from bertpress.methods.attention.span import Clamp, LearnedSpans, Span, band, mean_span
from bertpress.methods.transform import bake
from bertpress.training import TrainSettings
from bertpress.training.optimizer import make_groups

INPUTS = {name: batch()[name] for name in ("input_ids", "attention_mask")}


def logits(model):
    model.eval()
    with torch.no_grad():
        return model(**INPUTS).logits


def loud():
    """Weights large enough for attention to matter."""
    model = tiny(layers=2)
    for weight in model.encoder.layers.parameters():
        weight.data += 0.5 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(weight.numel()))
    return model


def learned(model):
    return [module for module in model.modules() if isinstance(module, LearnedSpans)]


def test_it_begins_as_full_attention():
    model = Span().attach(tiny(), context())
    torch.testing.assert_close(logits(model), logits(tiny()), atol=1e-6, rtol=0)
    assert [spans.spans.tolist() for spans in learned(model)] == [[128.0, 128.0]]


def test_the_penalty_is_the_mean_span_in_tokens():
    layers = [LearnedSpans(2, 3.0, 1.0), LearnedSpans(1, 9.0, 1.0)]
    assert mean_span(layers).item() == pytest.approx(5)
    ctx = context()
    Span(penalty=0.5).attach(tiny(), ctx)
    (term,) = Span(penalty=0.5).objectives(ctx)
    assert term.weight * term.value().item() == pytest.approx(64)
    assert Span(penalty=0).objectives(ctx) == []


def test_spans_have_a_learning_rate_of_their_own_and_no_decay():
    model = Span(span_learning_rate=0.7).attach(tiny(), context())
    (group,) = [group for group in make_groups([model], TrainSettings()) if group["lr"] == 0.7]
    assert group["weight_decay"] == 0
    assert group["params"] == [spans.spans for spans in learned(model)]


def test_spans_stay_within_bounds():
    spans = LearnedSpans(3, 0.0, 1.0)
    spans.spans.data = torch.tensor([-2.0, 5.0, 900.0])
    Clamp([spans], 128).on_optimizer_step(None, None, None)
    assert spans.spans.tolist() == [0, 5, 128]


def test_what_nothing_holds_up_falls_and_what_nothing_pulls_stays():
    down = train(tiny(), Span(penalty=1.0, span_learning_rate=5.0, ramp=2), context(), 4)
    spans = down.encoder.layers[0].attention.pattern.span
    torch.testing.assert_close(spans, torch.full((2,), 128.0 - 4 * 5), atol=0.01, rtol=0)  # AdamW: 5 tokens an update
    still = train(tiny(), Span.noop(), context(), 2)
    assert still.encoder.layers[0].attention.pattern.span.tolist() == [128, 128]


def test_bands_by_hand():
    assert band(torch.tensor([3.0, 1.0]), 4) == 6  # at 7 the mask is 0
    assert band(torch.tensor([2.5]), 4) == 6
    assert band(torch.tensor([0.0]), 1) == 0


def test_finished_it_computes_what_was_trained_and_no_more():
    ctx = context()
    method = Span(ramp=2)
    model = method.attach(loud(), ctx)
    for spans, values in zip(learned(model), ([0.0, 1.5], [2.0, 0.4]), strict=True):
        spans.spans.data = torch.tensor(values)
    expected = logits(model)
    bake(model)
    made = method.finish(model, ctx)
    torch.testing.assert_close(logits(made), expected, atol=1e-6, rtol=0)
    assert not torch.allclose(expected, logits(loud()), atol=1e-3)
    patterns = [layer.attention.pattern for layer in made.blueprint.layers]
    assert [each.band for each in patterns] == [math.ceil(1.5 + 2) - 1, 3]
    assert all(isinstance(each, SpanSpec) for each in patterns)
    assert not learned(made)
    assert made.blueprint.total_parameters == tiny(layers=2).blueprint.total_parameters  # spans are no weights
