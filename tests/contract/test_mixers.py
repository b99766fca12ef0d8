"""Every method, on models that mix tokens by LSTMs, convolutions and cells: it works on what it can, or refuses."""

import pytest
import torch

from bertpress import artifact
from bertpress.errors import RecipeError
from bertpress.methods.base import Context
from bertpress.methods.registry import find, names

KINDS = {
    "bilstm": ("student/bilstm", {"units": 16, "layers": 2, "dense": 24}),
    "cells": ("student/adabert", {"hidden_size": 16, "cells": 4, "dense": 24}),
    "hybrid": ("student/hybrid", {"layers": ("lstm", "convolution", "attention", "attention"), "shorten": 2}),
}


@pytest.fixture(scope="module")
def others(bench):
    """The bench with teachers that are no Transformers."""
    made = {}
    for kind, (name, fields) in KINDS.items():
        ctx = Context(task=bench.data.task, tokenizer=bench.tokenizer, seed=0)
        method = find(name)(**fields)
        model = method.attach(bench.teacher, ctx)
        for scores in ctx.state.parameters():  # what a search would have learnt
            scores.data.normal_(generator=torch.Generator().manual_seed(4))
        made[kind] = bench._replace(teacher=method.finish(model, ctx))
    return made


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", names())
def test_it_works_or_refuses_in_a_line(name, kind, others, pressed_unless_refused, batch):
    done = pressed_unless_refused(others[kind], name)
    model = done.model
    assert model.blueprint.total_parameters == sum(weight.numel() for _, weight in model.unique_weights())
    inputs = {key: value for key, value in batch.items() if key != "token_type_ids"}
    with torch.no_grad():
        together = model(**inputs).logits
        assert torch.equal(artifact.load(done.folder).model(**inputs).logits, together)
        for row, length in enumerate(inputs["attention_mask"].sum(1).tolist()):
            alone = {key: value[row : row + 1, :length] for key, value in inputs.items()}
            torch.testing.assert_close(model(**alone).logits[0], together[row], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("name", "kind", "reason"),
    [
        ("prune/heads", "bilstm", "stage only, prune/heads: the model has no units of that kind to rank "
         "(convolutions and LSTMs have none)"),
        ("prune/schubert", "hybrid", "prune/schubert: hidden dimensions that convolutions or LSTMs read cannot be cut"),
        ("prune/snip", "bilstm", "prune/snip: the model has neither heads nor feed-forward networks to remove"),
        ("prune/snip", "hybrid", "prune/snip: needs layers that work on the tokens as they come, not shortened or "
         "apart"),
        ("quantize/ternary", "bilstm", "attention_scores: layers without attention, on a shortened sequence or under a "
         "siamese head have none for each token; leave the term out"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_told(name, kind, reason, others, pressed_on):
    with pytest.raises(RecipeError) as refused:
        pressed_on(others[kind], name, find(name)())
    assert str(refused.value) == reason
