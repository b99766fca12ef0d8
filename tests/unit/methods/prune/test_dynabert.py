"""The whole is unchanged, every sub-network learns what the paper says, cut out it answers as in place."""

from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from sample_run import make_data, make_model

from bertpress import artifact
from bertpress.encoder.imports import load_pretrained
from bertpress.encoder.subnetworks import cut, running, subnetwork
from bertpress.errors import RecipeError
from bertpress.methods.base import Context
from bertpress.methods.prune.dynabert import Dynabert, HiddenStatesAtDepth
from bertpress.recipe import Recipe
from bertpress.stages import clone
from bertpress.training import Teacher, TrainSettings, collate_for, train
from bertpress.training.objectives import Step, total

TASK, DATA, _, TOKENIZER = make_data()
BATCH = collate_for(TOKENIZER)([DATA[i] for i in range(12)])
INPUTS = {name: BATCH[name] for name in ("input_ids", "attention_mask")}
HIDDEN = frozenset({"hidden_states"})


def trained(seed=5):
    """Four layers of two heads and 32 neurons, away from their neutral values."""
    model = make_model(TASK, TOKENIZER, seed=seed, layers=4, dropout=0.0)
    draw = torch.Generator().manual_seed(seed)
    for weight in model.parameters():
        weight.data += 0.2 * torch.randn(weight.shape, generator=draw)
    return model


def context(teacher=None):
    return Context(task=TASK, tokenizer=TOKENIZER, seed=0, teacher=teacher, calibration=lambda *_: [BATCH])


def logits(model):
    with torch.no_grad():
        return model(**INPUTS).logits


def at(model, width, depth):
    with torch.no_grad(), running(model, subnetwork(model.blueprint, width=width, depth=depth)):
        return model(**INPUTS, capture=HIDDEN)


def fit(model, method, ctx, folder, **changes):
    settings = {"epochs": 1, "batch_size": 16, "learning_rate": 3e-3, "precision": "float32", "log_points": 1000}
    return train(
        model, task=TASK, data=DATA, tokenizer=TOKENIZER, settings=TrainSettings(**{**settings, **changes}),
        folder=folder, objectives=method.objectives(ctx), passes=method.passes(ctx), teacher=Teacher(ctx.teacher),
        progress="none",
    )  # fmt: skip


def test_rewired_it_answers_alike_and_says_what_it_can_be():
    model = trained()
    rewired = Dynabert(depths=(0.5, 1.0)).attach(model, context(model))
    torch.testing.assert_close(logits(rewired), logits(model), atol=1e-5, rtol=0)
    assert rewired.blueprint.elastic.widths == (0.25, 0.5, 0.75, 1.0)
    assert rewired.blueprint.elastic.depths == (0.5, 1.0)
    assert not torch.equal(rewired.encoder.layers[0].ffn[0].inner.bias, model.encoder.layers[0].ffn[0].inner.bias)
    again = Dynabert(depths=(0.75,)).attach(rewired, context(model))  # trained in its order: stays in it
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), rewired.parameters(), strict=True))
    assert again.blueprint.elastic.depths == (0.75,)


def test_the_whole_width_and_depth_are_the_model():
    rewired = Dynabert().attach(trained(), context())
    assert torch.equal(at(rewired, 1.0, 1.0).logits, logits(rewired))


def test_hidden_states_meet_those_of_the_layers_that_are_left():
    """Of 4 layers half keeps 0 and 2: the embeddings, what layer 2 takes in, and the last."""
    model, teacher = Dynabert().attach(trained(), context()), trained(6)
    own, answer = at(model, 0.5, 0.5), Teacher(teacher)(BATCH, HIDDEN)
    mask = BATCH["attention_mask"].bool()
    expected = sum(
        F.mse_loss(mine[mask], answer.captured["hidden_states"][place][mask])
        for mine, place in zip(own.captured["hidden_states"], (0, 2, 4), strict=True)
    )
    step = Step(BATCH, own, answer, TASK, None)
    torch.testing.assert_close(HiddenStatesAtDepth(0.5)(step), expected)


def test_passes_have_the_losses_of_the_paper():
    """lambda1 * soft cross-entropy + lambda2 * squared errors, of each width, summed."""
    teacher = trained(6)
    ctx = context(teacher)
    method = Dynabert(widths=(0.5, 1.0), depths=(1.0,), logits=2.0, hidden_states=0.1)
    model = method.attach(trained(), ctx)
    passes = method.passes(ctx)
    assert [each.name for each in passes] == ["1x1", "0.5x1"]
    answer, mask = Teacher(teacher)(BATCH, HIDDEN), BATCH["attention_mask"].bool()
    for each, width in zip(passes, (1.0, 0.5), strict=True):
        own = at(model, width, 1.0)
        soft = -(answer.logits.softmax(-1) * own.logits.log_softmax(-1)).sum(-1).mean()
        pairs = zip(own.captured["hidden_states"], answer.captured["hidden_states"], strict=True)
        squares = sum(F.mse_loss(a[mask], b[mask]) for a, b in pairs)
        with torch.no_grad(), each.configure(model):
            step = Step(BATCH, model(**INPUTS, capture=HIDDEN), answer, TASK, None)
        loss, terms = total(each.all_objectives(method.objectives(ctx)), step)
        torch.testing.assert_close(loss, 2 * soft + 0.1 * squares)
        assert set(terms) == {"logits", "hidden_states"}


def test_the_teacher_of_a_depth_is_the_model_of_the_same_width():
    teacher = Dynabert().attach(trained(6), context())
    ctx = context(teacher)
    passes = {each.name: each for each in Dynabert().passes(ctx)}
    assert len(passes) == 12
    with passes["0.25x0.5"].teacher(teacher):
        narrow = logits(teacher)
    assert torch.equal(narrow, at(teacher, 0.25, 1.0).logits)
    assert len({each.teacher for each in passes.values()}) == 4  # depths share the answer of their width
    plain = Dynabert().passes(context(trained()))
    assert len({each.teacher for each in plain}) == 1  # one that is not elastic answers as it is


def test_training_brings_every_sub_network_to_its_teacher_and_leaves_that_alone(tmp_path):
    teacher = trained(6)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    ctx, method = context(teacher), Dynabert(depths=(0.5, 1.0), hidden_states=0.1)
    model = method.attach(teacher, ctx)
    result = fit(model, method, ctx, tmp_path, epochs=8)
    names = Counter(name.rpartition("/")[0] for name in result.log[0]["terms"])
    assert len(names) == 8
    assert set(names.values()) == {2}
    far, near = (
        sum(entry["terms"][f"{name}/hidden_states"] for name in names) for entry in result.log[:: len(result.log) - 1]
    )
    assert near < 0.7 * far
    assert all(torch.equal(before[name], value) for name, value in teacher.state_dict().items())
    for width, depth in ((0.25, 0.5), (0.5, 1.0), (0.75, 0.5), (1.0, 1.0)):
        alone = cut(model, subnetwork(model.blueprint, width=width, depth=depth))
        torch.testing.assert_close(logits(alone), at(model, width, depth).logits, atol=1e-5, rtol=0)


def test_what_is_chosen_is_cut_out_and_smaller(tmp_path):
    method = Dynabert(width=0.5, depth=0.75)
    model = method.attach(trained(), context())
    small = method.finish(model, context())
    shape = small.blueprint
    assert [layer.origin for layer in shape.layers] == [0, 1, 2]
    assert all(len(layer.attention.heads) == 1 and layer.ffn == (16,) for layer in shape.layers)
    assert shape.elastic is None
    torch.testing.assert_close(logits(small), at(model, 0.5, 0.75).logits, atol=1e-5, rtol=0)
    saved = artifact.save(small, TOKENIZER, TASK, tmp_path / "small")
    whole = artifact.save(Dynabert().finish(model, context()), TOKENIZER, TASK, tmp_path / "whole")
    assert torch.equal(logits(saved.model), logits(small))
    sizes = [(each.path / "model.safetensors").stat().st_size for each in (saved, whole)]
    weights = [each.blueprint.total_parameters for each in (saved, whole)]
    assert sizes[1] - sizes[0] == pytest.approx(4 * (weights[1] - weights[0]), rel=0.1)
    assert artifact.load(whole.path).blueprint.elastic == model.blueprint.elastic
    assert load_pretrained(whole.path).model.blueprint.elastic == model.blueprint.elastic
    assert clone(model).blueprint.elastic == model.blueprint.elastic


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"width": 0.3}, r"width=0.3 must be one of widths=\[0.25, 0.5, 0.75, 1.0\]"),
        ({"depths": [1.0], "depth": 0.5}, r"depth=0.5 must be one of depths=\[1.0\]"),
        ({"widths": [0.5, 0.5]}, r"widths=\[0.5, 0.5\] must be distinct"),
        ({"widths": []}, "widths=\\[\\] must be"),
        ({"logits": 0, "hidden_states": 0}, "task=0 must not go with logits=0 and hidden_states=0"),
    ],
)
def test_mistakes_are_named(fields, message):
    stage = {"name": "only", "use": [{"prune/dynabert": fields}], "train": {}}
    with pytest.raises(RecipeError, match=message):
        Recipe.parse({"name": "test", "stages": [stage]})


def test_a_teacher_with_other_hidden_states_is_refused():
    teacher = make_model(TASK, TOKENIZER, layers=2)
    with pytest.raises(RecipeError, match="hidden_states=1 needs a teacher of 4 layers of 16, not 2 of 16"):
        Dynabert().attach(trained(), context(teacher))
    Dynabert(hidden_states=0).attach(trained(), context(teacher))


def test_two_methods_with_passes_cannot_share_a_step():
    stage = {"name": "only", "use": ["prune/dynabert", "prune/composition"], "train": {}}
    with pytest.raises(RecipeError, match="test stage only: prune/dynabert and prune/composition cannot share a"):
        Recipe.parse({"name": "test", "stages": [stage]}).check()
