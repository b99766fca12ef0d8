"""Full rank reproduces the model, errors are Eckart and Young's, weights choose the rows that count, sizes add up."""

import pytest
import torch
from short_training import batch, context, tiny, train

from bertpress.encoder.tables import plain_table
from bertpress.errors import RecipeError
from bertpress.methods.factorize.embedding import Embedding, factors


def logits(model):
    inputs = batch()
    with torch.no_grad():
        return model(inputs["input_ids"], inputs["attention_mask"]).logits


def test_full_rank_reproduces_the_model():
    model = tiny()
    made = Embedding(size=16, weighted=False).attach(model, context())
    torch.testing.assert_close(logits(made), logits(model), atol=1e-5, rtol=0)
    assert made.blueprint.embeddings.project == "tokens"


@pytest.mark.parametrize("size", [1, 5, 15])
def test_the_error_is_that_of_the_values_left_out(size):
    model, ctx = tiny(), context()
    table = plain_table(model).double()
    made = Embedding(size=size, weighted=False).attach(model, ctx)
    embeddings = made.encoder.embeddings
    found = (table - embeddings.word.weight.double() @ embeddings.projection.weight.double().t()).square().sum()
    values = torch.linalg.svdvals(table).square()
    torch.testing.assert_close(found, values[size:].sum(), rtol=1e-4, atol=1e-8)
    assert ctx.notes["factorized"]["error"] == pytest.approx(float(values[size:].sum() / values.sum()), rel=1e-3)


def test_parameters_are_those_of_both_factors():
    model = tiny()
    made = Embedding(size=5, weighted=False).attach(model, context())
    before, after = (each.blueprint.parameters()["embeddings"] for each in (model, made))
    assert before - after == 40 * 16 - (40 * 5 + 5 * 16 + 16)


def test_weighted_rows_are_nearer_as_by_whitening():
    table = torch.randn(30, 8, generator=torch.Generator().manual_seed(0)).double()
    weights = torch.ones(30).double()
    weights[:5] = 100.0
    left, right = factors(table, 3, weights)
    plain_left, plain_right = factors(table, 3)

    def weighted_error(a, b):
        return float(((table - a @ b).square().sum(1) * weights).sum())

    best = torch.linalg.svdvals(table * weights.sqrt()[:, None]).square()[3:].sum()
    assert weighted_error(left, right) == pytest.approx(float(best))
    assert weighted_error(plain_left, plain_right) > 1.5 * float(best)
    torch.testing.assert_close(right @ right.t(), torch.eye(3).double())


def test_both_factors_learn():
    model = tiny()
    before = Embedding(size=5, weighted=False).attach(model, context())
    made = []
    train(model, Embedding(size=5, weighted=False), context(), 2, look=lambda step, model: made.append(model))
    for name in ("word.weight", "projection.weight", "projection.bias"):
        name = f"encoder.embeddings.{name}"
        assert not torch.equal(made[-1].get_parameter(name), before.get_parameter(name)), name


def test_wrong_ranks_and_projected_tables_are_refused():
    with pytest.raises(RecipeError, match="factorize/embedding: size=17 must be at most the teacher's 16"):
        Embedding(size=17, weighted=False).attach(tiny(), context())
    made = Embedding(size=5, weighted=False).attach(tiny(), context())
    with pytest.raises(RecipeError, match="factorize/embedding: the token table is projected already"):
        Embedding(size=3, weighted=False).attach(made, context())
