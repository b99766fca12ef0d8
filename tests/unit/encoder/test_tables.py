"""Cuts of the token table: the same scores for what stays, sums and products that are the table again, counts."""

import pytest
import torch

from bertpress.encoder.blueprint import HeadSpec, uniform
from bertpress.encoder.model import build_model
from bertpress.encoder.tables import code_tokens, factorize_tokens, keep_tokens, plain_table, put_tokens

IDS = torch.tensor([[5, 6, 9, 20], [7, 11, 20, 5]])
SHAPE = {"layers": 1, "hidden_size": 16, "heads": 2, "ffn": 24, "vocabulary": 30, "positions": 16}


def masked_lm(**embeddings):
    torch.manual_seed(0)
    shape = uniform(**SHAPE, head=HeadSpec(kind="masked_lm", activation="gelu"))
    model = build_model(shape.replace(embeddings=shape.embeddings.model_copy(update=embeddings)))
    model.head.bias.data.normal_()
    return model


def scores(model, ids=IDS):
    mask = (ids != model.blueprint.embeddings.pad_id).long()
    with torch.no_grad():
        return model(ids, mask).logits[mask.bool()]


def counts(model):
    assert model.blueprint.total_parameters == sum(weight.numel() for _, weight in model.unique_weights())
    return model.blueprint.total_parameters


@pytest.mark.parametrize("first_position", [0, 2])
def test_kept_tokens_have_the_scores_that_they_had(first_position):
    model = masked_lm(pad_id=11, first_position=first_position)
    kept = [9, 11, 5, 6, 7, 20]
    small = keep_tokens(model, kept)
    new = {old: i for i, old in enumerate(kept)}
    ids = torch.tensor([[new[int(i)] for i in row] for row in IDS])
    torch.testing.assert_close(scores(small, ids), scores(model)[..., kept], atol=1e-6, rtol=0)
    assert small.blueprint.embeddings.pad_id == 1
    assert small.blueprint.embeddings.first_position == first_position
    assert counts(model) - counts(small) == (30 - 6) * (16 + 1)


@pytest.mark.parametrize(("ids", "message"), [
    ([0, 1, 1], "tokens must be distinct"), ([0, 30], r"in \[0, 29\]"), ([1, 2], "the padding, token 0, must stay"),
])  # fmt: skip
def test_tokens_that_cannot_be_kept(ids, message):
    with pytest.raises(ValueError, match=message):
        keep_tokens(masked_lm(), ids)


def test_other_rows_of_the_same_width():
    model = masked_lm()
    rows = torch.randn(8, 16)
    made = put_tokens(model, rows, pad_id=3)
    assert torch.equal(plain_table(made), rows)
    assert not made.head.bias.any()
    assert made.blueprint.embeddings.pad_id == 3
    counts(made)
    with pytest.raises(ValueError, match="as wide as the table, 16"):
        put_tokens(model, torch.randn(8, 15), pad_id=0)


def test_codes_stand_for_sums_for_lookups_and_for_the_decoder():
    model, drawn = masked_lm(), torch.Generator().manual_seed(1)
    codes = torch.randint(4, (30, 3), generator=drawn).to(torch.uint8)
    codebooks = torch.randn(3, 4, 16, generator=drawn)
    table = torch.stack([sum(codebooks[i, codes[token, i].item()] for i in range(3)) for token in range(30)])
    coded = code_tokens(model, codes, codebooks)
    torch.testing.assert_close(coded.encoder.embeddings.word.weight, table)
    torch.testing.assert_close(scores(coded), scores(put_rows(model, table)), atol=1e-5, rtol=0)
    assert counts(model) - counts(coded) == 30 * 16 - 3 * 4 * 16
    kept = keep_tokens(coded, [0, 5, 6, 7, 9, 11, 20])
    torch.testing.assert_close(kept.encoder.embeddings.word.weight, table[[0, 5, 6, 7, 9, 11, 20]])
    with pytest.raises(ValueError, match="has codes in place of vectors already"):
        plain_table(coded)


def put_rows(model, table):
    other = keep_tokens(model, range(30))
    other.encoder.embeddings.word.weight.data.copy_(table)
    return other


def test_a_product_stands_for_the_table_for_lookups_and_for_the_decoder():
    model = masked_lm()
    left, right = torch.randn(30, 5), torch.randn(5, 16)
    made = factorize_tokens(model, left, right)
    torch.testing.assert_close(scores(made), scores(put_rows(model, left @ right)), atol=1e-5, rtol=0)
    assert counts(model) - counts(made) == 30 * 16 - (30 * 5 + 5 * 16 + 16)
    assert made.blueprint.macs(4)["head"] == model.blueprint.macs(4)["head"]
    with pytest.raises(ValueError, match="projected already"):
        factorize_tokens(made, left, right)
