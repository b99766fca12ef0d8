"""Nothing skipped, all skipped, the mean depth, all layers in evaluation, copies that are bit-equal."""

import pytest
import torch
from sample_run import make_model
from stopped_runs import TASK, TOKENIZER, fit, undisturbed_and_resumed

from bertpress.encoder.model import all_layers
from bertpress.encoder.slots import Tape
from bertpress.errors import RecipeError
from bertpress.methods.base import Context
from bertpress.methods.prune.layerdrop import Layerdrop, every_other, surviving

CTX = Context(task=TASK, tokenizer=None, seed=0)
IDS = torch.randint(5, 40, (3, 6), generator=torch.Generator().manual_seed(0))


def model_of(depth, dropout=0.0):
    return make_model(TASK, TOKENIZER, layers=depth, dropout=dropout)


def following(model, p):
    """The model in training mode, with layers skipped."""
    model.train()
    (callback,) = Layerdrop(p=p).callbacks(CTX)
    callback.on_train_begin(None, None, None, model=model)
    return model, callback


def test_nothing_skipped_is_the_model():
    model = model_of(4)
    expected = model(IDS).logits
    assert torch.equal(following(model, 0.0)[0](IDS).logits, expected)


def test_with_all_skipped_the_embeddings_go_straight_to_the_head():
    model, _ = following(model_of(4), 1.0)
    hidden, _ = model.encoder(IDS, None, None, Tape())
    assert torch.equal(hidden, model.encoder.embeddings(IDS, None))
    assert torch.equal(model(IDS).logits, model.head(hidden, None))


def test_evaluation_and_what_comes_after_run_all_layers():
    model, callback = following(model_of(4), 1.0)
    assert list(model.eval().encoder.plan(model.encoder)) == list(model.encoder.layers)
    model.train()
    assert list(model.encoder.plan(model.encoder)) == []
    callback.on_train_end(None, None, None, model=model)
    assert model.encoder.plan is all_layers


def test_two_plans_in_one_stage_are_refused():
    model, callback = following(model_of(2), 0.5)
    with pytest.raises(RecipeError, match="two methods of one stage decide which layers run"):
        callback.on_train_begin(None, None, None, model=model)


def test_layers_are_skipped_independently_with_probability_p():
    encoder, p = model_of(6).encoder, 0.3
    torch.manual_seed(0)
    ran = torch.zeros(4000, 6)
    for step in range(len(ran)):
        for layer in surviving(encoder, p):
            ran[step, list(encoder.layers).index(layer)] = 1
    # means of 4,000 draws: a standard deviation is 0.018 for the depth, 0.0073 for a layer
    assert ran.sum(1).mean() == pytest.approx((1 - p) * 6, abs=0.06)
    torch.testing.assert_close(ran.mean(0), torch.full((6,), 1 - p), atol=0.03, rtol=0)
    together = torch.cov(ran.T)
    assert (together - torch.diag(torch.diag(together))).abs().max() < 0.02


@pytest.mark.parametrize(
    ("depth", "share", "kept"),
    [
        (12, 0.5, [0, 2, 4, 6, 8, 10]),
        (12, 1 / 3, [0, 1, 3, 4, 6, 7, 9, 10]),
        (12, 0.4, [0, 2, 4, 6, 8, 10]),
        (12, 0.25, [0, 1, 2, 4, 5, 6, 8, 9, 10]),
        (5, 0.5, [0, 2, 4]),
        (3, 0.1, [0, 1, 2]),
        (3, 0.0, [0, 1, 2]),
    ],
)
def test_every_other_layer_by_hand(depth, share, kept):
    assert every_other(depth, share) == kept


@pytest.mark.parametrize(("strategy", "kept"), [("every_other", [0, 2]), ("top", [0, 1]), ("bottom", [2, 3])])
def test_what_stays_is_bit_equal(strategy, kept):
    model = model_of(4)
    cut = Layerdrop(strategy=strategy).finish(model, CTX)
    assert [layer.origin for layer in cut.blueprint.layers] == kept
    for mine, source in zip(cut.encoder.layers, kept, strict=True):
        theirs = model.encoder.layers[source].state_dict()
        assert all(torch.equal(tensor, theirs[name]) for name, tensor in mine.state_dict().items())


def test_what_cannot_be_is_refused_before_training():
    with pytest.raises(ValueError, match=r"drop=0.6 must be at most 0.5 with strategy=every_other"):
        Layerdrop(drop=0.6)
    with pytest.raises(RecipeError, match=r"prune/layerdrop: drop=4 must be in \[0, 3\] for 4 layers"):
        Layerdrop(drop=0.9, strategy="top").attach(model_of(4), CTX)


def test_a_resumed_run_skips_the_same_layers(tmp_path):
    def make():
        return model_of(4, dropout=0.1), Layerdrop(p=0.5).callbacks(CTX), None

    whole, resumed = undisturbed_and_resumed(tmp_path, make)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))


def test_p_of_one_trains_no_layer(tmp_path):
    model = model_of(2)
    before = {name: weight.detach().clone() for name, weight in model.unique_weights()}
    fit(model, tmp_path, Layerdrop(p=1.0).callbacks(CTX))
    changed = {name for name, weight in model.unique_weights() if not torch.equal(weight, before[name])}
    assert not any(name.startswith("encoder.layers.") for name in changed)
    assert {"head.classifier.weight", "encoder.embeddings.word.weight"} <= changed
    assert model.encoder.plan is all_layers
