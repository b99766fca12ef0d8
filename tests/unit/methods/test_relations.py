"""Relations by hand on two tokens, cut into other heads, with pads; the divergence of two of them."""

import math

import pytest
import torch
from teaching import context, padded, step_of, tiny

from bertpress.encoder.surgery import keep_heads
from bertpress.errors import RecipeError
from bertpress.methods.relations import (
    Relations,
    attention_of,
    log_maps,
    log_relations,
    regroup,
    relation_heads,
    relation_kl,
)  # fmt: skip


def test_relations_by_hand():
    vectors = torch.tensor([[[[1.0, 0.0, 0.0, 1.0], [0.0, 2.0, 0.0, 0.0]]]])  # X X^T = [[2, 0], [0, 4]], size 4
    found = log_relations(vectors, torch.ones(1, 2)).exp()
    first, second = math.e / (math.e + 1), math.e**2 / (math.e**2 + 1)
    torch.testing.assert_close(found[0, 0], torch.tensor([[first, 1 - first], [1 - second, second]]))


def test_divergence_by_hand():
    student = torch.tensor([[[[0.5, 0.5], [0.5, 0.5]], [[0.75, 0.25], [0.25, 0.75]]]]).log()
    teacher = torch.tensor([[[[0.75, 0.25], [0.5, 0.5]], [[0.75, 0.25], [0.25, 0.75]]]]).log()
    one = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    mask = torch.ones(1, 2)
    assert relation_kl(student=student, teacher=teacher, mask=mask).item() == pytest.approx(one / 4)
    other = 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)
    assert relation_kl(student=teacher, teacher=student, mask=mask).item() == pytest.approx(other / 4)
    first = torch.tensor([[1, 0]])
    assert relation_kl(student=student, teacher=teacher, mask=first).item() == pytest.approx(one / 2)


def test_rows_sum_to_one_over_the_real_tokens():
    torch.manual_seed(0)
    mask = torch.tensor([[1, 1, 1], [1, 1, 0]])
    found = log_relations(torch.randn(2, 4, 3, 8), mask)
    torch.testing.assert_close(found.exp().sum(-1), torch.ones(2, 4, 3))
    assert found.isfinite().all()
    assert not found[1].exp()[..., 2].any()
    alone = log_relations(torch.randn(2, 4, 3, 8)[1:, :, :2], torch.ones(1, 2))
    assert alone.exp().sum(-1).allclose(torch.ones(1, 4, 2))


def test_scores_at_the_end_of_the_floats_leave_no_trace():
    low = torch.finfo(torch.float32).min
    scores = torch.tensor([[[[1.0, 2.0, low], [0.0, 0.0, low], [3.0, 1.0, low]]]])
    found = log_maps(scores, torch.tensor([[1, 1, 0]])).exp()
    torch.testing.assert_close(found[..., :2], scores[..., :2].softmax(-1))
    assert relation_kl(student=found.log().clamp(min=-1e4), teacher=log_maps(scores, torch.tensor([[1, 1, 0]])),
                       mask=torch.tensor([[1, 1, 0]])).abs() < 1e-6  # fmt: skip


def test_heads_are_cut_anew_from_neighbouring_numbers():
    vectors = torch.arange(12.0).reshape(1, 2, 1, 6)  # two heads of one token: 0..5 and 6..11
    assert regroup(vectors, 2).equal(vectors)
    assert regroup(vectors, 4).tolist() == [[[[0, 1, 2]], [[3, 4, 5]], [[6, 7, 8]], [[9, 10, 11]]]]
    assert regroup(vectors, 1).flatten().tolist() == list(range(12))


def test_how_many_heads():
    assert relation_heads(None, 768, 768) == 48
    assert relation_heads(None, 384, 192) == 48
    assert relation_heads(None, 32, 48) == 16
    assert relation_heads(64, 1024, 768) == 64
    with pytest.raises(ValueError, match="relation_heads=48 must divide the widths 768, 312"):
        relation_heads(48, 768, 312)


@pytest.mark.parametrize("what", ["queries", "keys", "values"])
def test_each_reads_its_own_tensor(what):
    teacher, student, batch = tiny(1), tiny(0), padded(2)
    term, ctx = Relations(what, 1, 2), context(teacher)
    value = term(step_of([term], student, ctx, batch))
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    own, target = (side(**inputs, capture=frozenset({what})).captured[what][-1] for side in (student, teacher))
    mask, expected = batch["attention_mask"], 0.0
    for row, count in enumerate(mask.sum(1).tolist()):
        maps = [(x[row, :, :count] @ x[row, :, :count].mT / 8**0.5).softmax(-1) for x in (own, target)]
        expected += (maps[1] * (maps[1] / maps[0]).log()).sum(-1).mean(0).sum()
    torch.testing.assert_close(value, expected / 8)


def test_a_layer_without_heads_is_refused():
    with pytest.raises(RecipeError, match="distill/x: layer 2 of 2 has no heads left and must have some"):
        attention_of(keep_heads(tiny(), {1: []}), -1, "distill/x")
