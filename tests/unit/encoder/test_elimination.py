"""Tokens that leave: what is left answers as if the others were masked, whatever they are padded and batched with."""

import math

import pytest
import torch
from pydantic import ValidationError
from token_models import RULES, kept_by, logits, merge, ruled, texts, threshold, tiny, top

from bertpress.encoder.blueprint import ExitRule, ExitSpec
from bertpress.encoder.elimination import attention_received, foremost, mean_attention, partners, staying
from bertpress.encoder.heads import pool
from bertpress.encoder.passing import through
from bertpress.encoder.slots import Tape
from bertpress.encoder.token_specs import share_of

every_rule = pytest.mark.parametrize("rules", RULES.values(), ids=RULES)


def test_significance_by_hand():
    maps = torch.tensor([[[[0.5, 0.25, 0.25], [0.125, 0.5, 0.375], [0.0, 1.0, 0.0]]]])
    maps = torch.cat([maps, torch.eye(3)[None, None]], dim=1)
    weights = torch.tensor([[1.0, 1.0, 0.0]])  # the third token is a pad, whose query does not count
    assert attention_received(maps, weights, others=True).tolist() == [[0.125, 0.25, 0.625]]
    assert mean_attention(maps, weights).tolist() == [[0.40625, 0.4375, 0.15625]]


def test_the_foremost_keep_their_order_the_first_stays_and_pads_rank_last():
    scores = torch.tensor([[0.0, 3.0, 1.0, 5.0, 2.0], [9.0, 1.0, 2.0, 7.0, 8.0]])
    weights = torch.tensor([[1.0] * 5, [1.0, 1.0, 1.0, 0.0, 0.0]])
    found = foremost(scores, weights, torch.tensor([[3.0], [2.0]]))
    assert found.tolist() == [[0, 1, 3], [0, 2, 5]]
    assert staying(torch.tensor([[True, False, True], [True, False, False]])).tolist() == [[0, 2], [0, 3]]


@pytest.mark.parametrize("share", [0.001, 0.1, 0.3, 0.55, 0.7, 0.999, 1.0])
def test_a_share_is_rounded_up_exactly(share):
    lengths = torch.arange(1, 513)
    exact = [math.ceil(round(share * 1000) * int(n) / 1000 - 1e-9) for n in lengths]
    assert [share_of(share, int(n)) for n in lengths] == exact
    assert share_of(share, lengths.float()).tolist() == exact


def masked_instead(model, batch):
    """The logits where tokens that leave stay in their places, and nothing above looks at them."""
    encoder, blueprint, mask = model.encoder, model.blueprint, batch["attention_mask"].clone()
    kept = kept_by(model, batch)
    whole = ruled(model, {})
    with torch.no_grad():
        hidden = encoder.embeddings(batch["input_ids"], None)
        for i, layer in enumerate(whole.encoder.layers):
            from bertpress.encoder.attention_masks import masks_of

            masks = masks_of(mask.float(), hidden.dtype)
            hidden, _ = through([layer], whole.encoder.layers, whole.encoder.relative, hidden, masks, Tape())
            if blueprint.layers[i].rule is not None:
                weights, places = kept.pop(0)
                mask = torch.zeros_like(mask).scatter_add(1, places, (weights > 0).long()).clamp(max=1)
        return model.head(hidden, mask)


@pytest.mark.parametrize("pooling", ["cls", "mean", "max"])
@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("name", ["shares", "counts", "threshold"])
def test_leaving_is_being_masked_in_the_layers_above(name, relative, pooling):
    model = ruled(tiny(relative=relative, pooling=pooling), RULES[name])
    batch = texts()
    assert any(float(weights.sum()) < batch["attention_mask"].sum() for weights, _ in kept_by(model, batch))
    torch.testing.assert_close(logits(model, batch), masked_instead(model, batch), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["shares", "counts"])
def test_as_many_stay_as_the_rule_says_in_their_order(name):
    batch = texts(rows=8)
    lengths = batch["attention_mask"].sum(1)
    for (_, rule), (weights, places) in zip(
        RULES[name].items(), kept_by(ruled(tiny(), RULES[name]), batch), strict=True
    ):
        expected = [rule.left(int(n), int(n)) for n in lengths]
        assert weights.sum(1).tolist() == expected
        assert weights.shape[1] == max(expected)
        for row, count in enumerate(expected):
            mine = places[row, :count].tolist()
            assert mine == sorted(set(mine))
            assert mine[0] == 0


@every_rule
@pytest.mark.parametrize("relative", [False, True])
def test_pads_and_batch_mates_change_nothing(rules, relative):
    model, batch = ruled(tiny(relative=relative, pooling="mean"), rules), texts()
    together = logits(model, batch)
    for row, length in enumerate(batch["attention_mask"].sum(1).tolist()):
        alone = {name: value[row : row + 1, :length] for name, value in batch.items()}
        padded = {name: torch.nn.functional.pad(value[row : row + 1], (0, 5)) for name, value in batch.items()}
        for given in (alone, padded):
            torch.testing.assert_close(logits(model, given)[0], together[row], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("rule", [top(1.0), top(99), threshold(0.0)])
def test_rules_that_keep_all_reproduce_the_model(rule):
    model, batch = tiny(pooling="mean"), texts()
    same = ruled(model, dict.fromkeys(range(3), rule))
    torch.testing.assert_close(logits(same, batch), logits(model, batch), atol=1e-5, rtol=1e-5)


def test_partners_are_the_nearest_of_the_other_half():
    keys = torch.tensor([[1.0, 0], [0, 1], [0.9, 0.1], [1, 0.1], [0.1, 3], [5.0, 5.0]])[None, None]
    similarity, partner = partners(keys, torch.tensor([[1.0, 1, 1, 1, 1, 0]]))
    assert partner[0, [2, 4]].tolist() == [3, 1]
    cosine = torch.nn.functional.cosine_similarity(keys[0, 0, 2], keys[0, 0, 3], dim=0)
    torch.testing.assert_close(similarity[0, 2], cosine)
    assert (similarity[0, [0, 1, 3, 5]] < -1).all()  # the first, those that are merged into, the pad


@pytest.mark.parametrize("rules", [RULES["pairs"], RULES["merged share"]])
def test_merging_keeps_the_mass(rules):
    batch = texts()
    for weights, _ in kept_by(ruled(tiny(), rules), batch):
        assert weights.sum(1).tolist() == batch["attention_mask"].sum(1).tolist()
        assert weights.max() > 1


def test_merged_states_are_means_over_all_tokens_in_them():
    from bertpress.encoder.attention_masks import Masks
    from bertpress.encoder.elimination import Merge, Present

    hidden = torch.randn(2, 7, 4)
    mask = torch.tensor([[1] * 7, [1] * 5 + [0] * 2])
    present, rule = Present.of(hidden, Masks(mask, None, None)), Merge(merge(pairs=2))
    first, before = rule(present, torch.randn(2, 1, 7, 3), [hidden])[0], (hidden * mask[:, :, None]).sum(1)
    torch.testing.assert_close((first * present.weights[:, :, None]).sum(1), before)
    again = rule(present, torch.randn(2, 1, first.shape[1], 3), [first])[0]
    torch.testing.assert_close((again * present.weights[:, :, None]).sum(1), before)
    assert torch.equal(first[:, 0], hidden[:, 0])
    torch.testing.assert_close(
        pool(again, present.masks.tokens, "mean"), before / mask.sum(1, keepdim=True), atol=1e-5, rtol=1e-5
    )


def test_equal_tokens_merge_without_loss():
    model = tiny(pooling="mean")
    model.encoder.embeddings.position.weight.data.zero_()
    given = {"input_ids": torch.tensor([[3, 7, 7, 9, 9, 5]]), "attention_mask": torch.ones(1, 6, dtype=torch.long)}
    merged = ruled(model, {0: merge(pairs=2)})
    assert [weights.tolist() for weights, _ in kept_by(merged, given)] == [[[1, 2, 2, 1]]]
    torch.testing.assert_close(logits(merged, given), logits(model, given), atol=1e-5, rtol=1e-5)


def test_counted_multiplications_are_those_that_run():
    from torch.utils.flop_counter import FlopCounterMode

    for rules in (RULES["shares"], RULES["counts"]):
        model = ruled(tiny(), rules)
        batch = {name: each[:1] for name, each in texts(rows=1).items()}
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(**batch, output_attentions=True)
        received = sum(11 * 11 if i == 0 else n * n for i, n in zip(rules, (11, rules[0].left(11, 11)), strict=True))
        assert counter.get_total_flops() == 2 * (sum(model.blueprint.macs(11).values()) + received)


def test_shapes_that_let_no_token_go_are_refused():
    for head in ("token", "span", "masked_lm"):
        with pytest.raises(ValidationError, match=rf"leave must not be given: a head of kind {head} reads every token"):
            ruled(tiny(kind=head), RULES["shares"])
    with pytest.raises(ValidationError, match="must not rise from layer to layer"):
        ruled(tiny(), {0: top(0.3), 1: top(0.5)})
    with pytest.raises(ValidationError, match="must be of one kind"):
        ruled(tiny(), {0: top(0.3), 1: merge(pairs=1)})
    model = ruled(tiny(), RULES["shares"])
    first = model.blueprint.layers[0].model_copy(update={"exit": ExitSpec()})
    with pytest.raises(ValidationError, match="exit must not be given"):
        model.blueprint.replace(layers=(first, *model.blueprint.layers[1:]), exit=ExitRule(criterion="entropy"))
