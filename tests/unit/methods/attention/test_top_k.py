"""The model equals one whose maps are made by sorting; exactly k keys stay."""

import torch
from patterned_models import BATCH, full, logits
from short_training import context
from tiny_patterns import answers_with

from bertpress.methods.attention.top_k import TopK


def by_sorting(scores, k=4):
    """Row by row: the k best, exponentials, their sum."""
    maps = torch.zeros_like(scores)
    flat, out = scores.flatten(0, -2), maps.flatten(0, -2)
    for row, values in enumerate(flat):
        best = values.sort(descending=True).indices[:k]
        weights = (values[best] - values[best[0]]).exp()
        out[row, best] = weights / weights.sum()
    return maps


def test_it_equals_maps_made_by_sorting():
    model = TopK(k=4).attach(full(), context())
    torch.testing.assert_close(logits(model), answers_with(full(), BATCH, by_sorting), atol=1e-5, rtol=0)


def test_exactly_k_keys_stay():
    model = TopK(k=3).attach(full(), context())
    with torch.no_grad():
        maps = model(**BATCH, capture=frozenset({"attentions"})).captured["attentions"]
    for row, length in enumerate(BATCH["attention_mask"].sum(1).tolist()):
        assert ((maps[1][row, :, :length] > 0).sum(-1) == min(3, length)).all()
        assert not maps[1][row, ..., length:].any()


def test_it_trains_through_what_stays():
    model = TopK(k=3).attach(full(), context())
    model(**BATCH).logits.sum().backward()
    assert all(weight.grad.isfinite().all() for weight in model.encoder.layers.parameters())
