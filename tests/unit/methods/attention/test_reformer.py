"""Keys are queries of unit length, key matrices are gone, hashing follows the seed; with one bucket as by hand."""

from unittest.mock import patch

import pytest
import torch
import torch.nn.functional as F
from patterned_models import BATCH, full, logits
from short_training import TASK, tiny, train

from bertpress.errors import RecipeError
from bertpress.methods.attention.reformer import Reformer
from bertpress.methods.base import Context

CTX = Context(task=TASK.replace(max_length=64), tokenizer=None, seed=5)


def test_with_one_bucket_it_is_shared_attention_without_oneself():
    """The tied model in full, written with torch's own attention."""
    model = Reformer(chunk=128, buckets=1, rounds=1).attach(full(), CTX)
    dense = full()
    for layer in dense.encoder.layers:
        layer.attention.key.load_state_dict(layer.attention.query.state_dict())

    def attend(query, key, value, mask, dropout, scale):
        scores = query @ F.normalize(key, dim=-1).transpose(-1, -2)
        oneself = torch.eye(scores.shape[-1]) * -1e5
        scores = scores + oneself + (0 if mask is None else mask)
        return scores.softmax(-1) @ value

    with torch.no_grad(), patch.object(F, "scaled_dot_product_attention", attend):
        expected = dense(**BATCH).logits
    torch.testing.assert_close(logits(model), expected, atol=1e-5, rtol=0)


def test_key_matrices_are_gone():
    model = Reformer().attach(full(), CTX)
    assert not [name for name in model.state_dict() if ".key." in name]
    assert full().blueprint.total_parameters - model.blueprint.total_parameters == 2 * (32 * 32 + 32)
    weights = (each.encoder.layers[1].attention.query.weight for each in (model, full()))
    torch.testing.assert_close(*weights, atol=0, rtol=0)


def test_rotations_follow_seed_and_layer():
    def rotations(model):
        return [layer.attention.pattern.rotations for layer in model.encoder.layers]

    first, second = (rotations(Reformer(buckets=8).attach(full(), CTX)) for _ in range(2))
    other = rotations(Reformer(buckets=8).attach(full(), Context(task=TASK, tokenizer=None, seed=9)))
    assert first[0].shape == (2, 8, 4)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first[0], other[0])


def test_as_many_buckets_as_chunks_times_two():
    pattern = Reformer(chunk=8).attach(full(), CTX).blueprint.layers[0].attention.pattern
    assert pattern.buckets == 2 * 64 / pattern.chunk  # m = 2n / b
    with pytest.raises(RecipeError, match="attention/reformer: buckets=5 must be 1 or even"):
        Reformer(buckets=5).attach(full(), CTX)


def test_queries_learn_through_both_sides():
    model = Reformer(chunk=4, buckets=2).attach(tiny(), CTX)
    before = model.encoder.layers[0].attention.query.weight.detach().clone()
    trained = train(tiny(), Reformer(chunk=4, buckets=2), CTX, 3)
    assert not torch.equal(trained.encoder.layers[0].attention.query.weight, before)
    assert all(weight.isfinite().all() for weight in trained.parameters())
