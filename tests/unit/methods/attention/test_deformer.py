"""Neither text changes the other's lower states, to the bit; masked is apart; the upper layers mix; cached is whole."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from student_teachers import context

from bertpress.encoder.blueprint import (
    NO_HEADS,
    ConvolutionSpec,
    EmbeddingSpec,
    HeadSpec,
    LayerSpec,
    RelativeSpec,
    uniform,
)
from bertpress.encoder.halves import Lower, Upper
from bertpress.encoder.model import build_model
from bertpress.encoder.surgery import keep_layers
from bertpress.errors import RecipeError
from bertpress.methods.attention.deformer import Deformer, separated
from bertpress.methods.distances import hidden_state_mse
from bertpress.methods.distill.hidden import Hidden
from bertpress.methods.distill.logits import Logits
from bertpress.recipe import Recipe
from bertpress.runner import Request, press
from bertpress.tasks import from_records, resolve
from bertpress.training.objectives import Step

FIRST, SECOND = 5, 4  # tokens of the two segments
STATES = frozenset({"hidden_states"})


def model_of(kind="span", layers=4, **changes):
    torch.manual_seed(3)
    head = HeadSpec(kind=kind, labels=2)
    shape = uniform(layers=layers, hidden_size=32, heads=4, ffn=64, vocabulary=50, positions=40, head=head)
    model = build_model(shape.replace(**changes))
    for _, weight in model.unique_weights():  # large enough that what is seen shows
        weight.data.add_(0.2 * torch.randn_like(weight))
    return model


def deformed(model, layers=3, positions="restart", kind="span"):
    return Deformer(layers=layers, positions=positions).attach(model, context(kind))


def inputs(seed=0, rows=3, first=FIRST, second=SECOND, pads=0):
    random = torch.Generator().manual_seed(seed)
    segments = torch.tensor([[0] * first + [1] * second + [0] * pads] * rows)
    mask = torch.tensor([[1] * (first + second) + [0] * pads] * rows)
    ids = torch.randint(5, 50, (rows, first + second + pads), generator=random) * mask
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": segments}


def states(model, batch):
    with torch.no_grad():
        return model(**batch, capture=STATES).hidden_states


def part(batch, where):
    return {name: tensor[:, where] for name, tensor in batch.items()}


@pytest.mark.parametrize("changed", ["first", "second"])
def test_the_lower_states_of_one_text_are_the_same_bits_whatever_the_other_says(changed):
    model, batch = deformed(model_of()), inputs(pads=2)
    own, other = slice(FIRST), slice(FIRST, FIRST + SECOND)
    if changed == "first":
        own, other = other, own
    ids = batch["input_ids"].clone()
    ids[:, other] = (ids[:, other] + 7) % 45 + 5
    before, after = states(model, batch), states(model, batch | {"input_ids": ids})
    for layer in range(4):
        assert torch.equal(before[layer][:, own], after[layer][:, own])
        assert not torch.equal(before[layer][:, other], after[layer][:, other])
    assert (before[4][:, own] - after[4][:, own]).abs().amax(-1).min() > 1e-3  # each token, above, sees the other text


def test_restarted_positions_leave_the_second_text_alone_when_the_first_gets_longer():
    model, long = deformed(model_of()), inputs(first=7)
    short = {name: torch.cat([tensor[:, :3], tensor[:, 7:]], 1) for name, tensor in long.items()}
    running = deformed(model_of(), positions="running")
    for layer in range(4):
        torch.testing.assert_close(states(model, long)[layer][:, 7:], states(model, short)[layer][:, 3:])
        assert (states(running, long)[layer][:, 7:] - states(running, short)[layer][:, 3:]).abs().max() > 1e-3


@pytest.mark.parametrize("kind", ["span", "sequence"])
def test_no_layer_apart_and_running_positions_reproduce_the_model(kind):
    model, batch = model_of(kind), inputs(pads=2)
    noop = Deformer.noop().attach(model, context())
    assert torch.equal(noop(**batch).logits, model(**batch).logits)
    assert not torch.allclose(deformed(model, layers=0)(**batch).logits, model(**batch).logits)


@pytest.mark.parametrize("pads", [0, 3])
def test_the_mask_equals_encoding_apart(pads):
    model, batch = deformed(model_of()), inputs(pads=pads)
    lower = Lower(model)
    with torch.no_grad():
        first = lower(**part(batch, slice(FIRST)))
        second = lower(**part(batch, slice(FIRST, FIRST + SECOND)))
    whole = states(model, batch)[3]
    torch.testing.assert_close(first, whole[:, :FIRST], atol=1e-5, rtol=0)
    torch.testing.assert_close(second, whole[:, FIRST : FIRST + SECOND], atol=1e-5, rtol=0)


def test_kept_states_give_the_whole_models_answer():
    for kind in ("span", "sequence"):
        model, batch = deformed(model_of(kind)), inputs()
        with torch.no_grad():
            halves = [Lower(model)(**part(batch, where)) for where in (slice(FIRST), slice(FIRST, None))]
            found = Upper(model)(torch.cat(halves, 1), batch["attention_mask"])
            torch.testing.assert_close(found, model(**batch).logits, atol=1e-5, rtol=0)


def test_pads_between_the_segments_change_nothing():
    model, batch = deformed(model_of()), inputs()
    gap = torch.zeros(3, 2, dtype=torch.long)
    spread = {name: torch.cat([tensor[:, :FIRST], gap, tensor[:, FIRST:]], 1) for name, tensor in batch.items()}
    found, expected = model(**spread).logits, model(**batch).logits
    torch.testing.assert_close(found[:, :FIRST], expected[:, :FIRST], atol=1e-5, rtol=0)
    torch.testing.assert_close(found[:, FIRST + 2 :], expected[:, FIRST:], atol=1e-5, rtol=0)


def test_one_text_alone_is_read_as_before():
    model, batch = model_of("sequence"), inputs(second=0)
    assert torch.equal(deformed(model)(**batch).logits, model(**batch).logits)


def test_a_share_of_the_layers_and_layers_that_go():
    model = Deformer().attach(model_of(), context("span"))
    assert model.blueprint.separate == 3
    assert model.blueprint.cacheable
    assert keep_layers(model, [0, 2, 3]).blueprint.separate == 2
    assert keep_layers(model, [3]).blueprint.separate == 0
    assert model.blueprint.parameters() == model_of().blueprint.parameters()


def test_cached_tokens_cost_the_upper_layers_alone():
    shape, tokens, cached = separated(model_of().blueprint, 3, "restart"), 20, 16
    whole, rest = shape.macs(tokens), shape.macs(tokens, cached)
    assert whole == model_of().blueprint.macs(tokens)  # masked, nothing is saved
    hidden, ffn, fresh = 32, 64, tokens - cached
    assert rest["ffn"] == (3 * fresh + tokens) * 2 * hidden * ffn
    assert rest["attention"] == (3 * fresh**2 + tokens**2) * 2 * hidden
    assert rest["attention_in"] == (3 * fresh + tokens) * 3 * hidden**2
    assert rest["head"] == whole["head"]


def test_the_papers_loss_is_the_sum_of_its_three_terms():
    """Labels + tau^2 KL + mean over the upper layers of the squared distance, each by hand."""
    teacher = model_of("sequence", dropout=0.0, attention_dropout=0.0)
    (stage,) = Recipe.load("deformer", overrides=["stages.0.use.attention/deformer.layers=2"]).stages
    ctx = context("pair")
    ctx = replace(ctx, teacher=teacher, task=ctx.task.replace(labels=("no", "yes")))
    student = teacher
    for _, method in stage.methods:
        student = method.attach(student, ctx)
    assert student.blueprint.separate == 2
    terms = [term for _, method in stage.methods for term in method.objectives(ctx)]
    batch = inputs(pads=2) | {"labels": torch.tensor([0, 1, 1])}
    own, theirs = (model(**batch, capture=STATES) for model in (student, teacher))
    step = Step(batch, own, theirs, ctx.task, ctx.state)
    found = sum(term.weight * term(step) for term in terms)
    own, theirs = step.student.logits, step.teacher.logits
    soft = (theirs / 2).softmax(-1)
    expected = torch.nn.functional.cross_entropy(own, batch["labels"])
    expected += 4 * (soft * (soft.log() - (own / 2).log_softmax(-1))).sum(-1).mean()
    for layer in (3, 4):
        a, b = step.student.captured["hidden_states"][layer], step.teacher.captured["hidden_states"][layer]
        expected += hidden_state_mse(student=a, teacher=b, mask=batch["attention_mask"]) / 2
    torch.testing.assert_close(found, expected)
    assert {type(method) for _, method in stage.methods} == {Deformer, Logits, Hidden}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"relative": RelativeSpec(heads=4)}, "a relative bias"),
        ({"embeddings": EmbeddingSpec(vocabulary=50, size=32, positions=40, segments=1)}, "a single segment"),
        (
            {"embeddings": EmbeddingSpec(vocabulary=50, size=32, window=3, project="tokens")},
            "embeddings of three tokens",
        ),
    ],
)
def test_what_would_let_the_segments_meet_is_refused(changes, reason):
    with pytest.raises(RecipeError) as refused:
        deformed(model_of(**changes))
    told = f"attention/deformer: layers.0.separate=true must go without {reason}, which would let the segments meet"
    assert str(refused.value) == told


def test_mixers_are_refused_and_so_are_separate_layers_above():
    layers = list(model_of().blueprint.layers)
    mixer = LayerSpec(attention=NO_HEADS, mixer=ConvolutionSpec(kind="convolution", kernel=3), ffn=(64,))
    with pytest.raises(ValueError, match="without convolutions, LSTMs or cells"):
        separated(model_of().blueprint.with_layers((*layers[:3], mixer)), 3, "restart")
    apart = layers[1].model_copy(update={"separate": True})
    with pytest.raises(ValueError, match=r"layers.1.separate=true must not lie above a layer where the segments meet"):
        model_of().blueprint.with_layers((layers[0], apart, *layers[2:]))


def test_one_text_is_refused_before_any_training(tmp_path, tiny_model, tiny_rows):
    rows = from_records(tiny_rows("text-classification", 8, 1))
    recipe, task = Recipe.load("deformer", overrides=["export=[]"]), resolve("text-classification")
    request = Request(tiny_model, recipe, task, tmp_path / "out", train=rows, validation=rows)
    with pytest.raises(RecipeError) as refused:
        press(request)
    told = "needs two texts that are read together, and the task text-classification has one"
    assert str(refused.value) == f"deformer stage separate, attention/deformer: {told}"
    assert not (tmp_path / "out").exists()


def test_too_many_layers_and_tokenizers_without_segments_are_refused():
    with pytest.raises(RecipeError) as refused:
        deformed(model_of(), layers=4)
    assert str(refused.value) == "attention/deformer: layers=4 must be in [0, 3], below the 4 layers that there are"
    bare = replace(context(), tokenizer=SimpleNamespace(model_input_names=["input_ids", "attention_mask"]))
    with pytest.raises(RecipeError, match="needs a tokenizer that numbers the two texts"):
        Deformer().attach(model_of(), bare)
