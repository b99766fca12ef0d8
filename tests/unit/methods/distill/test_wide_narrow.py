"""Merged is unmerged, the final shape is thin, pairs begin as the identity; zero for a twin; who learns in a stage."""

import pytest
import torch
from teaching import KINDS, before_and_after, context, padded, run_on, step_of, tiny
from torch import nn

from bertpress.encoder.surgery import keep_heads, keep_layers, share
from bertpress.errors import RecipeError
from bertpress.methods.distances import hidden_state_mse
from bertpress.methods.distill.wide_narrow import STATE, Detour, WideNarrow, merge, merged
from bertpress.training.objectives import total

THIN, WIDE = 8, 16


def thin(seed=0, **shape):
    return tiny(seed, **{"hidden_size": THIN} | shape)


def attached(student, teacher, **fields):
    method, ctx = WideNarrow(**fields), context(teacher)
    return method, method.attach(student, ctx), ctx


def detours(model):
    return [module for module in model.modules() if isinstance(module, Detour)]


def shaken(model):
    """The same model, its pairs no longer the identity."""
    generator = torch.Generator().manual_seed(5)
    for detour in detours(model):
        for weight in detour.parameters():
            weight.data += 0.3 * torch.randn(weight.shape, generator=generator)
    return model


def states(model, batch):
    with torch.no_grad():
        found = model(batch["input_ids"], batch["attention_mask"], capture=frozenset({"hidden_states"}))
    return [*found.captured["hidden_states"], found.logits]


def test_merging_two_maps_by_hand():
    outer = torch.tensor([[1.0, 2.0]]), torch.tensor([0.5])
    inner = torch.tensor([[1.0, 0.0, 3.0], [0.0, 1.0, -1.0]]), torch.tensor([10.0, 20.0])
    weight, bias = merged(outer, inner)
    assert weight.tolist() == [[1.0, 2.0, 1.0]]
    assert bias.tolist() == [50.5]


def test_merged_computes_what_the_detours_did():
    batch = padded(2)
    _, student, ctx = attached(thin(), tiny(1))
    before = states(shaken(student), batch)
    assert not torch.allclose(before[2], states(thin(), batch)[2], atol=1e-3)
    for a, b in zip(before, states(WideNarrow().finish(student, ctx), batch), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


def test_what_is_left_is_thin_and_nothing_more():
    plain = thin()
    _, student, _ = attached(thin(), tiny(1))
    small = merge(shaken(student))
    assert small.blueprint == plain.blueprint
    assert {name: tensor.shape for name, tensor in small.state_dict().items()} == {
        name: tensor.shape for name, tensor in plain.state_dict().items()
    }
    assert not detours(small)
    untouched = [name for name in plain.state_dict() if not any(part in name for part in ("query", "key", "value"))]
    assert all(torch.equal(small.state_dict()[name], plain.state_dict()[name]) for name in untouched)


@pytest.mark.parametrize("width", [THIN, WIDE])
def test_pairs_begin_as_the_identity(width):
    batch = padded()
    expected = states(tiny(0, hidden_size=width), batch)
    _, student, ctx = attached(tiny(0, hidden_size=width), tiny(1))
    for a, b in zip(states(student, batch), expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0)
    assert [tuple(detour.up.weight.shape) for detour in detours(student)] == [(WIDE, width)] * 2
    assert len(ctx.state[STATE].projections) == 3  # one more behind the last layer, which no layer reads


def test_pairs_stand_where_linear_maps_alone_read_and_the_residual_goes_around_them():
    _, student, _ = attached(thin(), tiny(1))
    places = [path for path, module in student.named_modules() if isinstance(module, Detour)]
    assert places == ["encoder.layers.0.attention.input_slot", "encoder.layers.1.attention.input_slot"]
    read, closed = {}, {}

    def note(module, inputs, output):
        read[module] = inputs[0]

    for layer in student.encoder.layers:
        unit = layer.attention
        for module in (unit.query, unit.key, unit.value, unit.output, unit.norm):
            module.register_forward_hook(note)
        unit.output.register_forward_hook(lambda module, inputs, output: closed.update({module: output}))
    found = states(shaken(student), padded())
    for state, layer in zip(found, student.encoder.layers, strict=False):
        unit = layer.attention
        for module in (unit.query, unit.key, unit.value):
            assert isinstance(module, nn.Linear)
            torch.testing.assert_close(read[module], unit.input_slot(state))
        torch.testing.assert_close(read[unit.norm], closed[unit.output] + state)  # the residual, as it was


def test_zero_for_a_teacher_that_is_the_student_made_wide():
    """As wide as the teacher, with maps up that are what the teacher's states are made of: the identity."""
    for layerwise in (True, False):
        method, student, ctx = attached(tiny(1), tiny(1), layerwise=layerwise)
        for up in ctx.state[STATE].projections:
            up.weight.data.copy_(torch.eye(WIDE))
        for detour in detours(student):
            detour.down.weight.data.copy_(torch.eye(WIDE))
        terms = method.objectives(ctx)
        assert total(terms, step_of(terms, student, ctx, padded()))[0].item() == pytest.approx(0, abs=1e-10)
        student.encoder.layers[-1].ffn[0].outer.weight.data *= 2
        assert total(terms, step_of(terms, student, ctx, padded()))[0].item() > 1e-6


def test_all_layers_at_once_is_the_sum_by_hand():
    method, student, ctx = attached(thin(), tiny(1, layers=4), layerwise=False, weight=2.0)
    batch, teacher = padded(2), ctx.teacher
    (term,) = method.objectives(ctx)
    own, there = states(student, batch), states(teacher, batch)
    expected = sum(
        hidden_state_mse(student=up(own[i]), teacher=there[2 * i], mask=batch["attention_mask"])
        for i, up in enumerate(ctx.state[STATE].projections)
    )
    torch.testing.assert_close(term(step_of([term], student, ctx, batch)), expected)
    assert term.weight == 2.0
    assert not method.callbacks(ctx)


@pytest.mark.parametrize("stage", range(3))
def test_in_a_stage_one_layer_learns_with_the_map_behind_it(stage):
    method, student, ctx = attached(thin(), tiny(1))
    (callback,) = method.callbacks(ctx)
    callback.on_train_begin(None, None, None, model=student.train())
    callback.on_step_begin(None, type("State", (), {"global_step": stage, "max_steps": 3}), None)
    terms = method.objectives(ctx)
    total(terms, step_of(terms, student, ctx, padded()))[0].backward()
    learnt = {name for name, weight in student.named_parameters() if weight.grad is not None}
    prefix = "encoder.embeddings." if not stage else f"encoder.layers.{stage - 1}."
    behind = f"encoder.layers.{stage}.attention.input_slot.up."
    before = f"encoder.layers.{stage - 1}.attention.input_slot"
    expected = {name for name, _ in student.named_parameters() if name.startswith((prefix, behind))}
    assert learnt == {name for name in expected if not name.startswith(f"{before}.up.")}
    ups = ctx.state[STATE].projections
    assert [up.weight.grad is not None for up in ups] == [i == stage for i in range(3)]
    assert all(weight.grad is None for weight in ctx.teacher.parameters())


@pytest.mark.parametrize(
    ("student", "message"),
    [
        (tiny(0, hidden_size=32), "the student's hidden_size=32 must be at most the teacher's 16"),
        (share(thin(), {1: 0}), "layer 2 must have heads and weights of its own, and no bottleneck"),
        (keep_heads(thin(), {0: []}), "layer 1 must have heads and weights of its own, and no bottleneck"),
        (thin(layers=3), "layer_map=uniform needs a student of at most 2 layers, not 3"),
    ],
)
def test_what_cannot_be_merged_is_refused(student, message):
    with pytest.raises(RecipeError, match=f"distill/wide_narrow: {message}"):
        WideNarrow().attach(student, context(keep_layers(tiny(1), [0, 1])))


def test_fifty_steps_lower_the_term():
    first, last = before_and_after(WideNarrow(layerwise=False), thin(), context(tiny(1)), [padded()])
    assert last < 0.5 * first


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_task(kind, tmp_path):
    log, _ = run_on(kind, WideNarrow(), tmp_path)
    assert log[-1]["terms"].keys() == {"hidden"}
