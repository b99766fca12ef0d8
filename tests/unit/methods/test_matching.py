"""Hidden states and attention scores: by hand, zero where both agree, pads never count, the teacher stays out of it."""

import pytest
import torch

from bertpress.encoder.blueprint import HeadSpec, uniform
from bertpress.encoder.model import build_model
from bertpress.encoder.surgery import keep_heads, keep_layers
from bertpress.errors import RecipeError
from bertpress.methods.distances import attention_score_mse, hidden_state_mse
from bertpress.methods.matching import attention_scores, hidden_states
from bertpress.training.objectives import Step, captures, total
from bertpress.training.teacher import Teacher

BOTH = frozenset({"hidden_states", "scores"})
TERMS = [hidden_states(), attention_scores()]


def tiny(seed=0, **shape):
    torch.manual_seed(seed)
    sizes = {"layers": 2, "hidden_size": 16, "heads": 2, "ffn": 24, "vocabulary": 40} | shape
    model = build_model(uniform(**sizes, dropout=0.0, head=HeadSpec(kind="sequence")))
    for name, weight in model.named_parameters():
        if "query" in name or "key" in name:
            weight.data *= 20  # scores that differ
    return model


def padded(pads=0):
    """Rows of 5 and 3 tokens, with so many more pads."""
    mask = (torch.arange(5 + pads) < torch.tensor([[5], [3]])).long()
    ids = torch.arange(6, 11 + pads).expand(2, -1) * mask
    return {"input_ids": ids, "attention_mask": mask}


def step_of(student, teacher, batch):
    captured = teacher if teacher is None else Teacher(teacher)(batch, BOTH)
    return Step(batch, student(**batch, capture=BOTH), captured, None, torch.nn.ModuleDict())


def test_hidden_states_by_hand():
    student = torch.tensor([[[1.0, 2.0], [0.0, 0.0]], [[3.0, 3.0], [9.0, 9.0]]])
    teacher = torch.tensor([[[0.0, 0.0], [2.0, 0.0]], [[3.0, 1.0], [0.0, 0.0]]])
    mask = torch.tensor([[1, 1], [1, 0]])
    value = hidden_state_mse(student=student, teacher=teacher, mask=mask)
    assert value.item() == pytest.approx(((1 + 4) / 2 + (4 + 0) / 2 + (0 + 4) / 2) / 3)


def test_attention_scores_by_hand():
    student = torch.tensor([[[1.0, 2.0, -1e38], [3.0, 4.0, -1e38], [7.0, 7.0, -1e38]]]).unsqueeze(0)
    teacher = torch.tensor([[[0.0, 2.0, -3e38], [1.0, 1.0, -3e38], [0.0, 0.0, -3e38]]]).unsqueeze(0)
    value = attention_score_mse(student=student, teacher=teacher, mask=torch.tensor([[1, 1, 0]]))
    assert value.item() == pytest.approx((1 + 0 + 4 + 9) / 4)
    two_heads = attention_score_mse(
        student=student.repeat(1, 2, 1, 1), teacher=teacher.repeat(1, 2, 1, 1), mask=torch.tensor([[1, 1, 0]])
    )
    assert two_heads.item() == pytest.approx(value.item())


def test_terms_are_sums_over_the_layers_and_the_embeddings_count():
    student, teacher, batch = tiny(0), tiny(1), padded()
    step = step_of(student, teacher, batch)
    mask = batch["attention_mask"].bool()
    own, target = (model(**batch, capture=BOTH).captured for model in (student, teacher))
    assert (len(own["hidden_states"]), len(own["scores"])) == (3, 2)
    hidden = sum(
        ((a - b)[mask] ** 2).mean() for a, b in zip(own["hidden_states"], target["hidden_states"], strict=True)
    )
    torch.testing.assert_close(hidden_states()(step), hidden)
    scores = 0
    for a, b in zip(own["scores"], target["scores"], strict=True):
        rows = [(a - b)[i, :, :n, :n].flatten() for i, n in enumerate((5, 3))]
        scores = scores + (torch.cat(rows) ** 2).mean()
    torch.testing.assert_close(attention_scores()(step), scores)


@pytest.mark.parametrize("term", TERMS)
def test_zero_where_student_equals_teacher_and_positive_elsewhere(term):
    assert term(step_of(tiny(0), tiny(0), padded())).item() == 0
    assert term(step_of(tiny(0), tiny(1), padded())).item() > 0.01


@pytest.mark.parametrize("term", TERMS)
def test_pads_never_count(term):
    student, teacher = tiny(0), tiny(1)
    values = [term(step_of(student, teacher, padded(pads))) for pads in (0, 4)]
    torch.testing.assert_close(values[1], values[0])
    dirty = padded(4)
    dirty["input_ids"] = torch.where(dirty["attention_mask"] == 0, 30, dirty["input_ids"])
    torch.testing.assert_close(term(step_of(student, teacher, dirty)), values[0])


@pytest.mark.parametrize("term", TERMS)
def test_the_student_alone_gets_a_gradient(term):
    student, teacher = tiny(0), tiny(1)
    term(step_of(student, teacher, padded(3))).backward()
    gradients = [weight.grad for weight in student.parameters() if weight.grad is not None]
    assert gradients
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert student.encoder.layers[0].attention.query.weight.grad.abs().sum() > 0
    assert all(weight.grad is None for weight in teacher.parameters())


def test_only_what_is_read_is_captured():
    assert captures(TERMS, teacher=True) == captures(TERMS, teacher=False) == BOTH
    loss, terms = total(TERMS, step_of(tiny(0), tiny(1), padded()))
    assert set(terms) == {"hidden_states", "attention_scores"}
    torch.testing.assert_close(loss, sum(terms.values()))


def test_another_number_of_heads_or_layers_is_refused():
    whole = tiny(0)
    narrow = keep_heads(whole, {0: [1], 1: [0]})
    assert hidden_states()(step_of(narrow, whole, padded())).item() > 0
    with pytest.raises(RecipeError, match=r"attention_scores: .* same shapes, not 2 of \(2, 1, 5, 5\) and 2 of \(2, 2"):
        attention_scores()(step_of(narrow, whole, padded()))
    with pytest.raises(RecipeError, match="hidden_states: .* not 2 of .* and 3 of "):
        hidden_states()(step_of(keep_layers(whole, [0]), whole, padded()))
    headless = keep_heads(whole, {0: [], 1: []})
    with pytest.raises(RecipeError, match="not none and 2 of "):
        attention_scores()(step_of(headless, whole, padded()))


def test_masked_scores_at_the_end_of_the_floats_leave_no_trace():
    low = torch.finfo(torch.float32).min
    student = torch.tensor([[[[1.0, low], [1.0, low]]]], requires_grad=True)
    teacher = torch.tensor([[[[0.0, -low], [5.0, -low]]]])
    value = attention_score_mse(student=student, teacher=teacher, mask=torch.tensor([[1, 0]]))
    value.backward()
    assert value.item() == 1
    assert student.grad.tolist() == [[[[2.0, 0.0], [0.0, 0.0]]]]
