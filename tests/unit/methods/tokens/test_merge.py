"""Token merging: rules by hand; that merging keeps the mass is shown with the encoder's own tests."""

import pytest
import torch
from short_training import context
from token_models import kept_by, logits, merge, ruled, texts, tiny

from bertpress.errors import RecipeError
from bertpress.methods.tokens.merge import Merge


def rules_of(method, model=None):
    return [layer.leave for layer in method.finish(model or tiny(), context()).blueprint.layers]


def test_pairs_are_a_number_or_a_share_of_the_text():
    assert rules_of(Merge(pairs=2)) == [merge(pairs=2)] * 3
    assert rules_of(Merge(pairs=0.2)) == [merge(keep=0.8), merge(keep=0.6), merge(keep=0.4)]
    assert rules_of(Merge(pairs=0.2, layers=(0, 2))) == [merge(keep=0.8), None, merge(keep=0.6)]
    assert rules_of(Merge.noop()) == [None] * 3


def test_every_text_merges_its_own_share():
    model, given = Merge(pairs=0.2).finish(tiny(), context()), texts(rows=8)
    lengths = given["attention_mask"].sum(1).tolist()
    there = lengths
    for (weights, _), share in zip(kept_by(model, given), (0.8, 0.6, 0.4), strict=True):
        target = [-(-int(10 * share) * n // 10) for n in lengths]
        there = [min(n, max(wanted, n // 2 + 1)) if n else 0 for n, wanted in zip(there, target, strict=True)]
        assert (weights > 0).sum(1).tolist() == there


def test_larger_tokens_are_looked_at_as_often_as_they_have_tokens_in_them():
    """Two equal tokens that are one, of weight 2, in the layers above."""
    model = tiny(layers=2)
    model.encoder.embeddings.position.weight.data.zero_()
    given = {"input_ids": torch.tensor([[3, 7, 7, 9, 11]])}
    merged = ruled(model, {0: merge(pairs=1)})
    torch.testing.assert_close(logits(merged, given), logits(model, given), atol=1e-5, rtol=1e-5)
    apart = {"input_ids": torch.tensor([[3, 7, 9, 11]])}
    assert (logits(model, apart) - logits(model, given)).abs().max() > 1e-2


def test_refusals_in_a_line():
    with pytest.raises(RecipeError, match=r"tokens/merge: layers=\[7\] must be among those that have heads"):
        rules_of(Merge(layers=(1, 7)))
    with pytest.raises(RecipeError, match="tokens/merge: a head of kind masked_lm reads every token"):
        rules_of(Merge(), tiny(kind="masked_lm"))
    with pytest.raises(RecipeError, match="tokens/merge: tokens leave on the model's way already"):
        rules_of(Merge(), ruled(tiny(), {0: merge(pairs=1)}))
