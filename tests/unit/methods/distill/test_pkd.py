"""The patient term by hand; its index sets; [CLS] alone and no scale; mistakes in one line."""

import math

import pytest
import torch
from matched_models import context, padded, step_of, terms_of, tiny, value_of

from bertpress.encoder.surgery import keep_layers
from bertpress.errors import RecipeError
from bertpress.methods.distill.pkd import Pkd, patience


def test_by_hand():
    # [CLS] of two examples: directions (3, 4)/5 and (1, 0), then opposite ones; the second token is not read
    student = torch.tensor([[[3.0, 4.0], [7.0, 7.0]], [[0.0, 2.0], [1.0, 1.0]]])
    teacher = torch.tensor([[[9.0, 0.0], [0.0, 1.0]], [[0.0, -5.0], [8.0, 0.0]]])
    value = patience(student=student, teacher=teacher, mask=torch.ones(2, 2))
    assert value.item() == pytest.approx(((0.4**2 + 0.8**2) + 4) / 2)


def test_lengths_and_other_tokens_have_no_say():
    torch.manual_seed(0)
    student, teacher, noise = torch.randn(3, 4, 6), torch.randn(3, 4, 6), torch.randn(3, 4, 6)
    noise[:, 0] = 0
    scale = torch.tensor([0.1, 1.0, 30.0])[:, None, None]
    expected = patience(student=student, teacher=teacher, mask=None)
    for a, b in ((student * scale, teacher), (student, teacher * scale), (student + noise, teacher - noise)):
        torch.testing.assert_close(patience(student=a, teacher=b, mask=None), expected)
    moved = student.clone()
    moved[1, 0, 0] += 1
    assert not math.isclose(patience(student=moved, teacher=teacher, mask=None), expected, rel_tol=1e-3)


@pytest.mark.parametrize(
    ("layer_map", "layers", "places"),
    [
        ("skip", 6, [2, 4, 6, 8, 10]),
        ("skip", 3, [4, 8]),
        ("last", 6, [7, 8, 9, 10, 11]),
        ("last", 3, [10, 11]),
        ((5, 6), 3, [5, 6]),
    ],
)
def test_the_layers_that_meet(layer_map, layers, places):
    _, state = terms_of(Pkd(layer_map=layer_map), tiny(0, layers=layers), tiny(1, layers=12))
    assert state["pkd"].places == tuple(enumerate(places, start=1))


def test_zero_where_the_student_has_the_layers_that_it_learns_from():
    teacher = tiny(1, layers=4)
    student = keep_layers(teacher, [0, 1, 2])
    terms, _ = terms_of(Pkd(layer_map=(1, 2)), student, teacher)
    assert value_of(terms, student, teacher, padded(1)).item() == 0
    terms, _ = terms_of(Pkd(layer_map=(2, 1)), student, teacher)
    assert value_of(terms, student, teacher, padded(1)).item() > 1e-5


def test_the_mean_is_the_sum_over_dimensions_and_layers_shared_out():
    student, teacher = tiny(0, layers=3), tiny(1, layers=6)
    values = {}
    for reduction in ("sum", "mean"):
        terms, _ = terms_of(Pkd(weight=100, reduction=reduction), student, teacher)
        values[reduction] = value_of(terms, student, teacher, padded()).item()
    step = step_of(terms, student, teacher, padded())
    unit = torch.nn.functional.normalize
    own, target = (
        torch.stack([unit(side.captured["hidden_states"][i][:, 0], dim=-1) for i in places])
        for side, places in ((step.student, (1, 2)), (step.teacher, (2, 4)))
    )
    assert values["mean"] == pytest.approx(100 * torch.nn.functional.mse_loss(own, target).item(), rel=1e-5)
    assert values["sum"] == pytest.approx(values["mean"] * 2 * 16, rel=1e-5)


def test_a_student_of_one_layer_has_no_such_term_and_is_told():
    said = []
    ctx = context(tiny(1))
    ctx.say = said.append
    Pkd().attach(tiny(0, layers=1), ctx)
    assert Pkd(reduction="mean").objectives(ctx) == []
    assert said == ["distill/pkd: a student of one layer has none below its last; the term is left out"]


def test_other_widths_are_refused_in_one_line():
    words = r"^distill/pkd: needs hidden states of 16, not 8; distill/hidden can project them$"
    with pytest.raises(RecipeError, match=words):
        Pkd().attach(tiny(0, hidden_size=8), context(tiny(1)))
